"""What a reader hands out: a crystal, or the reason why there is none; and its options."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

CellChoice = Literal["as-given", "conventional", "primitive"]


@dataclass(frozen=True)
class Row:
    """One crystal that passed the checks.

    Attributes:
        id: unique among the rows that were read together.
        structure: ordered, neutral, without site properties; its atoms stand in the file's order.
        properties: the scalar columns beside it.
        source: the file (`file.zip/member` in a zip).
        row: its row, data block or frame there, from 1; None where the file holds one crystal.
        notes: what was mended or guessed while reading it.
        renamed_from: its id in the file, where a row before it has that one; else None.
    """

    id: str
    structure: Structure
    properties: dict[str, float | str]
    source: str
    row: int | None = None
    notes: tuple[str, ...] = ()
    renamed_from: str | None = None

    @property
    def id_in_file(self) -> str:
        """The id before it was made unique."""
        return self.id if self.renamed_from is None else self.renamed_from


@dataclass(frozen=True)
class Rejected:
    """One row, block, frame or file that gave no crystal.

    Attributes:
        source: the file.
        row: as in `Row`; None where the whole file is meant.
        id: its identifier, where that much could be read.
        reason: one line.
    """

    source: str
    row: int | None
    id: str | None
    reason: str


@dataclass(frozen=True)
class ReadOptions:
    """How crystals are read and what is refused.

    Attributes:
        cell: the cell as given, or the standardised conventional or primitive one (by moyopy,
            symprec 0.01 Å; both are symmetrised and may be turned).
        max_atoms: largest number of atoms in a cell.
        max_atomic_number: largest atomic number Z.
        min_distance: smallest distance between two atoms, images included, Å.
        workers: parsing processes; by default one a core, at most 16.
        timeout_s: time for one row, s.
        memory_gib: address space of one worker, GiB.
        max_file_mib: largest expanded size of a compressed file, of a file that is read as a
            whole (JSON), and of a zip's members together, MiB.
    """

    cell: CellChoice = "as-given"
    max_atoms: int = 500
    max_atomic_number: int = 94  # nesf.crystal.MAX_ATOMIC_NUMBER, without importing torch
    min_distance: float = 0.5
    workers: int | None = None
    timeout_s: float = 60.0
    memory_gib: float = 4.0
    max_file_mib: float = 1024.0

    def __post_init__(self) -> None:
        if self.cell not in get_args(CellChoice):
            raise InputError(f"cell is {self.cell!r}; choose as-given, conventional or primitive")
        for name in ("max_atoms", "timeout_s", "memory_gib", "max_file_mib"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 1 <= self.max_atomic_number <= 118:
            raise InputError(f"max_atomic_number is {self.max_atomic_number}; give 1 to 118")
        if not self.min_distance >= 0:
            raise InputError(f"min_distance is {self.min_distance} Å; it must not be negative")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers is {self.workers}; give at least 1")

    @property
    def num_workers(self) -> int:
        """Parsing processes to use."""
        if self.workers is not None:
            return self.workers
        return min(usable_cores(), 16)


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass
class Task:
    """One crystal that is still text or plain lists, on its way to a worker.

    Attributes:
        source: as in `Row`.
        row: as in `Row`.
        id: not yet unique.
        payload: what `nesf.data.parsing.parse` takes, JSON-able.
        properties: as in `Row`.
    """

    source: str
    row: int | None
    id: str
    payload: dict[str, Any]
    properties: dict[str, float | str] = field(default_factory=dict)
