"""Columns of a packed set: numbers, or strings as one buffer with offsets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import overload

import numpy as np
from jaxtyping import Int, UInt8, UInt64

BLOCK = 1 << 16  # rows that are looked at together: what lies in a file does not come into memory


class StringColumn(Sequence[str]):
    """Many strings as one UTF-8 buffer with offsets; reads like a tuple of strings.

    Args:
        data: (bytes,) UTF-8 of all strings, one after another.
        offsets: (rows + 1,) where each begins.
    """

    def __init__(self, data: UInt8[np.ndarray, " bytes"], offsets: Int[np.ndarray, " bounds"]):
        self.data, self.offsets = data, offsets

    @classmethod
    def from_strings(cls, strings: Iterable[str]) -> StringColumn:
        """Pack strings."""
        encoded = [_encoded(text) for text in strings]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets_of(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index = int(index) % len(self)
        raw = self.data[self.offsets[index] : self.offsets[index + 1]]
        return raw.tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for rows in blocks(len(self)):
            for begin, end in pairwise(self.offsets[rows.start : rows.stop + 1].tolist()):
                yield self.data[begin:end].tobytes().decode("utf-8", "surrogateescape")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"StringColumn({len(self)} strings)"

    def select(self, index: Int[np.ndarray, " k"]) -> StringColumn:
        """The strings at `index`."""
        atoms, lengths = gather_index(self.offsets, index)
        return StringColumn(np.asarray(self.data[atoms]), offsets_of(lengths))

    def hashes(self) -> UInt64[np.ndarray, " m"]:
        """64 bits for each string: equal strings have equal ones, others hardly ever."""
        found = (hashlib.blake2b(_encoded(text), digest_size=8).digest() for text in self)
        return np.fromiter((int.from_bytes(x, "little") for x in found), np.uint64, len(self))

    def eight_bytes(self, at: int) -> UInt64[np.ndarray, " m"]:
        """Bytes `at` to `at + 7` of each string as a number that sorts as they do."""
        found = np.zeros(len(self), np.uint64)
        for rows in blocks(len(self)):
            starts = np.asarray(self.offsets[rows]) + at
            left = self.offsets[rows.start + 1 : rows.stop + 1] - starts
            for byte in range(8):
                there = left > byte
                found[rows] <<= np.uint64(8)
                found[rows][there] |= self.data[starts[there] + byte]
        return found


Column = np.ndarray | StringColumn


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def blocks(rows: int) -> Iterator[slice]:
    """All rows, `BLOCK` at a time."""
    for start in range(0, rows, BLOCK):
        yield slice(start, min(start + BLOCK, rows))


def ascending(bounds: np.ndarray) -> bool:
    """Whether no bound is below the one before it."""
    return all(
        bool((np.diff(bounds[rows.start : rows.stop + 1]) >= 0).all())
        for rows in blocks(len(bounds))
    )


def offsets_of(counts: np.ndarray) -> Int[np.ndarray, " bounds"]:
    """Where each group begins, and the total at the end."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def column_of(values: Sequence[float | str | None]) -> Column:
    """A column of numbers, or of strings where any value is a string."""
    if any(isinstance(value, str) for value in values):
        # nan is the only value that differs from itself
        return StringColumn.from_strings("" if v is None or v != v else str(v) for v in values)
    return np.array([np.nan if v is None else v for v in values], np.float64)


def gather_index(
    offsets: np.ndarray, index: Int[np.ndarray, " k"]
) -> tuple[Int[np.ndarray, " total"], Int[np.ndarray, " k"]]:
    """Positions of all members of the groups at `index`, and the sizes of these groups."""
    starts = offsets[:-1][index]
    counts = offsets[1:][index] - starts
    ends = np.cumsum(counts)
    steps = np.arange(ends[-1] if len(ends) else 0)
    return steps + np.repeat(starts - ends + counts, counts), counts


def join_columns(columns: Sequence[Column | None], lengths: Iterable[int]) -> Column:
    """Columns one after another; None stands for as many unknown values as its length says."""
    values: list[float | str | None] = []
    for column, length in zip(columns, lengths, strict=True):
        values.extend([None] * length if column is None else column)
    return column_of(values)
