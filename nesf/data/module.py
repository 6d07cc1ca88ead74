"""`CrystalData`: packed sets on the training device, batches in an order that a key decides."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet, PackedTensors, load_or_pack, split_ids
from nesf.errors import InputError
from nesf.random import generator_for

_PART = "which input"  # column of the joined set where shares are given


class BatchStream:
    """The batches of one epoch after another, for one rank.

    The order is a function of seed and epoch alone; each rank takes every `world_size`-th crystal
    of it. What the last whole batch leaves over waits for a later epoch's order. The position in
    the epoch is saved with a checkpoint, so that a run goes on in the middle of an epoch.

    Args:
        crystals: the set, on the training device.
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
        crystals: PackedTensors,
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
        generator = generator_for(self.seed, "order", epoch)
        if self.weights is None:
            return torch.randperm(len(self.crystals), generator=generator)
        return torch.multinomial(
            self.weights, len(self.crystals), replacement=True, generator=generator
        )

    def __iter__(self) -> Iterator[CrystalBatch]:
        mine = self.order(self.epoch())[self.rank :: self.world_size]
        start, self._resume_at = self._resume_at, 0
        for step in range(start, len(self)):
            self._position = step + 1
            yield self.crystals.batch(mine[step * self.batch_size : (step + 1) * self.batch_size])

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
        self, crystals: PackedTensors, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.parts = torch.arange(rank, len(crystals), world_size).split(batch_size)
        self.crystals = crystals

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[CrystalBatch]:
        return (self.crystals.batch(part) for part in self.parts)


