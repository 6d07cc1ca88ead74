"""Elements onto a prototype: all plausible choices, and one crystal of a plausible volume."""

from __future__ import annotations

import itertools
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from nesf.data.recipe import Recipe
from nesf.data.roles import FAMILIES, PNICTIDE_RADII

if TYPE_CHECKING:
    from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor

# cell lengths that symmetry leaves free, by crystal system, once the volume is fixed
FREE_LENGTHS = {
    "cubic": (),
    "hexagonal": (2,),
    "trigonal": (2,),
    "tetragonal": (2,),
    "orthorhombic": (0, 1, 2),
}
VARIANT_STRAIN = 0.03  # of the lengths of a decoration that is used again
_LENGTH_DIGITS = 6  # Å; beyond them, two mathematical libraries may round differently


def decorations(recipe: Recipe, counts: tuple[int, ...]) -> Int[np.ndarray, "k roles"]:
    """All plausible choices of elements for a prototype.

    Args:
        recipe: who may stand where.
        counts: atoms of each role in the cell.

    Returns:
        Atomic numbers, one row a choice, each choice once, in ascending order.
    """
    candidates = [_candidates(role) for role in recipe.roles]
    grids = np.meshgrid(*(np.arange(len(c)) for c in candidates), indexing="ij")
    # (K, R, 4): Z, charge, radius in Å, electronegativity
    table = np.stack([c[g.ravel()] for c, g in zip(candidates, grids, strict=True)], axis=1)
    numbers, charges, radii, negativity = np.moveaxis(table, 2, 0)  # each (K, R)
    good = np.ones(len(table), bool)
    for i, j in itertools.combinations(range(len(recipe.roles)), 2):
        good &= numbers[:, i] != numbers[:, j]
        if recipe.is_ionic:
            # the anion is the one that pulls more, by a margin
            pull = (negativity[:, j] - negativity[:, i]) * np.sign(charges[:, i] - charges[:, j])
            alike = charges[:, i] * charges[:, j] > 0
            good &= alike | (pull >= recipe.min_difference)
    if recipe.is_ionic:
        good &= charges @ np.array(counts) == 0
    for role, (low, high) in recipe.ratios.items():
        ratio = radii[:, role] / radii[:, -1]
        good &= (low <= ratio) & (ratio <= high)
    if recipe.tolerance is not None:
        low, high = recipe.tolerance
        a, b, x = radii.T
        tolerance = (a + x) / np.sqrt(2) / (b + x)
        good &= (low <= tolerance) & (tolerance <= high)
    chosen = numbers[good].astype(np.int64)
    if recipe.interchangeable:
        chosen[:, :2].sort(axis=1)
    return np.unique(chosen, axis=0)


def build(payload: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """One decorated crystal: a worker's function.

    The free ratios of the cell lengths are drawn around the prototype's, then pymatgen's
    data-mined lattice scaling sets the volume.

    Args:
        payload: {"prototype": name, "numbers": Z of each role, "seed": [seed, index],
            "variant": 0, or higher for a decoration that was used before}.
        config: {"prototypes": {name: {"lengths" (Å), "angles" (degrees), "system",
            "frac_coords", "roles" of the atoms}}, "strain": standard deviation of the log ratios}.

    Returns:
        {"lengths": Å, "formula": reduced}.

    Raises:
        InputError: the crystal fails the readers' checks.
    """
    from pymatgen.core import Lattice, Structure

    from nesf.data.checks import check_structure

    prototype = config["prototypes"][payload["prototype"]]
    seed, index = payload["seed"]
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    lengths = np.array(prototype["lengths"])
    free = list(FREE_LENGTHS[prototype["system"]])
    lengths[free] *= np.exp(rng.uniform(-1, 1, len(free)) * config["strain"])
    numbers = [payload["numbers"][role] for role in prototype["roles"]]
    structure = Structure(
        Lattice.from_parameters(*lengths, *prototype["angles"]), numbers, prototype["frac_coords"]
    )
    lengths *= (_predictor().predict(structure) / structure.volume) ** (1 / 3)
    if payload["variant"]:
        lengths *= np.exp(rng.uniform(-1, 1) * VARIANT_STRAIN)
    lengths = lengths.round(_LENGTH_DIGITS)
    structure.lattice = Lattice.from_parameters(*lengths, *prototype["angles"])
    check_structure(structure)
    return {"lengths": lengths.tolist(), "formula": structure.composition.reduced_formula}


@cache
def _predictor() -> DLSVolumePredictor:
    from pymatgen.core.structure_prediction.volume_predictor import DLSVolumePredictor

    # without its limits, which are relative to a volume that here belongs to other elements
    return DLSVolumePredictor(min_scaling=None, max_scaling=None)


@cache
def _candidates(role: str) -> Float[np.ndarray, "k 4"]:
    """Z, charge, radius (Å) and electronegativity (Pauling) of who may play a role."""
    from pymatgen.core import Element

    family = FAMILIES.get(role) or dict.fromkeys(role.split(), (0,))
    rows = []
    for symbol, charges in family.items():
        element = Element(symbol)
        rows += [(element.Z, charge, radius(symbol, charge), element.X) for charge in charges]
    return np.array(sorted(rows), float)


@cache
def radius(symbol: str, charge: int) -> float:
    """Shannon's crystal radius of an ion, or Slater's radius of an atom, Å.

    Coordination number 6 and high spin where the table has them, else the nearest to them.
    """
    from pymatgen.core import Element

    element = Element(symbol)
    shannon = element.data["Shannon radii"]
    if charge != 0 and isinstance(shannon, dict) and str(charge) in shannon:
        by_number = shannon[str(charge)]
        spins = by_number.get("VI") or next(iter(by_number.values()))
        entry = spins.get("High Spin") or next(iter(spins.values()))
        return float(entry["crystal_radius"])
    if charge < 0:
        return PNICTIDE_RADII[symbol]
    if element.atomic_radius is None:
        raise ValueError(f"{symbol} has no atomic radius")
    return float(element.atomic_radius)
