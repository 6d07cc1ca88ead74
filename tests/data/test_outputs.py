"""What is there is not lost, not mixed with something else, and not written twice at once."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from in_process import random_structures

from nesf.data.beside import beside, list_rejected
from nesf.data.made_by import MadeBy, made_by_path
from nesf.data.output_lock import OutputLock
from nesf.data.records import Rejected
from nesf.data.writers import open_writer
from nesf.errors import InputError

STRUCTURES = random_structures(seed=2, count=2)
TABLES = ["a.csv", "a.csv.gz", "a.extxyz", "a.jsonl"]
OUTPUTS = ["cifs", *TABLES]
GENERAL: MadeBy = {
    "verb": "reconstruct",
    "model": "general",
    "model_sha256": "6f12ab34cd",
    "refine": 160,
}


def write(output: Path, *ids: str, **options) -> None:
    with open_writer(output, **options) as writer:
        for name in ids:
            writer.write(name, STRUCTURES[0])


@pytest.mark.parametrize("output", TABLES)
def test_a_table_is_replaced_only_when_asked(tmp_path: Path, output: str) -> None:
    path = tmp_path / output
    write(path)  # every crystal failed: that is no earlier run
    write(path, "a")
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"{output} is there already: .*--resume.*--overwrite"):
        open_writer(path)
    path.write_bytes(before[:-5])  # as a killed run leaves it
    with pytest.raises(InputError, match="is there already"):
        open_writer(path)
    write(path, "b", overwrite=True)
    with open_writer(path, resume=True) as writer:
        assert writer.done == {"b"}


@pytest.mark.parametrize("output", TABLES)
def test_a_file_of_somebody_else_is_kept(tmp_path: Path, output: str) -> None:
    path = tmp_path / output
    for content in (b"precious", b"x,y\n1,2\n", gzip.compress(b"x,y\n1,2\n"), b"\0\n"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is there already"):
            open_writer(path)
        assert path.read_bytes() == content


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"model": "lcs6", "model_sha256": "0123456789"},
            r"with model general \(6f12ab34\), and not with model lcs6 \(01234567\)",
        ),
        ({"refine": 0}, "with --refine 160, and not with --refine 0"),
        ({"boxes": True}, "with no --boxes, and not with --boxes true"),
        ({"verb": "decode"}, "with nesf reconstruct, and not with nesf decode"),
    ],
)
def test_what_something_else_made_is_not_gone_on_with(
    tmp_path: Path, output: str, changes: dict[str, object], told: str
) -> None:
    path = tmp_path / output
    write(path, "a", made_by=GENERAL)
    assert json.loads(made_by_path(path).read_text()) == GENERAL
    with pytest.raises(InputError, match=told + r".*start anew without --resume") as error:
        open_writer(path, resume=True, made_by={**GENERAL, **changes})
    assert "\n" not in str(error.value)
    # the same one goes on, also under another name
    write(path, "b", resume=True, made_by={**GENERAL, "model": "runs/general", "nesf": "9"})
    # and another one begins anew
    write(path, "c", overwrite=True, made_by={**GENERAL, **changes})
    with open_writer(path, resume=True, made_by={**GENERAL, **changes}) as writer:
        assert writer.done == {"c"}


@pytest.mark.parametrize("output", OUTPUTS)
def test_outputs_that_do_not_tell_what_made_them(tmp_path: Path, output: str) -> None:
    path = tmp_path / output
    write(path, "a")  # as an earlier version did
    write(path, "b", resume=True, made_by=GENERAL)
    assert not made_by_path(path).exists()  # of both nothing can be said
    write(path, "c", overwrite=True, made_by=GENERAL)
    write(path, "d", overwrite=True)  # an old file would say what is not so
    assert not made_by_path(path).exists()
    # nothing is there that could be mixed
    made_by_path(path).write_text(json.dumps(GENERAL))
    write(path, overwrite=True, made_by=GENERAL)
    write(path, "e", resume=True, made_by={**GENERAL, "refine": 0})
    made_by_path(path).write_text("{")
    with pytest.raises(InputError, match=r"made_by\.json cannot be read"):
        open_writer(path, resume=True, made_by=GENERAL)


@pytest.mark.parametrize("output", OUTPUTS)
def test_one_run_at_a_time(tmp_path: Path, output: str) -> None:
    path = tmp_path / output
    with open_writer(path) as writer:
        writer.write("a", STRUCTURES[0])
        before = beside_all(tmp_path)
        for options in ({"resume": True}, {"overwrite": True}, {}):
            with pytest.raises(InputError, match=f"another run is writing into .*{output};"):
                open_writer(path, **options)
        assert beside_all(tmp_path) == before
        with open_writer(tmp_path / "other.csv"):  # is nobody else's concern
            pass
    assert not list(tmp_path.rglob("*.lock"))
    write(path, "b", resume=True)
    with pytest.raises(InputError):
        write(path)  # refused, and so left to others
    write(path, "c", resume=True)


def beside_all(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def hold(path: Path, ready) -> None:
    held = OutputLock(path)
    ready.set()
    signal.pause()
    held.release()


def test_a_killed_run_hinders_nobody(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "a.csv", ready), daemon=True)
    process.start()
    assert ready.wait(60)
    with pytest.raises(InputError, match="another run"):
        open_writer(tmp_path / "a.csv")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    write(tmp_path / "a.csv", "a")
    assert not list(tmp_path.glob(".*"))


def test_each_output_has_its_own_list_of_rejected_rows(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    names = {
        "out": "out/rejected.csv",
        "out.csv": "out.rejected.csv",
        "v1.2.csv.gz": "v1.2.rejected.csv",
        "train.nesf": "train.rejected.csv",
        "z.npz": "z.rejected.csv",
    }
    for output, name in names.items():
        assert beside(tmp_path / output, "rejected.csv") == tmp_path / name
        listed = list_rejected(tmp_path / output, [Rejected("x.cif", 1, "x", "bad")])
        assert listed == tmp_path / name
    assert list_rejected(tmp_path / "out.csv", []) is None
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.csv")}
    assert left == set(names.values()) - {"out.rejected.csv"}
