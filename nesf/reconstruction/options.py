"""Every knob of the reconstruction, with its default and its unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ClusterBackend = Literal["auto", "torch", "torch_cluster", "sklearn"]


@dataclass(frozen=True)
class ReconstructOptions:
    """Every knob of the reconstruction.

    Attributes:
        grid_spacing: of the first particles, Å; each atom needs one particle nearer to it than
            to any other atom.
        moves: steps p <- p + f(p) of each particle; two do for exact fields.
        max_last_step: particles that still move farther than this have not arrived, Å.
        voxel: particles in one voxel of this edge go on as one, Å.
        link_radius: arrived particles nearer than this belong to one cluster, Å.
        min_cluster_size: particles that a cluster needs.
        outside: in-cell fields: how far outside of the cell a particle may arrive, Å.
        walls: the cell is a box (`nesf.boxes`): a site beyond a face is brought back to it, and
            not to the opposite one, and has no neighbours there.
        spread_queries: queries around each candidate that predict its site again; their median
            is the site, and their mean distance from it the spread.
        spread_sigma: standard deviation of these queries along each axis, Å.
        cluster_radius: of two sites nearer than this only the one of less spread stays, Å.
        sure_spread: sites below are kept even where the fields claim fewer atoms, Å; with 0 the
            claim is never exceeded.
        max_spread: sites below are kept where the fields claim nothing, Å.
        relaxed_spread: sites below are admitted where the fields claim more atoms, Å.
        refine_moves: further steps of the chosen sites alone.
        species_queries: queries around each site whose log-probabilities are averaged.
        species_sigma: standard deviation of these queries along each axis, Å.
        element_prior: weight of the fields' `element_logits` in the vote; 0 ignores them.
        max_rounds: how often a crystal is asked whose count is not the claimed one.
        finer_grid: the grid spacing of each further round, as a share of the one before.
        more_moves: moves added in each further round.
        jitter: shift the grid by up to half a step in a random direction.
        max_particles: particles held at once; a cell that alone needs more gets a coarser grid.
        max_queries: query points to one call of a field, which bounds the network's memory.
        backend: of the clustering, see `nesf.reconstruction.clustering.cluster_particles`.
    """

    grid_spacing: float = 0.8
    moves: int = 5
    max_last_step: float = 0.3
    voxel: float = 0.05
    link_radius: float = 0.15
    min_cluster_size: float = 1.0
    outside: float = 0.5
    walls: bool = False
    spread_queries: int = 24
    spread_sigma: float = 0.15
    cluster_radius: float = 0.35
    sure_spread: float = 0.0
    max_spread: float = 0.12
    relaxed_spread: float = 0.25
    refine_moves: int = 0
    species_queries: int = 12
    species_sigma: float = 0.1
    element_prior: float = 1.0
    max_rounds: int = 2
    finer_grid: float = 0.7
    more_moves: int = 4
    jitter: bool = False
    max_particles: int = 2**18
    max_queries: int = 2**16
    backend: ClusterBackend = "auto"

    def __post_init__(self) -> None:
        positive = ("grid_spacing", "max_last_step", "voxel", "link_radius", "cluster_radius")
        for name in (*positive, "spread_sigma", "species_sigma", "min_cluster_size"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("moves", "spread_queries", "species_queries", "max_rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("max_particles", "max_queries"):
            if getattr(self, name) < 1000:
                raise ValueError(f"{name} must be at least 1000, not {getattr(self, name)}")
        for name in ("refine_moves", "more_moves", "outside", "element_prior"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 < self.finer_grid <= 1:
            raise ValueError(f"finer_grid must be in (0, 1], not {self.finer_grid}")
        if not 0 <= self.sure_spread <= self.max_spread <= self.relaxed_spread:
            raise ValueError("need 0 <= sure_spread <= max_spread <= relaxed_spread")
