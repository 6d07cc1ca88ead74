"""Derivatives by the latent: written out, by automatic differentiation, by differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nesf.mlps import ConcatMLP, ModulatedMLP
from nesf.precision import has_fast_bfloat16
from nesf.refinement.linearise import LinearisedByAutograd, LinearisedModulated, linearise

BATCH, QUERIES, LATENT, FEATURES, OUTPUTS, ROWS = 3, 5, 4, 7, 6, 2


def network(kind: type[torch.nn.Module], depth: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    return kind(LATENT, FEATURES, [8] * depth, OUTPUTS).double().eval()


def inputs(seed: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = (
        (BATCH, LATENT), (BATCH, QUERIES, FEATURES), (BATCH, QUERIES, ROWS, OUTPUTS),
        (LATENT, LATENT),
    )  # fmt: skip
    latent, features, rows, directions = (
        torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes
    )
    return latent, features, rows, directions


@pytest.mark.parametrize("kind", [ModulatedMLP, ConcatMLP])
@pytest.mark.parametrize("depth", [1, 3])
def test_against_differences(kind: type[torch.nn.Module], depth: int) -> None:
    mlp = network(kind, depth)
    latent, features, rows, directions = inputs()
    found = linearise(mlp, directions)(latent, features)
    with torch.no_grad():
        torch.testing.assert_close(found.value, mlp(latent, features))
        step = 1e-6
        for k in range(LATENT):
            ahead = mlp(latent + step * directions[:, k], features)
            behind = mlp(latent - step * directions[:, k], features)
            change = ((ahead - behind) / (2 * step)).unsqueeze(2)  # (B, Q, 1, O)
            expected = (rows * change).sum(-1)
            torch.testing.assert_close(found.pull(rows)[..., k], expected, atol=1e-7, rtol=1e-6)


def test_written_out_and_automatic_agree() -> None:
    mlp = network(ModulatedMLP)
    latent, features, rows, directions = inputs(2)
    written = LinearisedModulated(mlp, directions)(latent, features)
    automatic = LinearisedByAutograd(mlp, directions)(latent, features)
    torch.testing.assert_close(written.value, automatic.value)
    torch.testing.assert_close(written.pull(rows), automatic.pull(rows))


@pytest.mark.skipif(not has_fast_bfloat16("cpu"), reason="bfloat16 is not used on this processor")
def test_bfloat16_is_near() -> None:
    mlp = network(ModulatedMLP)
    latent, features, rows, directions = inputs(3)
    exact = linearise(mlp, directions)(latent, features).pull(rows)
    rough = linearise(mlp.float(), directions.float())(latent.float(), features.float())
    assert rough.value.dtype == torch.float32
    assert (rough.pull(rows.float()) - exact).norm() < 0.03 * exact.norm()
