"""Muon with AdamW: against the optimizers of torch, and through a checkpoint."""

import copy

import pytest
import torch
from torch import nn

from nesf.decoders import PositionField
from nesf.optimizer import MuonAdamW, hidden_matrices, orthogonalize


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 64), nn.GELU(), nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 3)
    )


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, count: int) -> None:
    for i in range(first, first + count):
        optimizer.zero_grad()
        model(draw(16, 5, seed=i)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(3, 64, 64), (2, 64, 200), (2, 200, 64)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    left, values, right = torch.linalg.svd(draw(*shape), full_matrices=False)
    spread = torch.linspace(0.1, 1, values.shape[-1]).expand_as(values)
    values = torch.linalg.svdvals(orthogonalize(left @ torch.diag_embed(spread) @ right))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_orthogonalize_keeps_the_singular_vectors():
    left, _, right = torch.linalg.svd(draw(1, 64, 96), full_matrices=False)
    matrix = left @ torch.diag_embed(torch.linspace(0.5, 2, 64)) @ right
    inner = left.mT @ orthogonalize(matrix) @ right.mT  # diagonal if the vectors stay
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6
    assert (inner - torch.diag_embed(diagonal)).abs().max() < 0.05


def test_orthogonalize_takes_each_matrix_alone_and_at_any_scale():
    matrices = draw(3, 64, 80)
    together = orthogonalize(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        torch.testing.assert_close(orthogonalize(matrix[None])[0], found, atol=0.02, rtol=0)
    torch.testing.assert_close(orthogonalize(1000 * matrices), together, atol=0.05, rtol=0)
    assert torch.equal(orthogonalize(torch.zeros(1, 64, 64)), torch.zeros(1, 64, 64))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon is younger")
@pytest.mark.parametrize("shape", [(64, 64), (64, 160), (160, 64)])
def test_muon_steps_agree_with_torch(shape):
    ours, theirs = nn.Linear(*shape[::-1], bias=False), nn.Linear(*shape[::-1], bias=False)
    theirs.load_state_dict(ours.state_dict())
    mine = MuonAdamW(ours, lr=0.01, muon_lr=1.0, weight_decay=0.1)
    reference = torch.optim.Muon(
        theirs.parameters(), 0.01, 0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for i in range(3):
        before = ours.weight.detach().clone()
        ours.weight.grad, theirs.weight.grad = draw(*shape, seed=i), draw(*shape, seed=i)
        mine.step()
        reference.step()
        step = ours.weight.detach() - before
        expected = theirs.weight.detach() - before
        # both round to bfloat16 on the way, in another order
        assert torch.nn.functional.cosine_similarity(step.flatten(), expected.flatten(), 0) > 0.999
        assert step.norm() == pytest.approx(expected.norm().item(), rel=0.01)
        theirs.load_state_dict(ours.state_dict())


def test_muon_steps_have_the_size_of_adamw_steps():
    layer = nn.Linear(128, 96, bias=False)
    before = layer.weight.detach().clone()
    optimizer = MuonAdamW(layer, lr=0.01, muon_lr=3.0, weight_decay=0.0)
    layer.weight.grad = draw(96, 128)
    optimizer.step()
    rms = (layer.weight - before).square().mean().sqrt()
    # singular values near 1 of a 96 x 128 matrix: rms = 1/√128, times 0.2 √128
    assert rms.item() == pytest.approx(0.01 * 3.0 * 0.2, rel=0.2)


def test_the_rest_steps_like_adamw():
    layer = nn.Linear(7, 5)
    copied = copy.deepcopy(layer)
    ours = MuonAdamW(layer, lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    theirs = torch.optim.AdamW(copied.parameters(), 0.01, betas=(0.9, 0.98), weight_decay=0.1)
    for i in range(5):
        for a, b in zip(layer.parameters(), copied.parameters(), strict=True):
            a.grad = draw(*a.shape, seed=i)
            b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    for a, b in zip(layer.parameters(), copied.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_which_parameters_are_whose():
    field = PositionField(64, (64, 64), harmonics=2)
    chosen = hidden_matrices(field)
    names = {name for name, p in field.named_parameters() if id(p) in chosen}
    layers = ("expand.0", "expand.1", "contract.0", "contract.1")
    assert names == {f"mlp.{layer}.weight" for layer in layers}
    optimizer = MuonAdamW(field)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(field.parameters()))
    assert [group["muon"] for group in optimizer.param_groups] == [True, False]


def test_frozen_parameters_and_missing_gradients_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    optimizer = MuonAdamW(model)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert all(p is not model[0].weight for p in held)
    model[4].bias.grad = torch.ones(3)
    optimizer.step()
    changed = [n for n, p in model.state_dict().items() if not torch.equal(p, before[n])]
    assert changed == ["4.bias"]


def test_state_goes_through_a_checkpoint(tmp_path):
    model = network()
    optimizer = MuonAdamW(model)
    steps(model, optimizer, 0, 3)
    torch.save({"m": model.state_dict(), "o": optimizer.state_dict()}, tmp_path / "state.pt")
    steps(model, optimizer, 3, 3)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = network()
    again = MuonAdamW(resumed, lr=0.5)
    resumed.load_state_dict(saved["m"])
    again.load_state_dict(saved["o"])
    steps(resumed, again, 3, 3)
    for a, b in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_schedulers_set_the_rate():
    model = network()
    optimizer = MuonAdamW(model, lr=0.1, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step != 1))
    sizes = []
    for i in range(3):
        before = [p.detach().clone() for p in model.parameters()]
        steps(model, optimizer, i, 1)
        schedule.step()
        changes = zip(model.parameters(), before, strict=True)
        sizes.append(max((a - b).abs().max().item() for a, b in changes))
    assert sizes[0] > 0
    assert sizes[1] == 0
    assert sizes[2] > 0


def test_closures_are_called_with_gradients():
    model = network()
    optimizer = MuonAdamW(model)

    def closure() -> torch.Tensor:
        loss = model(draw(4, 5)).square().mean()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0


def test_it_learns():
    model = network()
    target = draw(5, 3)
    optimizer = MuonAdamW(model, lr=3e-3)
    losses = []
    for i in range(150):
        x = draw(32, 5, seed=i)
        loss = (model(x) - x @ target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
