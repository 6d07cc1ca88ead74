"""What a box repeats: its crystal, and how that lies in it.

A box cut from a repeating crystal (`nesf.boxes`) says no more than the crystal and a placement: the
rotation, and the point that is in the middle. Both are found from the atoms of the box alone, and
proved for each box: `cut_boxes` of them gives its atoms, all of them and no others. A model of
crystals then does the rest (`nesf.boxes.model`), in whatever rotation and at whatever offset the
box was cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from nesf.boxes.cut import is_box
from nesf.boxes.placement import Placements, cut_at, fit_placement
from nesf.boxes.search import Cell, find_cell
from nesf.boxes.setting import Setting, in_setting
from nesf.crystal import CrystalBatch
from nesf.geometry import standard_orientation

_SYMPREC = 0.01  # Å, at least: as crystals in data sets are symmetrised


@dataclass(frozen=True)
class RepeatOptions:
    """How the repeat of a box is found.

    Attributes:
        exact: how far atoms of a box may be from where its crystal has them, Å, at first.
        tolerance: and at last, for boxes that are not exact cuts.
        min_support: atoms that each translation must take to others of the box.
        min_copies: atoms in the box for each atom of the primitive cell, on average.
        setting: the cell in which the crystal is given: `conventional`, `primitive` or `reduced`
            (`nesf.boxes.setting`).
    """

    exact: float = 0.003
    tolerance: float = 0.05
    min_support: int = 2
    min_copies: float = 2.0
    setting: Setting = "conventional"

    def __post_init__(self) -> None:
        if not 0 < self.exact <= self.tolerance < math.inf:
            raise ValueError(
                f"need 0 < exact <= tolerance, not exact {self.exact} and tolerance "
                f"{self.tolerance}"
            )
        if self.min_support < 1:
            raise ValueError(f"min_support must be at least 1, not {self.min_support}")
        if not self.min_copies >= 1:
            raise ValueError(f"min_copies must be at least 1, not {self.min_copies}")
        if self.setting not in ("conventional", "primitive", "reduced"):
            raise ValueError(f"setting is conventional, primitive or reduced, not {self.setting}")


@dataclass(frozen=True)
class Repeats:
    """The crystals of boxes.

    Attributes:
        crystals: K crystals in double precision, lattices in standard orientation, with the ids of
            their boxes; on the CPU, as all of this.
        places: how each lies in its box.
        index: (K,) the box of each; boxes without a repeat have none.
        reasons: for each of the B boxes None, or one sentence why no repeat was found.
    """

    crystals: CrystalBatch
    places: Placements
    index: Int[torch.Tensor, " k"]
    reasons: tuple[str | None, ...]


def find_repeats(boxes: CrystalBatch, options: RepeatOptions | None = None) -> Repeats:
    """Find the crystal of each box and its placement, from the box alone.

    Args:
        boxes: B boxes.
        options: how; the defaults if None.

    Returns:
        What was found. `nesf.boxes.cut.cut_boxes` of a crystal, its rotation and its origin gives
        the box.
    """
    options = options or RepeatOptions()
    boxes = boxes.to("cpu", torch.float64)
    sides = boxes.lattice.diagonal(dim1=1, dim2=2).amax(-1).tolist()
    found: list[tuple[CrystalBatch, Placements]] = []
    index: list[int] = []
    reasons: list[str | None] = []
    for i, side in enumerate(sides):
        box = boxes.select([i])
        if not bool(is_box(box, side)):
            reasons.append("it is no box: its cell is not a cube along the axes")
            continue
        one = _find(box, side, options)
        if one is None:
            reasons.append(_no_repeat(int(box.num_atoms), side))
            continue
        found.append(one)
        index.append(i)
        reasons.append(None)
    crystals = _together([crystal for crystal, _ in found], [boxes.ids[i] for i in index])
    return Repeats(
        crystals,
        _placed([p for _, p in found]),
        torch.tensor(index, dtype=torch.long),
        tuple(reasons),
    )


def _no_repeat(atoms: int, side: float) -> str:
    return (
        f"no repeat was found in this box of {side:g} Å with {atoms} atoms; a box must be cut from "
        "a crystal, and be some two primitive cells wide"
    )


def _find(
    box: CrystalBatch, side: float, options: RepeatOptions
) -> tuple[CrystalBatch, Placements] | None:
    """The crystal of one box, proved."""
    cart = box.frac_coords[0].numpy() * side
    numbers = box.atomic_numbers[0].numpy()
    for tolerance in sorted({options.exact, options.tolerance}):
        support = (options.min_support, options.min_copies)
        for cell in find_cell(cart, numbers, side, tolerance, *support):
            chosen = in_setting(cell, options.setting, max(_SYMPREC, tolerance), 2 * tolerance)
            crystal, place = _placed_in(chosen, side)
            place = fit_placement(crystal, place, cart, 4 * tolerance, tolerance)
            if proves(crystal, place, cart, numbers, tolerance):
                return crystal, place
    return None


def _placed_in(cell: Cell, side: float) -> tuple[CrystalBatch, Placements]:
    """A cell in space as a crystal in standard orientation, and where it lies."""
    lattice = torch.from_numpy(cell.lattice)
    standard = standard_orientation(lattice[None])  # (1, 3, 3)
    # rows turn by the transpose: lattice = standard @ rotationᵀ
    rotation = torch.linalg.solve(standard, lattice[None]).mT
    left, _, right = torch.linalg.svd(rotation)
    middle = (np.full(3, side / 2) - cell.origin) @ np.linalg.inv(cell.lattice)
    crystal = CrystalBatch.from_flat(
        torch.from_numpy(cell.frac_coords),
        torch.from_numpy(cell.atomic_numbers).long(),
        torch.tensor([len(cell.cart_coords)]),
        standard,
        [""],
    )
    origin = torch.from_numpy(middle - np.floor(middle))[None]
    return crystal, Placements(left @ right, origin, torch.tensor([side], dtype=torch.float64))


def proves(
    crystal: CrystalBatch,
    place: Placements,
    cart_coords: Float[np.ndarray, "n 3"],
    atomic_numbers: Int[np.ndarray, " n"],
    tolerance: float,
) -> bool:
    """Whether a crystal at its placement gives the atoms of a box, all of them and no others.

    Args:
        crystal: one crystal.
        place: its placement.
        cart_coords: (N, 3) atoms of the box, Å.
        atomic_numbers: (N,) their elements.
        tolerance: how far an atom may be from its place, Å.
    """
    from scipy.spatial import cKDTree

    cut = cut_at(crystal, place)
    if len(cut.site) != len(cart_coords):
        return False
    distance, met = cKDTree(cut.cart_coords).query(cart_coords)
    right = crystal.atomic_numbers[0].numpy()[cut.site[met]] == atomic_numbers
    return bool(distance.max() <= 2 * tolerance and right.all()) and len(set(met)) == len(met)


def _together(crystals: list[CrystalBatch], ids: list[str]) -> CrystalBatch:
    """Crystals, one each, as one batch."""
    return CrystalBatch.from_flat(
        torch.cat([torch.zeros(0, 3, dtype=torch.float64), *(c.frac_coords[0] for c in crystals)]),
        torch.cat([torch.zeros(0, dtype=torch.long), *(c.atomic_numbers[0] for c in crystals)]),
        torch.tensor([int(c.num_atoms) for c in crystals], dtype=torch.long),
        torch.cat([torch.zeros(0, 3, 3, dtype=torch.float64), *(c.lattice for c in crystals)]),
        ids,
    )


def _placed(places: list[Placements]) -> Placements:
    numbers = [torch.zeros(0, 13, dtype=torch.float64), *(place.numbers() for place in places)]
    return Placements.of_numbers(torch.cat(numbers))
