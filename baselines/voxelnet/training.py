"""Training of VoxelNet: a property predictor's steps, on crystals that are turned at random."""

from __future__ import annotations

from typing import Literal

from baselines.voxel_icsg3d.property_training import LossKind, PropertyTraining
from baselines.voxelnet.model import VoxelNet
from baselines.voxelnet.turns import random_turns, turned
from nesf.crystal import CrystalBatch
from nesf.random import generator_for
from nesf.training import OptimizerOptions

Turns = Literal["any", "cube", "none"]


class VoxelTraining(PropertyTraining):
    """Trains a `VoxelNet`.

    Each crystal of each step is turned and, in half of the cases, reflected, anew: its lattice is,
    so that the points of its reciprocal lattice are turned exactly and the voxels are computed
    from them. No voxel is ever interpolated from another.

    Args:
        model: the network.
        loss: what an error costs in training: its absolute value, its square, or Huber's loss.
        optimizer: optimizer and schedule.
        turns: any rotation, the 48 rotations and reflections of the cube, or none.
    """

    def __init__(
        self,
        model: VoxelNet,
        loss: LossKind = "absolute",
        optimizer: OptimizerOptions = OptimizerOptions(kind="adamw"),  # noqa: B008 frozen
        turns: Turns = "any",
    ) -> None:
        super().__init__(model, loss, optimizer)
        self.turns: Turns = turns

    def augmented(self, batch: CrystalBatch) -> CrystalBatch:
        """The crystals, each turned in its own way."""
        if self.turns == "none":
            return batch
        place = (self.seed or 0, "turns", self.global_step, self.global_rank)
        generator = generator_for(*place, device=batch.device)
        return turned(batch, random_turns(len(batch), self.turns, generator).to(batch.lattice))
