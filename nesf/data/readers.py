"""Crystals from files of many kinds, parsed in worker processes: one row or one reason each."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf.data.beside import write_rejected
from nesf.data.checks import check_structure
from nesf.data.files import InputFile, search_files
from nesf.data.records import CellChoice, ReadOptions, Rejected, Row, Task
from nesf.data.sources import tasks_of
from nesf.data.workers import Failure, Limits, map_in_workers
from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

__all__ = [
    "CellChoice",
    "ReadOptions",
    "Rejected",
    "Row",
    "check_structure",
    "iter_crystals",
    "read_crystals",
    "unique_id",
    "write_rejected",
]

EVERY = slice(0, None, 1)
_log = logging.getLogger(__name__)


def iter_crystals(
    inputs: Sequence[str | Path] | str | Path,
    options: ReadOptions | None = None,
    progress: bool = True,
    part: slice = EVERY,
) -> Iterator[Row | Rejected]:
    """Read crystals of any known format, in the inputs' order.

    An input is a CIF or POSCAR or a zip of them (every data block is a row); a CSV, CSV.gz or
    Parquet with a `cif` column or with LeMat-Bulk's columns; extended XYZ; JSON or JSON lines of
    pymatgen Structure dicts; a packed set; or a folder or glob pattern of any of these, in which
    files of other kinds are ignored with a warning that names them. All but zips and Parquet may be
    compressed by gzip. Sites come without charges and site properties, CIF sites wrapped into
    [0, 1). The id is `material_id` (`immutable_id`, `id`) or the file's stem, made unique.

    Args:
        inputs: files, folders and patterns.
        options: limits and the choice of cell; the defaults if None.
        progress: show a bar on standard error when it takes more than two seconds.
        part: which of the rows to read; the others are not parsed. It may hold none.

    Yields:
        Rows, and what was rejected, as soon as they are parsed.

    Raises:
        InputError: an input does not exist or is of no known kind (at the call); a file that was
            named cannot be read at all, or nothing holds a crystal (while reading).
    """
    found = search_files([inputs] if isinstance(inputs, (str, Path)) else inputs)
    if part.start == 0 and (told := found.tell_ignored()):  # of many readers the first one tells
        _log.warning(told)
    return _iterate(found.files, options or ReadOptions(), progress, part)


def read_crystals(
    inputs: Sequence[str | Path] | str | Path,
    options: ReadOptions | None = None,
    progress: bool = True,
) -> tuple[list[Row], list[Rejected]]:
    """`iter_crystals`, sorted into rows and rejected rows."""
    rows: list[Row] = []
    rejected: list[Rejected] = []
    for found in iter_crystals(inputs, options, progress):
        if isinstance(found, Row):
            rows.append(found)
        else:
            rejected.append(found)
    return rows, rejected


def _iterate(
    files: list[InputFile], options: ReadOptions, progress: bool, part: slice
) -> Iterator[Row | Rejected]:
    from tqdm import tqdm

    bar = tqdm(
        desc="reading crystals",
        unit=" rows",
        delay=2,
        disable=not progress,
        file=sys.stderr,
        total=len(files) if all(file.kind in ("cif", "poscar") for file in files) else None,
    )
    answers = map_in_workers(
        "nesf.data.parsing:parse",
        islice(_payloads(files, options), part.start, part.stop, part.step),
        config=asdict(options),
        preload=_needed_modules(files),
        workers=options.num_workers,
        limits=Limits(options.timeout_s, options.memory_gib),
    )
    taken: dict[str, int] = {}
    count = 0
    with bar, closing(answers):  # type: ignore[type-var]
        for found, answer in answers:
            count += 1
            bar.update()
            yield found if isinstance(found, Rejected) else _row(found, answer, taken)
    if count == 0 and part == EVERY:
        names = ", ".join(str(file.path) for file in files[:3])
        raise InputError(f"no crystal in {names}{' ...' if len(files) > 3 else ''}")


def _needed_modules(files: list[InputFile]) -> list[str]:
    kinds = {file.kind for file in files}
    modules = {
        "pymatgen.core": kinds,
        "pymatgen.io.cif": {"cif", "csv", "parquet", "zip"},
        "pymatgen.io.vasp.inputs": {"poscar"},
    }
    return [module for module, users in modules.items() if kinds & users]


def _payloads(
    files: list[InputFile], options: ReadOptions
) -> Iterator[tuple[Task | Rejected, dict[str, Any] | None]]:
    for file in files:
        for found in tasks_of(file, options):
            if isinstance(found, Task):
                payload, found.payload = found.payload, {}  # no second copy while it waits
                yield found, payload
            else:
                yield found, None


def _row(task: Task, answer: dict[str, Any] | Failure, taken: dict[str, int]) -> Row | Rejected:
    if isinstance(answer, Failure):
        return Rejected(task.source, task.row, task.id, answer.reason)
    name, notes, renamed_from = unique_id(task.id, taken), tuple(answer["notes"]), None
    if name != task.id:
        notes += (f"the id {task.id} was taken; renamed {name}",)
        renamed_from = task.id
    structure = _structure(answer)
    return Row(name, structure, task.properties, task.source, task.row, notes, renamed_from)


def unique_id(name: str, taken: dict[str, int]) -> str:
    """The name, or the name with the first free -2, -3, ...

    Args:
        name: an id as a file has it.
        taken: remembers the ids that were given out; empty at first.
    """
    unique, count = name, taken.get(name, 0)
    while unique in taken:
        count += 1
        unique = f"{name}-{count + 1}" if count else name
    taken[name] = max(count, taken.get(name, 0))
    taken.setdefault(unique, 0)
    return unique


def _structure(answer: dict[str, Any]) -> Structure:
    from pymatgen.core import Lattice, Structure

    return Structure(Lattice(answer["lattice"]), answer["numbers"], answer["frac"])
