"""`nesf reconstruct`, `encode` and `decode`: crystals through a model, in files.

Each is a plain function that returns its exit code: 0, or 1 if some crystals failed, which are
listed in rejected.csv. What does the work, `nesf.commands.through`, is imported by the function, so
that asking for help stays quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from nesf.commands.arguments import Changes, check_arguments, read_boxes
from nesf.data.records import ReadOptions
from nesf.errors import InputError


def reconstruct_files(
    inputs: Sequence[str],
    output: str,
    model: str | None = None,
    field: Literal["exact"] | None = None,
    periodic: bool = True,
    boxes: bool = False,
    refine: int | None = None,
    setting: Literal["given", "primitive", "best"] = "best",
    resume: bool = False,
    overwrite: bool = False,
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
    the mean distance of its atoms to the nearest ones found, Å. `setting` tells in which cell the
    crystal went through the model; it comes back in its own. Each crystal is written as soon as it
    is done, not always in the inputs' order.

    Args:
        inputs: CIF or POSCAR files, folders, globs or zips of them, tables with a cif column
            (.csv, .csv.gz, .parquet), .extxyz, .json, .jsonl or packed .nesf files.
        output: a folder of CIFs, or a .csv, .csv.gz, .extxyz or .jsonl file.
        model: a run folder, a checkpoint (.ckpt, .safetensors) or a shipped name.
        field: "exact" for the fields of the crystals themselves instead of a model's.
        periodic: exact fields point to nearest periodic images, not to atoms of the cell.
        boxes: the crystals are boxes cut from repeating ones (`nesf data boxes`), turned and
            shifted in any way. What each repeats is found, given back, and the box cut from it
            again; boxes without a repeat are listed as rejected. A model that was trained on
            boxes takes them as they are. Up to 2,000 atoms are read where --max-atoms is not
            given.
        refine: steps of fitting a latent to its crystal, at most, where the encoder's does not
            decode to it; 0 takes the encoder's latents. By default on where the model can.
        setting: the cell in which the model is given a crystal: given, its own; primitive, its
            standardised primitive cell; or best, its own, and then, if it came back with faults or
            is too large for the model, its primitive one, of which that with fewer faults is kept.
            The latter compares with the crystal given, as --refine does. Crystals come back in
            their own cells.
        resume: go on with an interrupted run; crystals that are in the output are skipped.
        overwrite: replace what the output holds of an earlier run.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of random draws; a NeSF asks its fields at the same points every time.
        progress: show a progress bar.
        read: reading
        changes: reconstruction (by default as the model says)
    """
    if (model is None) == (field is None):
        raise InputError("give either --model NAME|PATH or --field exact")
    if model is None and setting == "primitive":
        raise InputError("--setting primitive goes with --model; exact fields need no other cell")
    check_arguments(inputs, output, batch_size)
    from nesf.commands.through import reconstruct_rows
    from nesf.commands.ways import Run, Way, exact_way, model_way
    from nesf.ranks.sharded import share

    def way(run: Run) -> Way:
        if model is None:
            return exact_way(run, periodic, changes, boxes, read.cell)
        return model_way(run, model, refine, changes, boxes, setting, read.cell)

    if boxes:
        read = read_boxes(read)
    run = Run(batch_size, device, seed, progress)
    return share(
        output, resume, lambda work: reconstruct_rows(work, inputs, read, way, run), overwrite
    )


def encode_files(
    inputs: Sequence[str],
    model: str,
    output: str,
    refine: int = 0,
    boxes: bool = False,
    resume: bool = False,
    overwrite: bool = False,
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
        boxes: the crystals are boxes cut from repeating ones, as of `nesf reconstruct`; 13 numbers
            of where the crystal lies in its box follow its latent.
        resume: go on with an interrupted run; crystals whose latents are there are skipped.
        overwrite: replace the output of an earlier run.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of PyTorch's generator, where a model draws.
        progress: show a progress bar.
        read: reading
    """
    check_arguments(inputs, output, batch_size)
    from nesf.commands.through import encode_rows
    from nesf.commands.ways import Run
    from nesf.data.latent_file import refuse_earlier_latents
    from nesf.data.outputs import make_ready
    from nesf.latents import Latents
    from nesf.ranks.sharded import share

    Latents.check_path(output)
    make_ready(output)
    if boxes:
        read = read_boxes(read)
    run = Run(batch_size, device, seed, progress)
    return share(
        output,
        resume,
        lambda work: encode_rows(work, inputs, read, model, refine, run, boxes),
        overwrite,
        refuse_earlier_latents,
    )


def decode_files(
    inputs: Sequence[str],
    model: str,
    output: str,
    boxes: bool = False,
    resume: bool = False,
    overwrite: bool = False,
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
        boxes: the latents are of boxes.
        resume: go on with an interrupted run; crystals that are in the output are skipped.
        overwrite: replace what the output holds of an earlier run.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of random draws; a NeSF asks its fields at the same points every time.
        progress: show a progress bar.
        changes: reconstruction (by default as the model says)
    """
    check_arguments(inputs, output, batch_size)
    from nesf.commands.through import decode_latents
    from nesf.commands.ways import Run

    run = Run(batch_size, device, seed, progress)
    return decode_latents(inputs, output, resume, model, changes, run, boxes, overwrite)
