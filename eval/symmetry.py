"""Symmetry refinement: a crystal moved onto the symmetry that it nearly has."""

from __future__ import annotations

import logging

import numpy as np

from eval.cells import Cell, fault
from nesf.data.checks import nearest_pair

SYMPREC = 0.2  # Å


def refine_symmetry(cell: Cell, symprec: float = SYMPREC) -> Cell:
    """Project a crystal onto the symmetry operations found within `symprec`.

    moyo finds the space group; the lattice's metric and the positions are then averaged over its
    operations. Cell choice, orientation, order of the atoms, their number and their elements stay
    as they are, and the mean displacement is removed so that the origin stays too: the sites
    remain comparable with a reference in the same frame.

    Args:
        cell: the crystal.
        symprec: how far (Å) an operation may miss an atom.

    Returns:
        The refined crystal, or the given one where no symmetry is found, where the operations do
        not map the atoms one to one, or where averaging would melt atoms together.
    """
    import moyopy

    if fault(cell) is not None:
        return cell
    basis, positions = cell.lattice.tolist(), cell.frac_coords.tolist()
    numbers = cell.atomic_numbers.tolist()
    logger = logging.getLogger("moyo")
    logger.addFilter(_unexpected)
    try:
        dataset = moyopy.MoyoDataset(
            moyopy.Cell(basis=basis, positions=positions, numbers=numbers), symprec=symprec
        )
    except ValueError:  # moyo's word for "no symmetry found"
        return cell
    finally:
        logger.removeFilter(_unexpected)
    rotations = np.array(dataset.operations.rotations, dtype=float)  # (G, 3, 3), x -> W x + t
    translations = np.array(dataset.operations.translations, dtype=float)  # (G, 3)
    displacement = _mean_displacement(cell, rotations, translations, symprec)
    if displacement is None:
        return cell
    refined = Cell(
        lattice=_symmetric_lattice(cell.lattice, rotations),
        frac_coords=cell.frac_coords + displacement - displacement.mean(0),
        atomic_numbers=cell.atomic_numbers,
    )
    return cell if _melts(cell, refined, symprec) else refined


def _unexpected(record: logging.LogRecord) -> bool:
    """Drop the note that a supercell keeps fewer operations than its primitive cell: they do."""
    return not record.getMessage().startswith("Omitted")


def _symmetric_lattice(lattice: np.ndarray, rotations: np.ndarray) -> np.ndarray:
    """The nearest lattice in the same orientation whose metric all `rotations` keep.

    With rows as cell vectors the metric is G = A Aᵀ, and x -> W x takes it to Wᵀ G W. The mean
    over the group is invariant; A S with S symmetric, S Sᵀ = A⁻¹ G A⁻ᵀ, reaches it by a stretch
    without a turn.
    """
    metric = lattice @ lattice.T
    mean = np.einsum("gji,jk,gkl->il", rotations, metric, rotations) / len(rotations)
    inverse = np.linalg.inv(lattice)
    values, vectors = np.linalg.eigh(inverse @ mean @ inverse.T)
    return lattice @ (vectors * np.sqrt(values)) @ vectors.T


def _mean_displacement(
    cell: Cell, rotations: np.ndarray, translations: np.ndarray, symprec: float
) -> np.ndarray | None:
    """(N, 3) fractional move of each atom to the mean of its symmetry images; None if ambiguous."""
    total = np.zeros_like(cell.frac_coords)
    same = cell.atomic_numbers[:, None] == cell.atomic_numbers[None]
    for rotation, translation in zip(rotations, translations, strict=True):
        images = cell.frac_coords @ rotation.T + translation
        offsets = images[None] - cell.frac_coords[:, None]  # (N, image, 3)
        offsets -= np.round(offsets)
        gaps = np.where(same, np.linalg.norm(offsets @ cell.lattice, axis=-1), np.inf)
        nearest = gaps.argmin(1)
        reach = gaps[np.arange(len(cell)), nearest].max()
        if len(np.unique(nearest)) < len(cell) or reach > 2 * symprec:
            return None
        total += offsets[np.arange(len(cell)), nearest]
    return total / len(rotations)


def _melts(before: Cell, after: Cell, symprec: float) -> bool:
    """Whether two atoms that averaging could bring together came much nearer to each other."""
    reach = 4 * symprec  # each atom moves by at most 2 symprec
    gap, _, _ = nearest_pair(after.lattice, after.frac_coords, reach)
    if gap == np.inf:
        return False
    return bool(gap < 0.5 * nearest_pair(before.lattice, before.frac_coords, 2 * reach)[0])
