"""`nesf perturb`, `interpolate` and `sample`: new crystals from latents, for every decoder.

Each is a plain function that returns its exit code: 0, or 1 if some crystals failed, which are
listed in rejected.csv and count as failures in validity.csv. All that is drawn is drawn on the CPU
from the seed and the crystal's name or number alone: the batch size and the device change nothing,
and fewer crystals of the same seed are the first of more. `nesf.generation.wanted` says which
latents those are, and `nesf.generation.files` decodes them; the functions import both, so that
asking for help stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from nesf.commands.arguments import Changes, Files, check_arguments, listed, split_id
from nesf.data.records import ReadOptions
from nesf.errors import InputError


def perturb_files(
    inputs: Sequence[str],
    model: str,
    output: str,
    count: int = 8,
    scale: float = 0.1,
    like: Files = None,
    resume: bool = False,
    overwrite: bool = False,
    picture: bool = True,
    batch_size: int = 128,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    read: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    changes: Changes = {},  # noqa: B006 (never changed)
) -> int:
    """Sample around crystals: decode latents drawn from a normal around each one's own.

    The normal has `scale` times the standard deviation that latents have at large, in each
    dimension: over the model's own prior where it has one; or else over the crystals of --like,
    or over the inputs, or, of a single one, the root mean square of its latent. A condition is
    left as it is. validity.csv says how the crystals are, strip.png shows some.

    Args:
        inputs: CIF or POSCAR files, folders, globs or zips of them, tables with a cif column
            (.csv, .csv.gz, .parquet), .extxyz, .json, .jsonl or packed .nesf files.
        model: a run folder, a checkpoint (.ckpt, .safetensors) or a shipped name.
        output: a folder of CIFs, or a .csv, .csv.gz, .extxyz or .jsonl file.
        count: crystals around each input.
        scale: width of the normal, in standard deviations of latents; 0 for none.
        like: crystals like the ones wanted, a file, folder or glob, or [several]; they tell how
            latents spread, and which formulas are known.
        resume: go on with an interrupted run; crystals that are in the output are skipped.
        overwrite: replace what the output holds of an earlier run.
        picture: draw strip.png.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of the draws; they depend on it and on the crystal's id alone.
        progress: show a progress bar.
        read: reading
        changes: reconstruction (by default as the model says)
    """
    _check_count(count)
    if not (math.isfinite(scale) and scale >= 0):
        raise InputError(f"the scale is {scale}; give 0 or more standard deviations of latents")
    check_arguments([*inputs, *listed(like)], output, batch_size)
    from nesf.api import Model
    from nesf.generation.files import generate
    from nesf.generation.wanted import Order, around

    def order(loaded: Model) -> Order:
        return around(loaded, inputs, count, scale, like, seed, read, progress)

    return generate(
        order,
        model,
        output,
        resume,
        overwrite,
        picture,
        batch_size,
        device,
        seed,
        progress,
        changes,
        "perturb",
        {"scale": scale, "like": _resolved(like), "cell": read.cell},
    )


def interpolate_files(
    inputs: Sequence[str],
    model: str,
    output: str,
    steps: int = 8,
    path: Literal["linear", "spherical"] = "linear",
    like: Files = None,
    resume: bool = False,
    overwrite: bool = False,
    picture: bool = True,
    batch_size: int = 128,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    read: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    changes: Changes = {},  # noqa: B006 (never changed)
) -> int:
    """Interpolate between two crystals: decode latents on the way from one to the other.

    The first and the last are the reconstructions of the two crystals themselves. validity.csv
    says how the crystals are, strip.png shows them.

    Args:
        inputs: two crystals, each a file that holds one, or FILE#ID for one of several in a table,
            a packed set, a folder, ...
        model: a run folder, a checkpoint (.ckpt, .safetensors) or a shipped name.
        output: a folder of CIFs, or a .csv, .csv.gz, .extxyz or .jsonl file.
        steps: crystals on the way, both ends included.
        path: the straight line between the latents, or the great circle, which keeps their length.
        like: crystals whose formulas are known, a file, folder or glob, or [several].
        resume: go on with an interrupted run; crystals that are in the output are skipped.
        overwrite: replace what the output holds of an earlier run.
        picture: draw strip.png.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of PyTorch's generator, where a model draws.
        progress: show a progress bar.
        read: reading
        changes: reconstruction (by default as the model says)
    """
    if len(inputs) != 2:
        raise InputError(f"{len(inputs)} crystals were given; interpolate between two")
    if steps < 2:
        raise InputError(f"the steps are {steps}; give at least 2, which are both ends")
    ends = [split_id(text) for text in inputs]
    check_arguments([*(file for file, _ in ends), *listed(like)], output, batch_size)
    from nesf.api import Model
    from nesf.generation.files import generate
    from nesf.generation.wanted import Order, between

    def order(loaded: Model) -> Order:
        return between(loaded, ends, steps, path, like, read, progress)

    return generate(
        order,
        model,
        output,
        resume,
        overwrite,
        picture,
        batch_size,
        device,
        seed,
        progress,
        changes,
        "interpolate",
        {"steps": steps, "path": path, "cell": read.cell},
    )


def sample_files(
    model: str,
    output: str,
    count: int = 100,
    property_bin: int | None = None,
    like: Files = None,
    prior: Literal["auto", "own", "fitted"] = "auto",
    resume: bool = False,
    overwrite: bool = False,
    picture: bool = True,
    batch_size: int = 128,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    read: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    changes: Changes = {},  # noqa: B006 (never changed)
) -> int:
    """Sample crystals at random, if the model knows how for one bin of a property.

    Latents come from the model's own prior where it has one, as the voxel models have and a NeSF
    that was trained with `variational: true` (configs/nesf/variational.yaml); or else from a
    normal that is fitted to the latents of the crystals of --like. validity.csv says how the
    crystals are, strip.png shows the first ones.

    Args:
        model: a run folder, a checkpoint (.ckpt, .safetensors) or a shipped name.
        output: a folder of CIFs, or a .csv, .csv.gz, .extxyz or .jsonl file.
        count: crystals to make.
        property_bin: number of the property's quantile bin, from 0, for a model that was trained
            on one.
        like: crystals like the ones wanted, a file, folder or glob, or [several]; they tell where
            latents lie, for a fitted prior, and which formulas are known.
        prior: the model's own, or a normal fitted to the latents of --like, which is closer to
            where latents lie wherever training held them to the own one only loosely; auto takes
            the own one where there is one.
        resume: go on with an interrupted run; crystals that are in the output are skipped.
        overwrite: replace what the output holds of an earlier run.
        picture: draw strip.png.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of the draws.
        progress: show a progress bar.
        read: reading
        changes: reconstruction (by default as the model says)
    """
    _check_count(count)
    check_arguments(listed(like), output, batch_size)
    from nesf.api import Model
    from nesf.generation.files import generate
    from nesf.generation.wanted import Order, at_random

    def order(loaded: Model) -> Order:
        return at_random(loaded, model, count, property_bin, like, prior, seed, read, progress)

    return generate(
        order,
        model,
        output,
        resume,
        overwrite,
        picture,
        batch_size,
        device,
        seed,
        progress,
        changes,
        "sample",
        {
            "property_bin": property_bin,
            "prior": prior,
            "like": _resolved(like),
            "cell": read.cell,
        },
    )


def _check_count(count: int) -> None:
    if count < 1:
        raise InputError(f"the count is {count}; give at least 1")


def _resolved(like: Files) -> list[str] | None:
    """The files of --like, wherever the command is called."""
    return [str(Path(name).resolve()) for name in listed(like)] or None
