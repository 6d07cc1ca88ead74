"""Latents fitted to their crystals, where what the encoder says does not decode to them.

An encoder answers at once, and errs on what it has seen too little of. The decoder often holds
the crystal all the same, behind another latent: the auto-decoder of DeepSDF (Park et al.,
arXiv:1901.05103, eq. 10), begun at the encoder's answer. A latent has some hundred numbers, so that
it is found by least squares in a few steps, where gradient descent takes hundreds. The weights stay
as they are, and the latent remains all that the decoder is told.
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
from nesf.precision import full_precision
from nesf.queries import CellQueries, TrainingQueries, in_cell_coords
from nesf.random import generator_for
from nesf.reconstruct import Reconstruction, join_reconstructions
from nesf.residuals import Residuals, Weights
from nesf.scoring import count_faults

# crystals whose derivatives are held at once: 3 MB each on the way, at the default queries
CRYSTALS_AT_ONCE = {"cpu": 32, "cuda": 512}
FEW = CellQueries(uniform=32, near=48, near_width=0.4, species=16, shared=True)
MANY = CellQueries(uniform=32, near=192, near_width=0.3, species=16, shared=True)


@dataclass(frozen=True)
class RefineOptions:
    """How latents are fitted to their crystals.

    Attributes:
        steps: of least squares, at most; 0 leaves the encoder's latents as they are.
        first_steps: of them with few queries, for the many latents that need little; the others
            are for the few that need much.
        check_growth: latents whose fields have come right are decoded, and those that give their
            crystals are done, after the first step and then whenever the steps have grown by this
            factor.
        damping: of a step, as a share of the mean curvature (Levenberg, Q. Appl. Math. 2, 164,
            1944).
        memory: weight of each step's quadratic in the next step, where it stands for the queries of
            the steps before; 0 forgets them.
        settled_memory: the same in the last quarter of the steps: a mean over more queries, so that
            what moves to and fro comes to rest.
        whitening: how far directions are evened out in which the decoders feel the latent more or
            less (see `whitened`), 0 not at all to 1 altogether; what is even is damped evenly.
        tolerance: atoms farther off than this are not the crystal's, Å.
        lattice_tolerance: nor is a lattice with a vector farther off than this, Å.
        queries: where the fields are asked, anew in each of the first steps.
        more_queries: and in each of the others.
        weights: of what is minimised.
        seed: of the queries.
    """

    steps: int = 160
    first_steps: int = 8
    check_growth: float = 1.4
    damping: float = 0.1
    memory: float = 0.7
    settled_memory: float = 0.95
    whitening: float = 1.0
    tolerance: float = 0.03
    lattice_tolerance: float = 0.1
    queries: CellQueries = FEW
    more_queries: CellQueries = MANY
    weights: Weights = field(default_factory=Weights)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "first_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if not 1 <= self.check_growth < math.inf:
            raise ValueError(f"check_growth must be at least 1, not {self.check_growth}")
        if not 0 <= self.whitening <= 1:
            raise ValueError(f"whitening is a share, 0 to 1, not {self.whitening}")
        for name in ("memory", "settled_memory"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share below 1, not {getattr(self, name)}")
        for name in ("damping", "tolerance", "lattice_tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")

    def memory_at(self, step: int) -> float:
        """The memory of a step, counted from 0."""
        return self.memory if 4 * step < 3 * self.steps else self.settled_memory

    def until_check(self, step: int) -> int:
        """How many steps to take after `step` of them before latents are looked at."""
        return min(math.floor(step * self.check_growth) + 1, self.steps) - step


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
    fit = LatentFit(model, crystals.select(open_), latent[open_], options)
    while len(open_) and fit.step < options.steps:
        for _ in range(options.until_check(fit.step)):
            fit.advance()
        taken[open_] = fit.step
        # decoding costs several steps: only where it can succeed, and at the end
        tried = fit.fields_right() | (fit.step >= options.steps)
        if not tried.any():
            continue
        rows, tried_latent = open_[tried], fit.latent[tried]
        again = decode(tried_latent)
        left = faults_of(again, crystals.select(rows))
        better = left < faults[rows]
        place[rows[better]] = sum(len(one.crystals) for one in found) + better.nonzero().squeeze(-1)
        faults[rows[better]], best[rows[better]] = left[better], tried_latent[better]
        found.append(again)
        still = faults[open_] > 0
        fit.keep(still)
        open_ = open_[still]
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


class LatentFit:
    """Damped least squares on latents alone, each crystal for itself, in a whitened basis.

    Each step asks the fields at new points, and minimises the sum of this step's quadratic and of
    those before it, each weighted less the older it is: recursive least squares, whose forgetting
    outlives the points and the weights that no longer hold.

    Args:
        model: the decoders.
        crystals: B crystals in standard orientation.
        latent: (B, L) where to begin.
        options: every knob.

    Attributes:
        crystals: those that are fitted.
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
        self._basis = whitened(model, options.whitening)  # (L, L)
        self._residuals = Residuals(model, self._basis, options.weights)
        batch, length = latent.shape
        self._moved = torch.zeros_like(latent)  # from the beginning, in the basis
        # the quadratic u^T curvature u / 2 + pull^T u of all that was moved, u
        self._curvature = latent.new_zeros(batch, length, length)
        self._pull = torch.zeros_like(latent)

    @torch.no_grad()
    def advance(self) -> None:
        """One step."""
        generator = generator_for(self.options.seed, "refine", self.step, device=self.latent.device)
        with full_precision(self.latent.device):
            first = self.step < self.options.first_steps
            queries = self.options.queries if first else self.options.more_queries
            asked = queries(self.crystals, generator)
            size = CRYSTALS_AT_ONCE.get(self.latent.device.type, 32)
            for rows in torch.arange(len(self.latent), device=self.latent.device).split(size):
                self._advance(rows, asked)
        self.step += 1

    def _advance(self, rows: Int[Tensor, " r"], asked: TrainingQueries) -> None:
        options, moved = self.options, self._moved[rows].unsqueeze(-1)  # (R, L, 1)
        here = self._residuals(self.crystals.select(rows), self.latent[rows], asked.select(rows))
        memory = options.memory_at(self.step)
        curvature = memory * self._curvature[rows] + here.curvature
        pull = memory * self._pull[rows].unsqueeze(-1)
        pull = pull + here.slope.unsqueeze(-1) - here.curvature @ moved
        mean = curvature.diagonal(dim1=-2, dim2=-1).mean(-1, keepdim=True)
        damped = curvature + torch.diag_embed((options.damping * mean).expand_as(self._pull[rows]))
        # what a latent cannot change has no curvature: nothing moves then
        factor, failed = torch.linalg.cholesky_ex(damped)
        change = -torch.cholesky_solve(curvature @ moved + pull, factor).squeeze(-1)
        change = torch.where(failed.unsqueeze(-1) == 0, change, 0.0)
        self._curvature[rows], self._pull[rows] = curvature, pull.squeeze(-1)
        self._moved[rows] += change
        self.latent[rows] += change @ self._basis.mT

    def fields_right(self) -> Bool[Tensor, " b"]:
        """Whether fields and heads agree with the crystals at the atoms themselves.

        Where they do not, decoding cannot give the crystal; where they do, it may yet find too
        many atoms.
        """
        model, crystals, options = self.model, self.crystals, self.options
        heads = model.heads(self.latent)
        apart = (heads.lattice - crystals.lattice).norm(dim=-1).amax(-1)
        right = apart <= options.lattice_tolerance
        if model.count_head:
            right &= heads.num_atoms == crystals.num_atoms.clamp_max(model.max_atoms)
        fields = model.fields(self.latent, crystals.lattice)
        atoms = in_cell_coords(crystals, model.margin)
        off = fields.position(atoms).norm(dim=-1) > options.tolerance
        other = fields.species(atoms).argmax(-1) != crystals.species
        return right & ~((off | other) & crystals.mask).any(-1)

    def keep(self, mask: Bool[Tensor, " b"]) -> None:
        """Go on with some of the crystals."""
        self.crystals = self.crystals.select(mask)
        self.latent, self._moved = self.latent[mask], self._moved[mask]
        self._curvature, self._pull = self._curvature[mask], self._pull[mask]
