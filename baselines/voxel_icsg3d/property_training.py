"""Training of the property predictor."""

from __future__ import annotations

from typing import Any, Literal

import lightning
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from baselines.voxel_icsg3d.property_network import PropertyNetwork
from nesf.checkpoint import model_entry
from nesf.crystal import CrystalBatch
from nesf.training import OptimizerOptions

LossKind = Literal["absolute", "huber", "squared"]
HUBER_FROM = 0.5  # standardised error where `huber` goes from squared to absolute


def property_loss(
    predicted: Float[Tensor, "b p"],
    target: Float[Tensor, "b p"],
    known: Bool[Tensor, "b p"],
    kind: LossKind = "absolute",
) -> Float[Tensor, ""]:
    """Mean over properties of the mean loss over the crystals that have a value.

    Args:
        predicted: (B, P) standardised.
        target: (B, P) standardised; where it is not known it may be anything, NaN too.
        known: (B, P) where there is a value.
        kind: of the error.
    """
    # not masked behind the loss: there NaN times zero would reach the gradient as NaN
    error = torch.where(known, predicted - torch.where(known, target, 0.0), 0.0).abs()
    if kind == "squared":
        error = error.square()
    elif kind == "huber":
        error = torch.where(
            error < HUBER_FROM, error.square() / (2 * HUBER_FROM), error - HUBER_FROM / 2
        )
    counts = known.sum(0)
    by_property = error.sum(0) / counts.clamp_min(1)
    return by_property.sum() / (counts > 0).sum().clamp_min(1)


class PropertyTraining(lightning.LightningModule):
    """Trains a `PropertyNetwork` on batches of crystals that carry its properties.

    The targets are standardised by mean and deviation of the training set, which the model keeps.
    `val/loss` is the mean absolute error in these units, whatever the training's own loss is, and
    `val/mae_<property>` the same in the property's unit.

    Args:
        model: the network.
        loss: what an error costs in training: its absolute value, its square, or Huber's loss.
        optimizer: optimizer and schedule.
    """

    def __init__(
        self,
        model: PropertyNetwork,
        loss: LossKind = "absolute",
        optimizer: OptimizerOptions = OptimizerOptions(kind="adamw"),  # noqa: B008 frozen
    ) -> None:
        super().__init__()
        self.model = model
        self.loss: LossKind = loss
        self.optimizer_options = optimizer
        self.seed: int | None = None

    def setup(self, stage: str) -> None:
        """Take the statistics of the training set over into the model."""
        if stage == "fit":
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            mean, deviation = data.statistics(self.model.properties)
            self.model.set_targets(*(torch.from_numpy(a).float() for a in (mean, deviation)))
            self.seed = data.seed  # of the order, and of all else that is drawn

    def training_step(self, batch: CrystalBatch, batch_idx: int) -> Tensor:
        """The loss of one batch."""
        told = self.model.standardised(self.augmented(batch)).to(self.model.target_mean.dtype)
        loss = property_loss(told, *self._targets(batch), self.loss)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def augmented(self, batch: CrystalBatch) -> CrystalBatch:
        """The crystals that a step learns from; as they are."""
        return batch

    def validation_step(self, batch: CrystalBatch, batch_idx: int) -> None:
        """Mean absolute errors."""
        target, known = self._targets(batch)
        error = (self.model.standardised(batch) - target).abs()
        for i, name in enumerate(self.model.properties):
            count = int(known[:, i].sum())
            mean = error[known[:, i], i].sum() / max(1, count)
            self._log_mean(f"val/mae_{name}", mean * self.model.target_scale[i], count)
        total = int(known.sum())
        self._log_mean("val/loss", error[known].sum() / max(1, total), total)

    def _targets(self, batch: CrystalBatch) -> tuple[Tensor, Tensor]:
        """(B, P) standardised, and where they are known."""
        target = torch.stack([batch.properties[name] for name in self.model.properties], dim=-1)
        return (target - self.model.target_mean) / self.model.target_scale, target.isfinite()

    def _log_mean(self, name: str, value: Tensor, weight: int) -> None:
        # Lightning averages the weights over the processes as integers: let nothing be rounded
        self.log(name, value, batch_size=weight * self.trainer.world_size, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """The optimizer, its rate set before every step."""
        return self.optimizer_options.scheduled(self.model, self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Tell the checkpoint which model its weights belong to."""
        kind = type(self.model)
        checkpoint["nesf"] = model_entry(
            f"{kind.__module__}.{kind.__qualname__}", self.model.init_args
        )
