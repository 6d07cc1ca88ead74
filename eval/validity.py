"""Whether a generated crystal could be one: geometry, volume and charge.

There is no true crystal to compare with, so these are the usual checks that a sample must pass.
The published "validity" of the field (Xie et al., ICLR 2022, arXiv:2110.06197, "CDVAE") is two of
them: no two atoms within 0.5 Å (after Court et al., J. Chem. Inf. Model. 60, 4518, 2020) and a
charge-neutral composition (after SMACT, Davies et al., J. Open Source Softw. 4, 1361, 2019).
A crystal without atoms, or none at all, passes nothing.

python -m eval.validity FILES tells which share of the crystals in files passes which check.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import Float, Int

from eval.cells import Cell
from eval.metrics import periodic_distances
from nesf.data.checks import check_lattice
from nesf.errors import InputError
from nesf.geometry import reduce_lattice

MIN_DISTANCE = 0.5  # Å
# `python -m eval.validity` on 15,509 crystals (LCS6Å, cubic ICSG3D, Perov-5, Carbon-24, AFLOW
# perovskites, YBCO13): none has two atoms nearer than 0.65 of the sum of their covalent radii, and
# all volumes are 4.4 to 92 Å³ an atom; caesium metal has 115 Å³.
MIN_RADII = 0.6
MIN_VOLUME, MAX_VOLUME = 4.0, 150.0  # Å³ an atom

CHECKS: Mapping[str, str] = {  # in the order in which they are told
    "has_atoms": "has atoms",
    "cell_ok": "sound cell",
    "distance_ok": f"atoms >= {MIN_DISTANCE:g} Å apart",
    "radii_ok": f"atoms >= {MIN_RADII:g} radii apart",
    "volume_ok": "usual volume",
    "neutral": "charge neutral",
}
FAULTS: Mapping[str, str] = {
    "has_atoms": "no atoms",
    "cell_ok": "flat cell",
    "distance_ok": "atoms overlap",
    "radii_ok": "atoms too near",
    "volume_ok": "odd volume",
    "neutral": "not neutral",
}


@dataclass(frozen=True)
class Validity:
    """What the checks say of one crystal.

    Attributes:
        formula: reduced; "" without atoms.
        num_atoms: in the cell.
        volume_per_atom: Å³; None without atoms or with an unsound cell, like the distance.
        min_distance: smallest distance of two atoms, periodic images included, Å.
        has_atoms: there is an atom, all coordinates finite.
        cell_ok: edges of 0.5 to 200 Å, angles of 5° to 175°, opposite faces at least 0.5 Å apart
            (`nesf.data.checks.check_lattice`): other cells cannot be read back or matched.
        distance_ok: the smallest distance is at least `MIN_DISTANCE`.
        radii_ok: every distance is at least `MIN_RADII` of the sum of both covalent radii.
        volume_ok: the volume per atom is in `MIN_VOLUME` to `MAX_VOLUME`.
        neutral: see `is_neutral`.
        known_formula: the formula is among those of known crystals; None where none were given.
    """

    formula: str = ""
    num_atoms: int = 0
    volume_per_atom: float | None = None
    min_distance: float | None = None
    has_atoms: bool = False
    cell_ok: bool = False
    distance_ok: bool = False
    radii_ok: bool = False
    volume_ok: bool = False
    neutral: bool = False
    known_formula: bool | None = None

    @staticmethod
    def columns() -> tuple[str, ...]:
        """The names in `row`."""
        return (*(one.name for one in fields(Validity)), "valid", "valid_all")

    @property
    def valid(self) -> bool:
        """The published validity: no atoms within 0.5 Å, and charge neutral."""
        return self.distance_ok and self.neutral

    @property
    def valid_all(self) -> bool:
        """Every check is passed."""
        return all(getattr(self, name) for name in CHECKS)

    def row(self) -> dict[str, str | int | float | None]:
        """Plain values by column, for a table; verdicts are "true" or "false"."""
        return {name: _plain(getattr(self, name)) for name in self.columns()}


def check_validity(cell: Cell | None, known: Set[str] | None = None) -> Validity:
    """Run all checks on one crystal.

    Args:
        cell: the crystal; None where there is none, which passes nothing.
        known: reduced formulas of known crystals, as `formula` writes them.
    """
    if cell is None or not len(cell) or not np.isfinite(cell.frac_coords).all():
        return Validity(known_formula=None if known is None else False)
    name = formula(cell.atomic_numbers)
    composition = Validity(
        formula=name,
        num_atoms=len(cell),
        has_atoms=True,
        neutral=is_neutral(cell.atomic_numbers),
        known_formula=None if known is None else name in known,
    )
    try:
        check_lattice(cell.lattice)
    except InputError:
        return composition
    separations = nearest_distances(cell)
    volume = cell.volume / len(cell)
    return replace(
        composition,
        volume_per_atom=volume,
        min_distance=float(separations.min()),
        cell_ok=True,
        distance_ok=bool(separations.min() >= MIN_DISTANCE),
        radii_ok=bool((separations >= MIN_RADII * radii_sums(cell)).all()),
        volume_ok=MIN_VOLUME <= volume <= MAX_VOLUME,
    )


def nearest_distances(cell: Cell) -> Float[np.ndarray, "n n"]:
    """Distances (N, N) of all pairs of atoms, nearest images, Å.

    On the diagonal stands how far an atom is from its own nearest image: the shortest lattice
    vector. So the smallest entry is the same for every cell of one crystal.

    Args:
        cell: N atoms in a cell that has a volume.
    """
    separations = periodic_distances(cell.frac_coords, cell.frac_coords, cell.lattice)
    shortest = reduce_lattice(torch.from_numpy(cell.lattice).unsqueeze(0)).norm(dim=-1).min()
    np.fill_diagonal(separations, float(shortest))
    return separations


def radii_sums(cell: Cell) -> Float[np.ndarray, "n n"]:
    """Sums (N, N) of the covalent radii of all pairs of atoms, Å."""
    radii = np.array([_covalent_radius(int(z)) for z in cell.atomic_numbers])
    return radii[:, None] + radii[None]


def is_neutral(atomic_numbers: Int[np.ndarray, " n"]) -> bool:
    """Whether a composition can be charge neutral; metals and single elements are.

    The rule of Xie et al. (2022) after SMACT: every element takes one of its known oxidation
    states, the charges sum to zero, and all cations are less electronegative (Pauling) than all
    anions. Elements sorted by electronegativity are thus cations up to some place and anions
    behind it, and the charges that can be reached there form a small set of integers: no
    composition takes long. Mixed valence (Fe3O4) is no single state per element, and fails, as
    published: of the real crystals of LCS6Å and Perov-5, 90 % and 98 % pass.

    Args:
        atomic_numbers: (N,) Z of the atoms of a cell, in any order.
    """
    from pymatgen.core import Element

    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    counts = counts // np.gcd.reduce(counts)
    elements = [Element.from_Z(int(z)) for z in numbers]
    if len(elements) == 1 or all(element.is_metal for element in elements):
        return True
    if not all(_oxidation_states(element.Z) for element in elements):
        return False
    order = sorted(range(len(elements)), key=lambda i: elements[i].X)
    for split in range(1, len(order)):
        if elements[order[split - 1]].X == elements[order[split]].X:
            continue
        charges = {0}
        for place, i in enumerate(order):
            states = [q for q in _oxidation_states(elements[i].Z) if (q > 0) == (place < split)]
            charges = {charge + int(counts[i]) * q for charge in charges for q in states}
        if 0 in charges:
            return True
    return False


def formula(atomic_numbers: Int[np.ndarray, " n"]) -> str:
    """The reduced formula of N atoms, as pymatgen writes it."""
    from pymatgen.core import Composition, Element

    numbers, counts = np.unique(atomic_numbers, return_counts=True)
    amounts = {Element.from_Z(int(z)): int(n) for z, n in zip(numbers, counts, strict=True)}
    with warnings.catch_warnings():
        # He, Ne and Ar have none, and stand last
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        return Composition(amounts).reduced_formula


def faults(row: Mapping[str, object]) -> list[str]:
    """What a row of `Validity.row` failed, in words, without what follows from another failure."""
    failed = {name for name in FAULTS if row[name] != "true"}
    if "has_atoms" in failed:
        failed = {"has_atoms"}
    elif "cell_ok" in failed:
        failed -= {"distance_ok", "radii_ok", "volume_ok"}
    elif "distance_ok" in failed:
        failed -= {"radii_ok"}
    return [words for name, words in FAULTS.items() if name in failed]


def summary(rows: Sequence[Mapping[str, object]]) -> str:
    """How many of the rows pass each check, in one line; every row counts.

    Args:
        rows: of `Validity.row`, one for each crystal that was asked for.
    """

    def count(name: str) -> int:
        return sum(row[name] == "true" for row in rows)

    def share(name: str, words: str) -> str:
        return f"{words} {count(name)} ({100 * count(name) / max(1, len(rows)):.0f} %)"

    parts = [f"{words} {count(name)}" for name, words in CHECKS.items()]
    totals = [share("valid", "valid as published"), share("valid_all", "all checks")]
    if any(row["known_formula"] in ("true", "false") for row in rows):
        totals.append(share("known_formula", "known formula"))
    return f"of {len(rows)}: {', '.join(parts)}; {', '.join(totals)}"


def _plain(value: str | int | float | bool | None) -> str | int | float | None:
    if isinstance(value, bool):
        return str(value).lower()
    return round(value, 4) if isinstance(value, float) else value


@cache
def _oxidation_states(atomic_number: int) -> tuple[int, ...]:
    """All known oxidation states of an element but zero, from pymatgen's element data."""
    from pymatgen.core import Element

    element = Element.from_Z(atomic_number)
    known = {*element.oxidation_states, *element.icsd_oxidation_states}
    known.update(element.common_oxidation_states)
    return tuple(sorted(int(state) for state in known if state))


@cache
def _covalent_radius(atomic_number: int) -> float:
    """Covalent radius, Å (Cordero et al., Dalton Trans. 2008, 2832); curium's beyond curium."""
    from pymatgen.analysis.molecule_structure_comparator import CovalentRadius
    from pymatgen.core import Element

    known: dict[str, float] = CovalentRadius.radius
    return float(known.get(Element.from_Z(atomic_number).symbol, known["Cm"]))


if __name__ == "__main__":
    from eval.validity_shares import main

    main()
