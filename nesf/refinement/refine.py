"""Latents fitted to their crystals, where what the encoder says does not decode to them.

An encoder answers at once, and errs on what it has seen too little of. The decoder often holds
the crystal all the same, behind another latent: the auto-decoder of DeepSDF (Park et al.,
arXiv:1901.05103, eq. 10), begun at the encoder's answer. A latent has some hundred numbers, so that
it is found by least squares in a few steps, where gradient descent takes hundreds. The weights stay
as they are, and the latent remains all that the decoder is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch, standardised
from nesf.errors import InputError
from nesf.reconstruction.reconstruct import Reconstruction, ReconstructOptions, join_reconstructions
from nesf.refinement.latent_fit import LatentFit
from nesf.refinement.options import RefineOptions
from nesf.scoring import count_faults

__all__ = [
    "Judge",
    "RefineOptions",
    "Refined",
    "iter_refined",
    "join_refined",
    "refine_parts",
    "refinement_for",
]

# counts what is wrong with crystals that came back, as of the crystals at an index
Judge = Callable[[Reconstruction, Tensor], Tensor]


@dataclass(frozen=True)
class Refined:
    """Latents and what they decode to.

    Attributes:
        latent: (B, L).
        found: what they decode to.
        faults: (B,) what is wrong with it, see `nesf.scoring.count_faults`; 0 where it is the
            crystal itself.
        steps: (B,) steps that each took.
    """

    latent: Float[Tensor, "b l"]
    found: Reconstruction
    faults: Int[Tensor, " b"]
    steps: Int[Tensor, " b"]


def iter_refined(
    model: NeSF,
    crystals: CrystalBatch,
    latent: Float[Tensor, "b l"],
    decode: Callable[[Tensor], Reconstruction],
    options: RefineOptions,
    judge: Judge | None = None,
) -> Iterator[tuple[Int[Tensor, " k"], Refined]]:
    """Fit the latents that do not decode to their crystals, and give each as soon as it is done.

    What is done with a crystal does not depend on the others of its batch; products in bfloat16 are
    rounded otherwise in batches of another shape, though, and of the latents that give a crystal
    within the tolerance another may be found first. Where no step gives the crystal
    itself, the latent with the fewest faults is kept, the encoder's among them.

    Args:
        model: the decoders; their weights must not require gradients.
        crystals: B crystals.
        latent: (B, L) the encoder's latents.
        decode: latents to crystals.
        options: every knob.
        judge: counts the faults (K,) of K reconstructions, those of the crystals at an index (K,);
            by default `count_faults` with the tolerances of the options.

    Yields:
        Positions (K,) of crystals that nothing more is done with, and what became of them. Each
        crystal comes once, those that keep faults last.
    """
    crystals = standardised(crystals)
    every = torch.arange(len(latent), device=latent.device)
    best, taken = latent.clone(), torch.zeros_like(every)
    found: list[Reconstruction] = []
    faults = torch.full_like(every, torch.iinfo(torch.long).max)
    place = torch.full_like(every, -1)  # each crystal's best one in `found`

    def look(rows: Tensor, some: Tensor) -> Reconstruction:
        """Decode latents of some of the crystals; keep what is better than before."""
        again = decode(some)
        if judge is None:
            limits = (options.tolerance, options.lattice_tolerance)
            left = count_faults(again.crystals, crystals.select(rows), *limits, walls=model.walls)
        else:
            left = judge(again, rows)
        better = left < faults[rows]
        place[rows[better]] = sum(len(one.crystals) for one in found) + better.nonzero().squeeze(-1)
        faults[rows[better]], best[rows[better]] = left[better], some[better]
        found.append(again)
        return again

    def result(rows: Tensor, back: Reconstruction) -> tuple[Tensor, Refined]:
        return rows, Refined(best[rows], back, faults[rows], taken[rows])

    seen, learned, told = model.seen(crystals, latent)
    fit, open_ = LatentFit(model, seen, learned, options), every
    unread = torch.ones_like(every, dtype=torch.bool)  # of which the encoder's latents
    while True:
        # decoding costs several steps: only where it can succeed, and at the end
        tried = fit.fields_right() | (fit.step >= options.steps)
        if tried.any():
            rows = open_[tried]
            unread[rows] &= fit.step > 0
            some = torch.cat([fit.latent[tried], told[rows]], dim=-1)
            again = look(rows, some)
            fit.ask_where_wrong(tried.nonzero().squeeze(-1), model.seen(again.crystals, some)[0])
            done = (faults[rows] == 0).nonzero().squeeze(-1)
            if len(done):
                yield result(rows[done], again.select(done))
            still = faults[open_] > 0
            fit.keep(still)
            open_ = open_[still]
        if not len(open_) or fit.step >= options.steps:
            break
        for _ in range(options.until_check(fit.step)):
            fit.advance()
        taken[open_] = fit.step
    rows = (unread & (faults > 0)).nonzero().squeeze(-1)
    if len(rows):
        look(rows, latent[rows])
    if len(open_):
        yield result(open_, join_reconstructions(found).select(place[open_]))


def refine_parts(
    model: NeSF,
    crystals: CrystalBatch,
    parts: Iterable[Int[Tensor, " k"]],
    refinement: RefineOptions,
    options: ReconstructOptions | None = None,
    judge: Judge | None = None,
) -> Iterator[tuple[Int[Tensor, " k"], Refined]]:
    """Encode crystals and fit their latents, a part of them at a time; within `undisturbed`.

    Args:
        model: encoder and decoders.
        crystals: B crystals.
        parts: positions of those that are fitted together.
        refinement: every knob.
        options: of the reconstruction, instead of the model's own.
        judge: as of `iter_refined`, told positions among all B.

    Yields:
        As of `iter_refined`, positions among all B.
    """

    def decode(latent: Tensor) -> Reconstruction:
        return model.decode(latent, options)

    for part in parts:
        some = crystals.select(part)
        judge_part = judge and _judge_of(judge, part)
        latent = model.encode(some)
        for rows, refined in iter_refined(model, some, latent, decode, refinement, judge_part):
            yield part[rows], refined


def join_refined(parts: Iterable[tuple[Int[Tensor, " k"], Refined]]) -> Refined:
    """What became of all crystals, in their order.

    Args:
        parts: of a `iter_refined` that has at least one crystal.
    """
    rows, refined = zip(*parts, strict=True)
    order = torch.cat(rows).argsort()
    return Refined(
        torch.cat([one.latent for one in refined])[order],
        join_reconstructions([one.found for one in refined]).select(order),
        torch.cat([one.faults for one in refined])[order],
        torch.cat([one.steps for one in refined])[order],
    )


def _judge_of(judge: Judge, part: Tensor) -> Judge:
    return lambda found, rows: judge(found, part[rows])


def refinement_for(model: nn.Module, steps: int | RefineOptions | None) -> RefineOptions:
    """How latents of a model are fitted to their crystals.

    Args:
        model: whose latents.
        steps: at most so many, or all options; None as many as they say for a NeSF, and none for
            other models.

    Raises:
        InputError: the model has no fields to fit a latent by, or the steps are not 0, 1, 2, ...
    """
    able = isinstance(model, NeSF)
    if not isinstance(steps, RefineOptions):
        if steps is None:
            steps = RefineOptions().steps if able else 0
        if steps != int(steps) or steps < 0:
            raise InputError(f"refine is {steps}; give a number of steps, or 0 for none")
        steps = RefineOptions(steps=int(steps))
    if steps.steps and not able:
        kind = type(model).__name__
        raise InputError(f"latents of a {kind} cannot be refined; leave refine out, or give 0")
    return steps
