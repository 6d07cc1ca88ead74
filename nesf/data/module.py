"""`CrystalData`: training and validation crystals, packed, drawn from their files or a GPU."""

from __future__ import annotations

import glob
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nesf.data.batches import BatchList, BatchStream, CrystalSource
from nesf.data.packed import PackedSet, load_or_pack
from nesf.data.packed_view import PackedView
from nesf.errors import InputError


class MissingCrystals(InputError):
    """A file of crystals does not exist.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(f"there is no {path} to train or validate on")
        self.path = path


class CrystalData(lightning.LightningDataModule):
    """Training and validation crystals.

    Give `train` and `val` files; or `train` alone, of which `val_fraction` is then held out by a
    seeded rule over the ids. Inputs that are not packed sets are packed once into a cache.

    Crystals stay in these files, mapped into memory, and batches are gathered from there; a GPU
    takes them all if they need no more than a quarter of its free memory. In memory there are 4
    bytes a crystal for an epoch's order, 4 more if a part is held out or inputs share ids, and 8
    more for rates if crystals are not drawn alike.

    Args:
        train: files, folders or globs in any format of the readers, or packed sets; one, or a
            list of them.
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
        train: Sequence[str] | str,
        val: Sequence[str] | str = (),
        batch_size: int = 32,
        val_batch_size: int = 128,
        val_fraction: float = 0.05,
        size_weight: float = 0.0,
        free_weight: float = 0.0,
        shares: Sequence[float] = (),
        seed: int = 0,
        cache_dir: str | None = None,
        properties: Sequence[str] | str = (),
    ) -> None:
        super().__init__()
        self.train, self.val = several(train), several(val)
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
        self.properties = several(properties)
        self._views: dict[str, PackedView] = {}
        self._copies: dict[str, PackedSet] = {}
        self._sources: dict[str, CrystalSource] = {}
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
        whole = self._load_shares() if self.shares else PackedView((self._load(self.train),))
        if self.val:
            self._views = {"train": whole, "val": PackedView((self._load(self.val),))}
        else:
            self._views = whole.split(
                {"train": 1 - self.val_fraction, "val": self.val_fraction}, self.seed
            )
            if not all(map(len, self._views.values())):
                raise InputError(
                    f"{len(whole)} crystals are too few to hold out {self.val_fraction:.0%} for "
                    "validation; give data.val or a larger data.val_fraction"
                )
        self._copies, self._sources = {}, {}
        processes = self.trainer.world_size if self.trainer else 1
        for name, crystals in self._views.items():
            if len(crystals) < processes:
                raise InputError(
                    f"data.{name} has {len(crystals)} crystals for {processes} processes; give "
                    "more data, or fewer trainer.devices"
                )

    def set_named(self, name: str) -> PackedSet:
        """The `train` or `val` set; a copy in memory where it is not all of one file."""
        if name not in self._copies:
            self._copies[name] = self._views[name].packed()
        return self._copies[name]

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
        crystals = self._views["train"]
        rates = crystals.each(
            lambda some: (
                some.num_atoms**self.size_weight * (1 + self.free_weight * free_share(some))
            )
        )
        if self.shares:
            part = crystals.sources()
            rates *= (np.asarray(self.shares) / np.bincount(part, rates))[part]
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
        for one in inputs:
            if not (Path(one).exists() or glob.has_magic(one)):
                raise MissingCrystals(Path(one))
        cache = None if self.cache_dir is None else Path(self.cache_dir)
        progress = sys.stderr.isatty()  # in a log, a progress bar fills pages
        return PackedSet.load(load_or_pack(inputs, cache_dir=cache, progress=progress))

    def _load_shares(self) -> PackedView:
        """The training inputs together; of crystals with one id, the first input's."""
        whole = PackedView.without_repeats([self._load([one]) for one in self.train])
        new = np.bincount(whole.sources(), minlength=len(self.train))
        for one, count in zip(self.train, new, strict=True):
            if not count:
                raise InputError(f"every crystal of {one} is in an input before it; leave it out")
        return whole

    def _tensors(self, name: str) -> CrystalSource:
        if name not in self._sources:
            device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
            self._sources[name] = self.load_tensors(name, device)
        return self._sources[name]

    def load_tensors(self, name: str, device: torch.device) -> CrystalSource:
        """The `train` or `val` set to draw batches from; called once for each.

        For subclasses that add to what a batch carries.
        """
        return self._views[name].tensors(device, properties=self.properties)

    def atoms_range(self) -> tuple[int, int]:
        """Fewest and most atoms in a training crystal."""
        counts = self._views["train"].each(lambda some: some.num_atoms.astype(np.int32))
        return int(counts.min()), int(counts.max())


def several(names: Sequence[str] | str) -> tuple[str, ...]:
    """The names of an option that takes one or a list; an empty one is none."""
    return tuple(filter(None, [names] if isinstance(names, str) else names))


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
