"""What a model is given, checked and on its device: crystals and latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nesf.crystal import CrystalBatch, right_handed
from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

Latents = Float[Tensor, "b l"] | Float[np.ndarray, "b l"]


def crystals_given(
    structures: Sequence[Structure] | CrystalBatch,
    max_atomic_number: int,
    device: torch.device,
) -> CrystalBatch:
    """Structures as crystals in right-handed cells, float32.

    Args:
        structures: B crystals.
        max_atomic_number: largest atomic number Z that the model knows.
        device: of the model.

    Raises:
        InputError: these are no Structures, there are none, a site is disordered, or an element is
            unknown.
    """
    if hasattr(structures, "sites"):
        raise InputError("give a list of Structures: [structure] for one")
    if not isinstance(structures, CrystalBatch):
        strange = [one for one in structures if not hasattr(one, "sites")]
        if strange:
            raise InputError(
                f"give pymatgen Structures, not a {type(strange[0]).__name__}; "
                "Structure.from_file reads one from a file"
            )
        structures = CrystalBatch.from_structures(structures)
    if not len(structures):
        raise InputError("no crystals were given")
    highest = int(structures.atomic_numbers.max())
    if highest > max_atomic_number:
        raise InputError(
            f"an atom has the atomic number {highest}, and this model knows elements up to "
            f"{max_atomic_number}"
        )
    return right_handed(structures.to(device, torch.float32))


def latents_given(
    latent: Latents, latent_dim: int, device: torch.device, all_finite: bool = True
) -> Float[Tensor, "b l"]:
    """Latents as float32.

    Args:
        latent: (B, L).
        latent_dim: L of the model.
        device: of the model.
        all_finite: refuse those that are not.

    Raises:
        InputError: there are none, they are of another model, or one is not finite.
    """
    latent = torch.as_tensor(latent, dtype=torch.float32, device=device)
    if not len(latent):
        raise InputError("no latents were given")
    if latent.ndim != 2 or latent.shape[-1] != latent_dim:
        raise InputError(
            f"latents of this model have the shape (B, {latent_dim}), not {tuple(latent.shape)}"
        )
    broken = (~latent.isfinite().all(-1)).nonzero()
    if all_finite and len(broken):
        raise InputError(f"latent {int(broken[0])} of {len(latent)}, counted from 0, is not finite")
    return latent
