"""Quick reconstruction scores on tensors, to watch a training run; reports use `eval`."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.geometry import NearestImage, frac_to_cart, wrap_frac
from nesf.neighbors import nearest_atoms
from nesf.places import Places, places_where
from nesf.precision import full_precision


@dataclass(frozen=True)
class QuickScores:
    """Sums over B crystals, to be added up over batches and ranks.

    Attributes:
        crystals: B.
        right_counts: crystals with as many atoms as there are.
        atoms: true atoms.
        distance: summed distance of the true atoms to the nearest predicted one, Å.
        wrong_species: true atoms whose nearest predicted atom is another element.
    """

    crystals: Int[Tensor, ""]
    right_counts: Int[Tensor, ""]
    atoms: Int[Tensor, ""]
    distance: Float[Tensor, ""]
    wrong_species: Int[Tensor, ""]


def quick_scores(
    predicted: CrystalBatch, reference: CrystalBatch, walls: bool = False
) -> QuickScores:
    """Score predictions, crystal by crystal in one order, periodic.

    Predicted fractional coordinates are placed in the true cell. A crystal without predicted atoms
    scores half the longest cell diagonal for each of its atoms, each of the wrong species.

    Args:
        predicted: B crystals.
        reference: B crystals.
        walls: they are boxes (`nesf.boxes`): there are no periodic images.
    """
    distance, right = _nearest(predicted, reference, walls)
    return QuickScores(
        crystals=torch.tensor(len(reference), device=reference.device),
        right_counts=(predicted.num_atoms == reference.num_atoms).sum(),
        atoms=reference.mask.sum(),
        distance=distance[reference.mask].sum(),
        wrong_species=(~right & reference.mask).sum(),
    )


def residuals(
    predicted: CrystalBatch, reference: CrystalBatch, walls: bool = False
) -> Float[Tensor, " b"]:
    """Mean distance (Å) of a crystal's atoms to the nearest predicted ones, as `quick_scores`."""
    distance, _ = _nearest(predicted, reference, walls)
    return (distance * reference.mask).sum(-1) / reference.num_atoms.clamp_min(1)


def _nearest(
    predicted: CrystalBatch, reference: CrystalBatch, walls: bool
) -> tuple[Float[Tensor, "b n"], Bool[Tensor, "b n"]]:
    """How far the nearest predicted atom is from each true one (Å), and whether its element is."""
    with full_precision(reference.device):
        images = None if walls else NearestImage.of(reference.lattice)
        found = frac_to_cart(predicted.frac_coords.to(reference.lattice), reference.lattice)
        offset, index = nearest_atoms(reference.cart_coords, found, predicted.mask, images)
        farthest = half_diagonal(reference.lattice).unsqueeze(-1)
    some: Bool[Tensor, "b 1"] = predicted.mask.any(-1, keepdim=True)
    distance = torch.where(some, offset.norm(dim=-1), farthest)
    right = (predicted.atomic_numbers.gather(1, index) == reference.atomic_numbers) & some
    return distance, right


def half_diagonal(lattice: Float[Tensor, "b 3 3"]) -> Float[Tensor, " b"]:
    """Half the longest body diagonal of each cell, Å."""
    signs = torch.tensor(
        [[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]], dtype=lattice.dtype, device=lattice.device
    )
    return (signs @ lattice).norm(dim=-1).amax(-1) / 2


def count_faults(
    predicted: CrystalBatch,
    reference: CrystalBatch,
    tolerance: float = 0.03,
    lattice_tolerance: float = 0.1,
    walls: bool = False,
) -> Int[Tensor, " b"]:
    """What is wrong with each prediction, counted; 0 where it is the reference crystal.

    Counts true atoms without a predicted one of their element within `tolerance` as their nearest,
    atoms too few or too many, and one for a lattice whose vectors differ by more than
    `lattice_tolerance`. Both crystals are in standard orientation.

    Args:
        predicted: B crystals.
        reference: B crystals; predicted fractional coordinates are placed in their cells.
        tolerance: of an atom's place, Å.
        lattice_tolerance: of a cell vector, Å.
        walls: as in `quick_scores`.
    """
    distance, right = _nearest(predicted, reference, walls)
    right = right & (distance <= tolerance)
    atoms = (~right & reference.mask).sum(-1)
    counts = (predicted.num_atoms - reference.num_atoms).abs()
    apart = (predicted.lattice - reference.lattice).norm(dim=-1).amax(-1)
    return atoms + counts + ~(apart <= lattice_tolerance)


def wrong_places(
    predicted: CrystalBatch,
    reference: CrystalBatch,
    tolerance: float,
    margin: float = 0.0,
    walls: bool = False,
) -> Places:
    """Where a prediction errs: sites that are no atoms, and atoms that have no site.

    Args:
        predicted: B crystals.
        reference: B crystals; predicted fractional coordinates are placed in their cells.
        tolerance: farther than this from the nearest one of the others is no atom, or no site, Å.
        margin: the places are wrapped into [-margin, 1 - margin) of the cells.
        walls: as in `quick_scores`.
    """
    with full_precision(reference.device):
        cells = reference.lattice
        images = None if walls else NearestImage.of(cells)
        sites, atoms = (
            frac_to_cart(wrap_frac(one.frac_coords.to(cells), margin), cells)
            for one in (predicted, reference)
        )
        points, masks = [], []
        for here, there, mask, others in (
            (sites, atoms, predicted.mask, reference.mask),
            (atoms, sites, reference.mask, predicted.mask),
        ):
            away = nearest_atoms(here, there, others, images)[0].norm(dim=-1)
            points.append(here)
            masks.append(mask & ~(away <= tolerance))  # NaN where there are none
        return places_where(torch.cat(points, dim=1), torch.cat(masks, dim=1))
