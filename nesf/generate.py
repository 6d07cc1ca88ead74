"""`nesf perturb`, `interpolate` and `sample`: new crystals from latents, for every decoder.

Each is a plain function that returns its exit code: 0, or 1 if some crystals failed, which are
listed in rejected.csv and count as failures in validity.csv. All that is drawn is drawn on the CPU
from the seed and the crystal's name or number alone: the batch size and the device change nothing,
and fewer crystals of the same seed are the first of more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from nesf import api
from nesf.command_parts import Changes, changed_options, check_arguments, reading_for
from nesf.data.records import ReadOptions, Row
from nesf.encoded import (
    Encoded,
    Files,
    encode_inputs,
    encode_rows,
    listed,
    read_one,
    read_references,
    split_id,
)
from nesf.errors import InputError
from nesf.generated import Generation, Picture, Wanted
from nesf.latent_paths import PATHS, LatentGaussian, draw_normal
from nesf.latent_sources import draw_latent, has_prior, spread_at_large, stack_latents, tell_bin
from nesf.tally import Tally


def perturb_files(
    inputs: Sequence[str],
    model: str,
    output: str,
    count: int = 8,
    scale: float = 0.1,
    like: Files = None,
    resume: bool = False,
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
    or over the inputs. A condition is left as it is. validity.csv says how the crystals are,
    strip.png shows some.

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
    torch.manual_seed(seed)
    loaded = api.load(model, device, batch_size)
    options = changed_options(loaded, changes)
    tally = Tally("generated")
    found = encode_inputs(inputs, loaded, read, tally, progress)
    needed = scale > 0 and not has_prior(loaded)
    others, known = read_references(like, loaded, read, progress, encode=needed)
    width = torch.zeros(loaded.latent_dim)
    if scale and any(one.latent is not None for one in found):
        width = scale * spread_at_large(loaded, found, None if like is None else others)
    wanted = [
        _near(one, f"{one.row.id}_s{seed}_{i:03d}", width, seed, i)
        for one in found
        for i in range(count)
    ]
    run = Generation(loaded, output, tally, options, known, batch_size)
    drawn = _picture_around(found, wanted, count) if picture else None
    return run.run(wanted, drawn, resume, progress)


def interpolate_files(
    inputs: Sequence[str],
    model: str,
    output: str,
    steps: int = 8,
    path: Literal["linear", "spherical"] = "linear",
    like: Files = None,
    resume: bool = False,
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
    parts = [split_id(text) for text in inputs]
    check_arguments([*(file for file, _ in parts), *listed(like)], output, batch_size)
    torch.manual_seed(seed)
    loaded = api.load(model, device, batch_size)
    options = changed_options(loaded, changes)
    rows = [read_one(file, name, reading_for(read, loaded)) for file, name in parts]
    ends = [encode_rows([row], loaded)[0] for row in rows]
    for end in ends:
        if end.latent is None:
            raise InputError(f"crystal {end.row.id} of {end.row.source}: {end.reason}")
    _, known = read_references(like, loaded, read, progress, encode=False)
    first, last = ends[0].latent, ends[1].latent
    assert first is not None
    assert last is not None
    digits = max(2, len(str(steps - 1)))
    stem, source = f"{rows[0].id}_{rows[1].id}", " to ".join(inputs)
    wanted = [
        Wanted(f"{stem}_{i:0{digits}d}", latent, source)
        for i, latent in enumerate(PATHS[path](first, last, steps))
    ]
    run = Generation(loaded, output, Tally("generated"), options, known, batch_size)
    drawn = _picture_of_path(rows, wanted) if picture else None
    return run.run(wanted, drawn, resume, progress)


def sample_files(
    model: str,
    output: str,
    count: int = 100,
    property_bin: int | None = None,
    like: Files = None,
    resume: bool = False,
    picture: bool = True,
    batch_size: int = 128,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    read: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
    changes: Changes = {},  # noqa: B006 (never changed)
) -> int:
    """Sample crystals at random, if the model knows how for one bin of a property.

    Latents come from the model's own prior where it has one; or else from a normal that is fitted
    to the latents of the crystals of --like. validity.csv says how the crystals are, strip.png
    shows the first ones.

    Args:
        model: a run folder, a checkpoint (.ckpt, .safetensors) or a shipped name.
        output: a folder of CIFs, or a .csv, .csv.gz, .extxyz or .jsonl file.
        count: crystals to make.
        property_bin: number of the property's quantile bin, from 0, for a model that was trained
            on one.
        like: crystals like the ones wanted, a file, folder or glob, or [several]; they tell where
            latents lie, for a model without a prior, and which formulas are known.
        resume: go on with an interrupted run; crystals that are in the output are skipped.
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
    torch.manual_seed(seed)
    loaded = api.load(model, device, batch_size)
    options = changed_options(loaded, changes)
    if property_bin is not None:
        print(tell_bin(loaded, property_bin))
    known_prior = has_prior(loaded)
    if not known_prior and like is None:
        raise InputError(
            f"a {type(loaded.module).__name__} has no prior to draw latents from; name crystals "
            "like the ones wanted with --like FILES"
        )
    others, known = read_references(like, loaded, read, progress, encode=not known_prior)
    gaussian = None if known_prior else LatentGaussian.fit(stack_latents(others, "--like"))
    label = "" if property_bin is None else f"_bin{property_bin}"
    wanted = [
        Wanted(
            f"sample_s{seed}{label}_{i:05d}",
            draw_latent(loaded, gaussian, property_bin, seed, i),
            model,
        )
        for i in range(count)
    ]
    run = Generation(loaded, output, Tally("generated"), options, known, batch_size)
    shown = [(f"sample {i}", one.id) for i, one in enumerate(wanted[:10])]
    return run.run(wanted, Picture(shown, columns=5) if picture else None, resume, progress)


def _near(one: Encoded, name: str, width: Tensor, seed: int, number: int) -> Wanted:
    """One crystal around a given one."""
    latent = one.latent
    if latent is not None:
        latent = latent + width * draw_normal(len(latent), seed, "perturb", one.row.id, number)
    return Wanted(name, latent, one.row.source, one.row.row, one.reason)


def _check_count(count: int) -> None:
    if count < 1:
        raise InputError(f"the count is {count}; give at least 1")


def _picture_around(found: Sequence[Encoded], wanted: Sequence[Wanted], count: int) -> Picture:
    """Up to three given crystals, each before some of its own."""
    shown = min(count, 7)
    panels: list[tuple[str, Any]] = []
    for k, one in enumerate(found[:3]):
        panels.append((f"given, {one.row.id}", one.row.structure))
        own = wanted[k * count : k * count + shown]
        panels += [(f"around it, {i}", near.id) for i, near in enumerate(own)]
    return Picture(panels, columns=1 + shown)


def _picture_of_path(rows: Sequence[Row], wanted: Sequence[Wanted]) -> Picture:
    """The steps, or eight of them evenly, between the given crystals."""
    last = len(wanted) - 1
    chosen = sorted({round(last * i / 7) for i in range(8)})
    panels: list[tuple[str, Any]] = [(f"given, {rows[0].id}", rows[0].structure)]
    panels += [(f"step {i}", wanted[i].id) for i in chosen]
    panels.append((f"given, {rows[1].id}", rows[1].structure))
    return Picture(panels, columns=5 if len(panels) > 6 else len(panels))
