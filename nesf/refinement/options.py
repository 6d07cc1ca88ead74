"""The knobs of latent refinement."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from nesf.queries import CellQueries
from nesf.refinement.residuals import Weights

FEW = CellQueries(uniform=32, near=48, near_width=0.4, species=16, shared=True)
MANY = CellQueries(uniform=32, near=128, near_width=0.3, species=16, shared=True)


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
        settled_memory: the same in the last quarter of a cycle: a mean over more queries, so that
            what moves to and fro comes to rest.
        cycle: steps of a cycle, after which the next one begins where it has come to; all of them
            if there are fewer.
        whitening: how far directions are evened out in which the decoders feel the latent more or
            less (see `whitened`), 0 not at all to 1 altogether; what is even is damped evenly.
        tolerance: atoms farther off than this are not the crystal's, Å.
        lattice_tolerance: nor is a lattice with a vector farther off than this, Å.
        queries: where the fields are asked, anew in each of the first steps.
        more_queries: and in each of the others.
        wrong: position queries besides, around where the last decoding erred (around atoms before
            there was one): few of the others meet a false site, on which particles come to rest.
        wrong_width: largest standard deviation around these places, Å.
        weights: of what is minimised.
        seed: of the queries.
    """

    steps: int = 480
    first_steps: int = 8
    check_growth: float = 1.4
    damping: float = 0.1
    memory: float = 0.7
    settled_memory: float = 0.95
    cycle: int = 160
    whitening: float = 1.0
    tolerance: float = 0.03
    lattice_tolerance: float = 0.1
    queries: CellQueries = FEW
    more_queries: CellQueries = MANY
    wrong: int = 64
    wrong_width: float = 0.2
    weights: Weights = field(default_factory=Weights)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "first_steps", "wrong", "wrong_width"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}")
        if self.cycle < 1:
            raise ValueError(f"cycle must be at least 1, not {self.cycle}")
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
        cycle = min(self.cycle, self.steps)
        return self.memory if 4 * (step % cycle) < 3 * cycle else self.settled_memory

    def until_check(self, step: int) -> int:
        """How many steps to take after `step` of them before latents are looked at."""
        end = min((step // self.cycle + 1) * self.cycle, self.steps)
        return min(math.floor(step * self.check_growth) + 1, end) - step
