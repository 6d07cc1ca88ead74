"""Crystals without data: random ones of any space group, to train on what no prototype has."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from nesf.data.elements import symbols_by_number
from nesf.data.packed import PackReport, write_rows
from nesf.data.records import ReadOptions, Row
from nesf.data.workers import Failure, Limits, map_in_workers
from nesf.errors import InputError, NesfError

MAX_ATOMS = 40


def write_random(
    output: str | Path,
    count: int,
    seed: int = 0,
    max_atoms: int = MAX_ATOMS,
    workers: int | None = None,
    progress: bool = True,
) -> PackReport:
    """Write random crystals as a packed set, in constant memory.

    The same arguments give the same bytes, however many workers there are.

    Args:
        output: the packed set; by custom with the suffix `.nesf`.
        count: as for `iter_random`, like all that follows.
        seed: of everything that is drawn.
        max_atoms: in the cell.
        workers: processes.
        progress: show a progress bar.

    Raises:
        InputError: an argument is out of range, or the output cannot be written.
    """
    provenance = {
        "source": "random crystals of all space groups",
        "moyopy": version("moyopy"),
        "count": count,
        "seed": seed,
        "max_atoms": max_atoms,
    }
    rows = iter_random(count, seed, max_atoms, workers, progress)
    return write_rows(output, provenance, rows)


def iter_random(
    count: int,
    seed: int = 0,
    max_atoms: int = MAX_ATOMS,
    workers: int | None = None,
    progress: bool = False,
) -> Generator[Row, None, None]:
    """Random crystals, as `nesf.data.symmetric.build` draws them.

    Fewer crystals of the same seed are the first of more.

    Args:
        count: how many.
        seed: of everything that is drawn.
        max_atoms: in the cell, the standardised primitive or conventional one.
        workers: processes; by default one a core.
        progress: show a progress bar.

    Yields:
        Rows with ids like `random-000123-62-FeLiO4P` and the properties space_group and formula.

    Raises:
        InputError: an argument is out of range (at the call).
    """
    if count < 1 or seed < 0:
        raise InputError(f"count is {count} and seed is {seed}; give a count above 0, seed from 0")
    limit = ReadOptions().max_atoms
    if not 1 <= max_atoms <= limit:
        raise InputError(f"max_atoms is {max_atoms}; give 1 to {limit}")
    return _iterate(count, seed, max_atoms, workers, progress)


def _iterate(
    count: int, seed: int, max_atoms: int, workers: int | None, progress: bool
) -> Generator[Row, None, None]:
    from pymatgen.core import Lattice, Structure
    from tqdm import tqdm

    answers = map_in_workers(
        "nesf.data.symmetric:build",
        ((index, {"seed": [seed, index]}) for index in range(count)),
        config={"max_atoms": max_atoms},
        preload=["moyopy", "pymatgen.core"],
        limits=Limits(timeout_s=600.0),  # against a hang; our own items take milliseconds
        workers=workers or ReadOptions().num_workers,
        chunk_items=64,
    )
    bar = tqdm(desc="drawing", unit=" crystals", total=count, disable=not progress, file=sys.stderr)
    with bar, closing(answers):  # type: ignore[type-var]
        for index, answer in answers:
            if isinstance(answer, Failure):
                raise NesfError(f"random crystal {index}: {answer.reason}")
            structure = Structure(
                Lattice.from_parameters(*answer["lengths"], *answer["angles"]),
                answer["numbers"],
                answer["frac_coords"],
            )
            formula, group = _formula(answer["numbers"]), answer["space_group"]
            bar.update()
            yield Row(
                id=f"random-{index:06d}-{group}-{formula}",
                structure=structure,
                properties={"space_group": float(group), "formula": formula},
                source="random",
                row=index + 1,
            )


def _formula(numbers: list[int]) -> str:
    """The reduced formula, in alphabetical order.

    Pymatgen's is in that of electronegativities, and warns of elements that have none.
    """
    symbols = symbols_by_number()
    counts = Counter(symbols[number] for number in numbers)
    shared = math.gcd(*counts.values())
    reduced = {symbol: count // shared for symbol, count in sorted(counts.items())}
    return "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in reduced.items())
