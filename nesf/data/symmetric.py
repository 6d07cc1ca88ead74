"""Random crystals of any space group: atoms on random orbits that keep apart."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from nesf.crystal import MAX_ATOMIC_NUMBER
from nesf.data.checks import check_sites
from nesf.data.records import ReadOptions
from nesf.errors import InputError

# first and last space group of each crystal system (International Tables A), trigonal ones in
# hexagonal axes
SYSTEMS = {
    "triclinic": (1, 2),
    "monoclinic": (3, 15),
    "orthorhombic": (16, 74),
    "tetragonal": (75, 142),
    "trigonal": (143, 167),
    "hexagonal": (168, 194),
    "cubic": (195, 230),
}
VOLUMES = 7.0, 32.0  # Å^3 an atom: from oxides of light elements to iodides and alkali metals
# no two atoms nearer than a share of the cube root of that: 0.5 is a C-O bond in a carbonate, 0.8
# near the densest that orbits put down one after another reach
APART = 0.5, 0.8
STRETCH = 0.3  # standard deviation of the logarithm of a free cell length
OPERATIONS_HELD = 0, 1, 2, 3, 6, 12  # how many operations a site is put on, drawn from these
ELEMENTS = 1, 2, 2, 3, 3, 3, 4, 4, 5, 6  # how many a crystal may have, drawn from these
SIZE_POWER = 1.5  # of a uniform number that says how large a crystal is, so that small ones prevail
ORBITS_TRIED = 40
CRYSTALS_TRIED = 10_000
_SAME = 1e-4  # fractional: images of a site that are one atom
_SYMPREC = 1e-3  # Å


def build(payload: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """One random crystal: a worker's function.

    A crystal system, one of its space groups and a number of atoms are drawn, then a cell of the
    system and orbits of random sites, many of which are moved onto elements of symmetry first, as
    long as the atoms keep apart and are not too many. What comes out is in the standardised
    primitive or conventional cell of the symmetry that it then has.

    Args:
        payload: {"seed": [seed, index]}.
        config: {"max_atoms": in the cell that comes out}.

    Returns:
        {"lengths": Å, "angles": degrees, "frac_coords", "numbers": of the atoms, "space_group"}.

    Raises:
        InputError: nothing was found in `CRYSTALS_TRIED` trials.
    """
    seed, index = payload["seed"]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    for _ in range(CRYSTALS_TRIED):
        crystal = _try(rng, config["max_atoms"])
        if crystal is not None:
            return crystal
    raise InputError(f"no random crystal of up to {config['max_atoms']} atoms was found")


def _try(rng: np.random.Generator, max_atoms: int) -> dict[str, Any] | None:
    """One trial; None where too few orbits fit or the crystal fails the readers' checks."""
    system = list(SYSTEMS)[rng.integers(len(SYSTEMS))]
    first, last = SYSTEMS[system]
    rotations, translations, lattice_points = operations(int(rng.integers(first, last + 1)))
    wanted = 1 + int(max_atoms * rng.random() ** SIZE_POWER)
    volume = float(np.exp(rng.uniform(*np.log(VOLUMES))))
    lattice = _random_cell(rng, system, wanted * volume * lattice_points)
    apart = rng.uniform(*APART) * volume ** (1 / 3)
    sites: list[Float[np.ndarray, "m 3"]] = []
    count = 0
    for _ in range(ORBITS_TRIED):
        site = _random_site(rng, rotations, translations)
        orbit = orbit_of(site, rotations, translations)
        size = len(orbit) // lattice_points
        others = np.concatenate([orbit[1:], *sites])
        if count + size <= wanted and _keeps_apart(orbit[0], others, lattice, apart):
            sites.append(orbit)
            count += size
        if count == wanted:
            break
    if 2 * count <= wanted:
        return None
    numbers = np.repeat(_random_elements(rng, len(sites)), [len(orbit) for orbit in sites])
    return _standard(lattice, np.concatenate(sites), numbers, max_atoms, bool(rng.integers(2)))


@cache
def operations(
    number: int,
) -> tuple[Float[np.ndarray, "k 3 3"], Float[np.ndarray, "k 3"], int]:
    """The operations of a space group, in its conventional cell.

    Args:
        number: of the International Tables A, 1 to 230.

    Returns:
        Rotations, translations (fractional), and how many lattice points the cell has.
    """
    import moyopy

    found = moyopy.operations_from_number(number)
    rotations = np.array(found.rotations, float).reshape(-1, 3, 3)
    points = int((np.abs(rotations - np.eye(3)).sum((1, 2)) == 0).sum())
    return rotations, np.array(found.translations, float).reshape(-1, 3), points


