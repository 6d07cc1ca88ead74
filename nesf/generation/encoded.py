"""Given crystals and their latents: what new ones are made from."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nesf import api
from nesf.commands.arguments import Files, listed
from nesf.commands.parts import (
    NOT_FINITE,
    batch_of_rows,
    batches_of_rows,
    progress_bar,
    reading_for,
)
from nesf.commands.tally import Tally
from nesf.data.readers import iter_crystals
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.errors import InputError


@dataclass(frozen=True)
class Encoded:
    """One crystal as it was read, and its latent.

    Attributes:
        row: the crystal.
        latent: (L,) on the CPU; None where the model cannot represent the crystal.
        reason: why it cannot.
    """

    row: Row
    latent: Float[Tensor, " l"] | None
    reason: str | None


def encode_inputs(
    inputs: Sequence[str], model: api.Model, read: ReadOptions, tally: Tally, progress: bool
) -> list[Encoded]:
    """All crystals of some files with their latents; rejected rows go to the tally."""
    rows = iter_crystals(inputs, reading_for(read, model), progress=False)
    found: list[Encoded] = []
    with progress_bar("encoding", progress) as bar:
        for part in batches_of_rows(rows, model.batch_size, tally):
            found += encode_rows(part, model)
            bar.update(len(part))
    return found


def encode_rows(rows: Sequence[Row], model: api.Model) -> list[Encoded]:
    """Rows with their latents, or with what the model cannot represent of them."""
    crystals = batch_of_rows(rows, model)
    latents = model.encode(crystals).float().cpu()
    finite = latents.isfinite().all(-1).tolist()
    encoded = []
    for row, latent, good, refusal in zip(
        rows, latents, finite, model.refusals(crystals), strict=True
    ):
        reason = refusal or (None if good else NOT_FINITE)
        encoded.append(Encoded(row, latent if reason is None else None, reason))
    return encoded


def read_references(
    like: Files, model: api.Model, read: ReadOptions, progress: bool, encode: bool = True
) -> tuple[list[Encoded], frozenset[str] | None]:
    """The crystals of --like and their formulas; what cannot be used of them is counted aloud."""
    from eval.validity import formula

    if like is None:
        return [], None
    tally = Tally("read")
    if encode:
        found = encode_inputs(listed(like), model, read, tally, progress)
    else:
        rows = batches_of_rows(iter_crystals(listed(like), read, progress), model.batch_size, tally)
        found = [Encoded(row, None, None) for part in rows for row in part]
    if tally.rejected:
        first = tally.rejected[0]
        where = first.source if first.row is None else f"{first.source}, row {first.row}"
        print(
            f"{len(tally.rejected)} rows of --like are left out; the first, {where}: "
            f"{first.reason}",
            file=sys.stderr,
        )
    return found, frozenset(formula(np.array(one.row.structure.atomic_numbers)) for one in found)


def read_one(file: str, name: str | None, read: ReadOptions) -> Row:
    """The only crystal of a file, or the one with a name.

    Raises:
        InputError: there is none, there are several, or it cannot be read.
    """
    seen: list[str] = []
    chosen: Row | Rejected | None = None
    found: Iterator[Row | Rejected] = iter_crystals(file, read, progress=False)
    with closing(found):  # type: ignore[type-var]
        for one in found:
            if name is None and chosen is not None:
                raise InputError(
                    f"{file} holds several crystals; choose one of them by its id, as in "
                    f"'{file}#{chosen.id or one.id}'"
                )
            seen.append(str(one.id))
            if name in (None, one.id):
                chosen = one
                if name is not None:
                    break
    if chosen is None:
        raise InputError(f"{file} has no crystal {name}; its ids are {', '.join(seen[:3])}, ...")
    if isinstance(chosen, Rejected):
        row = "" if chosen.row is None else f", row {chosen.row}"
        raise InputError(f"{chosen.source}{row}: {chosen.reason}")
    return chosen
