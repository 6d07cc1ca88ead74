"""`PackedWriter`: a packed set that grows on disk, in constant memory."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from nesf.data.columns import Column, StringColumn, column_of
from nesf.data.container import Spill
from nesf.data.packed_file import refuse_duplicates, write_packed
from nesf.data.packed_set import PackedSet
from nesf.errors import InputError

if TYPE_CHECKING:
    from nesf.data.readers import Row


class PackedWriter:
    """Write a packed set chunk by chunk; the file appears when the `with` block ends well.

    Until then the arrays lie in nameless temporary files of the output's folder, which a killed
    process leaves no trace of.

    Args:
        path: the file to create or replace.
        provenance: where the crystals come from, JSON-able; may be changed until the end.

    Raises:
        InputError: the folder cannot be written.
    """

    def __init__(self, path: str | Path, provenance: Mapping[str, Any] | None = None):
        self.path = Path(path)
        self.provenance: dict[str, Any] = dict(provenance or {})
        self._open: list[Spill] = []
        self._properties: dict[str, Spill | tuple[Spill, Spill]] = {}
        self._id_hashes = array("Q")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._frac_coords = self._spill("<f8", (3,))
            self._atomic_numbers = self._spill("|u1")
            self._offsets = self._spill("<i8")
            self._lattice = self._spill("<f8", (3, 3))
            self._ids = self._string_spill()
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error
        self._offsets.append(np.zeros(1, np.int64))

    def __len__(self) -> int:
        return self._lattice.rows

    def __enter__(self) -> PackedWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for spill in self._open:
                spill.close()

    def append(self, rows: Sequence[Row]) -> None:
        """Add parsed crystals; a few hundred at a time is quick."""
        self.extend(PackedSet.from_rows(rows))

    def extend(self, packed: PackedSet) -> None:
        """Add the crystals of a packed set.

        Raises:
            InputError: the disk is full.
        """
        try:
            self._extend(packed)
        except OSError as error:
            raise InputError(f"cannot write {self.path}: {error.strerror or error}") from error

    def _extend(self, packed: PackedSet) -> None:
        rows_before = len(self)
        self._offsets.append(packed.offsets[1:] + self._frac_coords.rows)
        self._frac_coords.append(packed.frac_coords)
        self._atomic_numbers.append(packed.atomic_numbers)
        self._lattice.append(packed.lattice)
        _append_strings(self._ids, packed.ids)
        self._id_hashes.frombytes(packed.ids.hashes().tobytes())
        for name in packed.properties:
            if name in self._properties:
                continue
            if isinstance(packed.properties[name], StringColumn):
                strings = self._properties[name] = self._string_spill()
                strings[1].append(np.zeros(rows_before, np.int64))
            else:
                numbers = self._properties[name] = self._spill("<f8")
                numbers.append(np.full(rows_before, np.nan))
        for name in self._properties:
            column = packed.properties.get(name)
            self._append_column(name, np.full(len(packed), np.nan) if column is None else column)

    def _append_column(self, name: str, column: Column) -> None:
        spill = self._properties[name]
        if isinstance(spill, Spill) and isinstance(column, np.ndarray):
            spill.append(column)
            return
        if isinstance(spill, Spill):  # numbers so far, and now a string
            strings = self._string_spill()
            for chunk in spill.chunks():
                _append_strings(strings, _as_strings(chunk))
            spill = self._properties[name] = strings
        _append_strings(spill, _as_strings(column))

    def _finish(self) -> None:
        hashes = np.frombuffer(self._id_hashes, np.uint64) if self._id_hashes else np.zeros(0)
        if len(np.unique(hashes)) < len(hashes):
            refuse_duplicates(_read_strings(self._ids))
        arrays = {
            "frac_coords": self._frac_coords,
            "atomic_numbers": self._atomic_numbers,
            "offsets": self._offsets,
            "lattice": self._lattice,
            "ids/utf8": self._ids[0],
            "ids/offsets": self._ids[1],
        }
        write_packed(self.path, arrays, self._properties, self.provenance)

    def _spill(self, dtype: str, columns: tuple[int, ...] = ()) -> Spill:
        spill = Spill(self.path.parent, dtype, columns)
        self._open.append(spill)
        return spill

    def _string_spill(self) -> tuple[Spill, Spill]:
        utf8, offsets = self._spill("|u1"), self._spill("<i8")
        offsets.append(np.zeros(1, np.int64))
        return utf8, offsets


def _append_strings(spill: tuple[Spill, Spill], column: StringColumn) -> None:
    utf8, offsets = spill
    offsets.append(column.offsets[1:] + utf8.rows)
    utf8.append(column.data)


def _read_strings(spill: tuple[Spill, Spill]) -> StringColumn:
    utf8, offsets = (np.concatenate([*s.chunks(), np.zeros(0, s.dtype)]) for s in spill)
    return StringColumn(utf8, offsets)


def _as_strings(column: Column) -> StringColumn:
    if isinstance(column, StringColumn):
        return column
    strings = column_of(["", *column.tolist()])  # the string makes it a column of strings
    assert isinstance(strings, StringColumn)
    return strings.select(np.arange(1, len(strings)))
