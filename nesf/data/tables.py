"""Tables and multi-crystal files to tasks: CSV, Parquet, JSON, JSON lines, extended XYZ, packed."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import islice
from typing import Any

from nesf.data.entries import (
    ID_COLUMNS,
    LEMAT_COLUMNS,
    Found,
    record_maker,
    scalar_properties,
)
from nesf.data.extxyz import comment_pairs
from nesf.data.files import DAMAGED, InputFile, TooLargeError, decode, open_file, stem_of
from nesf.data.records import ReadOptions, Rejected, Task
from nesf.errors import InputError

MAX_FIELD_MIB = 64  # a longer CSV field or line ends the file


def read_csv(file: InputFile, options: ReadOptions) -> Found:
    """A CSV with a header, compressed by gzip or not."""
    with open_file(file.path, options.max_file_mib) as stream:
        text = TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")
        reader = csv.reader(text)
        rows = _csv_rows(reader)
        header = [name.strip() for name in next(rows, [])]
        make = record_maker(file, header)
        for number, values in enumerate(rows, start=1):
            if not values:
                continue
            if len(values) != len(header):
                reason = f"{len(values)} columns where the header has {len(header)}"
                yield Rejected(str(file.path), number, None, reason)
                continue
            yield from make(number, dict(zip(header, values, strict=True)))


def _csv_rows(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    """The reader's rows, with room for a large CIF in a field."""
    fault: Exception | None = None
    while fault is None:
        rows = []
        with _long_fields():
            try:
                for row in islice(reader, 256):
                    rows.append(row)
            except csv.Error as error:
                fault = InputError(f"a row is not readable ({error})")
            except (OSError, TooLargeError, *DAMAGED) as error:
                fault = error
        if not rows and fault is None:
            return
        yield from rows
    raise fault


@contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module's limit is one for the whole process: raise it only while reading."""
    before = csv.field_size_limit(MAX_FIELD_MIB * 2**20)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def read_parquet(file: InputFile, options: ReadOptions) -> Found:
    """A Parquet file, 256 rows at a time; columns of lists that nobody needs are not touched."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file.path)
        make = record_maker(file, table.schema_arrow.names)
        kept = [column.name for column in table.schema_arrow if _is_kept(column)]
        number = 0
        for batch in table.iter_batches(batch_size=256, columns=kept):
            for record in batch.to_pylist():
                number += 1
                yield from make(number, record)
    except pa.ArrowException as error:
        raise InputError(
            f"{file.path} is not a readable Parquet file ({' '.join(str(error).split())[:200]})"
        ) from error


def _is_kept(column: Any) -> bool:
    import pyarrow.types as types

    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    return (
        column.name in (*ID_COLUMNS, *LEMAT_COLUMNS, "cif", "structure")
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_floating(kind)
        or types.is_integer(kind)
        or types.is_boolean(kind)
    )


def read_json(file: InputFile, options: ReadOptions) -> Found:
    """One JSON document: a Structure dict, a list or mapping of them, or records."""
    with open_file(file.path, options.max_file_mib, whole=True) as stream:
        text = decode(stream.read())
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.path} is not readable JSON ({error})") from error
    stem = stem_of(file.path)
    if _is_structure(document):
        yield Task(str(file.path), None, stem, {"structure": document})
        return
    if isinstance(document, dict) and _is_record(document):
        document = [document]
    if isinstance(document, dict):
        entries = [(str(key), value) for key, value in document.items()]
    elif isinstance(document, list):
        entries = [(f"{stem}-{i}", value) for i, value in enumerate(document, start=1)]
    else:
        entries = []
    if not any(_is_structure(value) or _is_record(value) for _, value in entries):
        raise InputError(
            f"{file.path} holds no crystal; give pymatgen Structure dicts, a list or a mapping of "
            "them, or records with a structure"
        )
    for number, (name, value) in enumerate(entries, start=1):
        yield from _json_tasks(file, number, name, value)


def read_jsonl(file: InputFile, options: ReadOptions) -> Found:
    """JSON lines: a Structure dict or a record each."""
    stem = stem_of(file.path)
    with open_file(file.path, options.max_file_mib) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            text = decode(line)
            if not text.strip():
                continue
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                yield Rejected(str(file.path), number, None, f"not readable JSON ({error})"[:300])
                continue
            yield from _json_tasks(file, number, f"{stem}-{number}", value)


def _json_tasks(file: InputFile, number: int, name: str, value: Any) -> Found:
    if _is_structure(value):
        yield Task(str(file.path), number, name, {"structure": value})
    elif isinstance(value, dict) and _is_record(value):
        if not any(column in value for column in ID_COLUMNS):
            value = {**value, "id": name}
        yield from record_maker(file, list(value))(number, value)
    else:
        yield Rejected(str(file.path), number, name, "no pymatgen Structure, and none in it")


def _is_structure(value: Any) -> bool:
    return isinstance(value, dict) and "lattice" in value and "sites" in value


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and (
        "structure" in value or "cif" in value or all(name in value for name in LEMAT_COLUMNS)
    )


def _lines(stream: Any) -> Iterator[bytes]:
    while line := stream.readline(MAX_FIELD_MIB * 2**20):
        if len(line) == MAX_FIELD_MIB * 2**20:
            raise TooLargeError(f"a line is longer than {MAX_FIELD_MIB} MiB")
        yield line


def read_extxyz(file: InputFile, options: ReadOptions) -> Found:
    """Extended XYZ, frame by frame."""
    stem, source = stem_of(file.path), str(file.path)
    with open_file(file.path, options.max_file_mib) as stream:
        lines = (decode(line).rstrip("\r\n") for line in _lines(stream))
        number = 0
        for line in lines:
            if not line.strip():
                continue
            number += 1
            if not line.strip().isdecimal() or len(line.strip()) > 9:
                raise InputError(f"{source}: frame {number} begins with no count of atoms")
            count = int(line)
            head = [line, next(lines, "")]
            # atoms of a hopeless frame are passed over, not kept
            keep = count <= 64 * options.max_atoms
            atoms = [atom for _, atom in zip(range(count), lines, strict=False) if keep]
            pairs = comment_pairs(head[1])
            name = next((pairs[key] for key in ID_COLUMNS if pairs.get(key)), f"{stem}-{number}")
            if not keep:
                reason = f"{count} atoms in the cell, more than the {options.max_atoms} allowed"
                yield Rejected(source, number, name, reason)
            elif len(atoms) < count:
                yield Rejected(source, number, name, f"ends after {len(atoms)} of {count} atoms")
            else:
                known = {"lattice", "properties", "pbc", *ID_COLUMNS}
                info = {k: v for k, v in pairs.items() if k.lower() not in known}
                payload = {"extxyz": "\n".join([*head, *atoms])}
                yield Task(source, number, name, payload, scalar_properties(info))


def read_packed(file: InputFile, options: ReadOptions) -> Found:
    """A packed set."""
    from nesf.data.packed import PackedSet

    packed = PackedSet.load(file.path)
    bounds = packed.offsets.tolist()
    for i, name in enumerate(packed.ids):
        atoms = slice(bounds[i], bounds[i + 1])
        payload = {
            "lattice": packed.lattice[i].tolist(),
            "species": packed.atomic_numbers[atoms].tolist(),
            "frac": packed.frac_coords[atoms].tolist(),
            "periodic": packed.periodic,
        }
        record = {key: column[i] for key, column in packed.properties.items()}
        record = {k: v if isinstance(v, str) else float(v) for k, v in record.items()}
        yield Task(
            str(file.path), i + 1, name, payload, {k: v for k, v in record.items() if v != ""}
        )
