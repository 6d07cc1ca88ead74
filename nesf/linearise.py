"""How a decoder's answers change with its latent: rows of a Jacobian for each query point.

A query's answer depends on the latent of its crystal alone, so that the derivatives of all answers
come out of one backward pass if each query has a latent of its own to take the derivative by. In
a modulated decoder the latent enters by a linear layer into every block; there the pass is written
out, several times as fast as automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nesf.decoders import ConcatMLP, ModulatedMLP
from nesf.precision import has_fast_bfloat16


@dataclass(frozen=True)
class Linearised:
    """Answers, and how they change with the latent.

    Attributes:
        value: (B, Q, O) answers.
        pull: (B, Q, R, O) to (B, Q, R, L): each row of weights over the outputs to the derivative
            of their weighted sum along each of the directions.
    """

    value: Float[Tensor, "b q o"]
    pull: Callable[[Float[Tensor, "b q r o"]], Float[Tensor, "b q r l"]]


Linearise = Callable[[Float[Tensor, "b l"], Float[Tensor, "b q f"]], Linearised]


def linearise(mlp: ModulatedMLP | ConcatMLP, directions: Float[Tensor, "l l"]) -> Linearise:
    """What tells an MLP's answers and their derivatives by the latent.

    Matrix products are in bfloat16 where that pays and the directions are not float64.

    Args:
        mlp: in evaluation mode.
        directions: (L, L) its columns are the directions of derivatives.

    Returns:
        A function of latents (B, L) and query features (B, Q, F).
    """
    kind = LinearisedModulated if isinstance(mlp, ModulatedMLP) else LinearisedByAutograd
    return kind(mlp, directions)  # type: ignore[arg-type]


class LinearisedModulated:
    """`linearise` written out for a ModulatedMLP.

    With p = shift + (1 + scale) e, e = expand(h) and h' = h + contract(gelu(p)) in each block,
    and d the derivative of an answer by p, its derivatives by shift and scale are d and d e.
    """

    def __init__(self, mlp: ModulatedMLP, directions: Float[Tensor, "l l"]) -> None:
        fast = has_fast_bfloat16(directions.device) and directions.dtype != torch.float64
        self.depth, self.dtype = len(mlp.expand), torch.bfloat16 if fast else directions.dtype
        with torch.no_grad():
            self.weights = {k: v.to(self.dtype) for k, v in mlp.named_parameters()}
            # (2(K+1)W, L) -> 2(K+1) of (W, L), alternately those of a scale and of a shift
            entering = (mlp.modulation.weight.to(directions) @ directions).to(self.dtype)
        self.entering = entering.chunk(2 * self.depth + 2)

    @torch.no_grad()
    def __call__(
        self, latent: Float[Tensor, "b l"], features: Float[Tensor, "b q f"]
    ) -> Linearised:
        """Answers at features (B, Q, F), and their derivatives."""
        # (B, 2(K+1)W) -> 2(K+1) of (B, 1, W)
        codes = self._linear("modulation", latent.to(self.dtype)).unsqueeze(1)
        scale = [1 + code for code in codes.chunk(2 * self.depth + 2, dim=-1)[::2]]
        shift = codes.chunk(2 * self.depth + 2, dim=-1)[1::2]
        expanded = [self._linear("enter", features.to(self.dtype))]
        before = torch.addcmul(shift[0], expanded[0], scale[0])
        hidden, slopes = F.gelu(before), [_gelu_slope(before)]
        for i in range(self.depth):
            expanded.append(self._linear(f"expand.{i}", hidden))
            before = torch.addcmul(shift[i + 1], expanded[-1], scale[i + 1])
            slopes.append(_gelu_slope(before))
            hidden = hidden + self._linear(f"contract.{i}", F.gelu(before))

        def pull(rows: Tensor) -> Tensor:
            return self._pull(rows, scale, expanded, slopes).to(latent.dtype)

        return Linearised(self._linear("leave", hidden).to(latent.dtype), pull)

    @torch.no_grad()
    def _pull(
        self, rows: Tensor, scale: list[Tensor], expanded: list[Tensor], slopes: list[Tensor]
    ) -> Tensor:
        rows = rows.movedim(2, 0).to(self.dtype)  # (R, B, Q, O): what a query has once broadcasts
        shape = rows.shape[:-1]

        def times_(x: Tensor, factor: Tensor) -> Tensor:
            x.view(*shape, -1).mul_(factor)
            return x

        change = rows.flatten(0, 2) @ self.weights["leave.weight"]  # (RBQ, W)
        total = change.new_zeros(len(change), self.entering[0].shape[-1])
        for i in reversed(range(self.depth + 1)):  # block 0 is `enter`, which contracts nothing
            inner = change @ self.weights[f"contract.{i - 1}.weight"] if i else change
            times_(inner, slopes[i])
            total.addmm_(inner, self.entering[2 * i + 1])
            total.addmm_(times_(inner.clone(), expanded[i]), self.entering[2 * i])
            if i:
                change.addmm_(times_(inner, scale[i]), self.weights[f"expand.{i - 1}.weight"])
        return total.view(*shape, -1).movedim(0, 2)  # (R, B, Q, L) -> (B, Q, R, L)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])


def _gelu_slope(x: Tensor) -> Tensor:
    # the derivative alone is not in the public interface; written out it takes ten times as long
    return torch.ops.aten.gelu_backward(torch.ones_like(x), x)


class LinearisedByAutograd:
    """`linearise` for any MLP, by automatic differentiation."""

    def __init__(self, mlp: torch.nn.Module, directions: Float[Tensor, "l l"]) -> None:
        self.mlp, self.directions = mlp, directions

    def __call__(
        self, latent: Float[Tensor, "b l"], features: Float[Tensor, "b q f"]
    ) -> Linearised:
        """Answers at features (B, Q, F), and their derivatives."""
        queries = features.shape[1]
        with torch.enable_grad():
            # (B, L) -> (BQ, L): a latent for each query, which is then alone in its row
            own = latent.detach().repeat_interleave(queries, dim=0).requires_grad_(True)
            value = self.mlp(own, features.flatten(0, 1).unsqueeze(1)).to(latent.dtype)
            value = value.reshape(len(latent), queries, -1)  # (BQ, 1, O) -> (B, Q, O)

        def pull(rows: Tensor) -> Tensor:
            parts = [
                torch.autograd.grad(value, own, rows[:, :, row].to(value), retain_graph=True)[0]
                for row in range(rows.shape[2])
            ]
            # (BQ, R, L) -> (B, Q, R, L)
            return (torch.stack(parts, dim=1) @ self.directions).unflatten(0, rows.shape[:2])

        return Linearised(value.detach(), pull)
