"""Training of the voxel model of boxes: VAE and U-Net together, on boxes cut anew each step."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from baselines.voxel_icsg3d.box_grid import box_density, box_labels
from baselines.voxel_icsg3d.box_losses import BoxLosses, class_loss
from baselines.voxel_icsg3d.hoffmann import VoxelHoffmann, joined
from baselines.voxel_icsg3d.losses import kl_divergence
from nesf.augment import Augmentation
from nesf.boxes.cut import is_box, training_boxes
from nesf.checkpoint import model_entry
from nesf.crystal import CrystalBatch, standardised
from nesf.precision import full_precision
from nesf.progress import training_progress
from nesf.random import generator_for
from nesf.scored_module import ScoredModule
from nesf.scoring import quick_scores
from nesf.training import OptimizerOptions

Parts = dict[str, Tensor]
_STATISTICS = 512  # training crystals that density and classes are counted on


class HoffmannTraining(ScoredModule):
    """Trains a `VoxelHoffmann` on random boxes of crystals.

    The U-Net reads the densities that the VAE decodes, and its loss reaches the VAE, too. Boxes
    are cut on the device at every step, anywhere and in any rotation (`model.boxes`), by draws of
    a generator keyed by seed, step and rank, so that a resumed run repeats an unbroken one.

    Crystals that are boxes already are taken as they are. Of other validation crystals the box is
    taken that `VoxelHoffmann.encode` takes.

    Args:
        model: the networks.
        losses: weights of the losses.
        optimizer: optimizer and schedule.
        augmentation: how training crystals are changed before they are cut.
        seed: of all draws.
        reconstruct_every: reconstruct validation boxes every so many epochs, and at the run's
            end; 0 never.
        reconstruct_count: validation boxes to reconstruct, over all ranks about so many.
    """

    class_weights: Tensor

    def __init__(
        self,
        model: VoxelHoffmann,
        losses: BoxLosses = BoxLosses(),  # noqa: B008 frozen
        optimizer: OptimizerOptions = OptimizerOptions(kind="adam"),  # noqa: B008 frozen
        augmentation: Augmentation = Augmentation(),  # noqa: B008 frozen
        seed: int = 0,
        reconstruct_every: int = 5,
        reconstruct_count: int = 128,
    ) -> None:
        super().__init__()
        if losses.kind != model.class_probability:
            raise ValueError(
                f"losses.kind is {losses.kind} and the model's class_probability "
                f"{model.class_probability}; give both the same"
            )
        self.model, self.losses, self.augmentation = model, losses, augmentation
        self.optimizer_options, self.seed = optimizer, seed
        self.reconstruct_every, self.reconstruct_count = reconstruct_every, reconstruct_count
        # not saved: every run counts its training set anew
        weights = torch.ones(model.num_species + 1)
        self.register_buffer("class_weights", weights, persistent=False)

    def on_fit_start(self) -> None:
        """Count densities and classes on boxes of the training set; begin the networks there."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        crystals, model = data.set_named("train"), self.model
        order = torch.randperm(len(crystals), generator=generator_for(self.seed, "statistics"))
        counts = torch.zeros(model.num_species + 1)
        moments = torch.zeros(2, dtype=torch.float64)
        boxes = 0
        for number, part in enumerate(order[:_STATISTICS].split(32)):
            generator = generator_for(self.seed, "statistics", number)
            some = self.training_boxes(crystals.batch(part.tolist()), generator)
            labels = box_labels(some, model.grid)
            counts += torch.bincount(labels.flatten(), minlength=len(counts)).float()
            density = box_density(some, model.grid).double()
            moments += torch.stack([density.sum(), density.square().sum()])
            boxes += len(some)
        mean, square = moments / (boxes * model.grid.resolution**3)
        model.density_mean.copy_(mean)
        model.density_std.copy_((square - mean.square()).clamp_min(1e-12).sqrt())
        self.class_weights.copy_(self.losses.class_weights(counts))
        self._shares = counts * self.class_weights.cpu() / counts.sum()

    def on_train_start(self) -> None:
        """Begin with the classes' frequencies; a resumed run has begun before."""
        if self.global_step == 0:
            shares = self._shares.to(self.device)
            self.model.unet.set_frequencies(shares, self.losses.kind == "sigmoid")

    def training_step(self, batch: CrystalBatch, batch_idx: int) -> Tensor:
        """Cut boxes, encode, decode, read, and sum the losses."""
        generator = generator_for(
            self.seed, "step", self.global_step, batch_idx, self.global_rank, device=self.device
        )
        boxes = self.training_boxes(batch, generator)
        parts = self.loss_parts(boxes, generator)
        self.log_dict({f"train/{k}": v for k, v in parts.items()}, batch_size=len(boxes))
        self.log("train/left_out", 1 - len(boxes) / len(batch), batch_size=len(batch))
        total = self.losses.total(parts, training_progress(self.trainer))
        self.log("train/loss", total, prog_bar=True, batch_size=len(boxes))
        return total

    def loss_parts(self, boxes: CrystalBatch, generator: torch.Generator | None = None) -> Parts:
        """The unweighted losses; without a generator, of the latent's mean and of all voxels."""
        model = self.model
        with full_precision(boxes.device):
            density, labels = model.density(boxes), box_labels(boxes, model.grid)
        mean, log_variance = model.vae.encode(density)
        latent = mean
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            latent = mean + noise * (0.5 * log_variance).exp()
        decoded = model.vae.decode(latent)
        return {
            "density": F.mse_loss(decoded, density),
            "kl": kl_divergence(mean, log_variance) / model.grid.resolution**3,
            "classes": self._class_loss(decoded, labels, generator),
        }

    def _class_loss(
        self,
        density: Float[Tensor, "b d d d"],
        labels: Int[Tensor, "b d d d"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, ""]:
        looked = self.losses.looked_at(labels, generator)
        classes = labels[looked]
        weights = self.class_weights[classes]
        if generator is not None:
            weights = torch.where(classes > 0, weights, weights / self.losses.background)
        trunk = self.model.unet.trunk(density).movedim(1, -1)  # (B, D, D, D, W)
        logits = self.model.unet.classes_at(trunk[looked])
        return class_loss(logits, classes, weights, self.losses.kind) / labels.numel()

    def training_boxes(self, batch: CrystalBatch, generator: torch.Generator) -> CrystalBatch:
        """Boxes of a batch, fewer where some crystals have none; those that are boxes stay so.

        Args:
            batch: B crystals.
            generator: of augmentation, rotations and places.

        Raises:
            InputError: none of the crystals has a box.
        """
        with full_precision(batch.device):  # under autocast, atoms would move by a tenth of an Å
            crystals = standardised(batch)
            ready = is_box(crystals, self.model.grid.side)
            if bool(ready.all()):
                return crystals
            cut = self.augmentation(crystals.select(~ready), generator)
            cut = training_boxes(cut, self.model.boxes, generator)
        return joined(crystals.select(ready), cut)

    def validation_step(self, batch: CrystalBatch, batch_idx: int) -> None:
        """The losses, and every so often a reconstruction.

        `val/loss` is the sum with the weights of the run's end. Crystals without a box are left
        out of it, and count as failed in the reconstruction.
        """
        boxes, index = self.model.boxes_of(batch)
        left_out = torch.tensor(1 - len(index) / len(batch), device=self.device)
        self.log_mean({"val/left_out": left_out}, len(batch))
        if len(boxes):
            parts = self.loss_parts(boxes)
            logged = {f"val/{k}": v for k, v in parts.items()}
            self.log_mean(logged | {"val/loss": self.losses.total(parts)}, len(boxes))
        if self.reconstructs(batch_idx):
            self.log_reconstruction(batch)

    def log_reconstruction(self, crystals: CrystalBatch) -> None:
        """Encode, decode, score against the boxes that were encoded, and log the means."""
        boxes, _ = self.model.boxes_of(crystals)
        if not len(boxes):
            self.log_mean({"val/wrong_counts_percent": self.class_weights.new_tensor(100.0)},
                          len(crystals))  # fmt: skip
            return
        found = self.model.decode(self.model.encode(boxes)).crystals
        scores = quick_scores(found, boxes, self.walls)
        wrong_counts = 100 * (1 - scores.right_counts / len(crystals))
        self.log_mean({"val/wrong_counts_percent": wrong_counts}, len(crystals))
        per_atom = {
            "val/position_actual": scores.distance / scores.atoms,
            "val/species_actual_percent": 100 * scores.wrong_species / scores.atoms,
        }
        self.log_mean(per_atom, int(scores.atoms))

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """The optimizer, its rate set before every step."""
        return self.optimizer_options.scheduled(self.model, self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Tell the checkpoint which model its weights belong to."""
        path = "baselines.voxel_icsg3d.hoffmann.VoxelHoffmann"
        checkpoint["nesf"] = model_entry(path, self.model.init_args)
