"""How far to trust a crystal that was read out of fields, from what the fields say alone.

Confidence is a product of shares, any of which tells against the crystal by itself. The crystal it
was encoded from is not asked for, so that sampled, perturbed and interpolated latents have it too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.fields import CrystalFields
from nesf.reconstruction.particles import ask

# Å: a worst site that scatters so much leaves 1/e of the confidence, half as much leaves 94 %. The
# one fitted constant: likelihood on validation splits, refined latents and unrefined ones together
# (`python benchmarks/confidence.py SET... --fit`). Refined latents alone would have more, unrefined
# ones less.
BLURRED = 0.1
STEEPNESS = 4  # how suddenly that happens; 6 fits about as well, 2 worse


@dataclass(frozen=True)
class Evidence:
    """What the reading of B crystals has shown, beside their sites.

    Attributes:
        clear: (B,) candidates that would be sites if nothing were claimed.
        species: (B,) log-probability that each site's species is the one that was voted.
    """

    clear: Int[Tensor, " b"]
    species: Float[Tensor, " b"]

    @staticmethod
    def none(fields: CrystalFields) -> Evidence:
        """Of crystals that were not asked."""
        zeros = torch.zeros(len(fields), dtype=torch.float32, device=fields.device)
        return Evidence(zeros.long(), zeros)

    def put(self, index: Int[Tensor, " k"], part: Evidence) -> Evidence:
        """With the evidence of the K crystals at `index` replaced."""
        clear, species = self.clear.clone(), self.species.clone()
        clear[index], species[index] = part.clear, part.species.to(species)
        return Evidence(clear, species)


def species_evidence(
    fields: CrystalFields,
    sites: Float[Tensor, "m 3"],
    crystal: Int[Tensor, " m"],
    species: Int[Tensor, " m"],
    max_queries: int = 2**16,
) -> Float[Tensor, " b"]:
    """Log-probability that all species are right, as the field at the sites themselves has it.

    One query a site: the vote's own queries tell right from wrong no better.

    Args:
        fields: of B crystals.
        sites: (M, 3) sites, Å.
        crystal: (M,) crystal of each, ascending.
        species: (M,) class of each, Z - 1.
        max_queries: query points to one call.
    """
    total = torch.zeros(len(fields), dtype=torch.float32, device=sites.device)
    if not len(sites):
        return total
    logits = ask(fields, "species", sites, crystal, max_queries).float()
    said = logits.log_softmax(-1).gather(-1, species.unsqueeze(-1)).squeeze(-1)
    return total.index_add_(0, crystal, said.nan_to_num(nan=-torch.inf))


def confidence_of(
    spread: Float[Tensor, "b n"],
    share: Float[Tensor, "b n"],
    mask: Bool[Tensor, "b n"],
    evidence: Evidence,
    claimed: Int[Tensor, " b"] | None,
    relaxed_spread: float,
) -> Float[Tensor, " b"]:
    """The product of five shares, in 0..1; 0 without atoms.

    Sites: the mean of 1 - spread / relaxed_spread. The worst site: exp(-(spread / 0.1 Å)^4), near 1
    while the median of its local predictions still is the site, and near 0 beyond. Particles: those
    that arrived at the sites. Species: the probability that all are right. Count: the smaller over
    the larger of the count claimed and the count of clear sites, which the claim had no part in.

    Args:
        spread: (B, N) scatter of the local predictions of each site, Å.
        share: (B, N) share of the particles that arrived at each site.
        mask: (B, N) true for sites.
        evidence: what else the reading has shown.
        claimed: (B,) atoms that the fields claim; None claims nothing.
        relaxed_spread: of `ReconstructOptions`, Å.
    """
    counts = mask.sum(-1)
    sharp = ((1 - spread / relaxed_spread).clamp(0, 1) * mask).sum(-1) / counts.clamp_min(1)
    worst = torch.where(mask, spread, 0.0).amax(-1) if mask.shape[1] else sharp
    steady = (-((worst / BLURRED) ** STEEPNESS)).exp()
    arrived = (share * mask).sum(-1).clamp_max(1)
    found = sharp * steady * arrived * evidence.species.exp().to(sharp)
    if claimed is None:
        return found
    fewer = torch.minimum(evidence.clear, claimed)
    more = torch.maximum(evidence.clear, claimed)
    return found * fewer / more.clamp_min(1)
