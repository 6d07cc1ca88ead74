"""What a crystal must fulfil to be used: a sane cell, real elements, atoms that keep apart."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nesf.data.elements import symbols_by_number
from nesf.data.records import ReadOptions
from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import PeriodicSite, Structure

# The longest published cells of at most a few hundred atoms stay under 200 Å; shorter edges than
# 0.5 Å, sharper angles than 5° and flatter cells than 0.5 Å hold no atom and make periodic
# searches slow or endless.
MIN_LENGTH, MAX_LENGTH = 0.5, 200.0  # Å
MIN_ANGLE, MAX_ANGLE = 5.0, 175.0  # degrees
MIN_PLANE_SPACING = 0.5  # Å
MAX_FRAC_COORD = 100.0  # a larger one has lost the digits that say where in the cell the atom is
_PAIRS_AT_ONCE = 1_000_000


def check_structure(structure: Structure, options: ReadOptions | None = None) -> None:
    """Refuse a structure that cannot be a crystal or that the models cannot hold.

    Args:
        structure: any pymatgen Structure.
        options: limits; the defaults if None.

    Raises:
        InputError: with the reason, which names the value, the site or the pair of atoms.
    """
    options = options or ReadOptions()
    numbers = [int(only_species(site).Z) for site in structure]
    check_sites(
        np.asarray(structure.lattice.matrix, dtype=float),
        np.asarray(numbers, dtype=int),
        np.asarray(structure.frac_coords, dtype=float).reshape(-1, 3),
        options,
    )


def check_sites(
    lattice: np.ndarray,
    atomic_numbers: np.ndarray,
    frac_coords: np.ndarray,
    options: ReadOptions,
    periodic: bool = True,
) -> None:
    """`check_structure` for plain arrays.

    Args:
        lattice: (3, 3) cell vectors as rows, Å.
        atomic_numbers: (N,) atomic numbers.
        frac_coords: (N, 3) fractional coordinates.
        options: limits.
        periodic: whether atoms near opposite faces are neighbours; in a box they are not.

    Raises:
        InputError: with the reason.
    """
    check_lattice(lattice)
    if len(atomic_numbers) == 0:
        raise InputError("no atoms")
    if len(atomic_numbers) > options.max_atoms:
        raise InputError(
            f"{len(atomic_numbers)} atoms in the cell, more than the {options.max_atoms} allowed"
        )
    beyond = (atomic_numbers < 1) | (atomic_numbers > options.max_atomic_number)
    if beyond.any():
        number = int(atomic_numbers[beyond][0])
        raise InputError(f"element Z = {number} is not among the first {options.max_atomic_number}")
    wrong = ~(np.abs(frac_coords) <= MAX_FRAC_COORD)
    if wrong.any():
        site = int(wrong.any(1).argmax())
        raise InputError(f"fractional coordinate {frac_coords[wrong][0]:g} of atom {site + 1}")
    distance, i, j = nearest_pair(lattice, frac_coords, options.min_distance, periodic)
    if distance < options.min_distance:
        symbols = symbols_by_number()
        first, second = (f"{symbols[atomic_numbers[k]]} (atom {k + 1})" for k in (i, j))
        raise InputError(
            f"{first} and {second} are {distance:.2g} Å apart, "
            f"nearer than {options.min_distance:g} Å"
        )


def check_lattice(lattice: np.ndarray) -> None:
    """Refuse a cell that is not finite, absurd in size, or flat.

    Args:
        lattice: (3, 3) cell vectors as rows, Å.

    Raises:
        InputError: with the reason.
    """
    if lattice.shape != (3, 3) or not np.isfinite(lattice).all():
        raise InputError("the lattice is not made of nine finite numbers")
    with np.errstate(over="ignore"):  # an infinite length is refused, too
        lengths = np.linalg.norm(lattice, axis=1)
    for name, length in zip("abc", lengths, strict=True):
        check_length(name, float(length))
    unit = lattice / lengths[:, None]
    cosines = np.clip([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]], -1, 1)
    for name, angle in zip(("alpha", "beta", "gamma"), np.degrees(np.arccos(cosines)), strict=True):
        check_angle(name, float(angle))
    spacing = float(_plane_spacings(lattice).min())
    if not spacing >= MIN_PLANE_SPACING:
        raise InputError(
            f"a flat cell: two of its faces are {spacing:.2g} Å apart, "
            f"under {MIN_PLANE_SPACING:g} Å"
        )


def check_length(name: str, length: float) -> None:
    """Refuse a cell length (Å) that is not finite or out of bounds."""
    if not MIN_LENGTH <= length <= MAX_LENGTH:
        raise InputError(
            f"cell length {name} = {length:g} Å is not in {MIN_LENGTH:g} to {MAX_LENGTH:g} Å"
        )


def check_angle(name: str, angle: float) -> None:
    """Refuse a cell angle (degrees) that is not finite or out of bounds."""
    if not MIN_ANGLE < angle < MAX_ANGLE:
        raise InputError(
            f"cell angle {name} = {angle:g}° is not between {MIN_ANGLE:g}° and {MAX_ANGLE:g}°"
        )


def nearest_pair(
    lattice: np.ndarray, frac_coords: np.ndarray, cutoff: float, periodic: bool = True
) -> tuple[float, int, int]:
    """The nearest two atoms, periodic images included, if they are nearer than `cutoff`.

    The difference of two atoms, wrapped into [-1/2, 1/2], shifted by n cells along axis i, is at
    least (|n| - 1/2) d_i long, d_i being the plane spacing: only shifts with (|n| - 1/2) d_i <=
    cutoff matter, which is the zero shift alone in every cell thicker than twice the cutoff. And a
    pair is only near if its distance along each axis' normal, |difference_i + n| d_i, is.

    Args:
        lattice: (3, 3) cell vectors as rows, Å.
        frac_coords: (N, 3) fractional coordinates, finite.
        cutoff: Å.
        periodic: whether images count.

    Returns:
        Distance (Å) and the two positions, the same one twice for an atom and its own image;
        (inf, -1, -1) if no pair is nearer than the cutoff.
    """
    spacings = _plane_spacings(lattice)
    spans = [math.floor(cutoff / spacing + 0.5) if periodic else 0 for spacing in spacings]
    shifts = list(itertools.product(*(range(-n, n + 1) for n in spans)))
    count = len(frac_coords)
    block = max(1, _PAIRS_AT_ONCE // max(count, 1))
    best = (math.inf, -1, -1)
    for start in range(0, count, block):
        # (block, N, 3)
        difference = frac_coords[None, :, :] - frac_coords[start : start + block, None, :]
        if periodic:
            difference -= np.round(difference)
        for shift in shifts:
            shifted = difference + shift if any(shift) else difference
            near = (np.abs(shifted) * spacings <= cutoff).all(-1)
            rows, columns = near.nonzero()
            # every pair is seen from both sides; an atom is no neighbour of itself
            kept = (rows + start <= columns) if any(shift) else (rows + start < columns)
            rows, columns = rows[kept], columns[kept]
            if len(rows) == 0:
                continue
            distances = np.linalg.norm(shifted[rows, columns] @ lattice, axis=-1)
            k = int(distances.argmin())
            if distances[k] < min(best[0], cutoff):
                best = (float(distances[k]), int(rows[k]) + start, int(columns[k]))
    return best


def only_species(site: PeriodicSite) -> Any:
    """The Element or Species of an ordered site.

    Raises:
        InputError: the site is disordered (the reason names its elements and occupancies), or
            holds a dummy.
    """
    from pymatgen.core import DummySpecies

    if site.is_ordered:
        if isinstance(site.specie, DummySpecies):
            raise InputError(f"{site.specie.symbol} is no element")
        return site.specie
    names = "/".join(species.symbol for species in site.species)
    occupancies = "/".join(f"{occupancy:g}" for occupancy in site.species.values())
    raise InputError(f"disordered site {names} {occupancies}")


def _plane_spacings(lattice: np.ndarray) -> np.ndarray:
    """(3,) distances (Å) between opposite faces; 0 for a flat cell.

    The columns of the inverse are the reciprocal vectors, and 1/length of each is a spacing.
    """
    try:
        return 1.0 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    except np.linalg.LinAlgError:
        return np.zeros(3)
