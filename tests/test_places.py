"""Points of interest: which there are, and queries around them."""

from __future__ import annotations

import pytest
import torch
from crystals import random_crystals

from nesf.crystal import CrystalBatch
from nesf.geometry import frac_to_cart
from nesf.places import Places, places_where
from nesf.scoring import count_faults, wrong_places


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(counts: list[int]) -> Places:
    points = torch.arange(len(counts) * max(counts) * 3.0).view(len(counts), max(counts), 3)
    return Places(100 * points, torch.tensor(counts))


def test_queries_are_around_real_points() -> None:
    places = some([2, 5, 1])
    queries = places.around(200, 0.5, drawn(0))
    for i, count in enumerate(places.count.tolist()):
        away = torch.cdist(queries[i], places.points[i, :count])
        assert float(away.amin(1).max()) < 5
        assert set(away.argmin(1).tolist()) == set(range(count))  # each gets some


def test_a_shared_draw_is_that_of_each_alone() -> None:
    places = some([2, 5, 1])
    together = places.around(7, 0.5, drawn(1), shared=True)
    for i in range(3):
        alone = Places(places.points[[i]], places.count[[i]]).around(7, 0.5, drawn(1), shared=True)
        torch.testing.assert_close(alone[0], together[i])


def test_where_a_mask_is_true() -> None:
    points = torch.arange(18.0).view(2, 3, 3)
    found = places_where(points, torch.tensor([[False, True, True], [False, False, False]]))
    assert found.count.tolist() == [2, 0]
    torch.testing.assert_close(found.points[0], points[0, 1:])


def test_exchanged_where_there_are_any() -> None:
    places = some([2, 1, 1])
    wrong = Places(torch.full((2, 4, 3), -1.0), torch.tensor([4, 0]))
    found = places.exchanged(torch.tensor([2, 0]), wrong)
    assert found.count.tolist() == [2, 1, 4]
    torch.testing.assert_close(found.points[:2, :2], places.points[:2])
    assert (found.points[2] == -1).all()


@pytest.mark.parametrize("walls", [False, True])
def test_where_a_prediction_errs(walls: bool) -> None:
    true = random_crystals(5, 6, 6, torch.float64)
    assert (wrong_places(true, true, 0.03, walls=walls).count == 0).all()
    # one atom moved by 0.3 Å, one left out
    frac = true.frac_coords.clone()
    lengths = true.lattice.norm(dim=-1)  # (B, 3)
    frac[:, 0, 0] = (frac[:, 0, 0] % 1 + 0.3 / lengths[:, 0]) % 1
    mask = true.mask.clone()
    last = true.num_atoms - 1
    mask[torch.arange(len(true)), last] = last == 0
    found = CrystalBatch(frac, true.atomic_numbers, mask, true.lattice, true.ids)
    wrong = wrong_places(found, true, 0.03, walls=walls)
    for i in range(len(true)):
        if true.num_atoms[i] > 1:
            # the site, the atom that it was, and the atom that is missing
            assert int(wrong.count[i]) == 3
            moved = frac_to_cart(frac[i, :1] % 1, true.lattice[i])
            torch.testing.assert_close(wrong.points[i, :1], moved)
    assert (count_faults(found, true, walls=walls) > 0).all()


def test_nothing_found_is_wrong_everywhere() -> None:
    true = random_crystals(6, 3, 4)
    none = true.replace(mask=torch.zeros_like(true.mask))
    assert wrong_places(none, true, 0.03).count.tolist() == true.num_atoms.tolist()
