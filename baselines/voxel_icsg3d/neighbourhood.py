"""Who is whose neighbour in a crystal, how far away, and how much it counts.

"The 12 nearest" is no property of a crystal: where a shell of equal distances is cut, the order of
the atoms and the choice of cell decide which of them stay. Here an atom's neighbours are all those
up to the distance of its 12th and a little beyond, with a weight that falls smoothly to zero
there (`shell_weights`). Whole shells stay together, and everything is continuous in the atoms'
positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.errors import InputError
from nesf.geometry import reduce_lattice

_GROWTH = 1.5  # of the search radius, for atoms that have too few neighbours in it
MIN_VOLUME = 0.125  # Å^3, of the smallest cube that may be a cell
_SELF_DISTANCE = 1e-8  # Å; an atom's distance to itself


@dataclass(frozen=True)
class GraphOptions:
    """Which atoms are neighbours.

    Attributes:
        neighbours: nearest atoms, periodic images included, that count whole.
        shell_width: distance behind the last of them at which atoms no longer count, Å.
        first_radius: where the search begins, Å; it goes on as far as it must, so that this
            decides how fast neighbours are found, not which.
    """

    neighbours: int = 12
    shell_width: float = 0.5
    first_radius: float = 5.0

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ValueError(f"neighbours must be at least 1, not {self.neighbours}")
        for name in ("shell_width", "first_radius"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0 Å, not {getattr(self, name)}")


def shell_weights(
    distances: Float[Tensor, "*b k"], edge_mask: Bool[Tensor, "*b k"], options: GraphOptions
) -> Float[Tensor, "*b k"]:
    """How much each neighbour counts: 1 up to the 12th, then less, 0 one shell width behind it.

    The fall is half a cosine, as in the cutoff function of Behler and Parrinello, PRL 98, 146401
    (2007). The 12th distance is a continuous function of the atoms' positions, and so is this.

    Args:
        distances: (..., K) Å, ascending.
        edge_mask: (..., K) true for real neighbours.
        options: which were taken for neighbours.
    """
    last = min(options.neighbours, distances.shape[-1]) - 1
    beyond = (distances - distances[..., last, None]) / options.shell_width
    weights = 0.5 * (1 + torch.cos(math.pi * beyond.clamp(0.0, 1.0)))
    return torch.where(edge_mask, weights, 0.0)


def nearest_neighbours(
    lattice: Float[np.ndarray, "3 3"],
    frac_coords: Float[np.ndarray, "n 3"],
    options: GraphOptions,
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " e"], Float[np.ndarray, " e"]]:
    """The neighbours of each atom of one crystal, by pymatgen's periodic search.

    Args:
        lattice: (3, 3) cell vectors as rows, Å.
        frac_coords: (N, 3) fractional coordinates.
        options: which atoms are neighbours.

    Returns:
        How many neighbours each atom has (N,); then, atom after atom and the nearest first, their
        positions (E,) and distances (E,), Å. An atom that is nearer to its own images than to
        others is its own neighbour; none is so at distance 0.

    Raises:
        InputError: there is no atom, or the cell is none (see `nesf.data.checks`).
    """
    from pymatgen.core import Lattice, Structure

    if not len(frac_coords):
        raise InputError("no atoms")
    if not np.isfinite(frac_coords).all():
        raise InputError("a coordinate is not finite")
    lattice, frac_coords = _sound_cell(lattice, frac_coords)
    structure = Structure(Lattice(lattice), ["H"] * len(frac_coords), frac_coords)
    todo = np.arange(len(frac_coords))
    radius = options.first_radius
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while len(todo):
        sites = [structure[i] for i in todo]
        near = structure.get_neighbor_list(radius, sites, exclude_self=False)
        centres, points, distances = todo[near[0]], near[1], near[3]
        # pymatgen leaves an atom itself out only where it searches around all atoms
        kept = (centres != points) | (distances > _SELF_DISTANCE)
        found.append(_within_reach(centres[kept], points[kept], distances[kept], radius, options))
        todo = np.setdiff1d(todo, found[-1][0])
        radius *= _GROWTH
    centres, points, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.lexsort((distances, centres))
    counts = np.bincount(centres, minlength=len(frac_coords))
    return counts, points[order].astype(np.int64), distances[order]


def _sound_cell(lattice: np.ndarray, frac_coords: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same crystal in a cell that a periodic search copes with: a flat one is reduced."""
    from nesf.data.checks import check_lattice

    try:
        check_lattice(lattice)
    except InputError:
        if not np.isfinite(lattice).all() or not abs(np.linalg.det(lattice)) > MIN_VOLUME:
            raise
        reduced = reduce_lattice(torch.from_numpy(lattice)[None])[0].numpy()
        check_lattice(reduced)
        return reduced, frac_coords @ lattice @ np.linalg.inv(reduced)
    return lattice, frac_coords


def _within_reach(
    centres: np.ndarray,
    points: np.ndarray,
    distances: np.ndarray,
    radius: float,
    options: GraphOptions,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pairs that count, of those atoms all of whose neighbours lie within the radius."""
    order = np.lexsort((distances, centres))
    centres, points, distances = centres[order], points[order], distances[order]
    _, starts, inverse, counts = np.unique(
        centres, return_index=True, return_inverse=True, return_counts=True
    )
    enough = counts >= options.neighbours
    reach = np.full(len(starts), np.inf)
    last = starts[enough] + options.neighbours - 1
    reach[enough] = distances[last] + options.shell_width
    kept = (reach[inverse] <= radius) & (distances < reach[inverse])
    return centres[kept], points[kept], distances[kept]
