"""What the machine refuses, and files that are damaged or hostile."""

from __future__ import annotations

import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from command_line import complaint, nesf, table
from ordinary_user import read_only_folder
from stand_in_model import StandIn

from nesf.cli import main
from nesf.latents import Latents


def test_read_only_output(tmp_path, capsys):
    source = table(tmp_path / "in.csv", 1)
    with read_only_folder(source) as folder:
        for out in (folder / "out.csv", folder / "out", folder / "x" / "out.csv"):
            words = ("--field", "exact", "--output", out)
            assert main(["reconstruct", str(folder / "no*.csv"), *map(str, words)]) == 2
            assert str(folder) in complaint(capsys)


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: the kernel says no, as when full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("verb", ["reconstruct", "encode", "pack"])
def test_full_disk(tmp_path, verb, model_file, capsys):
    source = table(tmp_path / "in.csv", 40)
    words = {
        "reconstruct": ["reconstruct", source, "--field=exact", "--output", tmp_path / "o.csv"],
        "encode": ["encode", source, "--model", model_file, "--output", tmp_path / "o.npz"],
        "pack": ["data", "pack", source, "--output", tmp_path / "o.nesf"],
    }[verb]
    with small_files(4096):
        assert nesf(*words, "--progress=false") == 2
    assert str(words[-1]) in complaint(capsys)
    assert verb == "reconstruct" or not words[-1].exists()


def test_damaged_model(tmp_path, model_file, capsys):
    data = bytearray(model_file.read_bytes())
    data[-3] ^= 4
    model_file.write_bytes(data)
    source = table(tmp_path / "in.csv", 1)
    words = ("--model", model_file, "--output", tmp_path / "out.csv")
    assert nesf("reconstruct", source, *words) == 2
    assert "damaged" in complaint(capsys)
    assert not (tmp_path / "out.csv").exists()


def test_inputs_without_crystals(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    columns = tmp_path / "columns.csv"
    columns.write_text("material_id,formula\na,NaCl\n")
    for source, told in ((tmp_path / "empty", "holds no crystal"), (columns, "no cif column")):
        words = ("--field", "exact", "--output", tmp_path / "out.csv")
        assert nesf("reconstruct", source, *words) == 2
        assert told in complaint(capsys)


class Trap:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_latents_that_are_refused(tmp_path, model_file, capsys):
    good = np.zeros((2, StandIn().max_atoms * 4 + 10), dtype=np.float32)
    mark = tmp_path / "code_ran"
    cases = {
        "code": ({"ids": np.array([Trap(mark)], dtype=object), "latents": good[:1]}, "damaged"),
        "no_ids": ({"latents": good}, "has no array ids; it is no file of latents"),
        "counts": ({"ids": np.array(["a"]), "latents": good}, "shape"),
        "types": ({"ids": np.array(["a", "b"]), "latents": good.astype(int)}, "type"),
        "twice": ({"ids": np.array(["a", "a"]), "latents": good}, "twice"),
        "length": ({"ids": np.array(["a", "b"]), "latents": good[:, :5]}, "have the length 5"),
    }
    for name, (arrays, told) in cases.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        assert main(["decode", str(path), "--model", str(model_file), "--output", "x.csv"]) == 2
        message = complaint(capsys)
        assert told in message
        assert str(path) in message
    cut = tmp_path / "cut.npz"
    Latents(("a",), good[:1]).save(cut)
    cut.write_bytes(cut.read_bytes()[:-40])
    plain = tmp_path / "plain.npz"
    plain.write_bytes(pickle.dumps(Trap(mark)))
    for path in (cut, plain):
        assert main(["decode", str(path), "--model", str(model_file), "--output", "x.csv"]) == 2
        assert "damaged" in complaint(capsys)
    assert not mark.exists()
