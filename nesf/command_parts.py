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
from nesf.crystal import CrystalBatch
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.errors import InputError
from nesf.reconstruct import Reconstruction, ReconstructOptions
from nesf.tally import Tally

if TYPE_CHECKING:
    from pymatgen.core import Structure

NOT_FINITE = "its latent is not finite"
NO_ATOMS = "no atom was found in the fields"
COLUMNS = ("confidence", "count_agrees")  # beside each written crystal
KNOWN_COLUMNS = ("faults", "residual")  # beside one whose original is known


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
