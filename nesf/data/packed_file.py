"""The file of a packed set: which arrays it has, and what their names are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nesf.data.columns import Column, StringColumn
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


def refuse_duplicates(ids: Iterable[str]) -> None:
    """Raise an InputError that names the ids that occur more than once."""
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        shown = ", ".join(repeated[:5]) + (", ..." if len(repeated) > 5 else "")
        raise InputError(f"{len(repeated)} ids occur more than once ({shown}); rename the rows")
