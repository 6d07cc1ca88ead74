"""Batches of a packed set, for one rank: in an order that a seed decides, or in the set's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.errors import InputError
from nesf.random import generator_for


@runtime_checkable
class CrystalSource(Protocol):
    """Crystals that batches are drawn from: on a device, or mapped from files."""

    def __len__(self) -> int: ...

    def batch(self, index: Int[Tensor, " k"]) -> CrystalBatch:
        """The crystals at `index`."""


class BatchStream:
    """The batches of one epoch after another, for one rank.

    The order is a function of seed and epoch alone; each rank takes every `world_size`-th crystal
    of it. What the last whole batch leaves over waits for a later epoch's order. The position in
    the epoch is saved with a checkpoint, so that a run goes on in the middle of an epoch.

    Args:
        crystals: the set; its batches are on the training device.
        batch_size: crystals a step and rank; all there are, if they are fewer.
        seed: of the order.
        epoch: tells the current epoch.
        rank: of this process.
        world_size: number of processes.
        weights: (M,) relative rates at which crystals are drawn, with replacement; None visits
            every crystal once an epoch.
    """

    def __init__(
        self,
        crystals: CrystalSource,
        batch_size: int,
        seed: int = 0,
        epoch: Callable[[], int] = lambda: 0,
        rank: int = 0,
        world_size: int = 1,
        weights: Tensor | None = None,
    ) -> None:
        self.crystals = crystals
        self.batch_size = min(batch_size, max(1, len(crystals) // world_size))
        self.seed, self.epoch = seed, epoch
        self.rank, self.world_size = rank, world_size
        self.weights = weights
        self._resume_at = self._position = 0

    def __len__(self) -> int:
        """Steps in an epoch, the same on every rank."""
        return len(self.crystals) // (self.batch_size * self.world_size)

    def order(self, epoch: int) -> Tensor:
        """(M,) positions of the crystals in the order of an epoch, all ranks together."""
        generator, count = generator_for(self.seed, "order", epoch), len(self.crystals)
        # all that an epoch keeps of every crystal
        kind = torch.int32 if count <= torch.iinfo(torch.int32).max else torch.int64
        if self.weights is None:
            return torch.randperm(count, generator=generator, dtype=kind)
        drawn = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        return drawn.to(kind)

    def __iter__(self) -> Iterator[CrystalBatch]:
        mine = self.order(self.epoch())[self.rank :: self.world_size]
        start, self._resume_at = self._resume_at, 0
        for step in range(start, len(self)):
            self._position = step + 1
            part = mine[step * self.batch_size : (step + 1) * self.batch_size]
            yield self.crystals.batch(part.long())

    def state_dict(self) -> dict[str, Any]:
        """How many batches of the epoch were handed out, of how many; the same on every rank."""
        return {"position": self._position, "steps": len(self)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that were handed out; a finished epoch starts the next.

        Raises:
            InputError: the data, the batch size or the number of processes have changed.
        """
        steps = state.get("steps", len(self))
        position = state["position"] % max(1, steps)
        if position and steps != len(self):
            raise InputError(
                f"the checkpoint was left in the middle of an epoch of {steps} steps, and an epoch "
                f"has {len(self)} now; go on with the same data, batch size and number of processes"
            )
        self._resume_at = self._position = position


class BatchList:
    """A set cut into batches in its own order, every `world_size`-th crystal for one rank.

    All ranks together visit each crystal once, and each rank some: where one had none, the others
    would wait for its part of the sums forever.
    """

    def __init__(
        self, crystals: CrystalSource, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.parts = torch.arange(rank, len(crystals), world_size).split(batch_size)
        self.crystals = crystals

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[CrystalBatch]:
        return (self.crystals.batch(part) for part in self.parts)
