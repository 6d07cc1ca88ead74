"""Decoders as they are asked in use."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nesf.decoders import FieldDecoder
from nesf.precision import autocast, has_fast_bfloat16
from nesf.rounded import rounded

# activations of so many queries, 256 numbers wide in bfloat16, stay in the caches of a core
QUERIES_IN_CACHE = 8192


@dataclass(frozen=True)
class Asked:
    """A decoder as it is asked in use: in bfloat16 where that pays, a cacheful of queries at once.

    Attributes:
        decoder: the decoder, or its rounded twin.
        at_once: queries in one call.
    """

    decoder: FieldDecoder
    at_once: int

    @staticmethod
    def of(decoder: FieldDecoder, device: torch.device) -> Asked:
        """The decoder, rounded once where its weights are no longer trained."""
        frozen = not any(weight.requires_grad for weight in decoder.parameters())
        if frozen and has_fast_bfloat16(device):
            decoder = rounded(decoder)
        return Asked(decoder, QUERIES_IN_CACHE if device.type == "cpu" else sys.maxsize)

    def __call__(
        self,
        latent: Float[Tensor, "b l"],
        query: Float[Tensor, "b q 3"],
        lattice: Float[Tensor, "b 3 3"],
    ) -> Float[Tensor, "b q o"]:
        """The decoder's answers."""
        rows = max(1, self.at_once // max(1, query.shape[1]))
        parts = zip(latent.split(rows), query.split(rows), lattice.split(rows), strict=True)
        with autocast(query.device):
            return torch.cat([self.decoder(*part) for part in parts])