def orbit_of(
    site: Float[np.ndarray, "3"],
    rotations: Float[np.ndarray, "k 3 3"],
    translations: Float[np.ndarray, "k 3"],
) -> Float[np.ndarray, "m 3"]:
    """All images of a site (fractional) in one cell, each once, the site first."""
    images = np.mod(rotations @ site + translations, 1.0)
    difference = images[:, None] - images[None]  # (K, K, 3)
    same = (np.abs(difference - np.round(difference)) < _SAME).all(-1)
    return images[same.argmax(1) == np.arange(len(images))]


def _random_site(
    rng: np.random.Generator,
    rotations: Float[np.ndarray, "k 3 3"],
    translations: Float[np.ndarray, "k 3"],
) -> Float[np.ndarray, "3"]:
    """A random point, moved to the nearest that some random operations leave where it is."""
    site = rng.random(3)
    held = rng.choice(OPERATIONS_HELD)
    if not held:
        return site
    chosen = rng.integers(len(rotations), size=held)
    # R x + t = x + n for a lattice vector n: the nearest x to the point
    moves = rotations[chosen] - np.eye(3)  # (H, 3, 3)
    away = moves @ site + translations[chosen]  # (H, 3)
    away -= np.round(away)
    shift = np.linalg.lstsq(moves.reshape(-1, 3), -away.reshape(-1), rcond=1e-6)[0]
    moved = site + shift
    left = moves @ moved + translations[chosen]
    held_now = bool((np.abs(left - np.round(left)) < _SAME).all())
    return moved if held_now else site


def _keeps_apart(
    site: Float[np.ndarray, "3"],
    others: Float[np.ndarray, "n 3"],
    lattice: Float[np.ndarray, "3 3"],
    apart: float,
) -> bool:
    """Whether no atom is nearer than `apart` (Å) to a site, by symmetry to any of its orbit."""
    if (np.linalg.norm(lattice, axis=1) < apart).any():
        return False  # nearer to its own image than that
    difference = others - site
    difference -= np.round(difference)
    around = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    distance = np.linalg.norm((difference[:, None] + around) @ lattice, axis=-1)
    return bool((distance >= apart).all())


def _random_cell(rng: np.random.Generator, system: str, volume: float) -> Float[np.ndarray, "3 3"]:
    """Cell vectors (Å) of a crystal system and a volume (Å^3)."""
    from pymatgen.core import Lattice

    a, b, c = np.exp(STRETCH * rng.standard_normal(3))
    angles = [90.0, 90.0, 90.0]
    if system == "cubic":
        b = c = a
    elif system in ("tetragonal", "trigonal", "hexagonal"):
        b = a
        angles[2] = 90.0 if system == "tetragonal" else 120.0
    elif system == "monoclinic":
        angles[1] = rng.uniform(90.0, 120.0)
    elif system == "triclinic":
        angles = list(rng.uniform(65.0, 115.0, 3))
    cell = Lattice.from_parameters(a, b, c, *angles)
    return np.array(cell.scale(volume).matrix)


def _random_elements(rng: np.random.Generator, orbits: int) -> Int[np.ndarray, " k"]:
    """An atomic number for each orbit, out of a few."""
    few = rng.permutation(MAX_ATOMIC_NUMBER)[: rng.choice(ELEMENTS)] + 1
    return rng.choice(few, size=orbits)


def _standard(
    lattice: Float[np.ndarray, "3 3"],
    frac_coords: Float[np.ndarray, "n 3"],
    numbers: np.ndarray,
    max_atoms: int,
    conventional: bool,
) -> dict[str, Any] | None:
    """The crystal in a standardised cell, primitive where the conventional one is too large."""
    import moyopy
    from pymatgen.core import Lattice

    cell = moyopy.Cell(lattice.tolist(), frac_coords.tolist(), numbers.tolist())
    try:
        dataset = moyopy.MoyoDataset(cell, symprec=_SYMPREC)
    except ValueError:
        return None
    found = dataset.std_cell if conventional else dataset.prim_std_cell
    if len(found.numbers) > max_atoms:
        found = dataset.prim_std_cell
    parameters = np.round(Lattice(found.basis).parameters, 6)
    # 10 digits, so that what should be 0 does not wrap to nearly 1
    positions = np.mod(np.round(found.positions, 10), 1.0)
    basis = np.array(Lattice.from_parameters(*parameters).matrix)
    try:
        check_sites(basis, np.array(found.numbers), positions, ReadOptions())
    except InputError:
        return None
    return {
        "lengths": parameters[:3].tolist(),
        "angles": parameters[3:].tolist(),
        "frac_coords": positions.tolist(),
        "numbers": list(found.numbers),
        "space_group": dataset.number,
    }
