"""Occupied voxels to atoms: connected components, split by a recursive watershed where they touch.

The read-out of ICSG3D (Court et al., J. Chem. Inf. Model. 60, 4518, 2020): regions that are not
convex are taken for atoms that touch. Numpy and scikit-image, one grid at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Bool, Float, Int

_PEAK_HEIGHT = 0.75  # voxels; lower peaks of the distance transform are the grid's own roughness


@dataclass(frozen=True)
class SegmentOptions:
    """How occupied voxels become regions.

    Attributes:
        threshold: voxels of this occupancy probability or more are occupied.
        min_voxels: smaller regions are dropped.
        min_convexity: a region that fills less of its convex hull is split. Two equal balls that
            barely touch fill 0.80 of theirs, and more the more they overlap: at the published
            0.8 many that overlap stay one atom.
        max_rounds: how often a region and its parts may be split; 0: connected components.
    """

    threshold: float = 0.8
    min_voxels: int = 4
    min_convexity: float = 0.8
    max_rounds: int = 5

    def __post_init__(self) -> None:
        for name in ("threshold", "min_convexity"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if self.min_voxels < 1:
            raise ValueError(f"min_voxels must be at least 1, not {self.min_voxels}")
        if self.max_rounds < 0:
            raise ValueError(f"max_rounds must not be negative, not {self.max_rounds}")


@dataclass(frozen=True)
class Sites:
    """K atoms read out of one grid.

    Attributes:
        centroids: (K, 3) mean voxel index along each axis.
        atomic_numbers: (K,) the Z that most of a region's voxels carry.
        sizes: (K,) voxels of each region.
        purity: (K,) share of a region's voxels that carry that Z.
    """

    centroids: Float[np.ndarray, "k 3"]
    atomic_numbers: Int[np.ndarray, " k"]
    sizes: Int[np.ndarray, " k"]
    purity: Float[np.ndarray, " k"]

    def __len__(self) -> int:
        return len(self.sizes)

    def select(self, which: Int[np.ndarray, " j"] | Bool[np.ndarray, " k"]) -> Sites:
        """Some of the sites, by position or mask."""
        return Sites(**{one.name: getattr(self, one.name)[which] for one in fields(self)})


def segment(
    occupied: Bool[np.ndarray, "d d d"] | Int[np.ndarray, "d d d"],
    options: SegmentOptions | None = None,
) -> Int[np.ndarray, "d d d"]:
    """Regions of occupied voxels.

    Components that touch by faces, as published. One that is not convex is cut along the
    watersheds of its distance transform, and so are its parts, until they are convex, cannot be
    cut or have been cut `max_rounds` times.

    Args:
        occupied: (D, D, D) which voxels belong to an atom, as published; or their atomic numbers,
            0 for background: regions then end at the borders of species too.
        options: every knob.

    Returns:
        (D, D, D) 0 where there is no region, else 1, 2, ...
    """
    from scipy.ndimage import find_objects
    from skimage.measure import label

    options = options or SegmentOptions()
    components = label(occupied, connectivity=1)
    regions = np.zeros(occupied.shape, dtype=np.int64)
    found = 0
    # (where the box begins, the region inside its box, rounds left)
    waiting = [
        (np.array([axis.start for axis in box]), components[box] == index, options.max_rounds)
        for index, box in enumerate(find_objects(components), start=1)
    ]
    while waiting:
        corner, region, rounds = waiting.pop()
        size = np.count_nonzero(region)
        if size < options.min_voxels:
            continue
        # the hull of two voxels is themselves, and parts below min_voxels are of no use
        parts = np.zeros(0)
        if rounds and size >= 2 * options.min_voxels and convexity(region) < options.min_convexity:
            parts = split(region)
        if parts.max(initial=0) > 1:
            for index, box in enumerate(find_objects(parts), start=1):
                begin = corner + [axis.start for axis in box]
                waiting.append((begin, parts[box] == index, rounds - 1))
            continue
        found += 1
        regions[tuple(map(slice, corner, corner + region.shape))][region] = found
    return regions


def convexity(region: Bool[np.ndarray, "x y z"]) -> float:
    """The share of its convex hull that a region fills, in voxels; 1 for a flat region.

    A region whose voxels lie in one plane has no hull in three dimensions, and no inside along
    which it could be cut.
    """
    from skimage.morphology import convex_hull_image

    place = np.argwhere(region)
    if np.linalg.matrix_rank(place - place[:1]) < 3:
        return 1.0
    return np.count_nonzero(region) / np.count_nonzero(convex_hull_image(region))


def split(region: Bool[np.ndarray, "x y z"]) -> Int[np.ndarray, "x y z"]:
    """The region in parts 1, 2, ... around the peaks of its distance transform."""
    from scipy.ndimage import distance_transform_edt
    from skimage.measure import label
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    inner = (slice(1, -1),) * 3
    distance = distance_transform_edt(np.pad(region, 1))
    markers = label(h_maxima(distance, _PEAK_HEIGHT))
    return watershed(-distance, markers, mask=np.pad(region, 1))[inner]


def sites_of(
    labels: Int[np.ndarray, "d d d"],
    species: Int[np.ndarray, "d d d"],
    density: Float[np.ndarray, "d d d"] | None = None,
) -> Sites:
    """The atoms that regions stand for.

    Args:
        labels: (D, D, D) regions from `segment`, 0 where there is none.
        species: (D, D, D) Z of each voxel, 0 for background; background has no vote.
        density: (D, D, D) weight of each voxel in the centroids; None: all alike, as published.

    Returns:
        Sites in the order of the labels, without the regions that hold background only.
    """
    place = np.argwhere(labels > 0)  # (V, 3)
    if not len(place):
        empty = np.zeros(0, dtype=np.int64)
        return Sites(np.zeros((0, 3)), empty, empty, np.zeros(0))
    index = labels[labels > 0] - 1
    count = int(index.max()) + 1
    number = species[labels > 0]
    sizes = np.bincount(index, minlength=count)
    weight = np.ones(len(index)) if density is None else density[labels > 0].clip(1e-12)
    total = np.bincount(index, weight, minlength=count).clip(1e-12)
    sums = [np.bincount(index, weight * axis, minlength=count) for axis in place.T]
    votes = np.zeros((count, int(number.max()) + 1), dtype=np.int64)
    np.add.at(votes, (index, number), 1)
    votes[:, 0] = 0
    kept = votes.max(1) > 0
    return Sites(
        (np.stack(sums, axis=1) / total[:, None])[kept],
        votes.argmax(1)[kept],
        sizes[kept],
        (votes.max(1) / sizes.clip(1))[kept],
    )
