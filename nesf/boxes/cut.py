"""Boxes: cubes cut from repeating crystals, or clusters of atoms, that are not periodic.

A box crystal is a `CrystalBatch` whose cell is the box and whose atoms are those inside of it. Its
faces are walls: atoms near opposite ones are no neighbours. Hoffmann et al. (arXiv:1909.00949)
describe crystals by such boxes of 10 Å, once with the single unit cell in the middle and once with
the crystal repeated until the box is full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.errors import InputError
from nesf.geometry import frac_to_cart
from nesf.rotations import RotationKind, random_rotations

BoxMode = Literal["unit", "repeat", "cluster"]

# images of atoms held at once: some 200 MB of float32 with the temporaries
MAX_IMAGES = 2**21
# Å; how far a cell may be from a box and still be it, after a CIF's rounding
BOX_TOLERANCE = 1e-3
# a share of the cell: rounding must not lose an image, and those too many are dropped later
_SLACK = 1e-4


@dataclass(frozen=True)
class BoxOptions:
    """What is cut from a crystal, and how it is placed.

    Attributes:
        side: edge of the box, Å.
        mode: `unit` is the atoms of one unit cell, its centre in the middle of the box; `repeat`
            every atom of the repeating crystal inside the box; `cluster` those within side / 2 of
            the middle.
        rotate: how random boxes are turned: not at all, by quarter turns about the axes (one of
            24 rotations), or by any rotation.
        shift: random boxes of `repeat` and `cluster` have any point of the cell in the middle,
            and not its origin.
        capacity: the most atoms in a box; fuller ones are refused.
    """

    side: float = 10.0
    mode: BoxMode = "repeat"
    rotate: RotationKind = "any"
    shift: bool = True
    capacity: int = 512

    def __post_init__(self) -> None:
        if not 0 < self.side < math.inf:
            raise ValueError(f"side must be above 0 Å, not {self.side}")
        if self.capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {self.capacity}")
        if self.mode not in ("unit", "repeat", "cluster"):
            raise ValueError(f"mode is unit, repeat or cluster, not {self.mode}")
        if self.rotate not in ("none", "quarter", "any"):
            raise ValueError(f"rotate is none, quarter or any, not {self.rotate}")


def cut_boxes(
    crystals: CrystalBatch,
    options: BoxOptions,
    rotation: Float[Tensor, "b 3 3"],
    origin: Float[Tensor, "b 3"],
) -> CrystalBatch:
    """Cut one box from each crystal; exact, in cells of any shape.

    Args:
        crystals: B crystals.
        options: side and mode; what is random in them is not asked here.
        rotation: (B, 3, 3) turns the crystals: a vector v becomes rotation @ v.
        origin: (B, 3) the point of each crystal that comes into the middle of the box, in
            fractions of its cell; with `unit` the middle of the cell that is taken, (1/2, 1/2,
            1/2) for the cell as it is given.

    Returns:
        B boxes in the crystals' order, with their ids and properties; lattices are side times the
        identity, fractions lie in [0, 1). Atoms that leave the box are left out, however many.
    """
    crystal, column = crystals.mask.nonzero(as_tuple=True)  # (T,), (T,)
    start = crystals.frac_coords[crystal, column] - origin[crystal]  # (T, 3)
    turned = frac_to_cart(crystals.lattice, rotation.mT)  # (B, 3, 3): rows are rotated cell vectors
    if options.mode == "unit":
        start = start - (start + 0.5).floor()
        atom, place = _inside(start, crystal, turned, options)
    else:
        atom, place = _images_inside(start, crystal, turned, options)
    box = torch.eye(3, device=turned.device, dtype=turned.dtype) * options.side
    cut = CrystalBatch.from_flat(
        place,
        crystals.atomic_numbers[crystal, column][atom],
        torch.bincount(crystal[atom], minlength=len(crystals)),
        box.repeat(len(crystals), 1, 1),
        crystals.ids,
    )
    return cut.replace(properties=crystals.properties)


def _inside(
    delta: Float[Tensor, "t 3"],
    crystal: Int[Tensor, " t"],
    turned: Float[Tensor, "b 3 3"],
    options: BoxOptions,
) -> tuple[Int[Tensor, " k"], Float[Tensor, "k 3"]]:
    """Which points (fractions of the cell, from the middle) are in the box, and their fractions."""
    cart = (delta.unsqueeze(-1) * turned[crystal]).sum(-2)  # (T, 3), Å from the middle
    place = cart / options.side + 0.5
    inside = ((place >= 0) & (place < 1)).all(-1)
    if options.mode == "cluster":
        inside &= cart.norm(dim=-1) <= options.side / 2
    return inside.nonzero().squeeze(-1), place[inside]


def _images_inside(
    start: Float[Tensor, "t 3"],
    crystal: Int[Tensor, " t"],
    turned: Float[Tensor, "b 3 3"],
    options: BoxOptions,
) -> tuple[Int[Tensor, " k"], Float[Tensor, "k 3"]]:
    """Every periodic image of every atom that is in the box: which atom it is of, and where.

    Along cell axis i the box reaches from -h_i to h_i (fractions of the cell), so that the images
    start_i + n_i of an atom matter for whole n_i in [-h_i - start_i, h_i - start_i] only.
    """
    inverse = torch.linalg.inv(turned)
    # the largest of v @ inverse over the cube's corners, or over the sphere around the middle
    reach = inverse.abs().sum(-2) if options.mode == "repeat" else inverse.norm(dim=-2)
    reach = (reach * options.side / 2 + _SLACK)[crystal]  # (T, 3)
    first = (-reach - start).ceil()
    sizes = ((reach - start).floor() - first + 1).clamp_min(0).long()  # (T, 3)
    counts = sizes.prod(-1)
    atoms, places = [crystal[:0]], [start[:0]]
    # atoms in groups of about MAX_IMAGES images together
    groups = torch.unique_consecutive(counts.cumsum(0) // MAX_IMAGES, return_counts=True)[1]
    begin = 0
    for length in groups.tolist():
        some = torch.arange(begin, begin + length, device=start.device)
        owner = some.repeat_interleave(counts[some])  # (I,)
        step = torch.arange(len(owner), device=start.device)
        step = step - (counts[some].cumsum(0) - counts[some])[owner - begin]
        _, b, c = sizes[owner].unbind(-1)
        whole = torch.stack([step // (b * c), step // c % b, step % c], dim=-1)
        delta = start[owner] + first[owner] + whole
        inside, place = _inside(delta, crystal[owner], turned, options)
        atoms.append(owner[inside])
        places.append(place)
        begin += length
    return torch.cat(atoms), torch.cat(places)


def random_boxes(
    crystals: CrystalBatch, options: BoxOptions, generator: torch.Generator
) -> CrystalBatch:
    """Cut a random box from each crystal, see `BoxOptions` and `cut_boxes`.

    Args:
        crystals: B crystals.
        options: what is cut, and what of it is random.
        generator: of rotations and places; on any device.
    """
    rotation, origin = random_placements(len(crystals), options, generator)
    like = crystals.lattice
    return cut_boxes(crystals, options, rotation.to(like), origin.to(like))


def random_placements(
    count: int, options: BoxOptions, generator: torch.Generator
) -> tuple[Float[Tensor, "b 3 3"], Float[Tensor, "b 3"]]:
    """How random boxes lie in their crystals: rotations and origins, as `cut_boxes` takes them.

    Args:
        count: boxes, B.
        options: what of them is random.
        generator: draws them, on its own device.
    """
    device = generator.device
    rotation = random_rotations(count, options.rotate, generator)
    if options.mode == "unit":
        return rotation, torch.full((count, 3), 0.5, device=device)
    if options.shift:
        return rotation, torch.rand(count, 3, generator=generator, device=device)
    return rotation, torch.zeros(count, 3, device=device)


def training_boxes(
    crystals: CrystalBatch, options: BoxOptions, generator: torch.Generator
) -> CrystalBatch:
    """Random boxes of the crystals that have one: fewer than given where some are refused.

    Args:
        crystals: B crystals.
        options: what is cut, and what of it is random.
        generator: of rotations and places.

    Raises:
        InputError: none of the crystals fits.
    """
    boxes = random_boxes(crystals.select(box_fits(crystals, options)), options, generator)
    kept = (boxes.num_atoms > 0) & (boxes.num_atoms <= options.capacity)
    if not bool(kept.any()):
        raise InputError(
            f"none of {len(crystals)} crystals of a batch fits into a box of {options.side:g} Å "
            f"({options.mode}, up to {options.capacity} atoms); choose another side, mode or "
            "capacity"
        )
    return boxes.select(kept)


def box_fits(crystals: CrystalBatch, options: BoxOptions) -> Bool[Tensor, " b"]:
    """Which crystals have boxes; `box_refusals` says why the others have not.

    Args:
        crystals: B crystals.
        options: what is cut.
    """
    fits = _expected_atoms(crystals, options) <= options.capacity
    if options.mode == "unit":
        fits &= _cell_reach(crystals, options) <= options.side / 2
    return fits & crystals.mask.any(-1)


def box_refusals(crystals: CrystalBatch, options: BoxOptions) -> list[str | None]:
    """For each crystal one sentence why no box is cut from it, or None.

    A unit cell is refused if an atom of it leaves the box in one of the rotations that
    `options.rotate` allows; a repeating crystal if its density fills the box with more atoms than
    the capacity. One box may hold more than the density says: see what was cut.

    Args:
        crystals: B crystals.
        options: what is cut.
    """
    expected = _expected_atoms(crystals, options).tolist()
    reach = (
        _cell_reach(crystals, options).tolist() if options.mode == "unit" else [0.0] * len(crystals)
    )
    reasons: list[str | None] = []
    for atoms, far, fits in zip(expected, reach, box_fits(crystals, options).tolist(), strict=True):
        if fits:
            reasons.append(None)
        elif not atoms:
            reasons.append("no atoms")
        elif atoms > options.capacity:
            reasons.append(
                f"some {atoms:.0f} atoms in a box of {options.side:g} Å, more than the "
                f"{options.capacity} allowed"
            )
        else:
            reasons.append(
                f"the unit cell leaves the box of {options.side:g} Å: it reaches {far:.2f} Å from "
                "its middle"
            )
    return reasons


def _expected_atoms(crystals: CrystalBatch, options: BoxOptions) -> Float[Tensor, " b"]:
    """Atoms in a box by the crystal's density, or of its one cell."""
    count = crystals.num_atoms.to(crystals.lattice.dtype)
    if options.mode == "unit":
        return count
    volume = options.side**3 * (math.pi / 6 if options.mode == "cluster" else 1.0)
    return count * volume / torch.linalg.det(crystals.lattice).abs()


def _cell_reach(crystals: CrystalBatch, options: BoxOptions) -> Float[Tensor, " b"]:
    """How far (Å) atoms of the cell are from its middle in any allowed rotation, along an axis."""
    delta = crystals.frac_coords - 0.5
    delta = frac_to_cart(delta - (delta + 0.5).floor(), crystals.lattice)  # (B, N, 3)
    far = delta.norm(dim=-1) if options.rotate == "any" else delta.abs().amax(-1)
    return (far * crystals.mask).amax(-1)


def is_box(crystals: CrystalBatch, side: float) -> Bool[Tensor, " b"]:
    """Which crystals are boxes of this side, by their cells.

    Args:
        crystals: B crystals.
        side: edge of the box, Å.
    """
    box = torch.eye(3, device=crystals.device, dtype=crystals.lattice.dtype) * side
    return ((crystals.lattice - box).abs() <= BOX_TOLERANCE).flatten(1).all(-1)
