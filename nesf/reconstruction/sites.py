"""Candidate sites of atoms: found as clusters of particles, scored by spread, chosen by count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.fields import CrystalFields
from nesf.geometry import NearestImage
from nesf.pairs import radius_pairs
from nesf.reconstruction.clustering import cluster_particles
from nesf.reconstruction.options import ClusterBackend
from nesf.reconstruction.particles import Particles, ask


@dataclass(frozen=True)
class Sites:
    """Candidate sites of B crystals, one after another.

    Attributes:
        cart_coords: (M, 3), Å.
        crystal: (M,) which crystal they belong to, ascending.
        size: (M,) particles that arrived, as a number or a share.
        spread: (M,) scatter of the local predictions, Å; infinite before it is known.
        species: (M,) class Z - 1; 0 before it is known.
    """

    cart_coords: Float[Tensor, "m 3"]
    crystal: Int[Tensor, " m"]
    size: Float[Tensor, " m"]
    spread: Float[Tensor, " m"]
    species: Int[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.crystal)

    def pick(self, index: Int[Tensor, " k"] | Bool[Tensor, " m"]) -> Sites:
        """The sites at `index`, positions or a mask."""
        return Sites(*(getattr(self, field.name)[index] for field in fields(self)))

    def replace(self, **changes: Tensor) -> Sites:
        """A copy with some tensors exchanged."""
        return replace(self, **changes)

    @staticmethod
    def join(parts: Sequence[Sites], like: Float[Tensor, "b 3 3"]) -> Sites:
        """All sites of the parts, ordered by crystal; on the device of `like`."""
        integers = torch.zeros(0, dtype=torch.long, device=like.device)
        empty = Sites(like[:0, 0], integers, like[:0, 0, 0], like[:0, 0, 0], integers)
        parts = [empty, *parts]
        joined = Sites(
            *(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Sites))
        )
        return joined.pick(joined.crystal.argsort(stable=True))


def sites_of_clusters(
    particles: Particles,
    link_radius: float,
    min_size: float,
    lattice: Float[Tensor, "b 3 3"] | None = None,
    backend: ClusterBackend = "auto",
) -> Sites:
    """One candidate a cluster: the mean of the particles around its heaviest one.

    Args:
        particles: that have arrived, of all crystals.
        link_radius: of the clustering and of the mean, Å.
        min_size: particles that a cluster needs.
        lattice: (B, 3, 3) cells; with them clusters reach across the cell faces, Å.
        backend: of `cluster_particles`.
    """
    points, crystal, weight = particles.cart_coords, particles.crystal, particles.weight
    labels = cluster_particles(points, crystal, link_radius, weight, 1.0, lattice, backend)
    count = int(labels.max()) + 1 if len(labels) else 0
    heaviest = torch.zeros(count, dtype=weight.dtype, device=weight.device)
    heaviest.scatter_reduce_(0, labels, weight, "amax")
    place = torch.arange(len(labels), device=labels.device)
    tops = weight == heaviest[labels]
    top = torch.full((count,), len(labels), device=labels.device)
    top.scatter_reduce_(0, labels[tops], place[tops], "amin")
    delta = points - points[top[labels]]
    if lattice is not None and count:
        delta = NearestImage.of(lattice).flat(delta, crystal)
    near = weight * (delta.norm(dim=-1) <= link_radius)
    total = torch.zeros_like(heaviest).index_add_(0, labels, near)
    shift = points.new_zeros(count, 3).index_add_(0, labels, near.unsqueeze(-1) * delta)
    sites = Sites(
        cart_coords=points[top] + shift / total.unsqueeze(-1),
        crystal=crystal[top],
        size=torch.zeros_like(heaviest).index_add_(0, labels, weight),
        spread=torch.full_like(heaviest, torch.inf),
        species=torch.zeros_like(top),
    )
    return sites.pick(sites.size >= min_size)


def score_sites(
    fields: CrystalFields, sites: Sites, noise: Float[Tensor, "k 3"], max_queries: int = 2**16
) -> Sites:
    """Ask around each site, move it to the median answer, and tell how far the answers scatter.

    Around a true atom all queries point to the one place; around a false site they part.

    Args:
        fields: of B crystals.
        sites: candidates.
        noise: (K, 3) where to ask around a site, Å.
        max_queries: query points to one call.
    """
    if not len(sites):
        return sites
    points = (sites.cart_coords.unsqueeze(1) + noise).flatten(0, 1)  # (M, K, 3) -> (M*K, 3)
    crystal = sites.crystal.repeat_interleave(len(noise))
    answer = ask(fields, "position", points, crystal, max_queries).to(points.dtype)
    answer = answer.unflatten(0, (len(sites), len(noise))) + noise  # (M, K, 3) from the site
    centre = answer.median(dim=1).values  # (M, 3)
    spread = (answer - centre.unsqueeze(1)).norm(dim=-1).mean(-1)
    sound = torch.isfinite(answer).all(-1).all(-1)
    return sites.replace(
        cart_coords=sites.cart_coords + torch.where(sound.unsqueeze(-1), centre, 0.0),
        spread=torch.where(sound, spread, torch.inf),
    )


def drop_neighbours(sites: Sites, lattice: Float[Tensor, "b 3 3"] | None, radius: float) -> Sites:
    """Of sites nearer to each other than `radius` (Å) keep the sharpest.

    Greedy suppression in the order of spread, all independent decisions of a round at once.

    Args:
        sites: candidates.
        lattice: (B, 3, 3) cells over whose faces sites are neighbours, Å; None for boxes.
        radius: Å.
    """
    if not len(sites):
        return sites
    (first, second), _ = radius_pairs(sites.cart_coords, sites.crystal, radius, lattice)
    rank = torch.empty_like(sites.crystal)
    # of equal spreads the larger cluster goes first
    order = sites.size.argsort(descending=True, stable=True)
    order = order[sites.spread[order].argsort(stable=True)]
    rank[order] = torch.arange(len(sites), device=rank.device)
    kept = torch.zeros_like(sites.crystal, dtype=torch.bool)
    undecided = ~kept
    while bool(undecided.any()):
        open_rank = torch.where(undecided, rank, len(sites))
        best = torch.full_like(rank, len(sites))
        best.scatter_reduce_(0, first, open_rank[second], "amin")
        winners = undecided & (best == rank)
        kept |= winners
        undecided = undecided.clone()
        undecided[first[winners[second]]] = False  # the winners themselves are among them
    return sites.pick(kept)


def choose_sites(
    sites: Sites,
    num_atoms: Int[Tensor, " b"] | None,
    size: int,
    sure: float,
    usual: float,
    relaxed: float,
) -> Bool[Tensor, " m"]:
    """Which candidates are atoms, by spread and by the number of atoms claimed.

    Without a claim, those with a spread up to `usual`. With it, that many of the sharpest, but
    never fewer than those up to `sure`, nor any beyond `relaxed` (all Å).

    Args:
        sites: candidates of B crystals.
        num_atoms: (B,) number of atoms claimed, or None.
        size: number of crystals B.
        sure: sites this sharp are atoms whatever the claim.
        usual: threshold where nothing is claimed.
        relaxed: sites less sharp are no atoms whatever the claim.

    Returns:
        (M,) mask.
    """
    if num_atoms is None:
        return sites.spread <= usual

    def count(threshold: float) -> Tensor:
        return torch.bincount(sites.crystal[sites.spread <= threshold], minlength=size)

    wanted = torch.minimum(torch.maximum(num_atoms, count(sure)), count(relaxed))
    order = sites.spread.argsort(stable=True)
    order = order[sites.crystal[order].argsort(stable=True)]
    counts = torch.bincount(sites.crystal, minlength=size)
    rank = torch.empty_like(order)
    place = torch.arange(len(order), device=order.device)
    rank[order] = place - (counts.cumsum(0) - counts)[sites.crystal[order]]
    return rank < wanted[sites.crystal]


def vote_species(
    fields: CrystalFields,
    sites: Float[Tensor, "m 3"],
    crystal: Int[Tensor, " m"],
    noise: Float[Tensor, "k 3"],
    element_prior: float = 1.0,
    max_queries: int = 2**16,
) -> Int[Tensor, " m"]:
    """The class of each site, by the mean log-probability of queries around it.

    Args:
        fields: of B crystals.
        sites: (M, 3) sites, Å.
        crystal: (M,) crystal of each, ascending.
        noise: (K, 3) where to ask around a site, Å.
        element_prior: weight of log sigmoid(`element_logits`) beside the vote.
        max_queries: query points to one call.

    Returns:
        (M,) classes Z - 1.
    """
    votes = [crystal[:0]]
    step = max(1, max_queries // len(noise))
    for begin in range(0, len(sites), step):
        part, owner = sites[begin : begin + step], crystal[begin : begin + step]
        points = (part.unsqueeze(1) + noise).flatten(0, 1)  # (M, K, 3) -> (M*K, 3)
        logits = ask(fields, "species", points, owner.repeat_interleave(len(noise)), max_queries)
        # (M*K, S) -> (M, K, S) -> (M, S)
        score = logits.float().log_softmax(-1).unflatten(0, (len(part), len(noise))).nanmean(1)
        if fields.element_logits is not None and element_prior:
            prior = torch.nn.functional.logsigmoid(fields.element_logits.float())
            score = score + element_prior * prior[owner]
        votes.append(score.nan_to_num(nan=-torch.inf).argmax(-1))
    return torch.cat(votes)
