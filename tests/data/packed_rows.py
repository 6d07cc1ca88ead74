"""Rows to pack, for tests."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
from pymatgen.core import Lattice, Structure

from nesf.data.packed import PackedWriter


def make_rows(count: int, seed: int = 0, prefix: str = "row") -> list[SimpleNamespace]:
    """Random crystals; every third has no `energy`."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        atoms = int(rng.integers(1, 7))
        structure = Structure(
            Lattice(rng.normal(size=(3, 3)) + 6 * np.eye(3)),
            rng.integers(1, 95, atoms).tolist(),
            rng.random((atoms, 3)),
        )
        properties = {"energy": float(rng.normal()), "label": f"Å{i}"}
        if i % 3 == 0:
            del properties["energy"]
        rows.append(SimpleNamespace(id=f"{prefix}/{i}", structure=structure, properties=properties))
    return rows


def write_in_chunks(path: Path, *chunks: list[SimpleNamespace]) -> None:
    """A packed set, written chunk by chunk."""
    with PackedWriter(path) as writer:
        for chunk in chunks:
            writer.append(chunk)
