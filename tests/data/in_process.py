"""The readers without their worker processes, and crystals to write and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure

from nesf.data.files import find_files
from nesf.data.parsing import parse
from nesf.data.readers import ReadOptions, Rejected, Row
from nesf.data.sources import tasks_of
from nesf.errors import InputError


def read_here(
    *inputs: Path | str, options: ReadOptions | None = None, limit: int | None = None
) -> list[Row | Rejected]:
    """What `iter_crystals` would give but for unique ids; the first `limit` of each file."""
    options = options or ReadOptions()
    read: list[Row | Rejected] = []
    for file in find_files(inputs):
        for found in islice(tasks_of(file, options), limit):
            if isinstance(found, Rejected):
                read.append(found)
                continue
            try:
                answer = parse(found.payload, asdict(options))
            except InputError as error:
                read.append(Rejected(found.source, found.row, found.id, str(error)))
                continue
            structure = Structure(Lattice(answer["lattice"]), answer["numbers"], answer["frac"])
            notes = tuple(answer["notes"])
            row = Row(found.id, structure, found.properties, found.source, found.row, notes)
            read.append(row)
    return read


def rows_here(
    *inputs: Path | str, options: ReadOptions | None = None, limit: int | None = None
) -> list[Row]:
    """`read_here`, where nothing may be rejected."""
    read = read_here(*inputs, options=options, limit=limit)
    assert not [found for found in read if isinstance(found, Rejected)]
    return [found for found in read if isinstance(found, Row)]


def random_structures(seed: int, count: int, max_atoms: int = 6) -> list[Structure]:
    """Crystals of any cell shape and handedness whose atoms keep 0.7 Å apart."""
    rng = np.random.default_rng(seed)
    structures: list[Structure] = []
    while len(structures) < count:
        lattice = Lattice.from_parameters(*rng.uniform(3, 9, 3), *rng.uniform(65, 115, 3))
        if rng.random() < 0.3:
            lattice = Lattice(lattice.matrix * rng.choice([-1.0, 1.0], (3, 1)))
        number = int(rng.integers(1, max_atoms + 1))
        frac = rng.uniform(-0.5, 1.5, (number, 3))
        structure = Structure(lattice, rng.integers(1, 95, number).tolist(), frac)
        distances = structure.distance_matrix + 9 * np.eye(number)
        if distances.min() > 0.7:
            structures.append(structure)
    return structures


def assert_same_crystals(
    found: Sequence[Structure], expected: Sequence[Structure], tolerance: float = 2e-7
) -> None:
    """The same cells and the same elements at the same places, in the same order.

    Places are compared by the fractional coordinates, up to a lattice vector, and inverted where
    the axes were turned round.
    """
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.atomic_numbers == other.atomic_numbers
        np.testing.assert_allclose(one.lattice.parameters, other.lattice.parameters, atol=tolerance)
        turned = np.linalg.det(one.lattice.matrix) * np.linalg.det(other.lattice.matrix) < 0
        delta = one.frac_coords - (-1 if turned else 1) * other.frac_coords
        np.testing.assert_allclose(delta, np.round(delta), atol=tolerance)
