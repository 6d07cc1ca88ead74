"""What the networks of boxes are trained on: density, KL divergence, classes of voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

ClassLoss = Literal["sigmoid", "softmax"]


@dataclass(frozen=True)
class BoxLosses:
    """Weights of the losses; the defaults are those of Hoffmann et al., arXiv:1909.00949.

    The paper gives MSE + 5·KL + 0.1·BCE and not what each is averaged over. Here: squared errors
    of the density, in units of its variance over the training boxes, averaged over the voxels;
    the KL divergence from N(0, 1), summed over the latent and divided by the number of voxels,
    so that it stands to the squared errors as it would if both were summed; cross-entropies
    averaged over the voxels.

    Attributes:
        density: of the squared error (MSE).
        kl: of the KL divergence.
        kl_warmup: share of the run over which `kl` rises from 0, so that the latent is not
            silenced before anything listens.
        classes: of the classes' cross-entropy (BCE).
        kind: `sigmoid` takes BCE at its word: binary cross-entropies of the one-hot classes,
            summed over the classes; `softmax`, the cross-entropy of one choice among them.
        balance: a voxel of a class that has a share s of the voxels weighs s^-balance, mean 1;
            0 as published, where nine voxels in ten are background.
        background: share of the background voxels, drawn anew each step, that the classes' loss
            looks at, with their weight raised in return; 1: all.
    """

    density: float = 1.0
    kl: float = 5.0
    kl_warmup: float = 0.0
    classes: float = 0.1
    kind: ClassLoss = "sigmoid"
    balance: float = 0.0
    background: float = 1.0

    def __post_init__(self) -> None:
        for name in ("density", "kl", "classes", "balance"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0 <= self.kl_warmup <= 1:
            raise ValueError(f"kl_warmup is a share of the run, 0 to 1, not {self.kl_warmup}")
        if not 0 < self.background <= 1:
            raise ValueError(f"background is a share above 0, up to 1, not {self.background}")
        if self.kind not in ("sigmoid", "softmax"):
            raise ValueError(f"kind is sigmoid or softmax, not {self.kind}")

    def total(self, parts: dict[str, Tensor], progress: float = 1.0) -> Tensor:
        """The weighted sum of the parts `density`, `kl` and `classes`.

        Args:
            parts: by name.
            progress: share of the run that is done.
        """
        rising = min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0
        weights = {"density": self.density, "kl": self.kl * rising, "classes": self.classes}
        return torch.stack([weights[name] * part for name, part in parts.items()]).sum()

    def class_weights(self, counts: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
        """(C,) weights of the classes from their voxels in the training boxes; mean 1 over these.

        Classes that do not occur weigh as much as one of a single voxel.
        """
        weights = counts.clamp_min(1.0).pow(-self.balance)
        return weights * counts.sum() / (weights * counts).sum()

    def looked_at(
        self, labels: Int[Tensor, "b d d d"], generator: torch.Generator | None
    ) -> Bool[Tensor, "b d d d"]:
        """The voxels that the classes' loss looks at; all of them without a generator."""
        if self.background == 1 or generator is None:
            return torch.ones_like(labels, dtype=torch.bool)
        draw = torch.rand(labels.shape, generator=generator, device=labels.device)
        return (labels > 0) | (draw < self.background)


def class_loss(
    logits: Float[Tensor, "m c"],
    classes: Int[Tensor, " m"],
    weights: Float[Tensor, " m"],
    kind: ClassLoss,
) -> Float[Tensor, ""]:
    """Summed weighted cross-entropy of M voxels.

    Args:
        logits: (M, C).
        classes: (M,) true class of each voxel.
        weights: (M,) of each voxel.
        kind: see `BoxLosses`.
    """
    logits = logits.float()
    if kind == "softmax":
        each = F.cross_entropy(logits, classes, reduction="none")
    else:  # of one-hot targets, without making them
        right = logits.gather(1, classes.unsqueeze(-1)).squeeze(-1)
        each = F.softplus(logits).sum(-1) - right
    return (weights * each).sum()
