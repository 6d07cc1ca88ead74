import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.voxel_icsg3d.segment import SegmentOptions, convexity, segment, sites_of, split

GRID = np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), axis=-1)
EMPTY = np.zeros((32, 32, 32), dtype=bool)


def ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    return ((GRID - np.array(centre)) ** 2).sum(-1) <= radius**2


def block(*spans: tuple[int, int]) -> np.ndarray:
    box = EMPTY.copy()
    box[tuple(slice(*span) for span in spans)] = True
    return box


def test_an_empty_grid_has_no_regions():
    assert not segment(EMPTY).any()
    assert len(sites_of(segment(EMPTY), EMPTY.astype(int))) == 0


def test_a_full_grid_is_one_region():
    assert (segment(~EMPTY) == 1).all()


@pytest.mark.parametrize("radius", [1.2, 2.0, 3.5, 6.0, 9.0])
def test_one_ball_is_one_region(radius):
    solid = ball((15.3, 14.8, 16.1), radius)
    np.testing.assert_array_equal(segment(solid), solid)


@pytest.mark.parametrize("direction", [(1, 0, 0), (1, 1, 0), (1, 2, 3)])
@pytest.mark.parametrize("radius", [4.0, 5.5])
def test_two_balls_that_overlap_are_told_apart_below_the_convexity_asked_for(direction, radius):
    half = 0.85 * radius * np.array(direction) / np.linalg.norm(direction)
    first, second = ball(15.5 - half, radius), ball(15.5 + half, radius)
    labels = segment(first | second, SegmentOptions(min_convexity=0.9))
    assert labels.max() == 2
    sites = sites_of(labels, (first | second).astype(int))
    found = sites.centroids[np.argsort(sites.centroids[:, 0])]
    np.testing.assert_allclose(found, [15.5 - half, 15.5 + half], atol=0.5)


def test_two_balls_that_hardly_touch_are_told_apart_as_published():
    assert segment(ball((11, 16, 16), 5) | ball((20, 16, 16), 5)).max() == 2


def test_three_balls_in_a_row():
    solid = ball((6, 16, 16), 5) | ball((15, 16, 16), 5) | ball((24, 16, 16), 5)
    labels = segment(solid)
    assert labels.max() == 3
    centres = np.sort(sites_of(labels, solid.astype(int)).centroids[:, 0])
    np.testing.assert_allclose(centres, [6, 15, 24], atol=0.5)


def test_what_is_convex_enough_or_has_no_rounds_left_is_left_whole():
    solid = ball((11, 16, 16), 5) | ball((20, 16, 16), 5)
    value = convexity(solid)
    assert segment(solid, SegmentOptions(min_convexity=value)).max() == 1
    assert segment(solid, SegmentOptions(min_convexity=value + 1e-6)).max() == 2
    assert segment(solid, SegmentOptions(max_rounds=0)).max() == 1


def test_each_round_cuts_the_parts_of_the_last():
    solid = np.logical_or.reduce([ball((5 + 7 * k, 16, 16), 4.2) for k in range(4)])
    assert segment(solid).max() == 4
    for rounds in range(6):
        labels = segment(solid, SegmentOptions(max_rounds=rounds))
        np.testing.assert_array_equal(labels > 0, solid)


def test_a_bent_bar_without_a_waist_is_left_whole():
    bent = block((5, 20), (5, 10), (5, 10)) | block((5, 10), (5, 20), (5, 10))
    assert convexity(bent) < 0.8
    np.testing.assert_array_equal(segment(bent), bent)


def test_bars_joined_at_a_waist_are_cut_there():
    bent = block((4, 12), (4, 12), (4, 12)) | block((12, 20), (10, 18), (4, 12))
    waist = block((12, 14), (8, 11), (7, 9))
    labels = segment(bent | waist, SegmentOptions(min_convexity=0.95))
    assert labels.max() == 2
    assert labels[8, 8, 8] != labels[16, 14, 8]


