"""Latents fitted to their crystals, where what the encoder says does not decode to them.

An encoder answers at once, and errs on what it has seen too little of. The decoder often holds
the crystal all the same, behind another latent, which gradient descent on the latent alone finds:
the auto-decoder of DeepSDF (Park et al., arXiv:1901.05103, eq. 10), begun at the encoder's answer.
The weights stay as they are, and the latent remains all that the decoder is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch, standardised
from nesf.objective import LossOptions, loss_parts, total_loss
from nesf.precision import autocast
from nesf.queries import CellQueries
from nesf.random import generator_for
from nesf.reconstruct import Reconstruction, join_reconstructions
from nesf.scoring import count_faults

ADAM_BETAS, ADAM_EPS = (0.9, 0.99), 1e-12


@dataclass(frozen=True)
class RefineOptions:
    """How latents are fitted to their crystals.

    Attributes:
        steps: of gradient descent (Adam), at most; 0 leaves the encoder's latents as they are. The
            first quarter is for the many that need little, the rest for the few that need much:
            the rate falls to 0 along a cosine in each, the second time from half as high.
        check_every: decode after so many steps, and be done with latents that give their crystals.
        rate: of the first step, in units of the latent's root mean square.
        whitening: how far directions are evened out in which the decoders feel the latent more or
            less (see `whitened`), 0 not at all to 1 altogether.
        tolerance: atoms farther off than this are not the crystal's, Å.
        lattice_tolerance: nor is a lattice with a vector farther off than this, Å.
        queries: where the fields are asked.
        losses: what is minimised.
        seed: of the queries.
    """

    steps: int = 1200
    check_every: int = 50
    rate: float = 0.3
    whitening: float = 0.5
    tolerance: float = 0.03
    lattice_tolerance: float = 0.1
    queries: CellQueries = field(
        default_factory=lambda: CellQueries(uniform=32, near=48, species=16, shared=True)
    )
    losses: LossOptions = field(default_factory=LossOptions)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"steps must not be negative, not {self.steps}")
        if self.check_every < 1:
            raise ValueError(f"check_every must be at least 1, not {self.check_every}")
        if not 0 <= self.whitening <= 1:
            raise ValueError(f"whitening is a share, 0 to 1, not {self.whitening}")
        for name in ("rate", "tolerance", "lattice_tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    def rate_at(self, step: int) -> float:
        """The rate of a step, counted from 0, in units of the latent's root mean square."""
        first = math.ceil(self.steps / 4)
        if step < first:
            done, rate = step / first, self.rate
        else:
            done, rate = (step - first) / (self.steps - first), self.rate / 2
        return rate * 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Refined:
    """Latents and what they decode to.

    Attributes:
        latent: (B, L).
        found: what they decode to.
        faults: (B,) what is wrong with it, see `nesf.scoring.count_faults`; 0 where it is the
            crystal itself.
        steps: (B,) steps of gradient descent that each took.
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
    faults = count_faults(found[0].crystals, crystals, options.tolerance, options.lattice_tolerance)
    place = torch.arange(len(latent), device=latent.device)  # each crystal's best one in `found`
    taken = torch.zeros_like(place)
    open_ = faults.nonzero().squeeze(-1)
    descent = Descent(model, crystals.select(open_), latent[open_], options)
    while len(open_) and descent.step < options.steps:
        for _ in range(min(options.check_every, options.steps - descent.step)):
            descent.advance()
        taken[open_] = descent.step
        again = decode(descent.latent)
        left = count_faults(
            again.crystals, descent.crystals, options.tolerance, options.lattice_tolerance
        )
        better = left < faults[open_]
        rows = open_[better]
        place[rows] = sum(len(one.crystals) for one in found) + better.nonzero().squeeze(-1)
        faults[rows], best[rows] = left[better], descent.latent[better]
        found.append(again)
        descent.keep(left > 0)
        open_ = open_[left > 0]
    return Refined(best, join_reconstructions(found).select(place), faults, taken)


def whitened(model: NeSF, exponent: float, ridge: float = 1e-3) -> Float[Tensor, "l l"]:
    """A basis of latents in which equal steps change the decoders' first answers more evenly.

    With W the weights by which the latent enters both decoders, and W^T W = U diag(s^2) U^T, the
    basis vectors are U s^-exponent, scaled to a mean square of 1 in each component of the latent.

    Args:
        model: of latents of length L.
        exponent: 1 evens out all directions, 0 only turns them.
        ridge: share of the largest s^2 that is added to each.
    """
    decoders = (model.position_decoder.mlp, model.species_decoder.mlp)
    entering = torch.cat([mlp.latent_weights for mlp in decoders]).double()  # (C, L)
    squares, turn = torch.linalg.eigh(entering.mT @ entering)
    basis = turn * (squares + ridge * squares[-1]) ** (-exponent / 2)
    return (basis / basis.square().sum(-1).mean().sqrt()).float()


class Descent:
    """Adam (arXiv:1412.6980) on latents alone, each crystal for itself, in a whitened basis.

    Args:
        model: the decoders.
        crystals: B crystals in standard orientation.
        latent: (B, L) where to begin.
        options: every knob.

    Attributes:
        latent: (B, L) where it is now.
        step: steps taken.
    """

    def __init__(
        self,
        model: NeSF,
        crystals: CrystalBatch,
        latent: Float[Tensor, "b l"],
        options: RefineOptions,
    ) -> None:
        self.model, self.crystals, self.options = model, crystals, options
        self.latent = latent.detach().clone()
        self.step = 0
        self._scale = latent.square().mean(-1, keepdim=True).sqrt()  # (B, 1)
        self._mean, self._square = torch.zeros_like(latent), torch.zeros_like(latent)
        self._basis = whitened(model, options.whitening)  # (L, L)

    def advance(self) -> None:
        """One step."""
        options = self.options
        (beta1, beta2), gradient = ADAM_BETAS, self._gradient() @ self._basis
        self._mean.lerp_(gradient, 1 - beta1)
        self._square.lerp_(gradient.square(), 1 - beta2)
        rate = options.rate_at(self.step)
        self.step += 1
        mean = self._mean / (1 - beta1**self.step)
        square = self._square / (1 - beta2**self.step)
        move = (mean / (square.sqrt() + ADAM_EPS)) @ self._basis.mT
        self.latent = self.latent - rate * self._scale * move

    def keep(self, mask: Bool[Tensor, " b"]) -> None:
        """Go on with some of the crystals."""
        self.crystals = self.crystals.select(mask)
        self.latent, self._scale = self.latent[mask], self._scale[mask]
        self._mean, self._square = self._mean[mask], self._square[mask]

    def _gradient(self) -> Float[Tensor, "b l"]:
        options, device = self.options, self.latent.device
        generator = generator_for(options.seed, "refine", self.step, device=device)
        with torch.enable_grad(), autocast(device):
            latent = self.latent.detach().requires_grad_(True)
            asked = options.queries(self.crystals, generator)
            parts = loss_parts(self.model, self.crystals, latent, asked, options.losses)
            # the sum over crystals: each one's gradient is its own
            loss = total_loss(parts, options.losses) * len(latent)
            return torch.autograd.grad(loss, latent)[0]
