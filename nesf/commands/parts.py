"""What the commands share that take crystals through a model: reading, batches, options, limits."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from nesf import api
from nesf.commands.tally import Tally
from nesf.crystal import CrystalBatch
from nesf.data.files import find_files
from nesf.data.packed_set import PackedSet
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.errors import InputError
from nesf.ranks.environment import Ranks
from nesf.reconstruction.reconstruct import Reconstruction, ReconstructOptions

if TYPE_CHECKING:
    from pymatgen.core import Structure

NOT_FINITE = "its latent is not finite"
NO_ATOMS = "no atom was found in the fields"
COLUMNS = ("confidence", "count_agrees")  # beside each written crystal
KNOWN_COLUMNS = ("faults", "residual", "setting")  # beside one whose original is known


SMALL = 10  # atoms of a crystal that is no more work than others


def batches_of_rows(
    found: Iterator[Row | Rejected],
    batch_size: int,
    tally: Tally,
    skip: frozenset[str] = frozenset(),
    large_alone: bool = False,
) -> Iterator[list[Row]]:
    """Rows to work on; the rejected ones go to the tally.

    Args:
        found: what was read.
        batch_size: the most rows of a batch.
        tally: of the command.
        skip: ids of rows that are left out.
        large_alone: batches of large crystals are smaller, so that none takes long: as if a crystal
            of more than `SMALL` atoms were as many as (atoms / SMALL)^2.
    """
    rows: list[Row] = []
    work = 0.0
    with closing(found):  # type: ignore[type-var]
        for one in found:
            if isinstance(one, Rejected):
                tally.rejected.append(one)
            elif one.id not in skip:
                rows.append(one)
                work += max(1.0, (len(one.structure) / SMALL) ** 2) if large_alone else 1.0
            if work >= batch_size:
                yield rows
                rows, work = [], 0.0
    if rows:
        yield rows


def batch_of_rows(rows: Sequence[Row], model: api.Model | None = None) -> CrystalBatch:
    """Rows as one batch, with the property that a conditional model asks for."""
    crystals = CrystalBatch.from_structures([r.structure for r in rows], [r.id for r in rows])
    name = model and model.condition_property
    if not name:
        return crystals
    values = [row.properties.get(name) for row in rows]
    numbers = [float(v) if isinstance(v, int | float) else float("nan") for v in values]
    return crystals.replace(properties={name: torch.tensor(numbers)})


def structures_of(found: Reconstruction) -> Iterator[tuple[Structure, dict[str, Any]]]:
    """Structures, and what a written crystal says of its reconstruction (`COLUMNS`)."""
    agrees = None if found.count_agrees is None else found.count_agrees.tolist()
    confidence = found.confidence.tolist()
    for i, structure in enumerate(found.crystals.to_structures()):
        said = "" if agrees is None else str(agrees[i]).lower()
        yield structure, dict(zip(COLUMNS, (round(confidence[i], 4), said), strict=True))


def options_with(base: ReconstructOptions, changes: Mapping[str, Any]) -> ReconstructOptions:
    """Options with some of them changed.

    Raises:
        InputError: a change is out of its range.
    """
    try:
        return dataclasses.replace(base, **changes)
    except ValueError as error:
        raise InputError(str(error)) from error


def changed_options(model: api.Model, changes: Mapping[str, Any]) -> ReconstructOptions | None:
    """The model's own options with the user's changes; None where there are none.

    Raises:
        InputError: the model has no such options, or a change is out of its range.
    """
    if not changes:
        return None
    base = getattr(model.module, "options", None)
    if not isinstance(base, ReconstructOptions):
        kind = type(model.module).__name__
        raise InputError(f"a {kind} has no reconstruction options; leave {', '.join(changes)} out")
    return options_with(base, changes)


def reading_for(read: ReadOptions, model: api.Model, any_size: bool = False) -> ReadOptions:
    """Reading that rejects crystals which the model cannot give back.

    Args:
        read: as the user wants it.
        model: knows elements up to one, and cells up to a size.
        any_size: larger cells are read, too.
    """
    most = None if any_size else model.max_atoms
    return dataclasses.replace(
        read,
        max_atomic_number=min(read.max_atomic_number, model.max_atomic_number),
        max_atoms=min(read.max_atoms, most or read.max_atoms),
    )


def rows_in(inputs: Sequence[str], ranks: Ranks) -> int | None:
    """How many rows one of some ranks will read; None where only reading tells."""
    count = 0
    for file in find_files(inputs):
        if file.kind == "packed":
            try:
                count += len(PackedSet.load(file.path, verify=False))
            except InputError:  # reading will say what is wrong with it
                return None
        elif file.kind in ("cif", "poscar"):  # nearly all hold one
            count += 1
        else:
            return None
    return len(range(count)[ranks.part])


def progress_bar(title: str, progress: bool, total: int | None = None) -> tqdm[Any]:
    """A bar that counts crystals, of so many where that is known."""
    return tqdm(
        desc=title, unit=" crystals", total=total, file=sys.stderr, disable=not progress, delay=1
    )
