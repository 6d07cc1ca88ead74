"""The prototypes that recipes name, in conventional cells, kept packed between runs."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nesf.data.cache import cache_folder
from nesf.data.packed_set import PackedSet
from nesf.data.recipes import DELAFOSSITE, RECIPES
from nesf.data.records import Row
from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

_SYMPREC = 0.01  # Å


def prototype_library(folder: Path | None = None) -> PackedSet:
    """The prototypes with their own elements, in conventional cells; ids are recipes' names.

    Pymatgen takes about 4 s to load them: they are kept packed in the user's cache folder, or
    made again each time where that cannot be written.

    Args:
        folder: the cache folder; by default the platform's.
    """
    content = repr((version("pymatgen"), version("moyopy"), RECIPES))
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    path = (folder or cache_folder()) / f"prototypes-{key}.nesf"
    with suppress(InputError):  # absent, or damaged: make it
        return PackedSet.load(path, mmap=False)
    library = _build_library()
    with suppress(InputError):  # not writable: slower, but right
        library.save(path)
    return library


def _build_library() -> PackedSet:
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    entries = {}
    for entry in AFLOW_PROTOTYPE_LIBRARY:
        structure = getattr(entry["snl"], "structure", entry["snl"])
        symbols = frozenset(element.symbol for element in structure.composition)
        entries[entry["tags"]["aflow"], symbols] = structure, entry["tags"]["strukturbericht"]
    rows = []
    for recipe in RECIPES:
        if recipe.name == DELAFOSSITE:
            structure, strukturbericht = _delafossite(), "F5_1"
        else:
            structure, strukturbericht = entries[recipe.aflow, frozenset(recipe.formula.split())]
        properties: dict[str, float | str] = {
            "aflow": recipe.aflow,
            "strukturbericht": strukturbericht or "",
            "space_group": float(recipe.aflow.split("_")[2]),
        }
        rows.append(Row(recipe.name, _conventional(structure), properties, "prototypes"))
    return PackedSet.from_rows(rows, {"source": "AFLOW prototypes of pymatgen"})


def _delafossite() -> Structure:
    """CuFeO2 (R-3m, a = 3.035 Å, c = 17.17 Å, z(O) = 0.107; mineral data)."""
    from pymatgen.core import Lattice, Structure

    return Structure.from_spacegroup(
        "R-3m",
        Lattice.hexagonal(3.035, 17.17),
        ["Cu", "Fe", "O"],
        [[0, 0, 0], [0, 0, 0.5], [0, 0, 0.107]],
    )


def _conventional(structure: Structure) -> Structure:
    """The standardised conventional cell in the standard orientation, wrapped."""
    import moyopy
    from pymatgen.core import Element, Lattice, Structure

    matrix, frac_coords = structure.lattice.matrix.tolist(), structure.frac_coords.tolist()
    cell = moyopy.Cell(matrix, frac_coords, list(structure.atomic_numbers))
    cell = moyopy.MoyoDataset(cell, symprec=_SYMPREC).std_cell
    parameters = Lattice(cell.basis).parameters
    # 10 digits, so that what should be 0 does not wrap to nearly 1
    positions = np.mod(np.round(cell.positions, 10), 1.0)
    elements = [Element.from_Z(number) for number in cell.numbers]
    return Structure(Lattice.from_parameters(*parameters), elements, positions)