class CrystalData(lightning.LightningDataModule):
    """Training and validation crystals.

    Give `train` and `val` files; or `train` alone, of which `val_fraction` is then held out by a
    seeded rule over the ids. Inputs that are not packed sets are packed once into a cache.

    Args:
        train: files, folders or globs in any format of the readers, or packed sets.
        val: likewise; empty holds out a part of `train`.
        batch_size: crystals a step and rank.
        val_batch_size: crystals a validation step.
        val_fraction: share of `train` held out where `val` is empty.
        size_weight: draw a crystal of n atoms in proportion to n^size_weight; 0 visits each
            crystal once an epoch.
        free_weight: draw a crystal in proportion to 1 + free_weight times the share of its atoms
            that are off the special positions (see `free_share`), which are learned last.
        shares: for each of the inputs in `train`, its share of the crystals that are drawn; any
            positive numbers, empty for as many as it has.
        seed: of the order and of the held-out part.
        cache_dir: folder of the cache; the user's cache folder by default.
        properties: columns of numbers that batches carry, as `CrystalBatch.properties`.
    """

    def __init__(
        self,
        train: Sequence[str],
        val: Sequence[str] = (),
        batch_size: int = 32,
        val_batch_size: int = 128,
        val_fraction: float = 0.05,
        size_weight: float = 0.0,
        free_weight: float = 0.0,
        shares: Sequence[float] = (),
        seed: int = 0,
        cache_dir: str | None = None,
        properties: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.train, self.val = tuple(train), tuple(val)
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.val_fraction = val_fraction
        self.size_weight, self.free_weight = size_weight, free_weight
        self.shares = tuple(shares)
        if self.shares and (len(self.shares) != len(self.train) or min(self.shares) <= 0):
            raise ValueError(
                f"shares are {list(self.shares)} for {len(self.train)} inputs in train; give one "
                "positive number for each"
            )
        self.seed = seed
        self.cache_dir = cache_dir
        self.properties = tuple(properties)
        self._sets: dict[str, PackedSet] = {}
        self._on_device: dict[str, PackedTensors] = {}
        self._stream: BatchStream | None = None
        self._resume: dict[str, Any] | None = None

    def prepare_data(self) -> None:
        """Pack what is not packed, once, in one process."""
        inputs = [[one] for one in self.train] if self.shares else [self.train]
        for some in (*inputs, self.val):
            if some:
                self._load(some)

    def setup(self, stage: str | None = None) -> None:
        """Open the packed sets, and hold out validation crystals if none are given."""
        whole = self._load_shares() if self.shares else self._load(self.train)
        if self.val:
            self._sets = {"train": whole, "val": self._load(self.val)}
        else:
            fractions = {"train": 1 - self.val_fraction, "val": self.val_fraction}
            parts = split_ids(whole.ids, fractions, self.seed)
            if not all(parts.values()):
                raise InputError(
                    f"{len(whole)} crystals are too few to hold out {self.val_fraction:.0%} for "
                    "validation; give data.val or a larger data.val_fraction"
                )
            self._sets = {k: whole.select(whole.positions(v)) for k, v in parts.items()}
        self._on_device = {}
        processes = self.trainer.world_size if self.trainer else 1
        for name, crystals in self._sets.items():
            if len(crystals) < processes:
                raise InputError(
                    f"data.{name} has {len(crystals)} crystals for {processes} processes; give "
                    "more data, or fewer trainer.devices"
                )

    def set_named(self, name: str) -> PackedSet:
        """The `train` or `val` set."""
        return self._sets[name]

    def train_dataloader(self) -> BatchStream:
        """Shuffled batches for this rank, resumable in the middle of an epoch."""
        trainer = self.trainer
        assert trainer is not None
        self._stream = BatchStream(
            self._tensors("train"),
            self.batch_size,
            self.seed,
            lambda: trainer.current_epoch,
            trainer.global_rank,
            trainer.world_size,
            self._weights(),
        )
        if self._resume is not None:
            self._stream.load_state_dict(self._resume)
            self._resume = None
        return self._stream

    def _weights(self) -> Tensor | None:
        """(M,) rates at which training crystals are drawn; None where all are visited alike."""
        if not (self.size_weight or self.free_weight or self.shares):
            return None
        crystals = self._sets["train"]
        rates = crystals.num_atoms**self.size_weight * (1 + self.free_weight * free_share(crystals))
        if self.shares:
            part = crystals.numbers(_PART).astype(int)
            rates = rates * (np.asarray(self.shares) / np.bincount(part, rates))[part]
        return torch.from_numpy(rates)

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands in its epoch."""
        return {"train": self._stream.state_dict()} if self._stream else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next training batches go on there.

        Lightning restores loaders, too, but not those that were made early, for a schedule that
        asks for the number of steps.
        """
        self._resume = state_dict["train"]

    def val_dataloader(self) -> BatchList:
        """The validation set in order, this rank's part of it."""
        trainer = self.trainer
        assert trainer is not None
        return BatchList(
            self._tensors("val"), self.val_batch_size, trainer.global_rank, trainer.world_size
        )

    def _load(self, inputs: Sequence[str]) -> PackedSet:
        cache = None if self.cache_dir is None else Path(self.cache_dir)
        progress = sys.stderr.isatty()  # in a log, a progress bar fills pages
        return PackedSet.load(load_or_pack(inputs, cache_dir=cache, progress=progress))

    def _load_shares(self) -> PackedSet:
        """The training inputs together; of crystals with one id, the first input's."""
        seen: set[str] = set()
        parts = []
        for number, one in enumerate(self.train):
            crystals = self._load([one])
            new = [i for i, id_ in enumerate(crystals.ids) if id_ not in seen]
            if not new:
                raise InputError(f"every crystal of {one} is in an input before it; leave it out")
            seen.update(crystals.ids)
            part = crystals.select(new)
            column = np.full(len(part), float(number))
            properties = {**part.properties, _PART: column}
            parts.append(dataclasses.replace(part, properties=properties))
        return PackedSet.join(parts)

    def _tensors(self, name: str) -> PackedTensors:
        if name not in self._on_device:
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            self._on_device[name] = self.load_tensors(name, device)
        return self._on_device[name]

    def load_tensors(self, name: str, device: torch.device) -> PackedTensors:
        """The `train` or `val` set on the training device; called once for each.

        For subclasses that add to what a batch carries.
        """
        return self._sets[name].tensors(device, properties=self.properties)

    def atoms_range(self) -> tuple[int, int]:
        """Fewest and most atoms in a training crystal."""
        counts: np.ndarray = self._sets["train"].num_atoms
        return int(counts.min()), int(counts.max())


def free_share(crystals: PackedSet, tolerance: float = 0.005) -> Float[np.ndarray, " m"]:
    """The share of each crystal's atoms off the special positions.

    Those are atoms with a coordinate that is, within `tolerance` of the cell, no multiple of 1/8
    or 1/12 of it: the usual coordinates of positions without a free parameter.
    """
    free = np.zeros(len(crystals.frac_coords), dtype=bool)
    for axis in range(3):
        x = np.asarray(crystals.frac_coords[:, axis])
        free |= np.all([abs(x * n - np.round(x * n)) > tolerance * n for n in (8, 12)], axis=0)
    ends = np.concatenate([[0], np.cumsum(free)])
    counts = ends[crystals.offsets[1:]] - ends[crystals.offsets[:-1]]
    return counts / np.maximum(crystals.num_atoms, 1)
