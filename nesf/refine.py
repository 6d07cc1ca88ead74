"""Latents fitted to their crystals, where what the encoder says does not decode to them.

An encoder answers at once, and errs on what it has seen too little of. The decoder often holds
the crystal all the same, behind another latent: the auto-decoder of DeepSDF (Park et al.,
arXiv:1901.05103, eq. 10), begun at the encoder's answer. A latent has some hundred numbers, so that
it is found by least squares in a few steps, where gradient descent takes hundreds. The weights stay
as they are, and the latent remains all that the decoder is told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch, standardised
from nesf.latent_fit import LatentFit
from nesf.reconstruct import Reconstruction, join_reconstructions
from nesf.refine_options import RefineOptions
from nesf.scoring import count_faults

__all__ = ["RefineOptions", "Refined", "refine_latents"]


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


def refine_latents(
    model: NeSF,
    crystals: CrystalBatch,
    latent: Float[Tensor, "b l"],
    decode: Callable[[Tensor], Reconstruction],
    options: RefineOptions,
) -> Refined:
    """Fit the latents that do not decode to their crystals.

    A crystal's result does not depend on the others of its batch. Where no step gives the crystal
    itself, the latent with the fewest faults is kept, the encoder's among them.

    Args:
        model: the decoders; their weights must not require gradients.
        crystals: B crystals.
        latent: (B, L) the encoder's latents.
        decode: latents to crystals.
        options: every knob.
    """
    crystals = standardised(crystals)
    best, found = latent.clone(), [decode(latent)]

    def faults_of(some: Reconstruction, true: CrystalBatch) -> Tensor:
        limits = (options.tolerance, options.lattice_tolerance)
        return count_faults(some.crystals, true, *limits, walls=model.walls)

    faults = faults_of(found[0], crystals)
    place = torch.arange(len(latent), device=latent.device)  # each crystal's best one in `found`
    taken = torch.zeros_like(place)
    open_ = faults.nonzero().squeeze(-1)
    seen, learned, told = model.seen(crystals, latent)
    fit = LatentFit(model, seen.select(open_), learned[open_], options)
    while len(open_) and fit.step < options.steps:
        for _ in range(options.until_check(fit.step)):
            fit.advance()
        taken[open_] = fit.step
        # decoding costs several steps: only where it can succeed, and at the end
        tried = fit.fields_right() | (fit.step >= options.steps)
        if not tried.any():
            continue
        rows = open_[tried]
        tried_latent = torch.cat([fit.latent[tried], told[rows]], dim=-1)
        again = decode(tried_latent)
        left = faults_of(again, crystals.select(rows))
        fit.ask_where_wrong(
            tried.nonzero().squeeze(-1), model.seen(again.crystals, tried_latent)[0]
        )
        better = left < faults[rows]
        place[rows[better]] = sum(len(one.crystals) for one in found) + better.nonzero().squeeze(-1)
        faults[rows[better]], best[rows[better]] = left[better], tried_latent[better]
        found.append(again)
        still = faults[open_] > 0
        fit.keep(still)
        open_ = open_[still]
    return Refined(best, join_reconstructions(found).select(place), faults, taken)
