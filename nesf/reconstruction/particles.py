"""Particles: query points that move along the position field until they rest on atoms."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.fields import CrystalFields
from nesf.geometry import plane_spacings, reduce_lattice

# query columns asked together before crystals with fewer points drop out: so many at least, and
# more of few crystals, where a call costs more than what it asks in vain
_FIRST_BLOCK, _FIRST_QUERIES = 64, 1024


@dataclass(frozen=True)
class Particles:
    """Particles of B crystals, one after another.

    Attributes:
        cart_coords: (M, 3) where they are, Å.
        crystal: (M,) which crystal they belong to, ascending.
        weight: (M,) how many particles each stands for.
    """

    cart_coords: Float[Tensor, "m 3"]
    crystal: Int[Tensor, " m"]
    weight: Float[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.crystal)

    def keep(self, mask: Bool[Tensor, " m"]) -> Particles:
        """Those where the mask is true."""
        return Particles(self.cart_coords[mask], self.crystal[mask], self.weight[mask])

    def at(self, cart_coords: Float[Tensor, "m 3"]) -> Particles:
        """The same particles in other places."""
        return replace(self, cart_coords=cart_coords)


def grid_shape(
    lattice: Float[Tensor, "b 3 3"], spacing: float, max_particles: int
) -> Int[Tensor, "b 3"]:
    """Grid cells along each cell vector, at most `spacing` Å long.

    Cells so large that the grid would exceed `max_particles` get a coarser one.
    """
    lengths = lattice.double().norm(dim=-1)
    step = torch.full_like(lengths[:, :1], spacing)
    while True:
        shape = (lengths / step - 1e-6).ceil().clamp_min(1)
        over = shape.prod(-1, keepdim=True) > max_particles
        if not bool(over.any()):
            return shape.long()
        step = torch.where(over, step * 1.1, step)


def grid_particles(
    fields: CrystalFields,
    spacing: float,
    max_particles: int,
    jitter: Float[Tensor, " 3"] | None = None,
) -> Particles:
    """A regular grid of particles over the cell of each crystal.

    For periodic fields any cell of the lattice will do, and the reduced one is covered with the
    fewest points; in-cell fields are asked over the region that holds their atoms.

    Args:
        fields: of B crystals.
        spacing: largest distance between neighbours along a cell vector, Å.
        max_particles: the most for one crystal.
        jitter: a shift of the whole grid, in grid steps.
    """
    lattice = reduce_lattice(fields.lattice) if fields.periodic else fields.lattice
    shape = grid_shape(lattice, spacing, max_particles)  # (B, 3)
    counts = shape.prod(-1)
    crystal = torch.arange(len(shape), device=lattice.device).repeat_interleave(counts)
    place = torch.arange(len(crystal), device=lattice.device)
    place = place - (counts.cumsum(0) - counts)[crystal]
    a, b, c = shape[crystal].unbind(-1)
    steps = torch.stack([place // (b * c) % a, place // c % b, place % c], dim=-1)
    middle = 0.5 if jitter is None else 0.5 + jitter.to(lattice)
    fractions = (steps.to(lattice.dtype) + middle) / shape[crystal] - fields.margin
    cart = (fractions.unsqueeze(1) @ lattice[crystal]).squeeze(1)
    return Particles(cart, crystal, torch.ones_like(cart[:, 0]))


def ask(
    fields: CrystalFields,
    name: Literal["position", "species"],
    points: Float[Tensor, "m 3"],
    crystal: Int[Tensor, " m"],
    max_queries: int,
) -> Float[Tensor, "m o"]:
    """A field's answers at points listed crystal after crystal.

    Crystals differ in their number of points, so the padded query (B, Q, 3) is cut into blocks of
    columns, and only the crystals that still have points are asked the later ones.

    Args:
        fields: of B crystals.
        name: which of the fields.
        points: (M, 3) query points, Å.
        crystal: (M,) crystal of each, ascending.
        max_queries: query points to one call, padding included.
    """
    counts = torch.bincount(crystal, minlength=len(fields))
    column = torch.arange(len(points), device=points.device)
    column = column - (counts.cumsum(0) - counts)[crystal]
    width = int(counts.max()) if len(points) else 0
    answers: Tensor | None = None
    begin, end = 0, max(_FIRST_BLOCK, _FIRST_QUERIES // max(1, len(fields)))
    while begin < width:
        rows = (counts > begin).nonzero().squeeze(-1)
        end = min(end, width, begin + max(1, max_queries // len(rows)))
        part = fields if len(rows) == len(fields) else fields.select(rows)
        inside = ((column >= begin) & (column < end)).nonzero().squeeze(-1)
        row = torch.searchsorted(rows, crystal[inside])
        query = points.new_zeros(len(rows), end - begin, 3)
        query[row, column[inside] - begin] = points[inside]
        answer = getattr(part, name)(query)[row, column[inside] - begin]  # (m, O)
        if answers is None:
            answers = answer.new_empty(len(points), answer.shape[-1])
        answers[inside] = answer
        begin, end = end, 2 * end
    if answers is None:
        size = 3 if name == "position" else 1
        return points.new_empty(0, size)
    return answers


def merge_particles(
    particles: Particles, voxel: float, wrap: Float[Tensor, "b 3 3"] | None = None
) -> Particles:
    """One particle for all of those in a voxel, at their mean: converged ones are asked once.

    Args:
        particles: to merge; those at non-finite places are dropped.
        voxel: edge of the voxels, Å.
        wrap: (B, 3, 3) cells to wrap the particles into first, Å.
    """
    particles = particles.keep(torch.isfinite(particles.cart_coords).all(-1))
    points, crystal = particles.cart_coords, particles.crystal
    if not len(points):
        return particles
    if wrap is not None:
        fractions = (points.unsqueeze(1) @ torch.linalg.inv(wrap)[crystal]).squeeze(1)
        points = ((fractions - fractions.floor()).unsqueeze(1) @ wrap[crystal]).squeeze(1)
    # 2^16 voxels a side; what flies farther ends in the outermost ones
    bins = torch.floor(points / voxel).clamp(-(2.0**15), 2.0**15 - 1)
    digits = bins.long() + 2**15
    keys = ((crystal * 2**16 + digits[:, 0]) * 2**16 + digits[:, 1]) * 2**16 + digits[:, 2]
    values, inverse = torch.unique(keys, return_inverse=True)
    weight = torch.zeros_like(values, dtype=points.dtype).index_add_(0, inverse, particles.weight)
    corner = torch.zeros_like(points[: len(values)])
    corner[inverse] = bins * voxel  # the same for all of a voxel
    # means of the small differences keep the digits
    inner = (points - corner[inverse]) * particles.weight.unsqueeze(-1)
    mean = torch.zeros_like(corner).index_add_(0, inverse, inner) / weight.unsqueeze(-1)
    return Particles(corner + mean, values >> 48, weight)


def move_particles(
    fields: CrystalFields,
    particles: Particles,
    moves: int,
    voxel: float = 0.05,
    max_queries: int = 2**16,
) -> tuple[Particles, Float[Tensor, " m"]]:
    """Move particles onto atoms: p <- p + f(p), again and again.

    Particles that meet are merged before the next move, so that later moves ask little.

    Args:
        fields: of B crystals.
        particles: where to begin.
        moves: how often to move, at least once.
        voxel: particles in one voxel of this edge go on as one, Å.
        max_queries: query points to one call of the field.

    Returns:
        The particles that are left, and the length of the last step of each, Å (NaN where the
        field has no answer).
    """
    wrap = reduce_lattice(fields.lattice) if fields.periodic else None
    for move in range(moves):
        if move:
            particles = merge_particles(particles, voxel, wrap)
        points, crystal = particles.cart_coords, particles.crystal
        offset = ask(fields, "position", points, crystal, max_queries).to(points.dtype)
        particles = particles.at(points + offset)
    return particles, offset.norm(dim=-1)


def inside_cell(
    particles: Particles, fields: CrystalFields, tolerance: float
) -> Bool[Tensor, " m"]:
    """Which particles lie in the cell, or at most `tolerance` Å off the region of its atoms."""
    crystal = particles.crystal
    inverse = torch.linalg.inv(fields.lattice)[crystal]
    fractions = (particles.cart_coords.unsqueeze(1) @ inverse).squeeze(1)
    slack = tolerance / plane_spacings(fields.lattice)[crystal] + fields.margin
    return ((fractions >= -slack) & (fractions < 1 - 2 * fields.margin + slack)).all(-1)
