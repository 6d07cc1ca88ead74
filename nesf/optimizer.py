"""Muon for the hidden matrices and AdamW for the rest, as one optimizer."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# quintic Newton-Schulz coefficients and their five rounds: K. Jordan et al., "Muon: An optimizer
# for hidden layers in neural networks" (2024), the defaults of torch.optim.Muon too
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# step size in units of AdamW's: J. Liu et al., arXiv:2502.16982, eq. 4
RMS_SCALE = 0.2


def orthogonalize(matrices: Tensor, rounds: int = 5, eps: float = 1e-7) -> Tensor:
    """Bring the singular values of a stack of matrices (K, M, N) near 1, in bfloat16.

    Unlike `torch.optim.Muon`, which takes one matrix at a time, all matrices of one shape go
    through each product together: many small products cost more in calls than in arithmetic.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT.contiguous()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(eps)
    for _ in range(rounds):
        gram = x @ x.mT
        update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, update, x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


# AdamW learned faster here on the layers that make scales and shifts out of the latent
NOT_FOR_MUON = ("modulation",)


def hidden_matrices(module: nn.Module) -> set[int]:
    """Ids of the weights that Muon is meant for: Linear weights between hidden layers.

    Embeddings, biases, layers whose input or output is raw features (fewer than 64), and those
    named in `NOT_FOR_MUON` go to AdamW.
    """
    return {
        id(layer.weight)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        and min(layer.weight.shape) >= 64
        and name.rpartition(".")[-1] not in NOT_FOR_MUON
    }


class MuonAdamW(torch.optim.Optimizer):
    """Muon on hidden matrices, AdamW on all other parameters, one learning rate for both.

    Args:
        module: the network to be trained.
        lr: learning rate of AdamW; Muon's steps are scaled to the same root mean square.
        muon_lr: multiple of `lr` for the hidden matrices.
        momentum: Nesterov momentum of Muon.
        betas: AdamW's averaging.
        weight_decay: decoupled decay, per unit of learning rate.
    """

    def __init__(
        self,
        module: nn.Module,
        lr: float = 1e-3,
        muon_lr: float = 5.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ) -> None:
        chosen = hidden_matrices(module)
        trained = [p for p in module.parameters() if p.requires_grad]
        # fused: tells `load_state_dict` that step counts live on the parameters' device
        defaults = {"lr": lr, "weight_decay": weight_decay, "muon": False, "scale": 1.0,
                    "momentum": momentum, "betas": betas, "eps": 1e-8, "fused": True}  # fmt: skip
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if id(p) in chosen], "muon": True, "scale": muon_lr},
            {"params": [p for p in trained if id(p) not in chosen]},
        ]
        super().__init__([g for g in groups if g["params"]], defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step on the gradients at hand."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                (self._muon if group["muon"] else self._adamw)(group, params)
        return loss

    def _muon(self, group: dict[str, Any], params: list[Tensor]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for p in params:
            by_shape[p.shape].append(p)
        lr, beta = group["lr"] * group["scale"], group["momentum"]
        for shape, members in by_shape.items():
            grads = _gradients(members)
            buffers = [self._buffer(p, "momentum") for p in members]
            torch._foreach_lerp_(buffers, grads, 1 - beta)
            nesterov = torch._foreach_lerp(grads, buffers, beta)
            updates = orthogonalize(torch.stack(list(nesterov)))
            torch._foreach_mul_(members, 1 - lr * group["weight_decay"])
            rate = lr * RMS_SCALE * max(shape) ** 0.5
            torch._foreach_add_(members, list(updates.unbind()), alpha=-rate)

    def _adamw(self, group: dict[str, Any], params: list[Tensor]) -> None:
        steps = [self._buffer(p, "step", scalar=True) for p in params]
        torch._foreach_add_(steps, 1.0)
        torch._fused_adamw_(
            params,
            _gradients(params),
            [self._buffer(p, "exp_avg") for p in params],
            [self._buffer(p, "exp_avg_sq") for p in params],
            [],
            steps,
            lr=group["lr"] * group["scale"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )

    def _buffer(self, p: Tensor, name: str, scalar: bool = False) -> Tensor:
        state = self.state[p]
        if name not in state:
            state[name] = p.new_zeros((), dtype=torch.float32) if scalar else torch.zeros_like(p)
        return state[name]


def _gradients(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]
