"""Where a model's latents lie: its own prior, or the latents of crystals that it encodes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nesf import api
from nesf.errors import InputError
from nesf.generation.encoded import Encoded
from nesf.generation.latent_paths import (
    LatentGaussian,
    condition_dims,
    draw_normal,
    num_conditions,
    prior_spread,
    spread_of,
)
from nesf.random import generator_for


def has_prior(model: api.Model) -> bool:
    """Whether a model can draw latents by itself."""
    # some can or cannot, as they were made
    return getattr(model.module, "has_prior", hasattr(model.module, "sample_latents"))


def spread_at_large(
    model: api.Model, inputs: Sequence[Encoded], like: Sequence[Encoded] | None
) -> Float[Tensor, " l"]:
    """Standard deviations (L,) of a model's latents; 0 in the dimensions of a condition.

    Over the model's own prior where it has one; or else over the crystals like the ones wanted; or
    else over the inputs. One crystal alone tells no spread: there the root mean square of its
    latent stands for it.

    Args:
        model: the model.
        inputs: the crystals that were given.
        like: crystals like them; None if there are none.

    Raises:
        InputError: there are too few crystals to tell, or they are all the same.
    """
    alone = [one.latent for one in inputs if one.latent is not None]
    if has_prior(model):
        spread = prior_spread(model.module)
    elif like is None and len(alone) == 1:
        spread = alone[0].square().mean().sqrt().expand_as(alone[0])
        print(
            "one crystal does not tell how far latents spread: the scale is in units of its "
            "latent's root mean square; --like FILES gives a better unit"
        )
    else:
        known = inputs if like is None else like
        spread = spread_of(stack_latents(known, "the input" if like is None else "--like"))
    blank = torch.zeros(1, model.latent_dim, device=model.device)
    spread = spread.masked_fill(condition_dims(model.module, blank), 0.0)
    if not float(spread.max()):
        raise InputError(
            "the latents of the crystals are all the same, which gives the scale no unit; name "
            "others with --like FILES"
        )
    return spread


def draw_latent(
    model: api.Model, gaussian: LatentGaussian | None, property_bin: int | None, seed: int, i: int
) -> Tensor:
    """The latent (L,) of the i-th sample, which depends on seed and number alone.

    Args:
        model: a model with a prior, or any other.
        gaussian: a fitted prior, instead of the model's own.
        property_bin: of a conditional model; None for no condition.
        seed: of the run.
        i: which sample.
    """
    if gaussian is None:
        one = model.module.sample_latents(1, generator_for(seed, "sample", i), property_bin)
        return one.float().cpu().squeeze(0)
    latent = gaussian.latent_of(draw_normal(len(gaussian.mean), seed, "sample", i))
    if not hasattr(model.module, "set_condition"):
        return latent
    placed = latent.unsqueeze(0).to(model.device)
    condition = -1 if property_bin is None else property_bin  # a mean of conditions is none
    return model.module.set_condition(placed, condition).cpu().squeeze(0)


def stack_latents(crystals: Sequence[Encoded], of: str) -> Float[Tensor, "m l"]:
    """The latents (M, L) of the crystals that have one.

    Raises:
        InputError: they are fewer than two, which tell no spread.
    """
    latents = [one.latent for one in crystals if one.latent is not None]
    if len(latents) < 2:
        count = "no crystal" if not latents else "one crystal"
        raise InputError(f"{of} has {count} that this model can encode; give two or more")
    return torch.stack(latents)


def tell_bin(model: api.Model, number: int) -> str:
    """What a property bin means.

    Raises:
        InputError: the model knows no bins, or not this one.
    """
    name = model.condition_property
    edges = list(getattr(model.module, "condition_edges", []))
    if name is None or not edges:
        kind = type(model.module).__name__
        raise InputError(f"this {kind} was trained on no property; leave --property-bin out")
    count = num_conditions(model.module)
    if not 0 <= number < count:
        raise InputError(
            f"there is no property bin {number}; the bins of {name} are 0 to {count - 1}"
        )
    above = f" from {edges[number - 1]:.4g}" if number else ""
    below = f" up to {edges[number]:.4g}" if number < len(edges) else ""
    return f"bin {number} of {count}: {name}{above}{below}"
