"""What the commands share that take crystals through a model: reading, batches, options, limits."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import torch
from tqdm import tqdm

from nesf import api
from nesf.crystal import CrystalBatch
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.errors import InputError
from nesf.reconstruct import ReconstructOptions
from nesf.tally import Tally

NOT_FINITE = "its latent is not finite"
NO_ATOMS = "no atom was found in the fields"
COLUMNS = ("confidence", "count_agrees")  # beside each written crystal
KNOWN_COLUMNS = ("faults", "residual")  # beside one whose original is known

Changes = Annotated[Mapping[str, Any], ReconstructOptions]


def check_arguments(inputs: Sequence[str], output: str, batch_size: int) -> None:
    """Refuse what cannot work before anything is loaded or written.

    Raises:
        InputError: the batch size is below 1, or the output lies in an input.
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; give at least 1")
    target = Path(output).resolve()
    for name in inputs:
        source = Path(name).resolve()
        if source == target or (source.is_dir() and source in target.parents):
            raise InputError(f"the output {output} lies in the input {name}; give another output")


def batches_of_rows(
    found: Iterator[Row | Rejected],
    batch_size: int,
    tally: Tally,
    skip: frozenset[str] = frozenset(),
) -> Iterator[list[Row]]:
    """Rows to work on; the rejected ones go to the tally."""
    rows: list[Row] = []
    with closing(found):  # type: ignore[type-var]
        for one in found:
            if isinstance(one, Rejected):
                tally.rejected.append(one)
            elif one.id not in skip:
                rows.append(one)
            if len(rows) == batch_size:
                yield rows
                rows = []
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


def reading_for(read: ReadOptions, model: api.Model) -> ReadOptions:
    """Reading that rejects crystals which the model cannot give back."""
    return dataclasses.replace(
        read,
        max_atomic_number=min(read.max_atomic_number, model.max_atomic_number),
        max_atoms=min(read.max_atoms, model.max_atoms or read.max_atoms),
    )


def progress_bar(title: str, progress: bool) -> tqdm[Any]:
    """A bar that counts crystals."""
    return tqdm(desc=title, unit=" crystals", file=sys.stderr, disable=not progress, delay=1)
