"""Crystals as rows of CSV, frames of extended XYZ, or JSON lines; and where whole ones end."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from nesf.data.cif_text import cif_text
from nesf.data.elements import symbols_by_number
from nesf.data.extxyz import comment_pairs
from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

_CRYSTAL_COLUMNS = ("material_id", "cif")


@runtime_checkable
class Scannable(Protocol):
    """Knows the whole parts of a file, the end of which may be torn."""

    def scan(self, lines: Iterable[str]) -> Iterator[tuple[int, tuple[str, ...] | None]]:
        """The whole parts of an earlier output.

        Args:
            lines: with their newlines; the last may be torn.

        Yields:
            For each whole part, how many lines it has, and its id alone or, in a CSV, its `first`
            columns; None for a header.

        Raises:
            InputError: this is no output of ours.
        """


@runtime_checkable
class RowFormat(Scannable, Protocol):
    """How crystals become text, one after another."""

    def begin(self, info: Sequence[str]) -> str:
        """What stands before the first crystal, whose info has these names."""

    def row(self, name: str, structure: Structure, info: dict[str, Any]) -> str:
        """One crystal, ending in a newline."""


class CsvFormat:
    """Rows of quoted fields; a row may span lines.

    Ids are written exactly, since they are what results are joined by. A spreadsheet program
    evaluates cells that begin with "=", "+", "-" or "@": import such columns as text there.

    Args:
        first: names of the columns before the info columns; the first of them is the id.
        columns: info columns, if known before the first row.
    """

    def __init__(self, first: Sequence[str], columns: Sequence[str] | None = None):
        self.first, self.columns = tuple(first), None if columns is None else tuple(columns)
        self._header: tuple[str, ...] | None = None  # of an earlier output

    def begin(self, info: Sequence[str]) -> str:
        """The header; it fixes the columns."""
        if self.columns is None:
            self.columns = tuple(info)
        return self.line([*self.first, *self.columns])

    def row(self, name: str, structure: Structure, info: dict[str, Any]) -> str:
        """`material_id`, `cif` and the info columns."""
        return self.fields([name, cif_text(structure)], info)

    def fields(self, first: Sequence[str], info: dict[str, Any]) -> str:
        """A row; info that is missing stays empty.

        Raises:
            ValueError: info without a column.
        """
        columns = self.columns or ()
        if unknown := set(info) - set(columns):
            raise ValueError(f"{sorted(unknown)} are not among the columns {list(columns)}")
        return self.line([*first, *(info.get(column) for column in columns)])

    @staticmethod
    def line(values: Sequence[Any]) -> str:
        """One CSV row with every string in quotes."""
        text = io.StringIO(newline="")
        csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerow(
            ["" if value is None else _plain(value) for value in values]
        )
        return text.getvalue()

    def scan(self, lines: Iterable[str]) -> Iterator[tuple[int, tuple[str, ...] | None]]:
        """Rows end where quotes are closed and a newline follows."""
        part: list[str] = []
        quotes = 0
        for line in lines:
            part.append(line)
            quotes += line.count('"')
            if quotes % 2 or not line.endswith("\n"):
                continue
            yield len(part), self._first("".join(part))
            part, quotes = [], 0

    def _first(self, text: str) -> tuple[str, ...] | None:
        values = _csv_fields(text)
        first = tuple(values[: len(self.first)])
        if self._header is not None:
            self.columns = self._header  # of a file with rows; a header alone is written anew
            return first
        if first != self.first:
            raise InputError(f"its header is not {','.join(self.first)}, ...")
        self._header = tuple(values[len(self.first) :])
        return None


class ExtxyzFormat:
    """Frames of extended XYZ with `material_id` and info in the comment line."""

    def begin(self, info: Sequence[str]) -> str:
        """Nothing."""
        return ""

    def row(self, name: str, structure: Structure, info: dict[str, Any]) -> str:
        """One frame."""
        lattice = " ".join(f"{x:.10f}" for x in structure.lattice.matrix.ravel())
        pairs = "".join(
            f" {_xyz_key(key)}={_xyz_value(value)}"
            for key, value in info.items()
            if value is not None
        )
        cart_coords = np.asarray(structure.cart_coords).reshape(-1, 3).tolist()
        atoms = [
            f"{symbols_by_number()[number]} {x:.10f} {y:.10f} {z:.10f}\n"
            for number, (x, y, z) in zip(structure.atomic_numbers, cart_coords, strict=True)
        ]
        return (
            f'{len(atoms)}\nLattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T" '
            f"material_id={_xyz_value(name)}{pairs}\n{''.join(atoms)}"
        )

    def scan(self, lines: Iterable[str]) -> Iterator[tuple[int, tuple[str, ...] | None]]:
        """A frame is its count of atoms, its comment, and as many lines."""
        source = iter(lines)
        for head in source:
            if not head.strip().isdecimal():
                raise InputError("it is no extended XYZ")
            part = [line for _, line in zip(range(int(head) + 1), source, strict=False)]
            if len(part) < int(head) + 1 or not part[-1].endswith("\n"):
                return
            yield len(part) + 1, (comment_pairs(part[0]).get("material_id", ""),)


class JsonlFormat:
    """JSON lines with `material_id`, pymatgen's dict as `structure`, and info beside them."""

    def begin(self, info: Sequence[str]) -> str:
        """Nothing."""
        return ""

    def row(self, name: str, structure: Structure, info: dict[str, Any]) -> str:
        """One line."""
        plain = {key: None if value is None else _plain(value) for key, value in info.items()}
        record = {**plain, "material_id": name, "structure": structure.as_dict()}
        return json.dumps(record) + "\n"

    def scan(self, lines: Iterable[str]) -> Iterator[tuple[int, tuple[str, ...] | None]]:
        """A line is whole if it ends."""
        for line in lines:
            if not line.endswith("\n"):
                return
            try:
                yield 1, (str(json.loads(line)["material_id"]),)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError("it is no JSON lines with a material_id") from error


def _csv_fields(text: str) -> list[str]:
    # not the csv module, whose limit on a field's length is one for the whole process
    fields = re.findall(r'(?:^|,)(?:"((?:[^"]|"")*)"|([^,"\n]*))', text.rstrip("\n"))
    return [quoted.replace('""', '"') or plain for quoted, plain in fields]


def _plain(value: Any) -> str | int | float:
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else str(value)


def _xyz_value(value: Any) -> str:
    plain = _plain(value)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, str) else repr(plain)


def _xyz_key(key: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9_]", "_", key)
    reserved = plain.lower() in ("lattice", "properties", "pbc", "material_id")
    return f"info_{plain}" if reserved or not plain[:1].isalpha() else plain
