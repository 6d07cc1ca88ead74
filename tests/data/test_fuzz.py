"""Good files with something broken: every outcome is a checked row or a reason, and none hangs."""

import gzip
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from in_process import random_structures, read_here
from pymatgen.io.cif import CifWriter
from pymatgen.io.vasp import Poscar

from nesf.data.checks import check_structure
from nesf.data.cif_text import cif_text
from nesf.data.readers import ReadOptions, Rejected, Row, read_crystals
from nesf.data.writers import open_writer
from nesf.errors import InputError

STRUCTURES = random_structures(seed=1, count=4)
SYMMETRIC = CifWriter(STRUCTURES[0].copy().get_primitive_structure(), symprec=0.1)
WORDS = (
    *("nan", "inf", "-1", "0", "1e308", "?", ".", "X", "loop_", "data_x", ";", "'", '"'),
    *("#", "1(2)", "_atom_site_label", "9" * 400, "é", "\u2212", "\0", "\r", ","),
)

NUMBER = re.compile(rb"\d{1,9}(\.\d{1,9})?")


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four random damages to a text file."""
    for _ in range(rng.integers(1, 5)):
        lines = data.split(b"\n")
        i, j = rng.integers(0, len(lines), 2)
        match rng.integers(0, 7):
            case 0:  # flip bits
                flipped = bytearray(data or b" ")
                for place in rng.integers(0, len(flipped), 3):
                    flipped[place] ^= 1 << int(rng.integers(0, 8))
                data = bytes(flipped)
            case 1:  # delete a line
                data = b"\n".join(lines[:i] + lines[i + 1 :])
            case 2:  # double a line elsewhere
                data = b"\n".join([*lines[:j], lines[i], *lines[j:]])
            case 3:  # swap two words
                words = data.split(b" ")
                k, m = rng.integers(0, len(words), 2)
                words[k], words[m] = words[m], words[k]
                data = b" ".join(words)
            case 4:  # put a strange word in a word's place
                words = data.split(b" ")
                words[rng.integers(0, len(words))] = WORDS[rng.integers(0, len(WORDS))].encode()
                data = b" ".join(words)
            case 5:  # truncate
                data = data[: rng.integers(0, len(data) + 1)]
            case 6:  # scale a number
                words = data.split()
                numbers = [w for w in words if NUMBER.fullmatch(w)] or [b"1"]
                word = numbers[rng.integers(0, len(numbers))]
                data = data.replace(word, str(float(word) * 10.0 ** rng.integers(-9, 9)).encode())
    return data


def assert_honest(found: Row | Rejected) -> None:
    if isinstance(found, Row):
        check_structure(found.structure)
        assert found.structure.is_ordered
    else:
        assert found.reason
        assert "\n" not in found.reason
        assert "Traceback" not in found.reason


def test_mutated_cifs_in_real_workers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count = 300
    for i in range(count):
        good = cif_text(STRUCTURES[i % 4]) if i % 3 else str(SYMMETRIC)
        (tmp_path / f"{i:03d}.cif").write_bytes(mutate(good.encode(), rng))
    options = ReadOptions(workers=2, timeout_s=20.0, memory_gib=1.0)
    rows, rejected = read_crystals(tmp_path, options, progress=False)
    for found in (*rows, *rejected):
        assert_honest(found)
    named = {found.source for found in (*rows, *rejected)}
    assert len(named) == count  # every file has its outcome
    assert len(rows) > 20
    assert len(rejected) > 100


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["cif", "vasp"]))
def test_mutated_structure_files(tmp_path_factory: pytest.TempPathFactory, seed, kind) -> None:
    rng = np.random.default_rng(seed)
    structure = STRUCTURES[seed % 4]
    good = cif_text(structure) if kind == "cif" else Poscar(structure).get_str()
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    path.write_bytes(mutate(good.encode(), rng))
    for found in read_here(path):
        assert_honest(found)


@pytest.fixture(scope="module")
def good_tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    for name in ("a.csv", "a.csv.gz", "a.extxyz", "a.jsonl"):
        with open_writer(folder / name) as writer:
            for i, structure in enumerate(STRUCTURES):
                writer.write(f"id{i}", structure, {"gap": i / 3})
    pd.read_csv(folder / "a.csv").to_parquet(folder / "a.parquet")
    (folder / "a.json").write_text(json.dumps([s.as_dict() for s in STRUCTURES]))
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for i, structure in enumerate(STRUCTURES):
            archive.writestr(f"{i}.cif", cif_text(structure))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_mutated_tables(
    tmp_path_factory: pytest.TempPathFactory, good_tables: dict[str, bytes], data, seed: int
) -> None:
    """A table may also be refused as a whole, in one sentence."""
    name = data.draw(st.sampled_from(sorted(good_tables)))
    rng = np.random.default_rng(seed)
    good = good_tables[name]
    bad = mutate(good, rng)
    if name.endswith(".gz") and seed % 2:  # a sound container with a damaged text
        bad = gzip.compress(mutate(gzip.decompress(good), rng))
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(bad)
    refusal = None
    try:
        read = read_here(path)
    except InputError as error:
        read, refusal = [], str(error)
    assert refusal is None or (path.name in refusal and "\n" not in refusal)
    for found in read:
        assert_honest(found)
