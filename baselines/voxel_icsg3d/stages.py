"""The order of training: the U-Net, the VAE with its features, the U-Net on decoded voxels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

Stage = Literal["unet", "vae", "finetune"]
STAGES: tuple[Stage, ...] = ("unet", "vae", "finetune")


@dataclass(frozen=True)
class StageOptions:
    """Shares of a run, and the learning rates in them.

    Each stage has a cosine of its own, from `lr` to `final_lr` of it.

    Attributes:
        unet: share of the run in which the U-Net learns true voxels.
        vae: share in which the VAE learns, the U-Net's features its loss.
        finetune: share in which the U-Net learns the voxels that the VAE decodes; off, since it
            did not help where it was measured (see README.md).
        unet_lr: learning rate of the U-Net.
        vae_lr: of the VAE (published: 5e-4).
        finetune_lr: of the U-Net in the last stage.
        warmup: share of a stage with a rising rate.
        final_lr: share of the rate at the end of a stage.
        kind: `adam` as published, or `adamw`.
        weight_decay: decoupled decay (`adamw`).
    """

    unet: float = 0.35
    vae: float = 0.45
    finetune: float = 0.0
    unet_lr: float = 2e-3
    vae_lr: float = 2e-3
    finetune_lr: float = 1e-3
    warmup: float = 0.02
    final_lr: float = 0.01
    kind: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("unet", "vae"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a share above 0, not {getattr(self, name)}")
        for name in ("finetune", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        for name in ("unet_lr", "vae_lr", "finetune_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("warmup", "final_lr"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}")
        if self.kind not in ("adam", "adamw"):
            raise ValueError(f"kind is adam or adamw, not {self.kind}")
        if self.weight_decay and self.kind != "adamw":
            raise ValueError("weight_decay needs kind adamw")

    def at(self, progress: float) -> tuple[Stage, float]:
        """The stage at a share of the run, and the share of the stage that is done."""
        total = self.unet + self.vae + self.finetune
        start = 0.0
        active = [stage for stage in STAGES if getattr(self, stage) > 0]
        for stage in active:
            share = getattr(self, stage) / total
            if progress < start + share or stage == active[-1]:
                return stage, min(1.0, max(0.0, (progress - start) / share))
            start += share
        raise AssertionError("the VAE's share is above 0")

    def rate(self, progress: float) -> float:
        """The learning rate at a share of the run, for whatever learns there."""
        stage, done = self.at(progress)
        base: float = getattr(self, f"{stage}_lr")
        # never quite 0: the first step counts, too
        warm = min(1.0, 0.01 + done / self.warmup) if self.warmup else 1.0
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return base * warm * (self.final_lr + (1 - self.final_lr) * cosine)

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer over a module's parameters, its rate to be multiplied by `rate`.

        It passes over parameters without a gradient, which those of idle stages are.
        """
        # not fused, which Lightning cannot clip the gradients of under autocast
        if self.kind == "adamw":
            decay = self.weight_decay
            return torch.optim.AdamW(module.parameters(), 1.0, weight_decay=decay, foreach=True)
        return torch.optim.Adam(module.parameters(), 1.0, foreach=True)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Gradients flow through a module's computations, and none into its parameters."""
    learning = [p for p in module.parameters() if p.requires_grad]
    for p in learning:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learning:
            p.requires_grad_(True)