@pytest.mark.parametrize("size", range(1, 7))
def test_regions_of_too_few_voxels_are_dropped(size):
    grid = block((3, 3 + size), (4, 5), (5, 6)) | ball((20, 20, 20), 3)
    assert segment(grid, SegmentOptions(min_voxels=4)).max() == (2 if size >= 4 else 1)


@pytest.mark.parametrize(
    "flat",
    [
        block((3, 4), (2, 20), (2, 20)),
        block((3, 15), (7, 8), (7, 8)),
        block((3, 4), (2, 20), (2, 5)) | block((3, 4), (2, 5), (2, 20)),
        EMPTY | ((GRID[..., 0] == GRID[..., 1]) & (GRID < 9).all(-1)),
    ],
)
def test_flat_regions_have_no_inside_to_cut(flat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels = segment(flat)
    # a diagonal sheet of voxels touches along edges only: one column is one component
    assert (labels > 0).sum() == flat.sum()


def test_regions_touch_by_faces():
    corner = block((3, 6), (3, 6), (3, 6)) | block((6, 9), (6, 9), (6, 9))
    assert segment(corner).max() == 2


def test_atomic_numbers_cut_at_the_borders_of_species():
    numbers = np.where(ball((13, 16, 16), 5), 8, 0)
    numbers = np.where(ball((18, 16, 16), 4), 22, numbers)
    assert segment(numbers > 0).max() == 1
    sites = sites_of(segment(numbers), numbers)
    assert sorted(sites.atomic_numbers) == [8, 22]
    assert sites.purity.tolist() == [1.0, 1.0]


@given(seed=st.integers(0, 1000), share=st.floats(0.02, 0.6))
@settings(max_examples=15, deadline=None)
def test_regions_are_parts_of_the_occupied_voxels(seed, share):
    occupied = np.random.default_rng(seed).random((10, 10, 10)) < share
    labels = segment(occupied, SegmentOptions(min_voxels=1))
    np.testing.assert_array_equal(labels > 0, occupied)
    assert set(np.unique(labels)) == set(range(labels.max() + 1)) | {0}
    large = segment(occupied)
    assert (np.bincount(large.ravel())[1:] >= 4).all()


def test_the_parts_of_a_region_cover_it():
    solid = ball((11, 16, 16), 5) | ball((20, 16, 16), 5)
    parts = split(solid)
    np.testing.assert_array_equal(parts > 0, solid)
    assert parts.max() == 2


def test_the_majority_of_a_region_that_is_not_background_decides():
    labels, species = np.zeros((4, 4, 4), dtype=int), np.zeros((4, 4, 4), dtype=int)
    labels[0], labels[1], labels[2] = 1, 2, 3
    species[0, :2], species[0, 2, :3] = 8, 38  # 8 of oxygen, 3 of strontium, 5 of background
    species[2] = 22
    sites = sites_of(labels, species)  # the second region is background only
    assert sites.atomic_numbers.tolist() == [8, 22]
    assert sites.sizes.tolist() == [16, 16]
    assert sites.purity.tolist() == [0.5, 1.0]
    assert sites.centroids.tolist() == [[0, 1.5, 1.5], [2, 1.5, 1.5]]


def test_density_weighs_the_centroid():
    labels = np.zeros((4, 4, 4), dtype=int)
    labels[1, 1, :2] = 1
    density = np.zeros((4, 4, 4))
    density[1, 1, 0], density[1, 1, 1] = 3.0, 1.0
    assert sites_of(labels, labels, density).centroids.tolist() == [[1, 1, 0.25]]
    assert sites_of(labels, labels).centroids.tolist() == [[1, 1, 0.5]]


@pytest.mark.parametrize(
    "wrong",
    [{"threshold": 1.5}, {"min_convexity": -0.1}, {"min_voxels": 0}, {"max_rounds": -1}],
)
def test_options_check_themselves(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SegmentOptions(**wrong)
