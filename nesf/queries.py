"""Where the fields are asked while they are trained."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.geometry import NearestImage, frac_to_cart, wrap_frac
from nesf.neighbors import nearest_atoms
from nesf.places import Places
from nesf.precision import full_precision


@dataclass(frozen=True)
class QueryBlock:
    """Query points in rows, each row belonging to one crystal.

    Attributes:
        crystal: (R,) index of each row's crystal in the batch.
        query: (R, Q, 3) query points, Cartesian, Å.
    """

    crystal: Int[Tensor, " r"]
    query: Float[Tensor, "r q 3"]


@dataclass(frozen=True)
class FieldTarget:
    """The exact fields at the points of a QueryBlock.

    Attributes:
        offset: (R, Q, 3) displacement to the nearest atom, Å.
        species: (R, Q) class of that atom, Z - 1.
    """

    offset: Float[Tensor, "r q 3"]
    species: Int[Tensor, "r q"]


@dataclass(frozen=True)
class TrainingQueries:
    """What one training step asks: blocks for the position field and for the species field."""

    position: tuple[QueryBlock, ...]
    species: tuple[QueryBlock, ...]

    def select(self, rows: Int[Tensor, " r"]) -> TrainingQueries:
        """What is asked of some crystals, where each block has one row a crystal, in their order.

        Args:
            rows: index of the crystals that are kept.
        """
        crystal = torch.arange(len(rows), device=rows.device)
        position, species = (
            tuple(QueryBlock(crystal, block.query[rows]) for block in blocks)
            for blocks in (self.position, self.species)
        )
        return TrainingQueries(position, species)


class QuerySampler(ABC):
    """Draws the queries of a training step; a config names any subclass by its class path."""

    @abstractmethod
    def __call__(
        self, crystals: CrystalBatch, generator: torch.Generator, margin: float
    ) -> TrainingQueries:
        """Queries for a batch.

        Args:
            crystals: B crystals.
            generator: draws them, and nothing else does.
            margin: atoms and queries are in [-margin, 1 - margin) of the cell, as the model's.
        """


def field_target(
    block: QueryBlock, crystals: CrystalBatch, margin: float, images: NearestImage | None = None
) -> FieldTarget:
    """The exact answers at a block's points.

    Args:
        block: the query points.
        crystals: the batch that the block's rows point into.
        margin: in-cell atoms are wrapped into [-margin, 1 - margin).
        images: with it, the nearest periodic image; one lattice a row of the block.
    """
    with full_precision(crystals.device):
        atoms = in_cell_coords(crystals, margin)[block.crystal]  # (B, N, 3) -> (R, N, 3)
        offset, index = nearest_atoms(block.query, atoms, crystals.mask[block.crystal], images)
    return FieldTarget(offset, crystals.species[block.crystal].gather(1, index))


def in_cell_coords(crystals: CrystalBatch, margin: float) -> Float[Tensor, "b n 3"]:
    """Cartesian coordinates (Å) of the atoms wrapped into [-margin, 1 - margin) of the cell."""
    return frac_to_cart(wrap_frac(crystals.frac_coords, margin), crystals.lattice)


def uniform_in_cell(
    lattice: Float[Tensor, "b 3 3"],
    count: int,
    generator: torch.Generator,
    margin: float = 0.0,
    draws: int | None = None,
) -> Float[Tensor, "b q 3"]:
    """Points uniform over each cell's volume, Å; over [-margin, 1 - margin) of it.

    Args:
        lattice: (B, 3, 3) cell vectors, Å.
        count: points in each cell.
        generator: draws them.
        margin: see above.
        draws: 1 for the same fractions in every cell, by default B.
    """
    shape = (lattice.shape[0] if draws is None else draws, count, 3)
    frac = torch.rand(shape, generator=generator, device=lattice.device, dtype=lattice.dtype)
    return frac_to_cart((frac - margin).expand(lattice.shape[0], -1, -1), lattice)


def _uniform_around(
    lattice: Tensor, count: int, generator: torch.Generator, draws: int
) -> Float[Tensor, "b q 3"]:
    """Points uniform over each cell and one more on every side, Å."""
    wide = uniform_in_cell(3 * lattice, count, generator, 0.0, draws)
    return wide - lattice.sum(dim=1, keepdim=True)


@dataclass(frozen=True)
class CellQueries(QuerySampler):
    """As many queries for every crystal: uniform over the cell, and around random atoms.

    The distance from the atom is drawn anew for each query, Gaussian of a width uniform in
    [0, near_width], so that the last, exact step of a particle is trained as well as the first.

    Attributes:
        uniform: position queries uniform over the cell, each crystal.
        near: position queries around atoms, each crystal.
        near_width: largest standard deviation around an atom, Å.
        species: species queries around atoms, each crystal.
        species_width: largest standard deviation of the species queries, Å.
        shared: all crystals of a batch share one draw, so that what one is asked does not depend
            on the others.
        far: position queries uniform over the cell enlarged by one cell on every side, each
            crystal, for fields that are to hold around a cluster (`nesf.boxes.frames`).
    """

    uniform: int = 64
    near: int = 64
    near_width: float = 0.6
    species: int = 32
    species_width: float = 0.3
    shared: bool = False
    far: int = 0

    def __post_init__(self) -> None:
        for name in ("uniform", "near", "near_width", "species_width", "far"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.uniform + self.near < 1:
            raise ValueError("uniform and near are both 0: no query for the position field")
        if self.species < 1:
            raise ValueError(f"species must be at least 1, not {self.species}")

    def __call__(
        self, crystals: CrystalBatch, generator: torch.Generator, margin: float
    ) -> TrainingQueries:
        """Queries for a batch: one block of each kind, a row a crystal (see `QuerySampler`)."""
        rows = torch.arange(len(crystals), device=crystals.device)
        draws = 1 if self.shared else len(crystals)
        spread = uniform_in_cell(crystals.lattice, self.uniform, generator, margin, draws)
        atoms = Places(in_cell_coords(crystals, margin), crystals.num_atoms)
        near = atoms.around(self.near, self.near_width, generator, self.shared)
        species = atoms.around(self.species, self.species_width, generator, self.shared)
        asked = [spread, near]
        if self.far:
            asked.append(_uniform_around(crystals.lattice, self.far, generator, draws))
        return TrainingQueries(
            position=(QueryBlock(rows, torch.cat(asked, dim=1)),),
            species=(QueryBlock(rows, species),),
        )


@dataclass(frozen=True)
class PublishedQueries(QuerySampler):
    """The queries of Chiba et al. (arXiv:2212.13120), as the authors' code draws them.

    For positions: a grid over a box that holds every training crystal, and a small grid around
    each atom; for species: a finer grid around each atom; all with Gaussian jitter.

    Attributes:
        box: (lower, upper) corners of the box around all training atoms, Å; the grid reaches one
            `grid_spacing` beyond it.
        grid_spacing: of the box's grid, Å.
        grid_jitter: standard deviation along each axis, Å.
        near_side: points along each side of the cube around an atom.
        near_spacing: of that cube, Å.
        near_jitter: standard deviation along each axis, Å.
        species_side: points along each side of the cube of species queries around an atom.
        species_spacing: of that cube, Å.
        species_jitter: standard deviation along each axis, Å.
    """

    box: tuple[tuple[float, float, float], tuple[float, float, float]] = (
        (0.0, 0.0, 0.0),
        (6.0, 6.0, 6.0),
    )
    grid_spacing: float = 1.0
    grid_jitter: float = 0.5
    near_side: int = 4
    near_spacing: float = 0.3
    near_jitter: float = 0.15
    species_side: int = 6
    species_spacing: float = 0.1
    species_jitter: float = 0.05

    def __post_init__(self) -> None:
        for name in ("grid_spacing", "near_spacing", "species_spacing"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("near_side", "species_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("grid_jitter", "near_jitter", "species_jitter"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not all(low <= high for low, high in zip(*self.box, strict=True)):
            raise ValueError(f"box needs its lower corner first, not {self.box}")

    def __call__(
        self, crystals: CrystalBatch, generator: torch.Generator, margin: float
    ) -> TrainingQueries:
        """Queries for a batch: one block for positions, one for species, of several rows each.

        See `QuerySampler`; the box's grid knows no margin.
        """
        like = crystals.lattice
        atoms = in_cell_coords(crystals, margin)[crystals.mask]  # (T, 3)
        owner = crystals.mask.nonzero()[:, 0]  # (T,)
        rows = torch.arange(len(crystals), device=crystals.device)
        grid = self._box_grid(like)
        near = atoms.unsqueeze(1) + _cube(self.near_side, self.near_spacing, like)
        # batch normalisation must see both together, so both are cut into rows of one length
        width = math.gcd(len(grid), near.shape[1])
        scatter = _jitter(grid.expand(len(rows), -1, -1), self.grid_jitter, generator)
        near = _jitter(near, self.near_jitter, generator)
        position = QueryBlock(
            torch.cat(
                [
                    rows.repeat_interleave(len(grid) // width),
                    owner.repeat_interleave(near.shape[1] // width),
                ]
            ),
            torch.cat([scatter.reshape(-1, width, 3), near.reshape(-1, width, 3)]),
        )
        species = atoms.unsqueeze(1) + _cube(self.species_side, self.species_spacing, like)
        return TrainingQueries(
            position=(position,),
            species=(QueryBlock(owner, _jitter(species, self.species_jitter, generator)),),
        )

    def _box_grid(self, like: Tensor) -> Tensor:
        axes = [
            torch.arange(low - self.grid_spacing, high + self.grid_spacing, self.grid_spacing)
            for low, high in zip(*self.box, strict=True)
        ]
        return torch.cartesian_prod(*axes).to(like)


def _cube(side: int, spacing: float, like: Tensor) -> Tensor:
    # as published: from minus half the cube's edge, its centre half a step off the atom
    steps = (torch.arange(side) - side / 2) * spacing
    return torch.cartesian_prod(steps, steps, steps).to(like)  # (side^3, 3)


def _jitter(points: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(points.shape, generator=generator, device=points.device, dtype=points.dtype)
    return points + sigma * noise


def bounding_box(
    coords: Sequence[Float[Tensor, "_ 3"]],
) -> tuple[list[float], list[float]]:
    """Corners (Å) of the box that holds all atoms, for `PublishedQueries.box`."""
    every = torch.cat(list(coords))
    return every.amin(0).tolist(), every.amax(0).tolist()
