"""Boxes of many crystals as one packed set, see `nesf.boxes`: the same for every training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch

from nesf.boxes.cut import BoxOptions, box_refusals, cut_boxes, random_placements
from nesf.crystal import CrystalBatch
from nesf.data.beside import list_rejected
from nesf.data.columns import column_of
from nesf.data.packed import PackedSet, PackedWriter, PackReport
from nesf.data.readers import iter_crystals
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.errors import InputError
from nesf.random import generator_for

CRYSTALS_AT_ONCE = 256


def write_boxes(
    inputs: Sequence[str | Path],
    output: str | Path,
    options: BoxOptions | None = None,
    read: ReadOptions | None = None,
    copies: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> PackReport:
    """Cut boxes from crystals and write them as a packed set that is marked as not periodic.

    A box depends on seed, id and copy alone, and not on the crystals around it.

    Args:
        inputs: as `nesf.data.readers` takes them; they are parsed in parallel.
        output: the packed set; by custom with the suffix `.nesf`.
        options: what is cut; the defaults if None.
        read: how the crystals are read, and in how many processes.
        copies: boxes of each crystal; of more than one, the ids end in -1, -2, ...
        seed: of rotations and places.
        progress: show a progress bar.

    Returns:
        Counts, and where refused crystals are listed: `NAME.rejected.csv` beside `NAME.nesf`.

    Raises:
        InputError: no box at all could be cut, or as `nesf.data.packed.pack`.
    """
    options, read = options or BoxOptions(), read or ReadOptions()
    if copies < 1 or seed < 0:
        raise InputError(f"copies is {copies} and seed is {seed}; give copies from 1, seed from 0")
    output = Path(output)
    rejected: list[Rejected] = []
    provenance = {
        "inputs": [str(item) for item in inputs],
        "options": dataclasses.asdict(read),
        "boxes": dataclasses.asdict(options) | {"copies": copies, "seed": seed},
        "periodic": False,
    }
    found = iter_crystals(inputs, read, progress)
    with closing(found), PackedWriter(output, provenance) as writer:  # type: ignore[type-var]
        rows = _good(found, rejected)
        while chunk := list(islice(rows, CRYSTALS_AT_ONCE)):
            if fitting := _fitting(chunk, options, rejected):
                writer.extend(_boxes_of(fitting, options, copies, seed, rejected))
        rejected_path = list_rejected(output, rejected)
        if len(writer) == 0:
            first = f", the first since: {rejected[0].reason}" if rejected else ""
            raise InputError(f"no box could be cut from {len(rejected)} rows{first}")
        writer.provenance["rejected"] = len(rejected)
        return PackReport(output, len(writer), len(rejected), rejected_path)


def _good(found: Iterator[Row | Rejected], rejected: list[Rejected]) -> Iterator[Row]:
    for one in found:
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            yield one


def _batch(rows: Sequence[Row]) -> CrystalBatch:
    return CrystalBatch.from_structures(
        [row.structure for row in rows], [row.id for row in rows], torch.float64
    )


def _fitting(rows: Sequence[Row], options: BoxOptions, rejected: list[Rejected]) -> list[Row]:
    """The rows that have boxes; the others are listed."""
    fitting = []
    for row, reason in zip(rows, box_refusals(_batch(rows), options), strict=True):
        if reason is None:
            fitting.append(row)
        else:
            rejected.append(Rejected(row.source, row.row, row.id_in_file, reason))
    return fitting


def _boxes_of(
    rows: Sequence[Row], options: BoxOptions, copies: int, seed: int, rejected: list[Rejected]
) -> PackedSet:
    """The boxes of some crystals; empty ones and too full ones are listed."""
    owners = [row for row in rows for _ in range(copies)]
    keys = [(row.id, copy) for row in rows for copy in range(copies)]
    placed = [random_placements(1, options, generator_for(seed, "box", *key)) for key in keys]
    crystals = _batch(rows).select(torch.arange(len(rows)).repeat_interleave(copies))
    names = tuple(name if copies == 1 else f"{name}-{copy + 1}" for name, copy in keys)
    boxes = cut_boxes(
        crystals.replace(ids=names),
        options,
        torch.cat([rotation for rotation, _ in placed]).double(),
        torch.cat([origin for _, origin in placed]).double(),
    )
    kept = []
    for i, (row, atoms) in enumerate(zip(owners, boxes.num_atoms.tolist(), strict=True)):
        if 0 < atoms <= options.capacity:
            kept.append(i)
        else:
            reason = f"{atoms} atoms in the box {names[i]}, not 1 to {options.capacity}"
            rejected.append(Rejected(row.source, row.row, row.id_in_file, reason))
    records = [{"crystal": owners[i].id, **owners[i].properties} for i in kept]
    columns = dict.fromkeys(name for record in records for name in record)
    return dataclasses.replace(
        PackedSet.from_batch(boxes.select(torch.tensor(kept, dtype=torch.long))),
        properties={name: column_of([r.get(name) for r in records]) for name in columns},
    )
