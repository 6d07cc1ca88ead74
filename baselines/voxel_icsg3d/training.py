"""Training of the voxel pipeline: U-Net, VAE and fine-tuning in one fit."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.voxel_icsg3d.losses import (
    VoxelLosses,
    feature_loss,
    inverse_frequency_weights,
    kl_divergence,
    occupancy_loss,
    released_species_loss,
    weighted_species_loss,
)
from baselines.voxel_icsg3d.model import VoxelICSG3D
from baselines.voxel_icsg3d.rotations import rotate
from baselines.voxel_icsg3d.stages import Stage, StageOptions, frozen
from baselines.voxel_icsg3d.training_set import (
    VoxelStatistics,
    relabelled_counts,
    voxel_statistics,
)
from baselines.voxel_icsg3d.voxelize import representable, voxelize
from nesf.augment import Augmentation
from nesf.checkpoint import model_entry
from nesf.crystal import CrystalBatch, standardised
from nesf.encoder import cell_features
from nesf.errors import InputError
from nesf.progress import training_progress
from nesf.random import generator_for
from nesf.scored_module import ScoredModule

Parts = dict[str, Tensor]


class VoxelTraining(ScoredModule):
    """Trains a `VoxelICSG3D` on batches of crystals, stage after stage.

    Which stage a step belongs to is decided by `training_progress`. A stage's networks alone have
    gradients; the others are in evaluation mode. Everything drawn comes from a generator keyed by
    seed, step and rank, so that a resumed run repeats an unbroken one.

    Args:
        model: the pipeline.
        stages: shares of the run and learning rates.
        losses: weights of the losses.
        augmentation: how training crystals are changed.
        rotations: turn each crystal by 90 degrees at random (published).
        condition_dropout: share of the training crystals whose condition is hidden, so that
            crystals without the property can be encoded.
        seed: of all draws.
        reconstruct_every: reconstruct validation crystals every so many epochs, once the VAE is
            trained; 0 never.
        reconstruct_count: validation crystals to reconstruct, over all ranks about so many.
    """

    class_weights: Tensor

    def __init__(
        self,
        model: VoxelICSG3D,
        stages: StageOptions = StageOptions(),  # noqa: B008 frozen
        losses: VoxelLosses = VoxelLosses(),  # noqa: B008 frozen
        augmentation: Augmentation = Augmentation(),  # noqa: B008 frozen
        rotations: bool = True,
        condition_dropout: float = 0.1,
        seed: int = 0,
        reconstruct_every: int = 5,
        reconstruct_count: int = 128,
    ) -> None:
        super().__init__()
        if not 0 <= condition_dropout <= 1:
            raise ValueError(f"condition_dropout is a share, 0 to 1, not {condition_dropout}")
        self.model = model
        self.stages, self.losses, self.augmentation = stages, losses, augmentation
        self.rotations, self.condition_dropout = rotations, condition_dropout
        self.seed = seed
        self.reconstruct_every, self.reconstruct_count = reconstruct_every, reconstruct_count
        self._stage: Stage = "unet"
        self._statistics: VoxelStatistics
        weights = torch.ones(model.num_species + 1)
        # not saved: every run counts its training set anew
        self.register_buffer("class_weights", weights, persistent=False)

    def on_fit_start(self) -> None:
        """Learn what must be known of the training set as a whole.

        Raises:
            InputError: the frame holds none of the crystals, or the condition is not in the data.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        crystals, model = data.set_named("train"), self.model
        if name := model.condition_property:
            if name not in data.properties:
                raise InputError(f"the condition {name} is not loaded: add it to data.properties")
            values = torch.from_numpy(crystals.numbers(name).copy())
            if values.isnan().all():
                raise InputError(f"no training crystal has a value of {name}")
            model.set_condition_edges(values)
        found = voxel_statistics(crystals, model.voxels, model.num_species + 1, self.seed)
        if not found.labels[1:].sum():
            reason = next(r for r in model.refusals(crystals.batch(range(len(crystals)))) if r)
            raise InputError(f"none of the training crystals can be put on the grid: {reason}")
        counts = relabelled_counts(found.labels, self.augmentation.relabel)
        self.class_weights.copy_(inverse_frequency_weights(counts))
        self._statistics = found

    def on_train_start(self) -> None:
        """Begin the VAE near the voxels that it will make; a resumed run has begun before."""
        if self.global_step == 0:
            self.model.vae.set_output_scale(self._statistics.mean, self._statistics.std)

    def training_step(self, batch: CrystalBatch, batch_idx: int) -> Tensor:
        """One step of the current stage."""
        stage, _ = self.stages.at(training_progress(self.trainer))
        self._set_modes(stage)
        generator = generator_for(
            self.seed, "step", self.global_step, batch_idx, self.global_rank, device=self.device
        )
        crystals = self.augmentation(standardised(batch), generator)
        if self.rotations:
            crystals = rotate(crystals, self.model.voxels, generator)
        crystals, left_out = self._held(crystals)
        self.log("train/left_out", left_out, batch_size=len(batch))
        if not len(crystals):
            # a loss all the same, since other processes wait for its gradients
            return torch.stack([p.sum() for p in self._learning(stage).parameters()]).sum() * 0.0
        losses = {"unet": self.unet_parts, "vae": self.vae_parts, "finetune": self.decoded_parts}
        parts = losses[stage](crystals, generator)
        self.log_dict({f"train/{k}": v for k, v in parts.items()}, batch_size=len(crystals))
        total = self.losses.total(parts)
        self.log("train/loss", total, prog_bar=True, batch_size=len(crystals))
        return total

    def unet_parts(self, crystals: CrystalBatch, generator: torch.Generator | None = None) -> Parts:
        """Losses of the U-Net on true voxels."""
        voxels = voxelize(crystals, self.model.voxels)
        return self._read_parts(voxels.channels, voxels.species)

    def vae_parts(self, crystals: CrystalBatch, generator: torch.Generator | None = None) -> Parts:
        """Losses of the VAE; without a generator, of the latent's mean and the whole condition."""
        model = self.model
        channels = voxelize(crystals, model.voxels).channels
        condition = self._condition(crystals, generator)
        mean, log_variance = model.vae.encode(channels, condition)
        latent = mean
        if generator is not None:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            latent = mean + noise * (0.5 * log_variance).exp()
        decoded = model.vae.decode(latent, condition)
        with torch.no_grad():
            wanted = model.unet.features(channels)
        with frozen(model.unet):
            found = model.unet.features(decoded)
        parts = {
            "voxels": F.mse_loss(decoded, channels),
            "features": feature_loss(found, wanted),
            "kl": kl_divergence(mean, log_variance),
        }
        if model.lattice_readout == "head":
            said = model.lattice_head(latent).float()
            parts["lattice"] = F.smooth_l1_loss(said, cell_features(crystals.lattice), beta=0.02)
        return parts

    def decoded_parts(
        self, crystals: CrystalBatch, generator: torch.Generator | None = None
    ) -> Parts:
        """Losses of the U-Net on the voxels that the VAE makes of crystals, as when it is used."""
        voxels = voxelize(crystals, self.model.voxels)
        with torch.no_grad():
            condition = self._condition(crystals, generator)
            mean, _ = self.model.vae.encode(voxels.channels, condition)
            decoded = self.model.vae.decode(mean, condition)
        return self._read_parts(decoded, voxels.species)

    def _read_parts(
        self, channels: Float[Tensor, "b 4 d d d"], species: Int[Tensor, "b d d d"]
    ) -> Parts:
        unet = self.model.unet
        labelled: Bool[Tensor, "b d d d"] = species > 0
        if self.losses.class_weights:
            trunk = unet.trunk(channels)
            # the background has no weight: ask for the species of the other voxels only
            logits = unet.species_at(trunk.movedim(1, -1)[labelled])  # (M, S + 1)
            loss = weighted_species_loss(logits, species[labelled], self.class_weights)
            occupancy = unet.occupancy_head(trunk).squeeze(1)
        else:
            said = unet(channels)
            loss, occupancy = released_species_loss(said.species, species), said.occupancy
        return {"occupancy": occupancy_loss(occupancy, labelled), "species": loss}

    def _condition(
        self, crystals: CrystalBatch, generator: torch.Generator | None
    ) -> Float[Tensor, "b c"]:
        """The condition, hidden at random where there is a generator."""
        condition = self.model.condition(crystals)
        if generator is None or self.model.condition_property is None:
            return condition
        draw = torch.rand(len(crystals), 1, generator=generator, device=condition.device)
        return condition * (draw >= self.condition_dropout)

    def _held(self, crystals: CrystalBatch) -> tuple[CrystalBatch, float]:
        """The crystals that the frame can hold, and the share of those that it cannot."""
        held = representable(crystals, self.model.voxels)
        kept = int(held.sum())
        if kept == len(crystals):
            return crystals, 0.0
        return crystals.select(held), 1 - kept / len(crystals)

    def _learning(self, stage: Stage) -> nn.Module:
        if stage != "vae":
            return self.model.unet
        return nn.ModuleList(m for n, m in self.model.named_children() if n != "unet")

    def _set_modes(self, stage: Stage) -> None:
        """Only what learns is in training mode: its batch statistics alone may move."""
        self.model.eval()
        self._learning(stage).train()

    def validation_step(self, batch: CrystalBatch, batch_idx: int) -> None:
        """Losses of all networks, and every so often a reconstruction.

        `val/loss` has one meaning in all stages: the U-Net's loss on decoded voxels, which is what
        a reconstruction is read from.
        """
        crystals = standardised(batch)
        held, left_out = self._held(crystals)
        self.log_mean({"val/left_out": torch.tensor(left_out, device=self.device)}, len(batch))
        if len(held):
            decoded = self.decoded_parts(held)
            logged = {
                f"val/{k}": v for k, v in (self.unet_parts(held) | self.vae_parts(held)).items()
            }
            logged |= {f"val/decoded_{k}": v for k, v in decoded.items()}
            self.log_mean(logged | {"val/loss": self.losses.total(decoded)}, len(held))
        if self.reconstructs(batch_idx):
            self.log_reconstruction(crystals)

    def on_validation_epoch_start(self) -> None:
        """Settle the stage for the whole validation, once for all processes."""
        self._stage = self.stages.at(training_progress(self.trainer))[0]

    def reconstructs(self, batch_idx: int) -> bool:
        """Whether this validation batch is to be reconstructed: not before the VAE has learned."""
        return self._stage != "unet" and super().reconstructs(batch_idx)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """One optimizer for all networks, its rate set before every step by the stage."""
        training_progress(self.trainer, 0)  # refuses a run without an end before it begins
        optimizer = self.stages.optimizer(self.model)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.stages.rate(training_progress(self.trainer, step))
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Tell the checkpoint which model its weights belong to."""
        path = "baselines.voxel_icsg3d.model.VoxelICSG3D"
        checkpoint["nesf"] = model_entry(path, self.model.init_args)
