"""One record of a table, or one CIF's text, to tasks for the workers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from nesf.data.cif_blocks import split_blocks
from nesf.data.files import InputFile, stem_of
from nesf.data.records import Rejected, Task
from nesf.errors import InputError

MAX_CRYSTAL_MIB = 16  # text of one crystal; 5,000 atoms are about 0.4 MiB
ID_COLUMNS = ("material_id", "immutable_id", "id")
LEMAT_COLUMNS = ("lattice_vectors", "cartesian_site_positions", "species_at_sites")
_MAX_PROPERTY_LENGTH = 256
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|nan|[+-]?inf")

Found = Iterator[Task | Rejected]


def structure_tasks(
    text: str, kind: str, source: str, name: str, properties: dict[str, float | str]
) -> Found:
    """Tasks for a CIF's blocks or a POSCAR.

    Args:
        text: the whole file.
        kind: "cif" or "poscar".
        source: for the reports.
        name: id; of several blocks each gets its own name behind it.
        properties: for each of them.
    """
    blocks = split_blocks(text) if kind == "cif" else [("", text)]
    for i, (block, part) in enumerate(blocks, start=1):
        row, block_name = (i, f"{name}-{block or i}") if len(blocks) > 1 else (None, name)
        if len(part) > MAX_CRYSTAL_MIB * 2**20:
            yield Rejected(source, row, block_name, f"longer than {MAX_CRYSTAL_MIB} MiB")
        else:
            yield Task(source, row, block_name, {kind: part}, properties)


def record_maker(
    file: InputFile, columns: list[str]
) -> Callable[[int, dict[str, Any]], Iterator[Task | Rejected]]:
    """A function from (row number, record) to tasks, for the columns that a table has.

    Raises:
        InputError: no column holds crystals.
    """
    structure = next((name for name in ("cif", "structure") if name in columns), None)
    lemat = all(name in columns for name in LEMAT_COLUMNS)
    if structure is None and not lemat:
        shown = ", ".join(_one_line(name) for name in columns[:8]) or "nothing"
        raise InputError(
            f"{file.path} has no cif column (it has {shown}); name the column of CIF texts cif"
        )
    id_column = next((name for name in ID_COLUMNS if name in columns), None)
    used = {id_column, "cif", "structure", *LEMAT_COLUMNS}
    stem, source = stem_of(file.path), str(file.path)

    def make(number: int, record: dict[str, Any]) -> Iterator[Task | Rejected]:
        value = record.get(id_column) if id_column else None
        name = "" if value is None else str(value).strip()
        name = name or f"{stem}-{number}"
        properties = scalar_properties({k: v for k, v in record.items() if k not in used})
        if structure is None:
            keys = ("lattice", "cart", "species")
            payload = {key: record.get(c) for key, c in zip(keys, LEMAT_COLUMNS, strict=True)}
            yield Task(source, number, name, payload, properties)
            return
        value = record.get(structure)
        if value is None or value == "":
            yield Rejected(source, number, name, f"the {structure} column is empty")
        elif structure == "structure":
            yield Task(source, number, name, {"structure": value}, properties)
        else:
            for found in structure_tasks(str(value), "cif", source, name, properties):
                yield replace(found, row=number)

    return make


def scalar_properties(record: dict[str, Any]) -> dict[str, float | str]:
    """The numbers and short strings of a record.

    Text that is written as a number becomes one; "NaN" and "InF" stay the formulas they may be.
    """
    properties: dict[str, float | str] = {}
    for name, value in record.items():
        if not name or value is None or name.startswith("Unnamed:"):
            continue
        if isinstance(value, str):
            value = value.strip()
            if not value or len(value) > _MAX_PROPERTY_LENGTH:
                continue
            if _NUMBER.fullmatch(value):
                value = float(value)
        elif isinstance(value, (bool, int, float)):
            try:
                value = float(value)
            except OverflowError:
                value = math.inf
        else:
            continue
        properties[name] = value
    return properties


def _one_line(name: str) -> str:
    """A column's name as far as it goes into a sentence: a damaged header holds anything."""
    return "".join(c if c.isprintable() else " " for c in name[:30])
