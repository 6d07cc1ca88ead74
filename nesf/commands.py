"""`nesf reconstruct`, `encode` and `decode`: crystals through a model, in files.

Each is a plain function that returns its exit code: 0, or 1 if some crystals failed, which are
listed in rejected.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from nesf import api
from nesf.command_parts import (
    COLUMNS,
    KNOWN_COLUMNS,
    NO_ATOMS,
    NOT_FINITE,
    Changes,
    batch_of_rows,
    batches_of_rows,
    changed_options,
    check_arguments,
    options_with,
    progress_bar,
    reading_for,
)
from nesf.crystal import CrystalBatch, standardised
from nesf.data.records import ReadOptions, Rejected
from nesf.data.writers import open_writer
from nesf.errors import InputError
from nesf.exact import exact_fields
from nesf.latents import Latents
from nesf.reconstruct import Reconstruction, ReconstructOptions, reconstruct
from nesf.scoring import count_faults, residuals
from nesf.sharded import Work, share
from nesf.tally import Tally


def reconstruct_files(
    inputs: Sequence[str],
    output: str,
    model: str | None = None,
    field: Literal["exact"] | None = None,
    periodic: bool = True,
    refine: int | None = None,
    resume: bool = False,
    batch_size: int = 128,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    read: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    changes: Changes = {},  # noqa: B006 (never changed)
) -> int:
    """Take crystals through a model and back, or through their own exact fields.

    Beside each crystal stand `confidence` and `count_agrees`, which the fields tell, and what the
    original tells: `faults`, the atoms missed, moved by more than 0.03 Å or of another element,
    those too few or too many, and 1 for a lattice vector off by more than 0.1 Å; and `residual`,
    the mean distance of its atoms to the nearest ones found, Å.

    Args:
        inputs: CIF or POSCAR files, folders, globs or zips of them, tables with a cif column
            (.csv, .csv.gz, .parquet), .extxyz, .json, .jsonl or packed .nesf files.
        output: a folder of CIFs, or a .csv, .csv.gz, .extxyz or .jsonl file.
        model: a run folder, a checkpoint (.ckpt, .safetensors) or a shipped name.
        field: "exact" for the fields of the crystals themselves instead of a model's.
        periodic: exact fields point to nearest periodic images, not to atoms of the cell.
        refine: steps of fitting a latent to its crystal, at most, where the encoder's does not
            decode to it; 0 takes the encoder's latents. By default on where the model can.
        resume: go on with an interrupted run; crystals that are in the output are skipped.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of random draws; a NeSF asks its fields at the same points every time.
        progress: show a progress bar.
        read: reading
        changes: reconstruction (by default as the model says)
    """
    if (model is None) == (field is None):
        raise InputError("give either --model NAME|PATH or --field exact")
    check_arguments(inputs, output, batch_size)

    def job(work: Work) -> int:
        return _reconstruct(
            work, inputs, model, periodic, refine, batch_size, device, seed, progress, read, changes
        )

    return share(output, resume, job)


def _reconstruct(
    work: Work,
    inputs: Sequence[str],
    model: str | None,
    periodic: bool,
    refine: int | None,
    batch_size: int,
    device: str,
    seed: int,
    progress: bool,
    read: ReadOptions,
    changes: Mapping[str, Any],
) -> int:
    torch.manual_seed(seed)
    device = work.ranks.device(device)
    through: Callable[[CrystalBatch], Reconstruction]
    loaded = None if model is None else api.load(model, device, batch_size)
    if loaded is not None:
        loaded.refinement(refine)  # refuses what cannot be refined
        options = changed_options(loaded, changes)
        read = reading_for(read, loaded)

        def through(crystals: CrystalBatch) -> Reconstruction:
            return loaded.reconstruct(crystals, options, refine)

    else:
        target, exact_options = (
            api.resolve_device(device),
            options_with(ReconstructOptions(), changes),
        )

        def through(crystals: CrystalBatch) -> Reconstruction:
            fields = exact_fields(crystals.to(target), periodic)
            generator = torch.Generator().manual_seed(seed)
            return reconstruct(fields, exact_options, crystals.ids, generator)

    tally = Tally("reconstructed")
    given = work.read(inputs, read)  # finds the files before any is written
    with (
        work.writer((*COLUMNS, *KNOWN_COLUMNS)) as writer,
        progress_bar("reconstructing", progress and work.ranks.speaks) as bar,
    ):
        tally.skipped = len(writer.done)
        for rows in batches_of_rows(given, batch_size, tally, skip=writer.done):
            crystals = batch_of_rows(rows, loaded)
            reasons = loaded.refusals(crystals) if loaded else [None] * len(rows)
            sources = [(r.source, r.row, r.id) for r in rows]
            found = through(crystals)
            true = standardised(crystals.to(found.crystals.device))
            known = {
                "faults": count_faults(found.crystals, true).tolist(),
                "residual": [round(r, 5) for r in residuals(found.crystals, true).tolist()],
            }
            _write(writer, found, sources, tally, reasons, known)
            bar.update(len(rows))
    return work.finish(tally)


def encode_files(
    inputs: Sequence[str],
    model: str,
    output: str,
    refine: int = 0,
    batch_size: int = 128,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    read: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
) -> int:
    """Encode crystals to latents.

    Args:
        inputs: CIF or POSCAR files, folders, globs or zips of them, tables with a cif column
            (.csv, .csv.gz, .parquet), .extxyz, .json, .jsonl or packed .nesf files.
        model: a run folder, a checkpoint (.ckpt, .safetensors) or a shipped name.
        output: a .npz file with `ids` (M,) and `latents` (M, L).
        refine: steps of fitting a latent to its crystal, at most, where the encoder's does not
            decode to it; 0 takes the encoder's latents.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of PyTorch's generator, where a model draws.
        progress: show a progress bar.
        read: reading
    """
    check_arguments(inputs, output, batch_size)
    Latents.check_path(output)

    def job(work: Work) -> int:
        return _encode(work, inputs, model, refine, batch_size, device, seed, progress, read)

    return share(output, False, job)


def _encode(
    work: Work,
    inputs: Sequence[str],
    model: str,
    refine: int,
    batch_size: int,
    device: str,
    seed: int,
    progress: bool,
    read: ReadOptions,
) -> int:
    torch.manual_seed(seed)
    loaded = api.load(model, work.ranks.device(device), batch_size)
    tally = Tally("encoded")
    ids: list[str] = []
    latents: list[Tensor] = []
    found = work.read(inputs, reading_for(read, loaded))
    loaded.refinement(refine)  # refuses what cannot be refined
    with progress_bar("encoding", progress and work.ranks.speaks) as bar:
        for rows in batches_of_rows(found, batch_size, tally):
            crystals = batch_of_rows(rows, loaded)
            latent = loaded.encode(crystals, refine).float().cpu()
            finite = latent.isfinite().all(-1)
            latents.append(latent[finite])
            reasons = loaded.refusals(crystals)
            for row, good, reason in zip(rows, finite.tolist(), reasons, strict=True):
                if good:
                    ids.append(row.id)
                else:
                    told = reason or NOT_FINITE
                    tally.rejected.append(Rejected(row.source, row.row, row.id, told))
            bar.update(len(rows))
    tally.done = len(ids)
    together = torch.cat(latents) if latents else torch.zeros(0, loaded.latent_dim)
    work.save_latents(Latents(tuple(ids), together.numpy()))
    return work.finish(tally)


def decode_files(
    inputs: Sequence[str],
    model: str,
    output: str,
    resume: bool = False,
    batch_size: int = 128,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    changes: Changes = {},  # noqa: B006 (never changed)
) -> int:
    """Decode latents to crystals.

    Args:
        inputs: .npz files with `ids` (M,) and `latents` (M, L), as `nesf encode` writes them.
        model: a run folder, a checkpoint (.ckpt, .safetensors) or a shipped name.
        output: a folder of CIFs, or a .csv, .csv.gz, .extxyz or .jsonl file.
        resume: go on with an interrupted run; crystals that are in the output are skipped.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of random draws; a NeSF asks its fields at the same points every time.
        progress: show a progress bar.
        changes: reconstruction (by default as the model says)
    """
    check_arguments(inputs, output, batch_size)
    torch.manual_seed(seed)
    files = [(name, Latents.load(name)) for name in inputs]
    loaded = api.load(model, device, batch_size)
    options = changed_options(loaded, changes)
    for name, content in files:
        if content.values.shape[1] != loaded.latent_dim:
            raise InputError(
                f"the latents in {name} have the length {content.values.shape[1]}, and those of "
                f"this model {loaded.latent_dim}; decode with the model that encoded them"
            )
    tally = Tally("decoded")
    with open_writer(output, resume, COLUMNS) as writer, progress_bar("decoding", progress) as bar:
        tally.skipped = len(writer.done)
        for name, content in files:
            todo = [i for i, id_ in enumerate(content.ids) if id_ not in writer.done]
            for start in range(0, len(todo), batch_size):
                part = todo[start : start + batch_size]
                found = loaded.decode_crystals(torch.from_numpy(content.values[part]), options)
                _write(writer, found, [(name, i + 1, content.ids[i]) for i in part], tally)
                bar.update(len(part))
    return tally.finish(output)


def _write(
    writer: Any,
    found: Reconstruction,
    sources: Sequence[tuple[str, int | None, str]],
    tally: Tally,
    reasons: Sequence[str | None] | None = None,
    known: Mapping[str, Sequence[Any]] | None = None,
) -> None:
    agrees = None if found.count_agrees is None else found.count_agrees.tolist()
    confidence = found.confidence.tolist()
    for i, structure in enumerate(found.crystals.to_structures()):
        source, row, name = sources[i]
        if not len(structure):
            reason = (reasons[i] if reasons else None) or NO_ATOMS
            tally.rejected.append(Rejected(source, row, name, reason))
            continue
        said = "" if agrees is None else str(agrees[i]).lower()
        beside: dict[str, Any] = dict(zip(COLUMNS, (round(confidence[i], 4), said), strict=True))
        beside |= {name: values[i] for name, values in (known or {}).items()}
        writer.write(name, structure, beside)
        tally.done += 1
