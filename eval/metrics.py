"""How far a predicted crystal is from its reference: pure functions on numpy arrays.

The site errors are those of NeSF (Chiba et al., Communications Materials 4:106, 2023;
arXiv:2212.13120): every atom of one crystal is compared with the nearest atom of the other, in
both directions. *Actual* runs over the true atoms (missed atoms show), *detected* over the
predicted ones (invented atoms show). Averages pool the atoms of all crystals, as the authors do.

A crystal whose prediction is missing or unusable (`eval.cells.fault`) is a **failure**. It stays
in every denominator; each function below says what it scores.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from eval.cells import Cell
from nesf.geometry import NearestImage, standard_orientation, wrap_frac

# In-cell atoms lie in [-margin, 1 - margin), fractions: files hold coordinates wrapped into [0, 1),
# and without the margin an atom predicted at -0.001 for 0 would count as a whole cell away.
FACE_MARGIN = 0.05


@dataclass(frozen=True)
class SiteErrors:
    """Site errors of one crystal with N true and M predicted atoms.

    Attributes:
        position_actual: (N,) distance from each true atom to the nearest predicted one, Å.
        position_detected: (M,) distance from each predicted atom to the nearest true one, Å.
        species_actual: (N,) true where the nearest predicted atom has another element.
        species_detected: (M,) true where the nearest true atom has another element.
    """

    position_actual: Float[np.ndarray, " n"]
    position_detected: Float[np.ndarray, " m"]
    species_actual: Bool[np.ndarray, " n"]
    species_detected: Bool[np.ndarray, " m"]


@dataclass(frozen=True)
class LatticeErrors:
    """Lattice errors of one crystal.

    Attributes:
        length: mean absolute error of a, b, c, Å.
        angle: mean absolute error of alpha, beta, gamma, degrees.
        volume: absolute error of the cell volume, percent of the true one.
    """

    length: float
    angle: float
    volume: float


def distances(
    points: Float[np.ndarray, "p 3"], targets: Float[np.ndarray, "t 3"]
) -> Float[np.ndarray, "p t"]:
    """Plain Cartesian distances.

    Args:
        points: (P, 3) Å.
        targets: (T, 3) Å.

    Returns:
        (P, T) Å.
    """
    return np.linalg.norm(points[:, None] - targets[None], axis=-1)


def periodic_distances(
    points: Float[np.ndarray, "p 3"],
    targets: Float[np.ndarray, "t 3"],
    lattice: Float[np.ndarray, "3 3"],
) -> Float[np.ndarray, "p t"]:
    """Distances to the nearest periodic image, right for any skewed cell.

    Args:
        points: (P, 3) fractional coordinates.
        targets: (T, 3) fractional coordinates.
        lattice: (3, 3) cell vectors as rows, Å.

    Returns:
        (P, T) Å.
    """
    nearest_image = NearestImage.of(torch.from_numpy(lattice).unsqueeze(0))
    difference = (points[:, None] - targets[None]).reshape(1, -1, 3) @ lattice
    shortest = nearest_image(torch.from_numpy(difference))
    return shortest.norm(dim=-1).reshape(len(points), len(targets)).numpy()


def standard_cart_coords(cell: Cell) -> Float[np.ndarray, "n 3"]:
    """(N, 3) Cartesian coordinates, Å, with the cell turned into the standard orientation.

    c along z and a in the xz plane, as CIF readers place a cell, so that two crystals can be laid
    over each other whatever orientation their files were written in. Coordinates are taken as they
    are, not wrapped.
    """
    lattice = standard_orientation(torch.from_numpy(cell.lattice)).numpy()
    return cell.frac_coords @ lattice


def published_site_errors(reference: Cell, predicted: Cell | None) -> SiteErrors:
    """Site errors as published: plain distances between in-cell atoms, no periodic images.

    Each crystal keeps its own cell, in the standard orientation, so that an error of the lattice
    moves every atom. In-cell means fractional coordinates in [-0.05, 0.95) on both sides (see
    `FACE_MARGIN`): an atom just below such a face is far from one just above the opposite face.

    Args:
        reference: the true crystal.
        predicted: the predicted one; None for a failure (see `failed_site_errors`).
    """
    if predicted is None:
        return failed_site_errors(reference)
    table = distances(*(standard_cart_coords(_in_cell(cell)) for cell in (reference, predicted)))
    return _nearest_both_ways(table, reference.atomic_numbers, predicted.atomic_numbers)


def periodic_site_errors(reference: Cell, predicted: Cell | None) -> SiteErrors:
    """Site errors to the nearest periodic image, in the reference's lattice.

    The predicted fractional coordinates are placed in the reference's cell, so that these figures
    speak of positions alone; errors of the lattice are scored by `lattice_errors`. The origin is
    taken as given: a crystal moved as a whole is scored as moved.

    Args:
        reference: the true crystal.
        predicted: the predicted one; None for a failure (see `failed_site_errors`).
    """
    if predicted is None:
        return failed_site_errors(reference)
    table = periodic_distances(reference.frac_coords, predicted.frac_coords, reference.lattice)
    return _nearest_both_ways(table, reference.atomic_numbers, predicted.atomic_numbers)


def box_site_errors(reference: Cell, predicted: Cell | None) -> SiteErrors:
    """Site errors of boxes (`nesf.boxes`): plain distances, coordinates as given.

    The faces of a box are walls: nothing is wrapped, and there are no images.

    Args:
        reference: the true box.
        predicted: the predicted one; None for a failure (see `failed_site_errors`).
    """
    if predicted is None:
        return failed_site_errors(reference)
    table = distances(*(standard_cart_coords(cell) for cell in (reference, predicted)))
    return _nearest_both_ways(table, reference.atomic_numbers, predicted.atomic_numbers)


def failed_site_errors(reference: Cell) -> SiteErrors:
    """What a failure scores: as many atoms as the reference has, all as wrong as can be.

    Every atom is of the wrong element and half the longest body diagonal of the reference's cell
    away: no point of a crystal can be farther than that from the nearest image of an atom.
    """
    count = len(reference)
    position = np.full(count, half_diagonal(reference.lattice))
    wrong = np.ones(count, dtype=bool)
    return SiteErrors(position, position, wrong, wrong)


def half_diagonal(lattice: Float[np.ndarray, "3 3"]) -> float:
    """Half the longest body diagonal of a cell, Å."""
    signs = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]])
    return float(np.linalg.norm(signs @ lattice, axis=1).max() / 2)


def lattice_errors(reference: Cell, predicted: Cell | None) -> LatticeErrors:
    """Errors of cell lengths, angles and volume; both cells as written, axes in order.

    Args:
        reference: the true crystal.
        predicted: the predicted one; None for a failure, which scores as a cell of lengths 0 Å,
            angles 0° and volume 0.
    """
    lengths = np.zeros(3) if predicted is None else predicted.lengths
    angles = np.zeros(3) if predicted is None else predicted.angles
    volume = 0.0 if predicted is None else predicted.volume
    return LatticeErrors(
        length=float(np.abs(lengths - reference.lengths).mean()),
        angle=float(np.abs(angles - reference.angles).mean()),
        volume=100.0 * abs(volume / reference.volume - 1.0),
    )


def count_error(reference: Cell, predicted: Cell | None) -> int:
    """Predicted minus true atom count; a failure (None) scores as no atoms."""
    return (0 if predicted is None else len(predicted)) - len(reference)


def _in_cell(cell: Cell) -> Cell:
    frac_coords = wrap_frac(torch.from_numpy(cell.frac_coords), FACE_MARGIN).numpy()
    return replace(cell, frac_coords=frac_coords)


def _nearest_both_ways(
    table: Float[np.ndarray, "n m"],
    true_numbers: Int[np.ndarray, " n"],
    predicted_numbers: Int[np.ndarray, " m"],
) -> SiteErrors:
    """Read the four site errors off a (true, predicted) distance table."""
    nearest_predicted, nearest_true = table.argmin(1), table.argmin(0)
    return SiteErrors(
        position_actual=table.min(1),
        position_detected=table.min(0),
        species_actual=predicted_numbers[nearest_predicted] != true_numbers,
        species_detected=true_numbers[nearest_true] != predicted_numbers,
    )
