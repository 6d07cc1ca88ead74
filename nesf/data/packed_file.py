"""The file of a packed set: which arrays it has, and what their names are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nesf.data.columns import Column, StringColumn, ascending
from nesf.data.container import Spill, read_container, write_container
from nesf.errors import InputError


def read_packed(path: Path, verify: bool, mmap: bool) -> dict[str, Any]:
    """The fields of a `PackedSet`, not yet checked against each other.

    Args:
        path: file with the suffix `.nesf`.
        verify: check the file's sha256 first.
        mmap: leave the arrays on disk until they are touched.

    Raises:
        InputError: the file is missing, foreign, of another version, truncated or damaged.
    """
    arrays, meta = read_container(path, verify=verify, mmap=mmap)
    try:
        properties: dict[str, Column] = {
            column["name"]: (
                StringColumn(arrays[f"property/{i}/utf8"], arrays[f"property/{i}/offsets"])
                if column["kind"] == "string"
                else arrays[f"property/{i}"]
            )
            for i, column in enumerate(meta["properties"])
        }
        return {
            "frac_coords": arrays["frac_coords"],
            "atomic_numbers": arrays["atomic_numbers"],
            "offsets": arrays["offsets"],
            "lattice": arrays["lattice"],
            "ids": StringColumn(arrays["ids/utf8"], arrays["ids/offsets"]),
            "properties": properties,
            "provenance": meta["provenance"],
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not a packed set of crystals; pack it again") from error


def write_packed(
    path: str | Path,
    arrays: Mapping[str, np.ndarray | Spill],
    columns: Mapping[str, np.ndarray | Spill | tuple[np.ndarray | Spill, np.ndarray | Spill]],
    provenance: Mapping[str, Any],
) -> None:
    """Write the file that `read_packed` reads.

    Args:
        path: the file to create or replace.
        arrays: frac_coords, atomic_numbers, offsets, lattice, ids/utf8, ids/offsets.
        columns: properties: numbers, or UTF-8 and offsets of strings.
        provenance: JSON-able.

    Raises:
        InputError: the file cannot be written.
    """
    flat = dict(arrays)
    kinds = []
    for i, (name, column) in enumerate(columns.items()):
        if isinstance(column, tuple):
            kinds.append({"name": name, "kind": "string"})
            flat[f"property/{i}/utf8"], flat[f"property/{i}/offsets"] = column
        else:
            kinds.append({"name": name, "kind": "float"})
            flat[f"property/{i}"] = column
    meta = {"properties": kinds, "provenance": dict(provenance)}
    write_container(Path(path), flat, meta)


def contradiction(
    frac_coords: np.ndarray,
    atomic_numbers: np.ndarray,
    offsets: np.ndarray,
    lattice: np.ndarray,
    ids: StringColumn,
    properties: Mapping[str, Column],
) -> str | None:
    """What in the fields of a packed set contradicts what, or None."""
    rows, total = len(lattice), len(frac_coords)
    tables = [("offsets", offsets, total), ("ids", ids.offsets, len(ids.data))]
    for name, column in properties.items():
        if isinstance(column, StringColumn):
            tables.append((name, column.offsets, len(column.data)))
        elif column.shape != (rows,):
            return f"{rows} crystals, but {name} has the shape {column.shape}"
    for name, bounds, end in tables:
        if bounds.shape != (rows + 1,):
            return f"{rows} crystals, but {name} has the shape {bounds.shape}"
        if bounds[0] != 0 or bounds[-1] != end or not ascending(bounds):
            return f"the bounds of {name} do not ascend from 0 to {end}"
    if frac_coords.shape != (total, 3) or atomic_numbers.shape != (total,):
        return "coordinates and atomic numbers differ in length"
    if lattice.shape != (rows, 3, 3):
        return "lattice is not (M, 3, 3)"
    return None


def refuse_duplicates(ids: Iterable[str]) -> None:
    """Raise an InputError that names the ids that occur more than once."""
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        shown = ", ".join(repeated[:5]) + (", ..." if len(repeated) > 5 else "")
        raise InputError(f"{len(repeated)} ids occur more than once ({shown}); rename the rows")
