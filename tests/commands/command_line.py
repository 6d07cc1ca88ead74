"""Commands run in this process, and crystals that can be told from each other."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from nesf.cli import main


def crystal(i: int) -> Structure:
    """Crystals that differ from each other: rock salt of its own cell length, slightly sheared."""
    lattice = Lattice.from_parameters(4 + 0.01 * i, 4.1, 4.2, 90, 90 - 0.1 * i, 90)
    return Structure(lattice, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5 + 0.001 * i]])


def table(path: Path, count: int, bad: tuple[int, ...] = ()) -> Path:
    """A CSV of crystals c0, c1, ...; the rows `bad` are no crystals."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif"])
        for i in range(count):
            text = "data_nothing\n_cell_length_a ?" if i in bad else crystal(i).to(fmt="cif")
            writer.writerow([f"c{i}", text])
    return path


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row.get("material_id") or row["id"]: row for row in csv.DictReader(file)}


def is_crystal(i: int, cif: str | Structure) -> bool:
    found = Structure.from_str(cif, fmt="cif") if isinstance(cif, str) else cif
    true = crystal(i)
    if len(found) != 2 or not np.allclose(
        found.lattice.parameters, true.lattice.parameters, atol=1e-3
    ):
        return False
    distances = true.lattice.get_all_distances(true.frac_coords, found.frac_coords)
    order = distances.argmin(1)
    return distances.min(1).max() < 1e-3 and [found[j].specie for j in order] == true.species


def nesf(*words: object) -> int:
    """Run one command in this process."""
    return main([str(word) for word in words])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failed command printed."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nesf: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err
