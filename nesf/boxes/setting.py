"""The cells in which a crystal is written: conventional as data sets have it, or primitive.

The conventional cell is moyo's, which is that of the International Tables as spglib has it; the
axes of orthorhombic cells are put in the order of their lengths, as in pymatgen's conventional
standard cells (Setyawan and Curtarolo, Comput. Mater. Sci. 49, 299, 2010), in which LCS6Å and
ICSG3D are written. Only the choice of cell is taken from the symmetry: lattice and atoms stay as
they were found, and are not moved onto it.
"""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float

from nesf.boxes.search import Cell, copies_of
from nesf.geometry import reduce_lattice

if TYPE_CHECKING:
    import moyopy

Setting = Literal["conventional", "primitive", "reduced"]
_SMALLEST_SYMPREC = 1e-5  # Å
_ORTHORHOMBIC = range(16, 75)  # numbers of the space groups


def in_setting(cell: Cell, setting: Setting, symprec: float, tolerance: float) -> Cell:
    """A crystal in another cell, its atoms where they were.

    Args:
        cell: a cell of the crystal, reduced.
        setting: `conventional`; `primitive`, which goes with it; or `reduced`: the three shortest
            lattice vectors, an atom of the rarest element at the origin.
        symprec: how far an operation may miss an atom, Å; less where that makes atoms equal which
            are not.
        tolerance: how far apart equal atoms may be, Å.

    Returns:
        The cell; a reduced one where no symmetry is found.
    """
    while setting != "reduced" and symprec >= _SMALLEST_SYMPREC:
        found = _symmetric(cell, setting, symprec, tolerance)
        if found is not None:
            return found
        symprec /= 10
    return _reduced(cell, tolerance)


def _symmetric(cell: Cell, setting: Setting, symprec: float, tolerance: float) -> Cell | None:
    """The cell that moyo says, or None if it finds none with the atoms that there are."""
    dataset = _dataset(cell, symprec)
    if dataset is None:
        return None
    if setting == "conventional":
        linear, shift = np.array(dataset.std_linear), np.array(dataset.std_origin_shift)
    else:
        linear, shift = np.array(dataset.prim_std_linear), np.array(dataset.prim_std_origin_shift)
    lattice = linear.T @ cell.lattice
    if setting == "conventional" and dataset.number in _ORTHORHOMBIC:
        lattice = _ordered(lattice, dataset.hall_number)
    found = recut(cell, lattice, cell.origin + shift @ cell.lattice, tolerance)
    expected = len(cell.cart_coords) * np.linalg.det(lattice) / np.linalg.det(cell.lattice)
    return found if abs(len(found.cart_coords) - expected) < 0.5 else None


def _dataset(cell: Cell, symprec: float) -> moyopy.MoyoDataset | None:
    import moyopy

    basis, positions = cell.lattice.tolist(), cell.frac_coords.tolist()
    logger = logging.getLogger("moyo")
    logger.addFilter(_unexpected)
    try:
        return moyopy.MoyoDataset(
            moyopy.Cell(basis=basis, positions=positions, numbers=cell.atomic_numbers.tolist()),
            symprec=symprec,
        )
    except ValueError:  # moyo's word for "no symmetry found"
        return None
    finally:
        logger.removeFilter(_unexpected)


def _unexpected(record: logging.LogRecord) -> bool:
    """Drop the note that a supercell keeps fewer operations than its primitive cell: they do."""
    return not record.getMessage().startswith("Omitted")


def _ordered(lattice: Float[np.ndarray, "3 3"], hall_number: int) -> Float[np.ndarray, "3 3"]:
    """Orthorhombic vectors by length; across a centred face first, the axis through it last."""
    import moyopy

    symbol = moyopy.HallSymbolEntry(hall_number).hm_short
    last = {"A": 0, "B": 1, "C": 2}.get(symbol[0])
    order = sorted(range(3), key=lambda i: (i == last, np.linalg.norm(lattice[i])))
    lattice = lattice[order]
    return lattice if np.linalg.det(lattice) > 0 else -lattice


def _reduced(cell: Cell, tolerance: float) -> Cell:
    lattice = reduce_lattice(torch.from_numpy(cell.lattice)[None])[0].numpy()
    numbers, counts = np.unique(cell.atomic_numbers, return_counts=True)
    first = np.flatnonzero(cell.atomic_numbers == numbers[counts.argmin()])[0]
    lattice = lattice if np.linalg.det(lattice) > 0 else -lattice
    return recut(cell, lattice, cell.cart_coords[first], tolerance)


def recut(
    cell: Cell,
    lattice: Float[np.ndarray, "3 3"],
    origin: Float[np.ndarray, " 3"],
    tolerance: float,
) -> Cell:
    """The same crystal in a cell of another lattice, smaller or larger, at another origin.

    Args:
        cell: a cell of the crystal.
        lattice: (3, 3) vectors, each a translation of the crystal, Å.
        origin: (3,) of the new cell, Å.
        tolerance: atoms of an element that are not farther apart are one, Å.
    """
    inverse = np.linalg.inv(cell.lattice)
    # the corners of the new cell, in fractions of the old one, tell which of its copies matter
    corners = np.array(list(itertools.product((0, 1), repeat=3))) @ lattice @ inverse
    spans = [
        range(int(np.floor(low)) - 1, int(np.ceil(high)) + 2)
        for low, high in zip(corners.min(0), corners.max(0), strict=True)
    ]
    steps = np.array(list(itertools.product(*spans)))
    frac = cell.frac_coords - np.floor(cell.frac_coords)
    # (copies, N, 3), Å from the old origin, and then which of them are copies in the new cell
    places = ((steps[:, None] + frac) @ cell.lattice).reshape(-1, 3)
    numbers = np.tile(cell.atomic_numbers, len(steps))
    reduced = reduce_lattice(torch.from_numpy(lattice)[None])[0].numpy()
    owner, _ = copies_of(places, numbers, reduced, tolerance)
    _, first = np.unique(owner, return_index=True)
    frac = (places[first] + cell.origin - origin) @ np.linalg.inv(lattice)
    frac = frac - np.floor(frac + 1e-9)
    return Cell(lattice, origin + frac @ lattice, numbers[first], origin)
