"""Losses against plain numpy."""

import numpy as np
import pytest
import torch

from nesf.losses import elements_loss, scaled_distance_loss, species_loss, squared_distance_loss


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_scaled_distance_loss():
    predicted, offset = draw(4, 5, 3), draw(4, 5, 3, seed=1)
    error = np.linalg.norm((predicted - offset).numpy(), axis=-1)
    distance = np.linalg.norm(offset.numpy(), axis=-1)
    expected = (error / (0.1 + 0.5 * distance)).mean()
    assert scaled_distance_loss(predicted, offset).item() == pytest.approx(expected, rel=1e-5)
    expected = (error / (0.3 + 2.0 * distance)).mean()
    found = scaled_distance_loss(predicted, offset, floor=0.3, slope=2.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_scaled_distance_loss_is_finite_at_a_perfect_answer():
    predicted = draw(4, 3).requires_grad_()
    loss = scaled_distance_loss(predicted, predicted.detach())
    loss.backward()
    assert loss == 0
    assert torch.isfinite(predicted.grad).all()


def test_squared_distance_loss():
    predicted, offset = draw(4, 5, 3), draw(4, 5, 3, seed=1)
    expected = ((predicted - offset).numpy() ** 2).mean()
    assert squared_distance_loss(predicted, offset).item() == pytest.approx(expected, rel=1e-5)


def test_species_loss():
    logits = draw(4, 5, 7)
    species = torch.randint(0, 7, (4, 5), generator=torch.Generator().manual_seed(0))
    z = logits.double().numpy()
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, species.numpy()[..., None], -1).mean()
    assert species_loss(logits, species).item() == pytest.approx(expected, rel=1e-5)


def test_elements_loss():
    logits = draw(3, 6)
    species = torch.tensor([[0, 0, 5], [2, 0, 0], [1, 3, 0]])
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    occurs = np.zeros((3, 6))
    for row, (classes, real) in enumerate(zip(species.tolist(), mask.tolist(), strict=True)):
        for c, r in zip(classes, real, strict=True):
            occurs[row, c] = max(occurs[row, c], r)
    # padding is class 0, but no element
    assert occurs.tolist() == [[1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0], [0, 1, 0, 1, 0, 0]]
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    expected = -(occurs * np.log(p) + (1 - occurs) * np.log(1 - p)).sum(-1).mean()
    assert elements_loss(logits, species, mask).item() == pytest.approx(expected, rel=1e-5)
