"""Damped least squares on latents, by the decoders alone."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch
from nesf.objective import target_of
from nesf.places import Places
from nesf.precision import full_precision
from nesf.queries import QueryBlock, TrainingQueries, in_cell_coords
from nesf.random import generator_for
from nesf.refinement.options import RefineOptions
from nesf.refinement.residuals import Residuals, random_signs
from nesf.scoring import wrong_places

# crystals whose derivatives are found at once: on a CPU what they need stays in its caches
CRYSTALS_AT_ONCE = {"cpu": 8, "cuda": 512}


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
    outlives the points and the weights that no longer hold. A position query counts along a random
    direction alone (`residuals.random_signs`): what one step does not see the next ones do.

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
        # around which more is asked; before anything was read, the atoms
        self._places = Places(in_cell_coords(crystals, model.margin), crystals.num_atoms)
        self._read = False
        self._moved = torch.zeros_like(latent)  # from the beginning, in the basis
        # the quadratic u^T curvature u / 2 + pull^T u of all that was moved, u; most latents are
        # right before there is one
        self._curvature = latent.new_zeros(len(latent), 0, 0)
        self._pull = torch.zeros_like(latent)

    @torch.no_grad()
    def advance(self) -> None:
        """One step."""
        if not self.step:
            batch, length = self.latent.shape
            self._curvature = self.latent.new_zeros(batch, length, length)
        generator = generator_for(self.options.seed, "refine", self.step, device=self.latent.device)
        with full_precision(self.latent.device):
            asked = self._asked(generator)
            along = random_signs(asked.position[0].query.shape[1], generator)
            size = CRYSTALS_AT_ONCE.get(self.latent.device.type, 32)
            for rows in torch.arange(len(self.latent), device=self.latent.device).split(size):
                self._advance(rows, asked, along)
        self.step += 1

    def _asked(self, generator: torch.Generator) -> TrainingQueries:
        """What this step asks: the usual, and around the places that were read wrongly."""
        options = self.options
        few = self.step < options.first_steps
        queries = options.queries if few else options.more_queries
        asked = queries(self.crystals, generator, self.model.margin)
        (block,) = asked.position
        wrong = self._places.around(options.wrong, options.wrong_width, generator, shared=True)
        block = QueryBlock(block.crystal, torch.cat([block.query, wrong], dim=1))
        return TrainingQueries((block,), asked.species)

    def _advance(self, rows: Int[Tensor, " r"], asked: TrainingQueries, along: Tensor) -> None:
        options, memory = self.options, self.options.memory_at(self.step)
        part = slice(int(rows[0]), int(rows[-1]) + 1)  # views, which the step changes in place
        moved = self._moved[part].unsqueeze(-1)  # (R, L, 1)
        curvature, pull = self._curvature[part], self._pull[part].unsqueeze(-1)
        here = self._residuals(
            self.crystals.select(rows), self.latent[part], asked.select(rows), along
        )
        jacobian, residual = here.jacobian, here.residual.unsqueeze(-1)
        curvature.baddbmm_(jacobian.mT, jacobian, beta=memory)
        pull.baddbmm_(jacobian.mT, residual - jacobian @ moved, beta=memory)
        damped = curvature.clone()
        diagonal = damped.diagonal(dim1=-2, dim2=-1)
        diagonal += options.damping * diagonal.mean(-1, keepdim=True)
        # what a latent cannot change has no curvature: nothing moves then
        factor, failed = torch.linalg.cholesky_ex(damped)
        change = -torch.cholesky_solve(curvature @ moved + pull, factor).squeeze(-1)
        change = torch.where(failed.unsqueeze(-1) == 0, change, 0.0)
        self._moved[part] += change
        self.latent[part] += change @ self._basis.mT

    def fields_right(self) -> Bool[Tensor, " b"]:
        """Whether fields and heads agree with the crystals at the atoms themselves.

        And whether the fields point away from where the last decoding had a site too many. Where
        they do not, decoding cannot give the crystal; where they do, it may yet find others.
        """
        model, crystals, options = self.model, self.crystals, self.options
        heads = model.heads(self.latent)
        apart = (heads.lattice - crystals.lattice).norm(dim=-1).amax(-1)
        right = (apart <= options.lattice_tolerance) | model.frames
        if model.count_head:
            right &= heads.num_atoms == crystals.num_atoms.clamp_max(model.max_atoms)
        fields = model.fields_seen(self.latent, crystals.lattice)
        atoms, places = in_cell_coords(crystals, model.margin), self._places
        off = fields.position(atoms).norm(dim=-1) > options.tolerance
        other = fields.species(atoms).argmax(-1) != crystals.species
        right &= ~((off | other) & crystals.mask).any(-1)
        if not self._read:
            return right
        index = torch.arange(len(atoms), device=atoms.device)
        true = target_of(model, QueryBlock(index, places.points), crystals).offset
        astray = (fields.position(places.points) - true).norm(dim=-1)
        lost = astray > options.tolerance + 0.5 * true.norm(dim=-1)
        return right & ~(lost & places.mask).any(-1)

    def ask_where_wrong(self, rows: Int[Tensor, " r"], found: CrystalBatch) -> None:
        """Ask some of the crystals from now on where they were read wrongly.

        Args:
            rows: which.
            found: what was read.
        """
        model, true = self.model, self.crystals.select(rows)
        wrong = wrong_places(found, true, self.options.tolerance, model.margin, model.walls)
        self._places, self._read = self._places.exchanged(rows, wrong), True

    def keep(self, mask: Bool[Tensor, " b"]) -> None:
        """Go on with some of the crystals."""
        self.crystals, self._places = self.crystals.select(mask), self._places.select(mask)
        self.latent, self._moved = self.latent[mask], self._moved[mask]
        self._curvature, self._pull = self._curvature[mask], self._pull[mask]
