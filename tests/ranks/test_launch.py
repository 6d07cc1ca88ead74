"""`--processes N`: the command starts its ranks itself."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rank_runs import content, exact

from nesf.cli import main


def test_it_writes_what_one_process_writes(table, tmp_path, alone, capfd):
    output = tmp_path / "many" / "out.csv"
    words = [str(word) for word in exact(table, output, "--processes=2")]
    assert main(words) == 1  # a row is bad
    out, err = capfd.readouterr()
    assert out == f"6 reconstructed, 1 rejected: {output}\n"
    assert err.count("rejected: ") == 1
    assert content(output) == alone


def test_an_error_is_told_once(tmp_path, capfd):
    words = ["reconstruct", "no.cif", "--field=exact", "--processes=3"]
    assert main([*words, "--output", str(tmp_path / "out.csv")]) == 2
    assert capfd.readouterr().err == "nesf: no.cif does not exist\n"
    assert main([*words[:3], "--processes=0", "--output", str(tmp_path / "out.csv")]) == 2
    assert "--processes is 0; give 1, 2, 3, ..." in capfd.readouterr().err


@pytest.fixture
def many(table: Path, tmp_path: Path) -> Path:
    """A table that takes some seconds."""
    with table.open(newline="") as file:
        header, row, *_ = csv.reader(file)
    path = tmp_path / "in.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *([f"c{i}", row[1]] for i in range(2000))])
    return path


@pytest.mark.parametrize(
    ("victim", "number", "code", "told"),
    [
        ("parent", signal.SIGTERM, 143, "stopped by SIGTERM; go on with --resume"),
        ("child", signal.SIGKILL, 2, "of 2 was killed by signal 9"),
    ],
)
def test_it_ends_as_a_whole(many, tmp_path, victim, number, code, told):
    output = tmp_path / "out.csv"
    words = [str(word) for word in exact(many, output, "--processes=2")]
    running = subprocess.Popen(
        [sys.executable, "-m", "nesf", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    shards = Path(f"{output}.shards")
    limit = time.monotonic() + 120
    while sum(path.stat().st_size > 0 for path in shards.glob("shard-*")) < 2:
        assert running.poll() is None, running.communicate()
        if time.monotonic() > limit:
            running.kill()
            pytest.fail("they have not begun")
        time.sleep(0.05)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    if not children.exists():
        running.kill()
        pytest.skip("this system does not tell the children of a process")
    # the first child of multiprocessing tracks resources; the last one is a rank
    pid = running.pid if victim == "parent" else int(children.read_text().split()[-1])
    os.kill(pid, number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code, err
    assert told in err
    assert not output.exists()
    assert shards.exists()
