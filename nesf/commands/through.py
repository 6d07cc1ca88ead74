"""Crystals through a model, batch by batch: the work of `nesf reconstruct`, `encode`, `decode`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from nesf.commands.identity import identity, made_by
from nesf.commands.parts import (
    COLUMNS,
    KNOWN_COLUMNS,
    NO_ATOMS,
    NOT_FINITE,
    batch_of_rows,
    batches_of_rows,
    changed_options,
    progress_bar,
    reading_for,
    rows_in,
    structures_of,
)
from nesf.commands.tally import Tally
from nesf.commands.ways import Run, Way
from nesf.crystal import CrystalBatch, standardised
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.data.writers import CrystalWriter, open_writer
from nesf.errors import InputError
from nesf.latents import Latents
from nesf.ranks.sharded import Work
from nesf.reconstruction.reconstruct import Reconstruction
from nesf.reconstruction.settings_way import settings_of
from nesf.scoring import count_faults, residuals

Source = tuple[str, int | None, str]  # file, row and id


def reconstruct_rows(
    work: Work, inputs: Sequence[str], read: ReadOptions, find_way: Callable[[Run], Way], run: Run
) -> int:
    """Take crystals there and back, score each against itself, and write what came back.

    Args:
        work: whose rows are read, and where the crystals go.
        inputs: files of crystals.
        read: how they are read; a model may narrow it.
        find_way: the way there and back, for the run of this rank.
        run: of all ranks.

    Returns:
        The exit code.
    """
    run = run.on(work.ranks)
    way = find_way(run)
    tally = Tally("reconstructed")
    if way.model is not None:
        read = reading_for(read, way.model, any_size=way.setting != "given")
    given = work.read(inputs, read)  # finds the files before any is written
    total = rows_in(inputs, work.ranks) if run.progress else None
    with (
        work.writer((*COLUMNS, *KNOWN_COLUMNS), way.made_by) as writer,
        progress_bar("reconstructing", run.progress, total) as bar,
    ):
        tally.skipped = len(writer.done)
        batches = batches_of_rows(given, run.batch_size, tally, writer.done, way.refines)
        for rows, crystals in _fitting(batches, way, tally):
            for index, found in way.back(crystals):
                work.check()
                done = [rows[i] for i in index.tolist()]
                sources = [(row.source, row.row, row.id) for row in done]
                reasons, known = _compared(way, crystals.select(index), found)
                _write(writer, found, sources, tally, reasons, known)
                bar.update(tally.seen - bar.n)
        bar.update(tally.seen - bar.n)
    return work.finish(tally)


def _compared(
    way: Way, crystals: CrystalBatch, found: Reconstruction
) -> tuple[list[str | None], dict[str, Sequence[Any]]]:
    """Why crystals have not come back, and how those that have compare with what was given."""
    reasons = way.refusals(crystals, (~found.crystals.mask.any(-1)).tolist())
    true = standardised(crystals.to(found.crystals.device))
    # exact fields are of the cell as it was given
    back = found.crystals if way.walls else standardised(found.crystals)
    apart = residuals(back, true, way.walls).tolist()
    return reasons, {
        "faults": count_faults(back, true, walls=way.walls).tolist(),
        "residual": [round(r, 5) for r in apart],
        "setting": settings_of(found),
    }


def _fitting(
    batches: Iterator[list[Row]], way: Way, tally: Tally
) -> Iterator[tuple[list[Row], CrystalBatch]]:
    """Batches without the crystals that are too large; those go to the tally."""
    for rows in batches:
        crystals = batch_of_rows(rows, way.model)
        reasons = way.too_large(crystals)
        for row, reason in zip(rows, reasons, strict=True):
            if reason is not None:
                tally.rejected.append(Rejected(row.source, row.row, row.id, reason))
        kept = [i for i, reason in enumerate(reasons) if reason is None]
        if kept:
            yield [rows[i] for i in kept], crystals.select(kept)


def encode_rows(
    work: Work,
    inputs: Sequence[str],
    read: ReadOptions,
    model: str,
    refine: int,
    run: Run,
    boxes: bool = False,
) -> int:
    """Encode crystals, and write the latents that are finite.

    Args:
        work: whose rows are read, and where the latents go.
        inputs: files of crystals.
        read: how they are read; the model may narrow it.
        model: a run folder, a checkpoint or a shipped name.
        refine: steps of fitting a latent to its crystal, at most.
        run: of all ranks.
        boxes: the crystals are boxes of repeating ones.

    Returns:
        The exit code.
    """
    run = run.on(work.ranks)
    loaded = run.load(model, boxes)
    tally = Tally("encoded")
    told = {"refine": refine, "cell": read.cell, "boxes": boxes or None}
    made = {**made_by("encode", run.seed, {}, told), **identity(model, loaded)}
    given = work.read(inputs, reading_for(read, loaded))
    loaded.refinement(refine)  # refuses what cannot be refined
    total = rows_in(inputs, work.ranks) if run.progress else None
    with (
        work.latent_writer(loaded.latent_dim, made) as writer,
        progress_bar("encoding", run.progress, total) as bar,
    ):
        tally.skipped = len(writer.done)
        for rows in batches_of_rows(given, run.batch_size, tally, writer.done, refine > 0):
            crystals = batch_of_rows(rows, loaded)
            latent = loaded.encode(crystals, refine).float().cpu().numpy()
            reasons = loaded.refusals(crystals)
            for row, one, reason in zip(rows, latent, reasons, strict=True):
                if np.isfinite(one).all():
                    writer.write(row.id, one)
                    tally.done += 1
                else:
                    why = reason or NOT_FINITE
                    tally.rejected.append(Rejected(row.source, row.row, row.id, why))
            bar.update(tally.seen - bar.n)
        bar.update(tally.seen - bar.n)
    return work.finish(tally)


def decode_latents(
    files: Sequence[str],
    output: str,
    resume: bool,
    model: str,
    changes: Mapping[str, Any],
    run: Run,
    boxes: bool = False,
    overwrite: bool = False,
) -> int:
    """Decode the latents of some files, and write the crystals.

    Args:
        files: .npz files of latents.
        output: of the crystals.
        resume: go on after what is in the output.
        model: a run folder, a checkpoint or a shipped name.
        changes: of the model's reconstruction options.
        run: where and how.
        boxes: the latents are of boxes.
        overwrite: replace what the output holds of an earlier run.

    Returns:
        The exit code.

    Raises:
        InputError: a file holds no latents, or those of another model.
    """
    contents = [(name, Latents.load(name, all_finite=False)) for name in files]
    loaded = run.load(model, boxes)
    made = made_by("decode", run.seed, changes, {"boxes": boxes or None})
    made |= identity(model, loaded)
    options = changed_options(loaded, changes)
    for name, content in contents:
        if content.values.shape[1] != loaded.latent_dim:
            raise InputError(
                f"the latents in {name} have the length {content.values.shape[1]}, and those of "
                f"this model {loaded.latent_dim}; decode with the model that encoded them"
            )
    tally = Tally("decoded")
    with (
        open_writer(output, resume, COLUMNS, overwrite, made) as writer,
        progress_bar("decoding", run.progress) as bar,
    ):
        tally.skipped = len(writer.done)
        for name, content in contents:
            finite = content.finite.tolist()
            left = [i for i, id_ in enumerate(content.ids) if id_ not in writer.done]
            todo = [i for i in left if finite[i]]
            broken = (i for i in left if not finite[i])
            tally.rejected += (Rejected(name, i + 1, content.ids[i], NOT_FINITE) for i in broken)
            for start in range(0, len(todo), run.batch_size):
                part = todo[start : start + run.batch_size]
                found = loaded.decode_crystals(torch.from_numpy(content.values[part]), options)
                _write(writer, found, [(name, i + 1, content.ids[i]) for i in part], tally)
                bar.update(len(part))
    return tally.finish(output)


def _write(
    writer: CrystalWriter,
    found: Reconstruction,
    sources: Sequence[Source],
    tally: Tally,
    reasons: Sequence[str | None] | None = None,
    known: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    """Write a batch; a crystal without atoms has failed, for the reason given if there is one."""
    for i, (structure, beside) in enumerate(structures_of(found)):
        source, row, name = sources[i]
        if not len(structure):
            reason = (reasons[i] if reasons else None) or NO_ATOMS
            tally.rejected.append(Rejected(source, row, name, reason))
            continue
        beside |= {key: values[i] for key, values in (known or {}).items()}
        tally.faulty += bool(beside.get("faults"))
        writer.write(name, structure, beside)
        tally.done += 1
