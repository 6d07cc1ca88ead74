"""Training of the neural structure field: one LightningModule and its optimizer."""

from __future__ import annotations

import math
import os
import shutil
from dataclasses import dataclass
from typing import Any, Literal

import lightning
import torch
from torch import Tensor

from nesf.augment import Augmentation
from nesf.autoencoder import NeSF
from nesf.boxes.cut import BoxOptions, is_box, training_boxes
from nesf.checkpoint import begin_with, model_entry
from nesf.crystal import CrystalBatch, standardised
from nesf.errors import InputError
from nesf.objective import LossOptions, kl_divergence, loss_parts, total_loss
from nesf.optimizer import MuonAdamW
from nesf.progress import training_progress
from nesf.queries import CellQueries, QuerySampler
from nesf.random import generator_for
from nesf.scored_module import ScoredModule


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


def refuse_without_compiler() -> None:
    """Tell before the first step that torch.compile will not work on this CPU.

    Raises:
        InputError: the C++ compiler that it would call is not there.
    """
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise InputError(
            f"compiled: true needs a C++ compiler, and there is no {compiler}; install one, name "
            "it in the environment variable CXX, or leave compiled: false"
        )


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
        initial: begin with the weights of this model: a run folder, a `.safetensors` or `.ckpt`
            file, or a shipped name.
        reconstruct_every: reconstruct validation crystals every so many epochs, and at the run's
            end; 0 never.
        reconstruct_count: validation crystals to reconstruct, over all ranks about so many.
        boxes: cut a box from each crystal, at random in training and always the same in
            validation; crystals that are boxes already are taken as they are. Needs a model with
            margin 0 and without periodic fields.
        compiled: train the decoders through torch.compile, which takes a while at the start and
            pays in runs of more than some minutes; on a CPU it needs a C++ compiler.
    """

    def __init__(
        self,
        model: NeSF,
        queries: QuerySampler = CellQueries(),  # noqa: B008 frozen
        augmentation: Augmentation = Augmentation(),  # noqa: B008 frozen
        losses: LossOptions = LossOptions(),  # noqa: B008 frozen
        optimizer: OptimizerOptions = OptimizerOptions(),
        seed: int = 0,
        initial: str | None = None,
        reconstruct_every: int = 5,
        reconstruct_count: int = 128,
        boxes: BoxOptions | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if (losses.kl > 0) != model.variational:
            raise ValueError(
                "losses.kl must be above 0 for a model with variational: true, and 0 for any other"
            )
        if boxes is not None and (model.periodic or model.margin):
            raise ValueError(
                "boxes need periodic: false and margin: 0 in the model: their faces are walls"
            )
        if boxes is not None and model.box is not None and model.box != boxes.side:
            raise ValueError(f"boxes.side is {boxes.side} Å, and the model's box {model.box} Å")
        self.model = model
        self.initial = initial
        self.queries, self.augmentation = queries, augmentation
        self.losses, self.optimizer_options = losses, optimizer
        self.seed = seed
        self.reconstruct_every, self.reconstruct_count = reconstruct_every, reconstruct_count
        self.boxes, self.compiled = boxes, compiled

    def setup(self, stage: str) -> None:
        """Take over the initial weights; those of a checkpoint to go on from come later.

        Raises:
            InputError: the decoders are to be compiled, and there is no compiler.
        """
        if stage == "fit" and self.initial is not None:
            begin_with(self.model, self.initial)
        if stage == "fit" and self.compiled:
            if self.trainer.strategy.root_device.type == "cpu":
                refuse_without_compiler()
            for decoder in (self.model.position_decoder, self.model.species_decoder):
                decoder.compile(dynamic=False)  # a run's steps are all of one shape

    def training_step(self, batch: CrystalBatch, batch_idx: int) -> Tensor:
        """One step: change the crystals, ask the fields, sum the losses."""
        generator = generator_for(
            self.seed, "step", self.global_step, batch_idx, self.global_rank, device=self.device
        )
        crystals = self.augmentation(standardised(batch), generator)
        crystals = self.boxed(crystals, batch, generator)
        parts = self.loss_parts(crystals, generator)
        self.log_dict({f"train/{k}": v for k, v in parts.items()}, batch_size=len(batch))
        total = total_loss(parts, self.losses)
        self.log("train/loss", total, prog_bar=True, batch_size=len(batch))
        return total

    def loss_parts(self, crystals: CrystalBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The unweighted parts of the loss: see `nesf.objective.loss_parts`, and `kl`."""
        if not self.model.variational:
            crystals, latent, _ = self.model.seen(crystals, self.model.encode(crystals))
            asked = self.queries(crystals, generator, self.model.margin)
            return loss_parts(self.model, crystals, latent, asked, self.losses)
        asked = self.queries(crystals, generator, self.model.margin)
        posterior = self.model.posterior(crystals)
        # validation is of the latents that `encode` gives
        latent = posterior.sample(generator) if self.training else posterior.mean
        parts = loss_parts(self.model, crystals, latent, asked, self.losses)
        return parts | {"kl": kl_divergence(posterior)}

    # its batches have other shapes, which are not worth a compilation each
    @torch.compiler.set_stance("force_eager")
    def validation_step(self, batch: CrystalBatch, batch_idx: int) -> None:
        """The loss on fixed queries, and every so often a reconstruction."""
        generator = generator_for(
            self.seed, "validation", batch_idx, self.global_rank, device=self.device
        )
        crystals = self.boxed(standardised(batch), batch, generator)
        parts = self.loss_parts(crystals, generator)
        total = total_loss(parts, self.losses)
        logged = {f"val/{k}": v for k, v in parts.items()} | {"val/loss": total}
        self.log_mean(logged, len(batch))
        if self.reconstructs(batch_idx):
            self.log_reconstruction(crystals)

    def boxed(
        self, crystals: CrystalBatch, given: CrystalBatch, generator: torch.Generator
    ) -> CrystalBatch:
        """Boxes of crystals, where boxes are wanted and those given (as augmented) are none yet."""
        if self.boxes is None or bool(is_box(given, self.boxes.side).all()):
            return crystals
        return training_boxes(crystals, self.boxes, generator)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """The optimizer, its rate set before every step."""
        return self.optimizer_options.scheduled(self.model, self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Tell the checkpoint which model its weights belong to."""
        checkpoint["nesf"] = model_entry("nesf.autoencoder.NeSF", self.model.init_args)
