"""Some crystals of some packed sets, which stay where they are: in mapped files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.data.packed_set import PackedSet
from nesf.data.packed_tensors import PackedTensors
from nesf.data.splits import split_positions

_OF_FREE = 4  # a set goes to a GPU if it takes no more than this part of its free memory


@dataclass(frozen=True, eq=False)
class PackedView:
    """M crystals of one packed set or of several, in an order.

    Attributes:
        sets: where they are.
        index: (M,) which they are, counted through all sets; None for all of them in order.
    """

    sets: tuple[PackedSet, ...]
    index: Int[np.ndarray, " m"] | None = None

    def __len__(self) -> int:
        return sum(map(len, self.sets)) if self.index is None else len(self.index)

    @staticmethod
    def without_repeats(sets: Sequence[PackedSet]) -> PackedView:
        """The crystals of several sets; of those with one id, the first set's.

        It takes 40 bytes a crystal for a while, and keeps 4 where there are any repeats.
        """
        hashes = [one.ids.hashes() if len(sets) > 1 else np.zeros(0, np.uint64) for one in sets]
        kept = [np.ones(len(one), bool) for one in sets]
        for i in range(1, len(sets)):
            # hashes tell which ids to look at
            again = np.isin(hashes[i], np.concatenate(hashes[:i]))
            seen: set[str] = set()
            for one, known in zip(sets[:i], hashes[:i], strict=True):
                seen.update(one.ids.select(np.flatnonzero(np.isin(known, hashes[i][again]))))
            repeats = sets[i].ids.select(np.flatnonzero(again))
            kept[i][again] = [name not in seen for name in repeats]
        mask = np.concatenate(kept)
        return PackedView(tuple(sets), None if mask.all() else _compact(np.flatnonzero(mask)))

    @property
    def bounds(self) -> Int[np.ndarray, " bounds"]:
        """Where each set begins, and the total at the end."""
        return np.cumsum([0, *map(len, self.sets)])

    def sources(self) -> Int[np.ndarray, " m"]:
        """Which of the sets each crystal is of."""
        owner = np.repeat(np.arange(len(self.sets), dtype=np.int32), np.diff(self.bounds))
        return owner if self.index is None else owner[self.index]

    def split(self, fractions: Mapping[str, float], seed: int) -> dict[str, PackedView]:
        """Parts by the rule of `split_ids`, each in the order of its ids; 4 bytes a crystal.

        Args:
            fractions: of each part, by name; they sum to 1.
            seed: of the rule.

        Raises:
            InputError: an id occurs twice.
        """
        parts = split_positions([one.ids for one in self.sets], fractions, seed, self.index)
        return {name: replace(self, index=_compact(index)) for name, index in parts.items()}

    def each(self, number: Callable[[PackedSet], np.ndarray]) -> np.ndarray:
        """(M,) a number of each crystal, found some crystals at a time."""
        found = np.concatenate([number(some) for one in self.sets for some in one.blocks()])
        return found if self.index is None else found[self.index]

    def packed(self) -> PackedSet:
        """The crystals as one set: a file's own if it is all of it, else a copy in memory."""
        if self.index is None:
            return self.sets[0] if len(self.sets) == 1 else PackedSet.join(self.sets)
        if len(self.sets) == 1:
            return self.sets[0].select(self.index)
        # set after set, and then in the view's order
        owner, bounds = self.sources(), self.bounds
        parts = [one.select(self.index[owner == i] - bounds[i]) for i, one in enumerate(self.sets)]
        return PackedSet.join(parts).select(_inverse(np.argsort(owner, kind="stable")))

    def tensors(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        properties: Sequence[str] = (),
    ) -> PackedTensors | MappedCrystals:
        """The crystals to draw batches from: on a GPU that has room for them, else in their files.

        Args:
            device: where batches go.
            dtype: of everything that is no integer.
            properties: columns of numbers that batches carry.

        Raises:
            InputError: there is no such column of numbers.
        """
        device = torch.device(device)
        if device.type == "cpu" or not self._fits(device, dtype):
            columns = {name: self._columns(name) for name in properties}
            return MappedCrystals(self, columns, device, dtype)
        return self.packed().tensors(device, dtype, properties)

    def _fits(self, device: torch.device, dtype: torch.dtype) -> bool:
        if device.type != "cuda":
            return True
        size = torch.empty((), dtype=dtype).element_size()
        taken = sum(
            len(s.frac_coords) * (3 * size + 1) + len(s) * (9 * size + 8) for s in self.sets
        )
        return taken <= torch.cuda.mem_get_info(device)[0] // _OF_FREE

    def _columns(self, name: str) -> tuple[np.ndarray | None, ...]:
        """A property in each set, None where a set lacks it and another has it."""
        having = [name in one.properties for one in self.sets]
        if not any(having):
            self.sets[0].numbers(name)  # which raises
        return tuple(
            one.numbers(name) if has else None for one, has in zip(self.sets, having, strict=True)
        )


@dataclass(frozen=True, eq=False)
class MappedCrystals:
    """A view to draw training batches from: of the crystals, only those drawn come into memory.

    Attributes:
        view: the crystals.
        columns: by name, the numbers that batches carry, for each set.
        device: where batches go.
        dtype: of everything that is no integer.
    """

    view: PackedView
    columns: Mapping[str, tuple[np.ndarray | None, ...]]
    device: torch.device
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.view)

    def batch(self, index: Int[Tensor, " k"]) -> CrystalBatch:
        """The crystals at `index` as a padded batch, gathered from the files."""
        chosen = index.cpu().numpy()
        if self.view.index is not None:
            chosen = self.view.index[chosen]
        bounds = self.view.bounds
        owner = np.searchsorted(bounds, chosen, side="right") - 1
        order = np.argsort(owner, kind="stable")
        parts = [
            self._part(i, chosen[owner == i] - bounds[i])
            for i in (np.unique(owner).tolist() or [0])
        ]
        crystals = parts[0] if len(parts) == 1 else _joined(parts).select(_inverse(order).tolist())
        return crystals if self.device.type == "cpu" else crystals.to(self.device)

    def _part(self, number: int, index: Int[np.ndarray, " k"]) -> CrystalBatch:
        """Crystals of one of the sets, on the CPU."""
        crystals = self.view.sets[number].batch(index, self.dtype)
        if not self.columns:
            return crystals
        known = {name: columns[number] for name, columns in self.columns.items()}
        values = {
            name: np.full(len(index), np.nan) if column is None else column[index]
            for name, column in known.items()
        }
        return crystals.replace(
            properties={name: torch.tensor(v, dtype=self.dtype) for name, v in values.items()}
        )


def _joined(parts: Sequence[CrystalBatch]) -> CrystalBatch:
    """Batches one after another."""
    whole = CrystalBatch.from_flat(
        torch.cat([part.frac_coords[part.mask] for part in parts]),
        torch.cat([part.atomic_numbers[part.mask] for part in parts]),
        torch.cat([part.num_atoms for part in parts]),
        torch.cat([part.lattice for part in parts]),
        [name for part in parts for name in part.ids],
    )
    names = parts[0].properties
    return whole.replace(
        properties={name: torch.cat([part.properties[name] for part in parts]) for name in names}
    )


def _inverse(order: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    return np.argsort(order, kind="stable")


def _compact(index: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
    """In 4 bytes each, if they are few enough for that."""
    fits = not len(index) or int(index.max()) <= np.iinfo(np.int32).max
    return index.astype(np.int32 if fits else np.int64)
