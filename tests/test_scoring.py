"""Quick scores against loops over atoms and images."""

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st

from nesf.crystal import CrystalBatch, standardised
from nesf.geometry import cart_to_frac
from nesf.scoring import count_faults, half_diagonal, quick_scores, residuals

CELLS = np.array(np.meshgrid(*[range(-3, 4)] * 3)).reshape(3, -1).T


def perturbed(batch: CrystalBatch, seed: int) -> CrystalBatch:
    """Atoms moved, added, lost and exchanged."""
    generator = torch.Generator().manual_seed(seed)
    counts = (batch.num_atoms + torch.randint(-1, 2, (len(batch),), generator=generator)).clamp(
        0, 8
    )
    total = int(counts.sum())
    moved = batch.frac_coords[:, :1].expand(-1, 8, -1)[torch.arange(8) < counts[:, None]]
    return CrystalBatch.from_flat(
        moved + 0.3 * torch.randn(total, 3, generator=generator, dtype=moved.dtype),
        torch.randint(1, 4, (total,), generator=generator),
        counts,
        batch.lattice,
        batch.ids,
    )


def by_loops(found: CrystalBatch, true: CrystalBatch) -> tuple[int, int, float, int]:
    right, atoms, total, wrong = 0, 0, 0.0, 0
    for i in range(len(true)):
        lattice = true.lattice[i].double().numpy()
        n, m = int(true.num_atoms[i]), int(found.num_atoms[i])
        right += n == m
        atoms += n
        for k in range(n):
            if not m:
                diagonals = [
                    s @ lattice for s in np.array([[1, a, b] for a in (1, -1) for b in (1, -1)])
                ]
                total += max(np.linalg.norm(d) for d in diagonals) / 2
                wrong += 1
                continue
            delta = (found.frac_coords[i, :m] - true.frac_coords[i, k]).double().numpy()
            delta -= np.round(delta)
            images = ((delta[:, None] + CELLS) @ lattice).reshape(m, -1, 3)
            distance = np.linalg.norm(images, axis=-1).min(-1)
            total += distance.min()
            nearest = distance.argmin()
            wrong += int(found.atomic_numbers[i, nearest] != true.atomic_numbers[i, k])
    return right, atoms, total, wrong


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10000))
def test_scores_against_loops(seed):
    true = random_crystals(seed, 4)
    true = true.replace(atomic_numbers=torch.where(true.mask, true.atomic_numbers % 3 + 1, 0))
    found = perturbed(true, seed)
    scores = quick_scores(found, true)
    right, atoms, total, wrong = by_loops(found, true)
    assert scores.crystals == len(true)
    assert scores.right_counts == right
    assert scores.atoms == atoms
    assert scores.distance.item() == pytest.approx(total, rel=1e-4)
    assert scores.wrong_species == wrong


def test_a_perfect_prediction_in_other_images():
    true = random_crystals(0)
    found = true.replace(frac_coords=true.frac_coords.flip(0).flip(0) + 2.0)
    scores = quick_scores(found, true)
    assert scores.right_counts == len(true)
    assert scores.distance < 1e-6
    assert scores.wrong_species == 0


def test_empty_predictions_cost_half_the_diagonal_and_every_species():
    true = random_crystals(0)
    none = CrystalBatch.from_flat(
        true.frac_coords.new_zeros(0, 3),
        true.atomic_numbers.new_zeros(0),
        torch.zeros(len(true), dtype=torch.long),
        true.lattice,
        true.ids,
    )
    scores = quick_scores(none, true)
    assert scores.right_counts == 0
    assert scores.wrong_species == true.mask.sum()
    assert scores.distance == pytest.approx(
        (half_diagonal(true.lattice) * true.num_atoms).sum().item()
    )
    assert torch.isfinite(scores.distance)


def test_half_diagonal():
    lattice = torch.tensor(
        [[[3.0, 0, 0], [0, 4.0, 0], [0, 0, 12.0]], [[2.0, 0, 0], [-1, 2, 0], [0, 0, 2]]]
    )
    expected = [13 / 2, np.linalg.norm([3, -2, 2]) / 2]
    np.testing.assert_allclose(half_diagonal(lattice), expected, rtol=1e-6)


def test_scores_are_not_rounded_under_autocast():
    true = random_crystals(1, dtype=torch.float32)
    found = perturbed(true, 1)
    exact = quick_scores(found, true)
    with torch.autocast("cpu", torch.bfloat16):
        again = quick_scores(found, true)
    assert again.distance == exact.distance


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10000))
def test_residuals_and_faults_against_loops(seed):
    true = standardised(random_crystals(seed, 5, 6))
    found = perturbed(true, seed + 1)
    means = residuals(found, true)
    tolerant = count_faults(found, true, tolerance=1e6, lattice_tolerance=1.0)
    strict = count_faults(found, true, tolerance=1e-6)
    for i in range(len(true)):
        _, atoms, total, wrong = by_loops(found.select([i]), true.select([i]))
        assert float(means[i]) == pytest.approx(total / atoms, abs=1e-5)
        lost = abs(int(found.num_atoms[i]) - atoms)
        # however far the nearest atom may be, its element must be right; on the spot none is
        assert int(tolerant[i]) == wrong + lost
        assert int(strict[i]) == atoms + lost


def test_faults_of_lattice_element_and_place():
    true = standardised(random_crystals(2, 4, 6))
    assert count_faults(true, true).tolist() == [0] * 4
    stretched = true.replace(lattice=true.lattice * 1.2)
    assert count_faults(stretched, true).tolist() == [1] * 4
    numbers = true.atomic_numbers.clone()
    numbers[:, 0] = numbers[:, 0] % 94 + 1
    assert count_faults(true.replace(atomic_numbers=numbers), true).tolist() == [1] * 4
    step = cart_to_frac(
        torch.tensor([[[0.02, 0, 0]]]).to(true.lattice).expand(4, 1, 3), true.lattice
    )
    moved = true.replace(frac_coords=true.frac_coords + step)
    assert count_faults(moved, true).tolist() == [0] * 4
    assert count_faults(moved, true, tolerance=0.01).tolist() == true.num_atoms.tolist()
    unknown = true.replace(lattice=true.lattice * float("nan"))
    assert (count_faults(unknown, true) >= 1).all()


def test_boxes_have_no_periodic_images():
    def box(*places: list[float]) -> CrystalBatch:
        count = len(places)
        return CrystalBatch.from_flat(
            torch.tensor(places).reshape(-1, 3),
            torch.full((count,), 8),
            torch.tensor([count]),
            torch.eye(3).unsqueeze(0) * 10,
            ["0"],
        )

    scores = quick_scores(box([0.99, 0.5, 0.5]), box([0.01, 0.5, 0.5]), walls=True)
    assert scores.distance == pytest.approx(9.8)
    assert (scores.right_counts, scores.wrong_species) == (1, 0)
    failed = quick_scores(box(), box([0.5, 0.5, 0.5], [0.1, 0.5, 0.5]), walls=True)
    assert failed.distance == pytest.approx(2 * 5 * 3**0.5)
    assert (failed.right_counts, failed.wrong_species) == (0, 2)
    near = (box([0.999, 0.5, 0.5]), box([0.001, 0.5, 0.5]))
    assert count_faults(*near).tolist() == [0]
    assert count_faults(*near, walls=True).tolist() == [1]
    assert residuals(*near).tolist() == pytest.approx([0.02], abs=1e-5)
    assert residuals(*near, walls=True).tolist() == pytest.approx([9.98], abs=1e-5)
