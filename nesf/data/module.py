"""`CrystalData`: training and validation crystals, packed, on the training device."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nesf.data.batches import BatchList, BatchStream
from nesf.data.packed import PackedSet, PackedTensors, load_or_pack, split_ids
from nesf.errors import InputError

_PART = "which input"  # column of the joined set where shares are given


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
