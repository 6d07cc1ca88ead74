"""What the trainings of all decoders share: means over processes, and reconstruction scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.scoring import quick_scores


class ScoredModule(lightning.LightningModule):
    """A LightningModule that reconstructs validation crystals and logs how well.

    Every decoder logs the same figures: `val/wrong_counts_percent`, `val/position_actual` (Å) and
    `val/species_actual_percent`.

    Attributes:
        model: the network, with `encode` and `decode`.
        reconstruct_every: reconstruct every so many epochs, and at the run's end; 0 never.
        reconstruct_count: validation crystals to reconstruct, over all ranks about so many.
    """

    model: Any
    reconstruct_every: int
    reconstruct_count: int

    @property
    def walls(self) -> bool:
        """Whether the model's crystals are boxes, without periodic images."""
        return getattr(self.model, "walls", False)

    def reconstructs(self, batch_idx: int) -> bool:
        """Whether this validation batch is to be reconstructed."""
        trainer = self.trainer
        if not self.reconstruct_every or trainer.sanity_checking:
            return False
        last = trainer.should_stop or self.current_epoch + 1 == trainer.max_epochs
        due = (self.current_epoch + 1) % self.reconstruct_every == 0 or last
        size: int = trainer.datamodule.val_batch_size  # type: ignore[attr-defined]
        return due and batch_idx * size * trainer.world_size < self.reconstruct_count

    def log_reconstruction(self, crystals: CrystalBatch) -> None:
        """Encode, decode, score, and log the means."""
        found = self.model.decode(self.model.encode(crystals)).crystals
        scores = quick_scores(found, crystals, self.walls)
        per_crystal = {
            "val/wrong_counts_percent": 100 * (1 - scores.right_counts / scores.crystals),
        }
        per_atom = {
            "val/position_actual": scores.distance / scores.atoms,
            "val/species_actual_percent": 100 * scores.wrong_species / scores.atoms,
        }
        self.log_mean(per_crystal, len(crystals))
        self.log_mean(per_atom, int(scores.atoms))

    def log_mean(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Log means over an epoch and all processes, each batch of one process with its weight."""
        # Lightning averages the weights over the processes as integers: let nothing be rounded
        self.log_dict(values, batch_size=weight * self.trainer.world_size, sync_dist=True)
