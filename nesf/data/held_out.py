"""Crystals that training must not see, found again under another id or in another cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from nesf.data.records import ReadOptions, Rejected, Row

if TYPE_CHECKING:
    from pymatgen.core import Structure

NEIGHBOURS = 12
_FIRST_RADIUS, _LARGER = 5.0, 1.4  # Å; the sphere grows until it holds enough neighbours

Composition = tuple[tuple[int, int], ...]


def reduced_composition(structure: Structure) -> Composition:
    """Atomic numbers and how often each occurs, in lowest terms."""
    numbers, counts = np.unique(structure.atomic_numbers, return_counts=True)
    divisor = gcd(*counts.tolist())
    return tuple(zip(numbers.tolist(), (counts // divisor).tolist(), strict=True))


def neighbour_distances(structure: Structure, count: int = NEIGHBOURS) -> Float[np.ndarray, " k"]:
    """Distances from an atom to its nearest neighbours, images included, mean over the atoms.

    In units of the cube root of the volume per atom; the same for every cell and every order of
    the atoms.

    Args:
        structure: the crystal.
        count: neighbours K of an atom.
    """
    radius = _FIRST_RADIUS
    while True:
        centre, _, _, distance = structure.get_neighbor_list(radius)
        if np.bincount(centre, minlength=len(structure)).min() >= count:
            break
        radius *= _LARGER
    order = np.lexsort((distance, centre))
    starts = np.searchsorted(centre[order], np.arange(len(structure)))
    nearest = distance[order][starts[:, None] + np.arange(count)]  # (N, K)
    return nearest.mean(0) / (structure.volume / len(structure)) ** (1 / 3)


@dataclass(frozen=True)
class _Known:
    id: str
    structure: Structure
    distances: Float[np.ndarray, " k"]


class HeldOut:
    """Held-out crystals, and whether a crystal is one of them.

    Two crystals count as the same if they have the same composition and either the same id, or
    volumes per atom and scaled mean neighbour distances that agree within a tolerance.
    Different settings, cells and sources of one material are found; a polymorph is another
    crystal.

    Args:
        rows: the held-out crystals.
        volume_tolerance: relative, of the volume per atom.
        distance_tolerance: relative, of each of the scaled mean neighbour distances.
    """

    def __init__(
        self,
        rows: Iterable[Row],
        volume_tolerance: float = 0.05,
        distance_tolerance: float = 0.005,
    ) -> None:
        self.volume_tolerance = volume_tolerance
        self.distance_tolerance = distance_tolerance
        self._known: dict[Composition, list[_Known]] = defaultdict(list)
        for row in rows:
            known = _Known(row.id, row.structure, neighbour_distances(row.structure))
            self._known[reduced_composition(row.structure)].append(known)

    @classmethod
    def read(
        cls, inputs: Sequence[str | Path], options: ReadOptions, progress: bool = True
    ) -> HeldOut:
        """The crystals of files, in any format of the readers.

        Raises:
            InputError: a file is missing, or a row could not be read, so that what it held out
                is not known.
        """
        from nesf.data.readers import iter_crystals
        from nesf.errors import InputError

        rows: list[Row] = []
        for found in iter_crystals(inputs, options, progress):
            if isinstance(found, Rejected):
                row = "" if found.row is None else f", row {found.row}"
                raise InputError(
                    f"{found.source}{row} cannot be held out: {found.reason}; mend or remove it"
                )
            rows.append(found)
        return cls(rows)

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def same_as(self, row: Row) -> str | None:
        """Id of the held-out crystal that this one is, or None."""
        known = self._known.get(reduced_composition(row.structure), [])
        for one in known:
            if one.id == row.id:
                return one.id
        alike = [one for one in known if self._volumes_agree(one.structure, row.structure)]
        if not alike:
            return None
        distances = neighbour_distances(row.structure)
        for one in alike:
            if np.all(abs(distances / one.distances - 1) <= self.distance_tolerance):
                return one.id
        return None

    def _volumes_agree(self, first: Structure, second: Structure) -> bool:
        ratio = (first.volume / len(first)) / (second.volume / len(second))
        return abs(ratio - 1) <= self.volume_tolerance
