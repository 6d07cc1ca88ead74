"""Commands that are interrupted, and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from command_line import nesf, rows_of, table


def test_resume_skips_what_is_done(tmp_path, monkeypatch, capsys):
    source = table(tmp_path / "in.csv", 10, bad=(1,))
    straight, broken = tmp_path / "a" / "out.csv", tmp_path / "b" / "out.csv"
    assert nesf("reconstruct", source, "--field", "exact", "--output", straight) == 1

    from nesf.commands import ways

    exact, calls = ways.exact_fields, []

    def fails_in_the_third_batch(*arguments):
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return exact(*arguments)

    words = ("reconstruct", source, "--field=exact", "--batch-size=3", "--output", broken)
    monkeypatch.setattr(ways, "exact_fields", fails_in_the_third_batch)
    assert nesf(*words) == 130
    assert "nesf: interrupted; go on with --resume\n" in capsys.readouterr().err
    assert len(rows_of(broken)) == 6
    with broken.open("a") as file:
        file.write('"c7","data_torn')  # as a killed run leaves it
    monkeypatch.setattr(ways, "exact_fields", exact)
    assert nesf(*words, "--resume") == 1
    assert "3 reconstructed (6 were there already), 1 rejected" in capsys.readouterr().out
    assert broken.read_bytes() == straight.read_bytes()
    assert rows_of(broken.with_name("rejected.csv")).keys() == {"c1"}


def child(*words: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nesf", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_ctrl_c_is_one_line(tmp_path):
    source = table(tmp_path / "in.csv", 40)
    out = tmp_path / "out.jsonl"
    words = ("reconstruct", source, "--field=exact", "--output", out, "--workers=1")
    running = child(*words, "--batch-size=1", "--progress=false")
    deadline = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)  # a terminal sends it to the workers, too
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err == "nesf: interrupted; go on with --resume\n"
    written = out.read_text().splitlines()
    assert 0 < len(written) < 40
    assert nesf(*words[:-1], "--resume") == 0
    lines = out.read_text().splitlines()
    assert lines[: len(written)] == written
    assert len(lines) == 40


def test_a_reader_that_goes_away(tmp_path):
    running = child("data", "pack", "--help")
    running.stdout.close()
    err = running.stderr.read()
    assert running.wait(timeout=30) in (141, 0)
    assert err == ""
