"""How a crystal lies in its box: boxes cut at placements, and placements fitted to boxes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.boxes.cut import BoxOptions, cut_boxes
from nesf.crystal import CrystalBatch

CLEAR = 1e-5  # Å, kept between atoms and walls: more than what rounding to float32 moves
_FITS = 3  # rounds of pairing atoms and turning the crystal
_PAIRS = 4  # atoms that tell a rotation, at least


@dataclass(frozen=True)
class Placements:
    """How B crystals lie in their boxes, in the form that `nesf.boxes.cut.cut_boxes` takes.

    Attributes:
        rotation: (B, 3, 3) turns the crystals: a vector v becomes rotation @ v.
        origin: (B, 3) the point that comes into the middle of the box, in fractions of the cell.
        side: (B,) edges of the boxes, Å.
    """

    rotation: Float[Tensor, "b 3 3"]
    origin: Float[Tensor, "b 3"]
    side: Float[Tensor, " b"]

    def __len__(self) -> int:
        return len(self.side)

    def select(self, index: Int[Tensor, " k"] | Bool[Tensor, " b"]) -> Placements:
        """Those of some of the boxes."""
        return Placements(self.rotation[index], self.origin[index], self.side[index])

    def numbers(self) -> Float[Tensor, "b 13"]:
        """Rotation, origin and side of each box in one row."""
        return torch.cat([self.rotation.flatten(1), self.origin, self.side[:, None]], dim=-1)

    @staticmethod
    def of_numbers(numbers: Float[Tensor, "b 13"]) -> Placements:
        """The placements that `numbers` wrote down."""
        rotation, origin, side = numbers.split([9, 3, 1], dim=-1)
        return Placements(rotation.reshape(-1, 3, 3), origin, side.squeeze(-1))


@dataclass(frozen=True)
class Cut:
    """One box cut from a crystal.

    Attributes:
        cart_coords: (M, 3) its atoms from a corner of the box, Å.
        site: (M,) of which atom of the crystal each is a copy.
    """

    cart_coords: Float[np.ndarray, "m 3"]
    site: Int[np.ndarray, " m"]


def cut_at(crystal: CrystalBatch, place: Placements, beyond: float = 0.0) -> Cut:
    """The box of one crystal.

    Args:
        crystal: the one, on the CPU.
        place: its placement.
        beyond: how far beyond its walls the box reaches, Å.
    """
    # the atom's own number in the place of its element, since boxes hand that on
    marks = torch.arange(1, crystal.mask.shape[1] + 1)[None]
    marked = crystal.replace(atomic_numbers=marks, properties={}).to(dtype=torch.float64)
    side = float(place.side)
    options = BoxOptions(side + 2 * beyond)
    box = cut_boxes(marked, options, place.rotation.double(), place.origin.double())
    inside = box.mask[0]
    cart = box.frac_coords[0][inside].numpy() * options.side - beyond
    return Cut(cart, box.atomic_numbers[0][inside].numpy() - 1)


def boxes_at(crystals: CrystalBatch, places: Placements) -> tuple[CrystalBatch, Int[Tensor, "b m"]]:
    """Boxes cut from crystals, and of which site each of their atoms is.

    Args:
        crystals: B crystals; one without atoms or without a finite cell has an empty box.
        places: their placements.

    Returns:
        The boxes, on the CPU, and (B, M) the columns of the crystals' atoms; 0 where padded.
    """
    crystals, numbers = crystals.to("cpu"), places.numbers().cpu().double()
    usable = crystals.mask.any(-1) & crystals.lattice.isfinite().flatten(1).all(-1)
    usable &= numbers.isfinite().all(-1)
    nothing = Cut(np.zeros((0, 3)), np.zeros(0, dtype=int))
    cuts = [
        cut_at(crystals.select([i]), Placements.of_numbers(numbers[i : i + 1]))
        if usable[i]
        else nothing
        for i in range(len(crystals))
    ]
    counts = torch.tensor([len(cut.site) for cut in cuts])
    side = torch.where(numbers[:, 12].isfinite(), numbers[:, 12], 1.0)
    frac = torch.cat([torch.from_numpy(cut.cart_coords) / side[i] for i, cut in enumerate(cuts)])
    sites = torch.cat([torch.from_numpy(cut.site) for cut in cuts])
    crystal = torch.arange(len(crystals)).repeat_interleave(counts)
    cube = torch.eye(3, dtype=torch.float64) * side[:, None, None]
    # an atom just below a wall must not be rounded onto it
    below_one = 1 - torch.finfo(torch.float32).eps
    boxes = CrystalBatch.from_flat(
        frac.clamp(0, below_one),
        crystals.atomic_numbers[crystal, sites],
        counts,
        cube,
        crystals.ids,
    )
    site = torch.zeros(boxes.mask.shape, dtype=torch.long)
    site[boxes.mask] = sites
    return boxes.to(dtype=torch.float32), site


def fit_placement(
    crystal: CrystalBatch,
    place: Placements,
    box: Float[np.ndarray, "n 3"],
    reach: float,
    nudge: float,
) -> Placements:
    """Turn and shift a crystal so that what is cut from it is nearest to a box.

    The atoms that a box has near its walls, and those of the crystal just outside, decide the
    rest: among shifts of up to `nudge` along each axis, the smallest of those with which the fewest
    atoms are on the wrong side.

    Args:
        crystal: one crystal, on the CPU.
        place: where it lies, nearly.
        box: (N, 3) atoms of the box, Å.
        reach: how far an atom of the crystal may be from that of the box which it stands for, Å.
        nudge: the largest shift for the sake of walls, Å.

    Returns:
        The placement, in double precision.
    """
    place = Placements.of_numbers(place.numbers().double())
    for _ in range(_FITS):
        around, meant = _paired(crystal, place, box, reach)
        found = meant >= 0
        if found.sum() < _PAIRS:
            return place
        place = _moved(crystal, place, *_rigid(around.cart_coords[found], box[meant[found]]))
    around, meant = _paired(crystal, place, box, reach)
    shift = _nudged(around.cart_coords, meant >= 0, float(place.side), nudge)
    middle = np.full(3, float(place.side) / 2)
    return _moved(crystal, place, np.eye(3), middle, middle + shift)


def _paired(
    crystal: CrystalBatch, place: Placements, box: Float[np.ndarray, "n 3"], reach: float
) -> tuple[Cut, Int[np.ndarray, " m"]]:
    """The crystal in and around the box, and for each atom that of the box it stands for, or -1."""
    from scipy.spatial import cKDTree

    around = cut_at(crystal, place, beyond=reach)
    meant = np.full(len(around.site), -1)
    if len(meant) and len(box):
        distance, nearest = cKDTree(around.cart_coords).query(box, distance_upper_bound=reach)
        # of two atoms of the box at one of the crystal, the nearer
        for i in np.argsort(-distance, kind="stable"):
            if np.isfinite(distance[i]):
                meant[nearest[i]] = i
    return around, meant


def _rigid(
    moving: Float[np.ndarray, "k 3"], still: Float[np.ndarray, "k 3"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"], Float[np.ndarray, " 3"]]:
    """The rotation of least squares (Kabsch, Acta Cryst. A 32, 922, 1976), and both centres."""
    centre, target = moving.mean(0), still.mean(0)
    left, values, right = np.linalg.svd((moving - centre).T @ (still - target))
    if values[1] < 1e-6 * values[0]:  # on one line
        return np.eye(3), centre, target
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    return (left @ flip @ right).T, centre, target


def _moved(
    crystal: CrystalBatch,
    place: Placements,
    turn: Float[np.ndarray, "3 3"],
    centre: Float[np.ndarray, " 3"],
    target: Float[np.ndarray, " 3"],
) -> Placements:
    """The placement after every point x of the crystal has gone to turn @ (x - centre) + target."""
    rotation = turn @ place.rotation[0].numpy()
    middle = np.full(3, float(place.side) / 2)
    # what comes into the middle was there before: (Å from the middle of the box, then fractions)
    before = turn.T @ (middle - target) + centre - middle
    lattice = crystal.lattice[0].double().numpy() @ place.rotation[0].numpy().T
    origin = place.origin[0].numpy() + before @ np.linalg.inv(lattice)
    return replace(
        place,
        rotation=torch.from_numpy(rotation)[None],
        origin=torch.from_numpy(origin - np.floor(origin))[None],
    )


def _nudged(
    around: Float[np.ndarray, "m 3"], wanted: Bool[np.ndarray, " m"], side: float, nudge: float
) -> Float[np.ndarray, " 3"]:
    """The smallest shift with the fewest atoms on the wrong side of a wall, an axis at a time."""
    shift = np.zeros(3)
    near = (np.minimum(around, side - around).min(-1)) < 2 * nudge + CLEAR
    around, wanted = around[near], wanted[near]

    def wrong(moved: Float[np.ndarray, " 3"], clear: float) -> int:
        inside = np.minimum(around + moved, side - around - moved).min(-1)
        return int((np.where(wanted, inside, -inside) < clear).sum())

    for axis in range(3):
        ends = np.concatenate([-around[:, axis], side - around[:, axis]])
        ends = ends[np.abs(ends) < nudge]
        choices = np.concatenate([[0.0], ends - 2 * CLEAR, ends + 2 * CLEAR])
        trials = shift + choices[:, None] * np.eye(3)[axis]
        faults = np.array([wrong(trial, CLEAR) for trial in trials])
        best = np.lexsort([np.abs(choices), faults])[0]
        if faults[best] < faults[0]:
            shift = trials[best]
    return shift
