"""Which crystals are wanted: latents around given ones, on the way between two, or at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nesf import api
from nesf.commands.arguments import Files
from nesf.commands.parts import reading_for
from nesf.commands.tally import Tally
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.errors import InputError
from nesf.generation.encoded import Encoded, encode_inputs, encode_rows, read_one, read_references
from nesf.generation.latent_paths import PATHS, LatentGaussian, draw_normal
from nesf.generation.latent_sources import (
    draw_latent,
    has_prior,
    spread_at_large,
    stack_latents,
    tell_bin,
)

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True)
class Wanted:
    """One crystal to generate.

    Attributes:
        id: of the crystal to be.
        latent: (L,) what it is decoded from; None where there is none.
        source: where the latent is from, for the list of what was rejected.
        row: its row there.
        reason: why there is no latent.
    """

    id: str
    latent: Float[Tensor, " l"] | None
    source: str
    row: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Picture:
    """What the picture strip shows.

    Attributes:
        panels: in reading order, the label of a panel and its crystal: a generated one's id, or
            a given Structure.
        columns: panels in a row.
    """

    panels: Sequence[tuple[str, str | Structure]]
    columns: int

    @property
    def ids(self) -> frozenset[str]:
        """Of the generated crystals in it."""
        return frozenset(crystal for _, crystal in self.panels if isinstance(crystal, str))


@dataclass(frozen=True)
class Order:
    """What is to be generated.

    Attributes:
        wanted: crystals with unique ids.
        picture: what a picture of them shows.
        known: reduced formulas of known crystals, if any were given.
        rejected: what could not be read of the given crystals.
        drawn_like: the crystals of --like tell where latents lie, and not only known formulas.
    """

    wanted: Sequence[Wanted]
    picture: Picture
    known: frozenset[str] | None
    rejected: Sequence[Rejected] = ()
    drawn_like: bool = False


def around(
    model: api.Model,
    inputs: Sequence[str],
    count: int,
    scale: float,
    like: Files,
    seed: int,
    read: ReadOptions,
    progress: bool,
) -> Order:
    """Latents drawn around those of given crystals; see `commands.perturb_files`."""
    tally = Tally("read")
    found = encode_inputs(inputs, model, read, tally, progress)
    needed = scale > 0 and not has_prior(model)
    others, known = read_references(like, model, read, progress, encode=needed)
    width = torch.zeros(model.latent_dim)
    if scale and any(one.latent is not None for one in found):
        width = scale * spread_at_large(model, found, None if like is None else others)
    wanted = [
        _near(one, f"{one.row.id}_s{seed}_{i:03d}", width, seed, i)
        for one in found
        for i in range(count)
    ]
    return Order(wanted, _picture_around(found, wanted, count), known, tally.rejected, needed)


def between(
    model: api.Model,
    ends: Sequence[tuple[str, str | None]],
    steps: int,
    path: Literal["linear", "spherical"],
    like: Files,
    read: ReadOptions,
    progress: bool,
) -> Order:
    """Latents on the way from one crystal to another; see `commands.interpolate_files`.

    Raises:
        InputError: an end, given by file and id, cannot be read or represented.
    """
    rows = [read_one(file, name, reading_for(read, model)) for file, name in ends]
    first, last = (_latent(row, model) for row in rows)
    _, known = read_references(like, model, read, progress, encode=False)
    digits = max(2, len(str(steps - 1)))
    stem = "_".join(row.id for row in rows)
    source = " to ".join(file if name is None else f"{file}#{name}" for file, name in ends)
    wanted = [
        Wanted(f"{stem}_{i:0{digits}d}", latent, source)
        for i, latent in enumerate(PATHS[path](first, last, steps))
    ]
    return Order(wanted, _picture_of_path(rows, wanted), known)


def at_random(
    model: api.Model,
    name: str,
    count: int,
    property_bin: int | None,
    like: Files,
    prior: Literal["auto", "own", "fitted"],
    seed: int,
    read: ReadOptions,
    progress: bool,
) -> Order:
    """Latents from a prior, the model's own or a fitted one; see `commands.sample_files`.

    Args:
        model: the model, and `name` what it was loaded by.
        name: for the list of what was rejected.
        count: crystals to make.
        property_bin: of a conditional model.
        like: crystals whose latents stand for a prior, and whose formulas are known.
        prior: the model's own, or one fitted to the latents of `like` (as in arXiv:1903.12436);
            `auto` takes the own one where there is one.
        seed: of the draws.
        read: how crystals are read.
        progress: show a progress bar.

    Raises:
        InputError: there is nothing to draw from, or no such bin.
    """
    if property_bin is not None:
        print(tell_bin(model, property_bin))
    able = has_prior(model)
    own = prior == "own" or (prior == "auto" and able)
    if own and not able:
        raise InputError(f"a {type(model.module).__name__} has no prior of its own; fit one")
    if not own and like is None:
        kind = type(model.module).__name__
        told = "" if able else f"a {kind} has no prior to draw latents from; "
        raise InputError(f"{told}name crystals like the ones wanted with --like FILES")
    others, known = read_references(like, model, read, progress, encode=not own)
    gaussian = None if own else LatentGaussian.fit(stack_latents(others, "--like"))
    label = "" if property_bin is None else f"_bin{property_bin}"
    wanted = [
        Wanted(
            f"sample_s{seed}{label}_{i:05d}",
            draw_latent(model, gaussian, property_bin, seed, i),
            name,
        )
        for i in range(count)
    ]
    shown = [(f"sample {i}", one.id) for i, one in enumerate(wanted[:10])]
    return Order(wanted, Picture(shown, columns=5), known, drawn_like=not own)


def _latent(row: Row, model: api.Model) -> Tensor:
    (one,) = encode_rows([row], model)
    if one.latent is None:
        raise InputError(f"crystal {row.id} of {row.source}: {one.reason}")
    return one.latent


def _near(one: Encoded, name: str, width: Tensor, seed: int, number: int) -> Wanted:
    """One crystal around a given one."""
    latent = one.latent
    if latent is not None:
        latent = latent + width * draw_normal(len(latent), seed, "perturb", one.row.id, number)
    return Wanted(name, latent, one.row.source, one.row.row, one.reason)


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
