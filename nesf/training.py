"""Training of the neural structure field: one LightningModule, its losses and its optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import torch
from torch import Tensor
from torch.nn import functional as F

from nesf.augment import Augmentation
from nesf.autoencoder import NeSF
from nesf.checkpoint import model_entry
from nesf.crystal import CrystalBatch, standardised
from nesf.encoder import cell_features
from nesf.geometry import NearestImage
from nesf.losses import (
    elements_loss,
    scaled_distance_loss,
    species_loss,
    squared_distance_loss,
)
from nesf.optimizer import MuonAdamW
from nesf.progress import training_progress
from nesf.queries import CellQueries, PublishedQueries, QueryBlock, field_target
from nesf.random import generator_for
from nesf.scored_module import ScoredModule


@dataclass(frozen=True)
class LossOptions:
    """Weights of the parts of the loss.

    Attributes:
        position_kind: `scaled` (error over 0.1 Å + half the distance) or `squared` (published).
        position: weight of the position field's loss.
        species: of the species field's cross-entropy.
        cell: of the lattice head's loss.
        cell_kind: `huber` on scaled lengths and angles, or `squared` on Å and radians (published).
        count: of the count head's cross-entropy.
        elements: of the elements head's binary cross-entropy.
    """

    position_kind: Literal["scaled", "squared"] = "scaled"
    position: float = 1.0
    species: float = 0.2
    cell: float = 1.0
    cell_kind: Literal["huber", "squared"] = "huber"
    count: float = 0.1
    elements: float = 0.02

    def __post_init__(self) -> None:
        for name in ("position", "species", "cell", "count", "elements"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a weight of 0 or more, not {getattr(self, name)}")
        if self.position_kind not in ("scaled", "squared"):
            raise ValueError(f"position_kind is scaled or squared, not {self.position_kind}")
        if self.cell_kind not in ("huber", "squared"):
            raise ValueError(f"cell_kind is huber or squared, not {self.cell_kind}")


@dataclass(frozen=True)
class OptimizerOptions:
    """Optimizer and schedule.

    Attributes:
        kind: `muon` (Muon on hidden matrices, AdamW on the rest), `adamw` or `adam`.
        lr: learning rate.
        muon_lr: multiple of it for the hidden matrices.
        weight_decay: decoupled decay (`muon`, `adamw`).
        warmup_steps: steps of linear warm-up.
        schedule: `cosine` to `final_lr`, `halving` every `halving_epochs`, or `constant`.
        final_lr: share of `lr` at the end of the cosine.
        halving_epochs: epochs between halvings.
    """

    kind: Literal["muon", "adamw", "adam"] = "muon"
    lr: float = 1e-3
    muon_lr: float = 5.0
    weight_decay: float = 0.01
    warmup_steps: int = 100
    schedule: Literal["cosine", "halving", "constant"] = "cosine"
    final_lr: float = 0.01
    halving_epochs: int = 640

    def __post_init__(self) -> None:
        for name in ("lr", "muon_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 0 <= self.final_lr <= 1:
            raise ValueError(f"final_lr is a share of lr, 0 to 1, not {self.final_lr}")
        if self.halving_epochs < 1:
            raise ValueError(f"halving_epochs must be at least 1, not {self.halving_epochs}")
        if self.kind not in ("muon", "adamw", "adam"):
            raise ValueError(f"kind is muon, adamw or adam, not {self.kind}")
        if self.schedule not in ("cosine", "halving", "constant"):
            raise ValueError(f"schedule is cosine, halving or constant, not {self.schedule}")

    def build(self, module: torch.nn.Module, clipped: bool = False) -> torch.optim.Optimizer:
        """The optimizer over a module's parameters.

        Args:
            module: what learns.
            clipped: whether gradients are clipped, which Lightning cannot do for fused steps.
        """
        if self.kind == "muon":
            return MuonAdamW(module, self.lr, self.muon_lr, weight_decay=self.weight_decay)
        if self.kind == "adamw":
            return torch.optim.AdamW(
                module.parameters(),
                self.lr,
                betas=(0.9, 0.99),
                weight_decay=self.weight_decay,
                fused=not clipped,
            )
        return torch.optim.Adam(module.parameters(), self.lr, fused=not clipped)

    def scheduled(self, module: torch.nn.Module, trainer: lightning.Trainer) -> dict[str, Any]:
        """Optimizer and schedule, as Lightning's `configure_optimizers` returns them.

        Args:
            module: what learns.
            trainer: of the run, which tells how much of it is over.

        Raises:
            InputError: the run has no end.
        """
        training_progress(trainer)  # refuses a run without an end
        trainer.fit_loop.setup_data()
        epoch_steps = max(
            1, math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        )
        optimizer = self.build(module, bool(trainer.gradient_clip_val))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: self.factor(step, training_progress(trainer, step), epoch_steps),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def factor(self, step: int, done: float, epoch_steps: int) -> float:
        """Share of `lr` at a step where a share `done` of the run is over.

        Args:
            step: steps taken.
            done: see `nesf.progress.training_progress`.
            epoch_steps: steps an epoch.
        """
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "cosine":
            return warm * (
                self.final_lr + (1 - self.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
            )
        if self.schedule == "halving":
            return warm * 0.5 ** (step // max(1, self.halving_epochs * epoch_steps))
        return warm


class FieldTraining(ScoredModule):
    """Trains a `NeSF` on batches of crystals.

    All that a step draws (augmentation, queries) comes from a generator keyed by seed, step and
    rank, so that a resumed run repeats an unbroken one.

    Args:
        model: the network.
        queries: where the fields are asked.
        augmentation: how training crystals are changed.
        losses: weights of the loss.
        optimizer: optimizer and schedule.
        seed: of augmentation and queries.
        reconstruct_every: reconstruct validation crystals every so many epochs, and at the run's
            end; 0 never.
        reconstruct_count: validation crystals to reconstruct, over all ranks about so many.
    """

    def __init__(
        self,
        model: NeSF,
        queries: CellQueries | PublishedQueries = CellQueries(),  # noqa: B008 frozen
        augmentation: Augmentation = Augmentation(),  # noqa: B008 frozen
        losses: LossOptions = LossOptions(),
        optimizer: OptimizerOptions = OptimizerOptions(),
        seed: int = 0,
        reconstruct_every: int = 5,
        reconstruct_count: int = 128,
    ) -> None:
        super().__init__()
        self.model = model
        self.queries, self.augmentation = queries, augmentation
        self.losses, self.optimizer_options = losses, optimizer
        self.seed = seed
        self.reconstruct_every, self.reconstruct_count = reconstruct_every, reconstruct_count

    def training_step(self, batch: CrystalBatch, batch_idx: int) -> Tensor:
        """One step: change the crystals, ask the fields, sum the losses."""
        generator = generator_for(
            self.seed, "step", self.global_step, batch_idx, self.global_rank, device=self.device
        )
        crystals = self.augmentation(standardised(batch), generator)
        parts = self.loss_parts(crystals, generator)
        self.log_dict({f"train/{k}": v for k, v in parts.items()}, batch_size=len(batch))
        total = self.total_loss(parts)
        self.log("train/loss", total, prog_bar=True, batch_size=len(batch))
        return total

    def loss_parts(self, crystals: CrystalBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The unweighted parts of the loss, and the mean position error (`position_error`, Å)."""
        asked = self.queries(crystals, generator)
        latent = self.model.encode(crystals)
        position, error = self._position_loss(asked.position, crystals, latent)
        heads = self.model.heads(latent)
        count = crystals.num_atoms.clamp_max(self.model.max_atoms)
        return {
            "position": position,
            "position_error": error,
            "species": self._species_loss(asked.species, crystals, latent),
            "cell": self._cell_loss(heads.cell, crystals),
            "count": F.cross_entropy(heads.count, count),
            "elements": elements_loss(heads.elements, crystals.species, crystals.mask),
        }

    def total_loss(self, parts: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the parts."""
        names = ("position", "species", "cell", "count", "elements")
        return torch.stack([getattr(self.losses, name) * parts[name] for name in names]).sum()

    def _position_loss(
        self, blocks: tuple[QueryBlock, ...], crystals: CrystalBatch, latent: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss = scaled_distance_loss if self.losses.position_kind == "scaled" else (
            squared_distance_loss
        )  # fmt: skip
        losses, errors, sizes = [], [], []
        for block in blocks:
            cell = crystals.lattice[block.crystal]
            target = field_target(block, crystals, self.model.margin, self._images(cell))
            predicted = self.model.position_decoder(latent[block.crystal], block.query, cell)
            losses.append(loss(predicted, target.offset))
            errors.append((predicted - target.offset).detach().norm(dim=-1).mean())
            sizes.append(target.species.numel())
        share = torch.tensor(sizes, device=latent.device, dtype=torch.float32)
        share = share / share.sum()
        return (torch.stack(losses) * share).sum(), (torch.stack(errors) * share).sum()

    def _species_loss(
        self, blocks: tuple[QueryBlock, ...], crystals: CrystalBatch, latent: Tensor
    ) -> Tensor:
        losses = []
        for block in blocks:
            cell = crystals.lattice[block.crystal]
            target = field_target(block, crystals, self.model.margin, self._images(cell))
            logits = self.model.species_decoder(latent[block.crystal], block.query, cell)
            losses.append(species_loss(logits, target.species))
        return torch.stack(losses).mean()

    def _images(self, lattice: Tensor) -> NearestImage | None:
        return NearestImage.of(lattice) if self.model.periodic else None

    def _cell_loss(self, predicted: Tensor, crystals: CrystalBatch) -> Tensor:
        target = cell_features(crystals.lattice)
        if self.losses.cell_kind == "huber":
            return F.smooth_l1_loss(predicted, target, beta=0.02)
        # published: MSE of lengths in Å plus MSE of angles in radians
        error = (predicted - target).square()
        return 25 * error[:, :3].mean() + error[:, 3:].mean()

    def validation_step(self, batch: CrystalBatch, batch_idx: int) -> None:
        """The loss on fixed queries, and every so often a reconstruction."""
        generator = generator_for(
            self.seed, "validation", batch_idx, self.global_rank, device=self.device
        )
        crystals = standardised(batch)
        parts = self.loss_parts(crystals, generator)
        total = self.total_loss(parts)
        logged = {f"val/{k}": v for k, v in parts.items()} | {"val/loss": total}
        self.log_mean(logged, len(batch))
        if self.reconstructs(batch_idx):
            self.log_reconstruction(crystals)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """The optimizer, its rate set before every step."""
        return self.optimizer_options.scheduled(self.model, self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Tell the checkpoint which model its weights belong to."""
        checkpoint["nesf"] = model_entry("nesf.autoencoder.NeSF", self.model.init_args)
