"""`PackedSet`: many crystals as a few flat arrays, in memory or memory-mapped from one file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.data.columns import (
    Column,
    StringColumn,
    blocks,
    column_of,
    gather_index,
    join_columns,
    offsets_of,
)
from nesf.data.packed_file import contradiction, read_packed, refuse_duplicates, write_packed
from nesf.data.packed_tensors import PackedTensors
from nesf.errors import InputError

if TYPE_CHECKING:
    from nesf.data.readers import Row

Index = Sequence[int] | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class PackedSet:
    """M crystals with T atoms in all, crystal after crystal.

    Attributes:
        frac_coords: (T, 3) fractional coordinates.
        atomic_numbers: (T,) atomic numbers Z.
        offsets: (M + 1,) where each crystal's atoms begin; the last is T.
        lattice: (M, 3, 3) cell vectors as rows, Å.
        ids: M identifiers, all different.
        properties: columns of M numbers (NaN where unknown) or strings ("" where unknown).
        provenance: where the crystals come from, JSON-able.
    """

    frac_coords: Float[np.ndarray, "total 3"]
    atomic_numbers: UInt8[np.ndarray, " total"]
    offsets: Int[np.ndarray, " bounds"]
    lattice: Float[np.ndarray, "m 3 3"]
    ids: StringColumn
    properties: Mapping[str, Column] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lattice)

    @property
    def num_atoms(self) -> Int[np.ndarray, " m"]:
        """Atoms in each crystal."""
        return np.diff(self.offsets)

    @property
    def periodic(self) -> bool:
        """Whether these are crystals, and not boxes that `nesf data boxes` wrote."""
        origins = self.provenance.get("parts") or [self.provenance]  # of a joined set
        return any(origin.get("periodic", True) for origin in origins)

    @staticmethod
    def load(path: str | Path, mmap: bool = True, verify: bool = True) -> PackedSet:
        """Open a packed set.

        Args:
            path: file with the suffix `.nesf`.
            mmap: leave the arrays on disk until they are touched.
            verify: check the file's sha256 first (reads the file once, in constant memory).

        Raises:
            InputError: the file is missing, foreign, of another version, truncated or damaged.
        """
        path = Path(path)
        packed = PackedSet(**read_packed(path, verify, mmap))
        if fault := packed._fault():
            raise InputError(f"{path} is damaged ({fault}); pack it again from its sources")
        return packed

    def save(self, path: str | Path) -> None:
        """Write one file, atomically; the same set gives the same bytes.

        Raises:
            InputError: two crystals have one id, or the file cannot be written.
        """
        self.verify()
        arrays = {
            "frac_coords": self.frac_coords,
            "atomic_numbers": self.atomic_numbers,
            "offsets": self.offsets,
            "lattice": self.lattice,
            "ids/utf8": self.ids.data,
            "ids/offsets": self.ids.offsets,
        }
        columns = {
            name: (column.data, column.offsets)
            if isinstance(column, StringColumn)
            else column.astype(np.float64, copy=False)
            for name, column in self.properties.items()
        }
        write_packed(path, arrays, columns, self.provenance)

    def verify(self) -> None:
        """Check that the arrays belong together and that no id occurs twice.

        Raises:
            InputError: they do not.
        """
        if fault := self._fault():
            raise InputError(f"the packed set is inconsistent: {fault}")
        refuse_duplicates(self.ids)

    def _fault(self) -> str | None:
        """What contradicts what, or None."""
        return contradiction(
            self.frac_coords,
            self.atomic_numbers,
            self.offsets,
            self.lattice,
            self.ids,
            self.properties,
        )

    def batch(self, index: Index, dtype: torch.dtype = torch.float32) -> CrystalBatch:
        """The crystals at `index` as a padded batch.

        Args:
            index: K positions, in any order.
            dtype: of coordinates and lattice.
        """
        index = _as_index(index)
        atoms, counts = gather_index(self.offsets, index)
        return CrystalBatch.from_flat(
            torch.from_numpy(self.frac_coords[atoms]).to(dtype),
            torch.from_numpy(self.atomic_numbers[atoms].astype(np.int64)),
            torch.from_numpy(counts),
            torch.from_numpy(self.lattice[index]).to(dtype),
            [self.ids[i] for i in index.tolist()],
        )

    def tensors(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        properties: Sequence[str] = (),
    ) -> PackedTensors:
        """The whole set as flat tensors on a device, to draw batches from without a copy there.

        Args:
            device: where they go.
            dtype: of everything that is no integer.
            properties: columns of numbers to take along.

        Raises:
            InputError: there is no such column of numbers.
        """
        return PackedTensors(
            frac_coords=torch.tensor(self.frac_coords, dtype=dtype, device=device),
            atomic_numbers=torch.tensor(self.atomic_numbers, dtype=torch.uint8, device=device),
            offsets=torch.tensor(self.offsets, dtype=torch.int64, device=device),
            lattice=torch.tensor(self.lattice, dtype=dtype, device=device),
            ids=self.ids,
            properties={
                name: torch.tensor(self.numbers(name), dtype=dtype, device=device)
                for name in properties
            },
        )

    def numbers(self, name: str) -> Float[np.ndarray, " m"]:
        """A property of all crystals, NaN where unknown.

        Raises:
            InputError: there is no such column, or it holds text.
        """
        column = self.properties.get(name)
        if column is None or isinstance(column, StringColumn):
            numeric = [k for k, v in self.properties.items() if not isinstance(v, StringColumn)]
            known = ", ".join(numeric) if numeric else "none"
            raise InputError(
                f"the crystals have no property {name}; they have these columns of numbers: {known}"
            )
        return column

    def select(self, index: Index) -> PackedSet:
        """The crystals at `index` (positions, or a mask over all)."""
        index = _as_index(index)
        atoms, counts = gather_index(self.offsets, index)
        return PackedSet(
            frac_coords=self.frac_coords[atoms],
            atomic_numbers=self.atomic_numbers[atoms],
            offsets=offsets_of(counts),
            lattice=self.lattice[index],
            ids=self.ids.select(index),
            properties={
                name: column.select(index) if isinstance(column, StringColumn) else column[index]
                for name, column in self.properties.items()
            },
            provenance=self.provenance,
        )

    def blocks(self) -> Iterator[PackedSet]:
        """The crystals in order, some at a time, not copied, without their properties."""
        for rows in blocks(len(self)):
            bounds = self.offsets[rows.start : rows.stop + 1]
            atoms = slice(int(bounds[0]), int(bounds[-1]))
            names = StringColumn(self.ids.data, self.ids.offsets[rows.start : rows.stop + 1])
            yield PackedSet(
                frac_coords=self.frac_coords[atoms],
                atomic_numbers=self.atomic_numbers[atoms],
                offsets=bounds - bounds[0],
                lattice=self.lattice[rows],
                ids=names,
            )

    def positions(self, ids: Iterable[str]) -> Int[np.ndarray, " k"]:
        """Where the crystals with these ids are.

        Raises:
            InputError: an id is not in the set.
        """
        wanted = list(ids)
        where = {name: i for i, name in enumerate(self.ids)}
        missing = [name for name in wanted if name not in where]
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise InputError(f"{len(missing)} of {len(wanted)} ids are not in the set: {shown}")
        return np.fromiter((where[name] for name in wanted), np.int64, len(wanted))

    @staticmethod
    def join(sets: Sequence[PackedSet]) -> PackedSet:
        """One set of several, in order; properties that a set lacks are unknown there.

        Raises:
            InputError: two crystals have one id, or nothing was given.
        """
        if not sets:
            raise InputError("no packed sets were given to join")
        names = list(dict.fromkeys(name for part in sets for name in part.properties))
        joined = PackedSet(
            frac_coords=np.concatenate([part.frac_coords for part in sets]),
            atomic_numbers=np.concatenate([part.atomic_numbers for part in sets]),
            offsets=offsets_of(np.concatenate([part.num_atoms for part in sets])),
            lattice=np.concatenate([part.lattice for part in sets]),
            ids=StringColumn.from_strings(name for part in sets for name in part.ids),
            properties={
                name: join_columns([part.properties.get(name) for part in sets], map(len, sets))
                for name in names
            },
            provenance=sets[0].provenance if len(sets) == 1 else {"joined": len(sets)},
        )
        joined.verify()
        return joined

    @staticmethod
    def from_rows(rows: Sequence[Row], provenance: Mapping[str, Any] | None = None) -> PackedSet:
        """Pack parsed crystals (anything with `.id`, `.structure` and `.properties`)."""
        structures = [row.structure for row in rows]
        names = dict.fromkeys(name for row in rows for name in row.properties)
        return PackedSet(
            frac_coords=np.concatenate(
                [np.zeros((0, 3)), *(np.asarray(s.frac_coords).reshape(-1, 3) for s in structures)]
            ),
            atomic_numbers=np.array([z for s in structures for z in s.atomic_numbers], np.uint8),
            offsets=offsets_of(np.array([len(s) for s in structures], np.int64)),
            lattice=np.array([s.lattice.matrix for s in structures]).reshape(-1, 3, 3),
            ids=StringColumn.from_strings(row.id for row in rows),
            properties={
                name: column_of([row.properties.get(name) for row in rows]) for name in names
            },
            provenance=dict(provenance or {}),
        )

    @staticmethod
    def from_batch(
        crystals: CrystalBatch, provenance: Mapping[str, Any] | None = None
    ) -> PackedSet:
        """Pack a padded batch."""
        mask = crystals.mask.cpu()
        return PackedSet(
            frac_coords=crystals.frac_coords.detach().cpu().double()[mask].numpy(),
            atomic_numbers=crystals.atomic_numbers.cpu()[mask].numpy().astype(np.uint8),
            offsets=offsets_of(crystals.num_atoms.cpu().numpy()),
            lattice=crystals.lattice.detach().cpu().double().numpy(),
            ids=StringColumn.from_strings(crystals.ids),
            provenance=dict(provenance or {}),
        )


def _as_index(index: Index) -> Int[np.ndarray, " k"]:
    array = index.cpu().numpy() if isinstance(index, Tensor) else np.asarray(index)
    return np.flatnonzero(array) if array.dtype == bool else array.astype(np.int64)
