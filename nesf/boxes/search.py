"""The lattice behind a box of atoms, and one copy of what repeats; NumPy, a box at a time.

A translation of the crystal takes every atom of the box to one of its element, wherever it does not
take it out of the box. Differences between atoms of one element are tried in the order of their
lengths; the three shortest independent ones that pass are a basis of all (in three dimensions
vectors that reach the successive minima of a lattice always are: Cassels, An Introduction to the
Geometry of Numbers, VIII.1). Basis and atoms are then fitted to all copies together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

# candidates of about one length that are tried together, by so many atoms each before the others
_AT_ONCE, _PROBES = 512, 12
_MIDDLE = 6  # atoms of the middle whose differences from others are tried before all
# further from each other in the fourth coordinate than any two atoms: elements do not mix
_APART = 1e3
_ROUNDING = 1e-4  # Å
_FLAT = 0.05  # sine of the smallest angle between a vector and the line or plane of those before it
_ATTEMPTS = 6  # bases that are tried at one tolerance


@dataclass(frozen=True)
class Cell:
    """One cell of a crystal that lies somewhere in space.

    Attributes:
        lattice: (3, 3) right-handed cell vectors as rows, Å.
        cart_coords: (N, 3) its atoms, Å.
        atomic_numbers: (N,) their elements.
        origin: (3,) where fractions of the cell are counted from, Å.
    """

    lattice: Float[np.ndarray, "3 3"]
    cart_coords: Float[np.ndarray, "n 3"]
    atomic_numbers: Int[np.ndarray, " n"]
    origin: Float[np.ndarray, " 3"] = field(default_factory=lambda: np.zeros(3))

    @property
    def frac_coords(self) -> Float[np.ndarray, "n 3"]:
        """Fractions of the cell, not wrapped into it."""
        return (self.cart_coords - self.origin) @ np.linalg.inv(self.lattice)


@dataclass(frozen=True)
class _Atoms:
    """The atoms of a box, to be asked whether one of an element is at a place."""

    cart_coords: Float[np.ndarray, "n 3"]
    atomic_numbers: Int[np.ndarray, " n"]
    side: float

    @cached_property
    def tree(self) -> cKDTree:
        """Finds the atom at a place."""
        from scipy.spatial import cKDTree

        return cKDTree(self.apart)

    @cached_property
    def probes(self) -> Int[np.ndarray, " p"]:
        """Atoms near the middle, which the fewest candidates carry out of the box."""
        far = np.abs(self.cart_coords - self.side / 2).max(-1)
        return np.argsort(far, kind="stable")[:_PROBES]

    @property
    def apart(self) -> Float[np.ndarray, "n 4"]:
        """Places with the element as a fourth coordinate."""
        return np.column_stack([self.cart_coords, _APART * self.atomic_numbers])

    def at(self, atom: Int[np.ndarray, " k"], step: Float[np.ndarray, "k 3"], tolerance: float):
        """For atoms moved by steps: whether they stay well inside, and the atom met there, or N."""
        place = self.apart[atom]
        place[:, :3] += step
        margin = tolerance + _ROUNDING
        inside = ((place[:, :3] >= margin) & (place[:, :3] < self.side - margin)).all(-1)
        met = np.full(len(place), len(self.cart_coords))
        if inside.any():
            met[inside] = self.tree.query(place[inside], distance_upper_bound=tolerance)[1]
        return inside, met

    def not_refuted(
        self, steps: Float[np.ndarray, "c 3"], tolerance: float
    ) -> Float[np.ndarray, "k 3"]:
        """Steps that take a few atoms of the middle to others, or out of the box."""
        for atom in self.probes:
            for sign in (1.0, -1.0):
                inside, met = self.at(np.full(len(steps), atom), sign * steps, tolerance)
                steps = steps[~inside | (met < len(self.cart_coords))]
        return steps

    def translation(
        self, step: Float[np.ndarray, " 3"], tolerance: float, min_support: int
    ) -> Float[np.ndarray, " 3"] | None:
        """The step as the mean over all atoms that it takes to another; None if one fails."""
        every = np.arange(len(self.cart_coords))
        inside, met = self.at(every, np.tile(step, (len(every), 1)), tolerance)
        back, met_back = self.at(every, np.tile(-step, (len(every), 1)), tolerance)
        if (met[inside] == len(every)).any() or (met_back[back] == len(every)).any():
            return None
        if inside.sum() < min_support:
            return None
        return (self.cart_coords[met[inside]] - self.cart_coords[inside]).mean(0)


def find_cell(
    cart_coords: Float[np.ndarray, "n 3"],
    atomic_numbers: Int[np.ndarray, " n"],
    side: float,
    tolerance: float,
    min_support: int = 2,
    min_copies: float = 2.0,
) -> Iterator[Cell]:
    """Cells that may be what a box repeats, the likeliest first; what they repeat is not proved.

    Args:
        cart_coords: (N, 3) atoms of the box, which reaches from 0 to `side` along each axis, Å.
        atomic_numbers: (N,) their elements.
        side: edge of the box, Å.
        tolerance: how far an atom may be from where the crystal has it, Å.
        min_support: atoms that each translation must take to others.
        min_copies: atoms of the box for each atom of the cell.

    Yields:
        Cells, each with a reduced lattice.
    """
    atoms = _Atoms(cart_coords, atomic_numbers, side)
    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    rarest = numbers[[counts.argmin()]]
    # a few atoms of the middle know the translations of up to half a side, most often all; those
    # at opposite corners know the longest
    for elements, few in ((rarest, True), (rarest, False), (numbers, False)):
        left_out: list[Float[np.ndarray, " 3"]] = []
        steps = _differences(atoms, elements, few)
        for _ in range(_ATTEMPTS):
            basis = _shortest(atoms, steps, left_out, 2 * tolerance, min_support)
            if len(basis) < 3:
                break
            cell = fitted(atoms, np.stack(basis), tolerance)
            if cell is not None and min_copies * len(cell.cart_coords) <= len(cart_coords):
                yield cell
            left_out.append(basis[-1])  # the longest has the fewest witnesses


def _differences(
    atoms: _Atoms, elements: Int[np.ndarray, " e"], few: bool
) -> Float[np.ndarray, "c 3"]:
    """Differences between atoms of one element, shortest first, one of each and its negative.

    Args:
        atoms: of the box.
        elements: which elements.
        few: from a few atoms of the middle, and not from all.
    """
    found = []
    for number in elements:
        places = atoms.cart_coords[atoms.atomic_numbers == number]
        order = np.argsort(np.abs(places - atoms.side / 2).max(-1), kind="stable")
        first = places[order[:_MIDDLE]] if few else places
        found.append((places - first[:, None]).reshape(-1, 3))
    steps = np.concatenate(found) if found else np.zeros((0, 3))
    steps = steps[np.argsort(np.linalg.norm(steps, axis=-1), kind="stable")]
    # the upper half space; copies of a difference differ by noise and by rounding only
    leading = np.where(np.abs(steps) > 0.1, np.sign(steps), 0)
    sign = np.sign(leading @ np.array([9.0, 3.0, 1.0]))
    steps = steps * np.where(sign < 0, -1.0, 1.0)[:, None]
    _, kept = np.unique(np.round(steps / 1e-3), axis=0, return_index=True)
    return steps[np.sort(kept)]


def _shortest(
    atoms: _Atoms,
    steps: Float[np.ndarray, "c 3"],
    left_out: list[Float[np.ndarray, " 3"]],
    tolerance: float,
    min_support: int,
) -> list[Float[np.ndarray, " 3"]]:
    """The shortest independent translations among candidates that are sorted by length."""
    basis: list[Float[np.ndarray, " 3"]] = []
    for start in range(0, len(steps), _AT_ONCE):
        for step in atoms.not_refuted(steps[start : start + _AT_ONCE], tolerance):
            if _in_span(step, basis) or any(_same(step, other) for other in left_out):
                continue
            exact = atoms.translation(step, tolerance, min_support)
            if exact is None:
                continue
            basis.append(exact)
            if len(basis) == 3:
                return basis
    return basis


def _same(step: Float[np.ndarray, " 3"], other: Float[np.ndarray, " 3"]) -> bool:
    return bool(min(np.linalg.norm(step - other), np.linalg.norm(step + other)) < 0.3)


def _in_span(step: Float[np.ndarray, " 3"], basis: list[Float[np.ndarray, " 3"]]) -> bool:
    """Whether a vector lies in the line or plane of others."""
    if not basis:
        return bool(np.linalg.norm(step) < 0.3)
    across, _ = np.linalg.qr(np.stack(basis).T)
    rest = step - across @ (across.T @ step)
    return bool(np.linalg.norm(rest) < _FLAT * np.linalg.norm(step))


def fitted(atoms: _Atoms, basis: Float[np.ndarray, "3 3"], tolerance: float) -> Cell | None:
    """Basis and atoms of the cell by least squares over all copies; None if an atom is far from it.

    With r the atom of the cell that atom x of the box is a copy of, x = r + n A for whole n; the
    unknown r drop out of the differences from the means over all copies.

    Args:
        atoms: of the box.
        basis: (3, 3) lattice vectors as rows, Å.
        tolerance: how far an atom may be from where the crystal has it, Å.
    """
    if np.linalg.det(basis) < 0:
        basis = -basis
    owner, whole = copies_of(atoms.cart_coords, atoms.atomic_numbers, basis, 3 * tolerance)
    counts = np.bincount(owner)

    def means(values: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "c 3"]:
        total = np.zeros((len(counts), 3))
        np.add.at(total, owner, values)
        return total / counts[:, None]

    delta = whole - means(whole)[owner]
    if np.linalg.matrix_rank(delta) < 3:
        return None
    lattice = np.linalg.lstsq(delta, atoms.cart_coords - means(atoms.cart_coords)[owner], None)[0]
    places = means(atoms.cart_coords - whole @ lattice)
    error = np.linalg.norm(places[owner] + whole @ lattice - atoms.cart_coords, axis=-1)
    if error.max() > tolerance:
        return None
    numbers = np.zeros(len(counts), dtype=int)
    numbers[owner] = atoms.atomic_numbers
    return Cell(lattice, places, numbers)


def copies_of(
    cart_coords: Float[np.ndarray, "n 3"],
    atomic_numbers: Int[np.ndarray, " n"],
    lattice: Float[np.ndarray, "3 3"],
    reach: float,
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
    """Which atoms are copies of one another in a lattice.

    Args:
        cart_coords: (N, 3) atoms, Å.
        atomic_numbers: (N,) their elements.
        lattice: (3, 3) lattice vectors as rows, reduced, Å.
        reach: how far apart two copies may be, Å.

    Returns:
        owner: (N,) the atom of the cell that each is a copy of, numbered from 0.
        whole: (N, 3) whole lattice vectors from it to the copy; 0 for one of them.
    """
    inverse = np.linalg.inv(lattice)
    owner = np.full(len(cart_coords), -1)
    whole = np.zeros((len(cart_coords), 3))
    count = 0
    for i in range(len(cart_coords)):
        if owner[i] >= 0:
            continue
        delta = cart_coords - cart_coords[i]
        steps = np.round(delta @ inverse)
        apart = np.linalg.norm(delta - steps @ lattice, axis=-1)
        same = (owner < 0) & (atomic_numbers == atomic_numbers[i]) & (apart <= reach)
        owner[same], whole[same] = count, steps[same]
        count += 1
    return owner, whole
