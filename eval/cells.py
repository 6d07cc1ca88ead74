"""`Cell`: one crystal as plain numpy arrays, and what makes it unfit to be scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from nesf.data.checks import check_sites
from nesf.data.records import ReadOptions
from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

# What a prediction may be and still be compared: atoms may overlap (they are then wrong atoms), but
# not be so many that comparing them takes for ever.
LIMITS = ReadOptions(min_distance=0.0, max_atoms=2000, max_atomic_number=118)


@dataclass(frozen=True)
class Cell:
    """One crystal.

    Attributes:
        lattice: (3, 3) cell vectors as rows, Å.
        frac_coords: (N, 3) fractional coordinates.
        atomic_numbers: (N,) atomic numbers Z.
    """

    lattice: Float[np.ndarray, "3 3"]
    frac_coords: Float[np.ndarray, "n 3"]
    atomic_numbers: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.atomic_numbers)

    @staticmethod
    def from_structure(structure: Structure) -> Cell:
        """The arrays of an ordered pymatgen Structure."""
        return Cell(
            lattice=np.array(structure.lattice.matrix, dtype=float),
            frac_coords=np.array(structure.frac_coords, dtype=float).reshape(-1, 3),
            atomic_numbers=np.array(structure.atomic_numbers, dtype=int),
        )

    def to_structure(self) -> Structure:
        """A pymatgen Structure; a left-handed cell is written with right-handed axes.

        Turning all three axes and all coordinates round, (-a, -b, -c) and -x, leaves every atom
        where it is, and keeps pymatgen's cell reductions out of an endless loop.
        """
        from pymatgen.core import Lattice, Structure

        sign = -1.0 if np.linalg.det(self.lattice) < 0 else 1.0
        return Structure(
            Lattice(sign * self.lattice), self.atomic_numbers.tolist(), sign * self.frac_coords
        )

    @property
    def lengths(self) -> Float[np.ndarray, "3"]:
        """(3,) cell lengths a, b, c, Å."""
        return np.linalg.norm(self.lattice, axis=1)

    @property
    def angles(self) -> Float[np.ndarray, "3"]:
        """(3,) cell angles alpha, beta, gamma, degrees."""
        a, b, c = self.lattice / self.lengths[:, None]
        return np.degrees(np.arccos(np.clip([b @ c, a @ c, a @ b], -1.0, 1.0)))

    @property
    def volume(self) -> float:
        """Cell volume, Å³."""
        return float(abs(np.linalg.det(self.lattice)))


def fault(cell: Cell | None) -> str | None:
    """Why a crystal cannot be scored, in one phrase; None if it can.

    Missing, without atoms, not finite, absurd in size, or so thin (opposite faces under 0.5 Å
    apart) that pymatgen's StructureMatcher would not come back from it.

    Args:
        cell: the crystal, or None where there is no prediction.
    """
    if cell is None:
        return "no prediction"
    try:
        check_sites(cell.lattice, cell.atomic_numbers, cell.frac_coords, LIMITS)
    except InputError as error:
        return str(error)
    return None
