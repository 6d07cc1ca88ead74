"""Field decoders as they are asked in use."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nesf.decoders import FieldDecoder
from nesf.folded import rounded
from nesf.precision import autocast, has_fast_bfloat16

# activations of so many queries, 256 numbers wide in bfloat16, stay in the caches of a core
QUERIES_IN_CACHE = 8192


@dataclass(frozen=True)
class Asked:
    """The field behind some latents, in bfloat16 where that pays, a cacheful of queries at once.

    Attributes:
        decoder: the decoder, or its rounded twin.
        latent: (B, L).
        lattice: (B, 3, 3) cell vectors, Å.
        condition: (B, C) what the decoder sees of the latents, once for all queries; None where it
            may be differentiated, since each answer then needs its own.
    """

    decoder: FieldDecoder
    latent: Float[Tensor, "b l"]
    lattice: Float[Tensor, "b 3 3"]
    condition: Float[Tensor, "b c"] | None

    @staticmethod
    def of(
        decoder: FieldDecoder, latent: Float[Tensor, "b l"], lattice: Float[Tensor, "b 3 3"]
    ) -> Asked:
        """The field behind latents, rounded once where its weights are no longer trained."""
        frozen = not any(weight.requires_grad for weight in decoder.parameters())
        if frozen and decoder.may_round and has_fast_bfloat16(latent.device):
            decoder = rounded(decoder)
        with autocast(latent.device, decoder.may_round):
            condition = decoder.mlp.condition(latent)
        return Asked(decoder, latent, lattice, None if condition.requires_grad else condition)

    def __call__(self, query: Float[Tensor, "b q 3"]) -> Float[Tensor, "b q o"]:
        """The field at query points (B, Q, 3), Cartesian, Å."""
        at_once = QUERIES_IN_CACHE if query.device.type == "cpu" else sys.maxsize
        rows = max(1, at_once // max(1, query.shape[1]))
        with autocast(query.device, self.decoder.may_round):
            condition = self.condition
            if condition is None:
                condition = self.decoder.mlp.condition(self.latent)
            parts = (condition.split(rows), query.split(rows), self.lattice.split(rows))
            return torch.cat([self.decoder.conditioned(*part) for part in zip(*parts, strict=True)])

    def select(self, index: Int[Tensor, " k"]) -> Asked:
        """The field behind some of the latents."""
        condition = None if self.condition is None else self.condition[index]
        return replace(
            self, latent=self.latent[index], lattice=self.lattice[index], condition=condition
        )
