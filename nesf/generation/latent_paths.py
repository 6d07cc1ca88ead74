"""Ways through a latent space: around one latent, between two, and draws from many."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nesf.random import generator_for

_PRIOR_DRAWS = 4096  # tell a standard deviation to 1 %
_PARALLEL = 1e-6  # sine of an angle below which a great circle is a line


def linear(
    first: Float[Tensor, " l"], last: Float[Tensor, " l"], steps: int
) -> Float[Tensor, "s l"]:
    """Latents at equal steps on the straight line between two, both ends included.

    Args:
        first: (L,) latent at step 0.
        last: (L,) latent at the last step.
        steps: S, at least 2.

    Returns:
        (S, L) latents; the ends are exactly `first` and `last`.
    """
    share = _shares(first, steps)
    return _with_ends(first + share * (last - first), first, last)


def spherical(
    first: Float[Tensor, " l"], last: Float[Tensor, " l"], steps: int
) -> Float[Tensor, "s l"]:
    """Latents at equal angles on the great circle between two, both ends included.

    The direction turns as in Shoemake's slerp (SIGGRAPH 1985) and the length grows evenly, so
    that draws from a normal of many dimensions, which lie near a sphere, stay near it all the way
    (White, arXiv:1609.04468). Latents in the same or in opposite directions, or of zero length,
    have no one great circle: there the path is the straight line.

    Args:
        first: (L,) latent at step 0.
        last: (L,) latent at the last step.
        steps: S, at least 2.

    Returns:
        (S, L) latents; the ends are exactly `first` and `last`.
    """
    start, end = first.double(), last.double()
    lengths = start.norm(), end.norm()
    if not float(lengths[0] * lengths[1]):
        return linear(first, last, steps)
    start, end = start / lengths[0], end / lengths[1]
    angle = torch.arccos((start @ end).clamp(-1, 1))
    if abs(math.sin(float(angle))) < _PARALLEL:
        return linear(first, last, steps)
    share = _shares(start, steps)
    turned = torch.sin((1 - share) * angle) * start + torch.sin(share * angle) * end
    length = lengths[0] + share * (lengths[1] - lengths[0])
    path = length * turned / torch.sin(angle)
    return _with_ends(path.to(first.dtype), first, last)


PATHS: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "linear": linear,
    "spherical": spherical,
}


def draw_normal(size: int, seed: int, *key: int | str) -> Float[Tensor, " l"]:
    """Standard normal numbers (L,) that seed and key alone decide, drawn on the CPU."""
    return torch.randn(size, generator=generator_for(seed, *key))


def spread_of(latents: Float[Tensor, "m l"]) -> Float[Tensor, " l"]:
    """Standard deviation (L,) of each latent dimension over M latents, M at least 2."""
    return latents.std(dim=0)


@torch.no_grad()
def prior_spread(module: nn.Module) -> Float[Tensor, " l"]:
    """Standard deviation (L,) of each latent dimension over a model's own prior.

    Measured on draws, which no one has to know the form of the prior for; 1 within a hundredth for
    a standard normal one, 0 where the prior does not vary.

    Args:
        module: a model with `sample_latents`.
    """
    generator = generator_for(0, "spread of the prior")
    return spread_of(module.sample_latents(_PRIOR_DRAWS, generator).float().cpu())  # type: ignore[operator]


@torch.no_grad()
def condition_dims(module: nn.Module, latent: Float[Tensor, "1 l"]) -> Bool[Tensor, " l"]:
    """Which latent dimensions (L,) say the condition, and not what the crystal is.

    Args:
        module: any model; one without `set_condition` has none.
        latent: (1, L) any latent on the model's device.

    Returns:
        The dimensions that `set_condition` changes, on the CPU.
    """
    told = torch.zeros(latent.shape[-1], dtype=torch.bool)
    if not hasattr(module, "set_condition"):
        return told
    for condition in range(num_conditions(module)):
        changed = module.set_condition(latent, condition) != latent  # type: ignore[operator]
        told |= changed.squeeze(0).cpu()
    return told


def num_conditions(module: nn.Module) -> int:
    """Number of property bins of a conditional model."""
    return len(module.condition_edges) + 1  # type: ignore[arg-type]


@dataclass(frozen=True)
class LatentGaussian:
    """A normal distribution fitted to the latents of known crystals.

    Attributes:
        mean: (L,).
        factor: (L, L) lower Cholesky factor of the covariance.
    """

    mean: Float[Tensor, " l"]
    factor: Float[Tensor, "l l"]

    @staticmethod
    def fit(latents: Float[Tensor, "m l"]) -> LatentGaussian:
        """Mean and shrunk covariance of M latents, M at least 2.

        The covariance of fewer latents than dimensions is singular; Ledoit and Wolf's shrinkage
        towards a multiple of the identity (J. Multivar. Anal. 88, 365, 2004) is not.
        """
        from sklearn.covariance import LedoitWolf

        values = latents.double()
        covariance = torch.from_numpy(LedoitWolf().fit(values.cpu().numpy()).covariance_)
        # latents that are all the same have no covariance at all
        floor = torch.finfo(torch.float64).eps * covariance.diagonal().max().clamp_min(1.0)
        covariance.diagonal().add_(floor)
        factor = torch.linalg.cholesky(covariance)
        return LatentGaussian(values.mean(0).cpu().float(), factor.float())

    def latent_of(self, normal: Float[Tensor, " l"]) -> Float[Tensor, " l"]:
        """The latent (L,) that standard normal numbers (L,) stand for."""
        return self.mean + self.factor @ normal


def _shares(latent: Tensor, steps: int) -> Tensor:
    """(S, 1) from 0 to 1."""
    return torch.linspace(0, 1, steps, dtype=latent.dtype, device=latent.device).unsqueeze(-1)


def _with_ends(path: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The path with its ends free of rounding."""
    path[0], path[-1] = first, last
    return path
