"""How a decoder's answers change with its latent: rows of a Jacobian for each query point.

A query's answer depends on the latent of its crystal alone, so that the derivatives of all answers
come out of one backward pass if each query has a latent of its own to take the derivative by. In
a modulated decoder the latent enters by a linear layer into every block; there the pass is written
out, several times as fast as automatic differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from nesf.folded import FoldedMLP
from nesf.mlps import ConcatMLP, ModulatedMLP
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

    With p = shift + scale z, z = expand(h) and h' = h + contract(gelu(p)) in each block of the
    folded network, and d the derivative of an answer by p, its derivatives by shift and scale are
    d and d z.
    """

    def __init__(self, mlp: ModulatedMLP, directions: Float[Tensor, "l l"]) -> None:
        fast = has_fast_bfloat16(directions.device) and directions.dtype != torch.float64
        self.mlp = FoldedMLP(mlp, torch.bfloat16 if fast else directions.dtype)
        with torch.no_grad():
            entering = mlp.modulation.weight.to(directions) @ directions
            # (2(K+1)W, L) -> (K + 1, 2, W, L)
            scale, shift = entering.unflatten(0, (self.mlp.depth + 1, 2, -1)).unbind(1)
            shift = shift + self.mlp.biases.unsqueeze(-1) * scale
            # (K + 1, 2W, L): what the derivatives by shift and by scale are multiplied by
            self.entering = torch.cat([shift, scale], dim=1).to(self.mlp.enter.dtype)

    @torch.no_grad()
    def __call__(
        self, latent: Float[Tensor, "b l"], features: Float[Tensor, "b q f"]
    ) -> Linearised:
        """Answers at features (B, Q, F), and their derivatives."""
        mlp, shape = self.mlp, (*features.shape[:-1], -1)
        scale, shift = mlp.scales_and_shifts(mlp.condition(latent))
        entered = features.flatten(0, 1).to(mlp.enter.dtype) @ mlp.enter.mT  # (BQ, W)
        expanded, slopes = [entered.view(shape)], []
        ones = torch.ones_like(entered).view(shape)

        def activated(i: int) -> Tensor:
            before = torch.addcmul(shift[i], expanded[i], scale[i])
            # the derivative alone is not in the public interface; written out it takes ten times
            # as long
            slopes.append(torch.ops.aten.gelu_backward(ones, before))
            return torch.ops.aten.gelu_(before).flatten(0, 1)

        hidden = activated(0)
        for i in range(1, mlp.depth + 1):
            expanded.append((hidden @ mlp.expand[i - 1].mT).view(shape))
            hidden.addmm_(activated(i), mlp.contract[i - 1].mT)
        value = F.linear(hidden, mlp.leave_weight, mlp.leave_bias).view(shape)

        def pull(rows: Tensor) -> Tensor:
            return self._pull(rows, scale, expanded, slopes).to(latent.dtype)

        return Linearised(value.to(latent.dtype), pull)

    @torch.no_grad()
    def _pull(
        self, rows: Tensor, scale: Sequence[Tensor], expanded: list[Tensor], slopes: list[Tensor]
    ) -> Tensor:
        mlp = self.mlp
        rows = rows.movedim(2, 0).to(mlp.enter.dtype)  # (R, B, Q, O): what a query has broadcasts
        change = rows @ mlp.leave_weight  # (R, B, Q, W)
        shape, flat = change.shape, change.flatten(0, 2)
        inner = torch.empty_like(change)
        both = change.new_empty(*shape[:-1], 2, shape[-1])  # by shift, and by scale
        total = change.new_zeros(len(flat), self.entering.shape[-1])
        for i in reversed(range(mlp.depth + 1)):  # block 0 is `enter`, which contracts nothing
            if i:
                torch.mm(flat, mlp.contract[i - 1], out=inner.view_as(flat))
            else:
                inner = change
            by_shift = torch.mul(inner, slopes[i], out=both[..., 0, :])
            torch.mul(by_shift, expanded[i], out=both[..., 1, :])
            total.addmm_(both.view(len(flat), -1), self.entering[i])  # (RBQ, 2W) (2W, L)
            if i:
                scaled = torch.mul(by_shift, scale[i], out=inner).view_as(flat)
                flat.addmm_(scaled, mlp.expand[i - 1])
        return total.view(*shape[:-1], -1).movedim(0, 2)  # (RBQ, L) -> (B, Q, R, L)


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
