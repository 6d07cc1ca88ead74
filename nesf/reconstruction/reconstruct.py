"""From fields back to crystals: particles -> move -> cluster -> score -> choose -> species.

Particles on a grid follow the position field to the atoms, as in Chiba et al. (arXiv:2212.13120),
and rest there in clusters. Each cluster is a candidate site; queries scattered around it tell
true sites, whose neighbourhood agrees on one place, from false ones. Where the number of sites
is not what the fields claim, the crystal is asked again on a finer grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.fields import CrystalFields
from nesf.geometry import cart_to_frac, plane_spacings, reduce_lattice, wrap_frac
from nesf.reconstruction.confidence import Evidence, confidence_of, species_evidence
from nesf.reconstruction.options import ReconstructOptions
from nesf.reconstruction.particles import (
    ask,
    grid_particles,
    grid_shape,
    inside_cell,
    merge_particles,
    move_particles,
)
from nesf.reconstruction.sites import (
    Sites,
    choose_sites,
    drop_neighbours,
    score_sites,
    sites_of_clusters,
    vote_species,
)

# Å; a flatter or longer cell is the output of a poor model and holds no atoms that could be found
MIN_PLANE_SPACING, MAX_LENGTH = 0.1, 1000.0


@dataclass(frozen=True)
class Reconstruction:
    """Crystals read out of fields, and how far to trust them.

    Attributes:
        crystals: B crystals, sites wrapped into the cell; one without atoms is a failure.
        site_spread: (B, N) how far the local predictions of each site scatter, Å.
        site_size: (B, N) share of the crystal's particles that arrived at each site.
        count_agrees: (B,) whether the atoms found are as many as the fields claim; None if
            the fields claim nothing.
        confidence: (B,) in 0..1, found without knowing the crystal: about the share of crystals so
            confident that come back without faults (`benchmarks/confidence.py`). Of fields it is
            the product that `nesf.reconstruction.confidence` makes of scatter, particles that
            arrived, species and count. 0 for a crystal without atoms.
    """

    crystals: CrystalBatch
    site_spread: Float[Tensor, "b n"]
    site_size: Float[Tensor, "b n"]
    count_agrees: Bool[Tensor, " b"] | None
    confidence: Float[Tensor, " b"]

    def select(self, index: Int[Tensor, " k"]) -> Reconstruction:
        """Those at the positions `index`, in that order."""
        agrees = self.count_agrees
        crystals = self.crystals.select(index)
        width = crystals.mask.shape[1]  # no more columns than these crystals need
        return Reconstruction(
            crystals,
            self.site_spread[index, :width],
            self.site_size[index, :width],
            None if agrees is None else agrees[index],
            self.confidence[index],
        )


@torch.no_grad()
def reconstruct(
    fields: CrystalFields,
    options: ReconstructOptions | None = None,
    ids: Sequence[str] | None = None,
    generator: torch.Generator | None = None,
) -> Reconstruction:
    """Read the crystals out of their fields.

    All crystals share one draw of the local queries, so that a crystal comes out the same in
    any batch, up to the rounding of the fields' products (bfloat16 where that pays), and the same
    again from the same generator state.

    Args:
        fields: of B crystals, exact or learned.
        options: every knob.
        ids: B identifiers; "0", "1", ... by default.
        generator: of the local queries; a fixed seed by default.

    Returns:
        The crystals in the fields' order. Cells without a volume come back without atoms.
    """
    options = options or ReconstructOptions()
    generator = generator or torch.Generator().manual_seed(0)
    noise = _Noise.draw(options, generator, fields.lattice)
    usable = _usable(fields.lattice).nonzero().squeeze(-1)
    parts = []
    evidence = Evidence.none(fields)
    for group in _groups(fields, usable, options):
        part = fields if len(group) == len(fields) else fields.select(group)
        sites, shown = _find(part, options, noise)
        evidence = evidence.put(group, shown)
        parts.append(sites.replace(crystal=group[sites.crystal]))
    return _pack(fields, Sites.join(parts, fields.lattice), evidence, options, ids)


@dataclass(frozen=True)
class _Noise:
    spread: Float[Tensor, "k 3"]
    species: Float[Tensor, "j 3"]
    jitter: Float[Tensor, " 3"] | None

    @staticmethod
    def draw(options: ReconstructOptions, generator: torch.Generator, like: Tensor) -> _Noise:
        def normal(count: int, sigma: float) -> Tensor:
            draw = torch.randn(count, 3, generator=generator, device=generator.device)
            return draw.to(like) * sigma

        spread = normal(options.spread_queries, options.spread_sigma)
        species = normal(options.species_queries, options.species_sigma)
        jitter = None
        if options.jitter:
            jitter = torch.rand(3, generator=generator, device=generator.device).to(like) - 0.5
        return _Noise(spread, species, jitter)


def _usable(lattice: Float[Tensor, "b 3 3"]) -> Bool[Tensor, " b"]:
    """Cells that can hold atoms: finite, with a volume, of a bearable size."""
    finite = torch.isfinite(lattice).all(-1).all(-1)
    sound = torch.where(finite.view(-1, 1, 1), lattice, torch.eye(3).to(lattice))
    thick = plane_spacings(sound).amin(-1) >= MIN_PLANE_SPACING
    return finite & thick & (sound.norm(dim=-1).amax(-1) <= MAX_LENGTH)


def _groups(
    fields: CrystalFields, index: Int[Tensor, " k"], options: ReconstructOptions
) -> list[Tensor]:
    """Crystals in groups of at most `max_particles` particles, and 4096 crystals, together."""
    if not len(index):
        return []
    shape = grid_shape(fields.lattice[index], options.grid_spacing, options.max_particles)
    total = shape.prod(-1).cumsum(0)
    place = torch.arange(len(index), device=total.device)
    bins = total.sub(1) // options.max_particles + place // 4096  # both ascend, so the sum does
    return list(index.split(torch.unique_consecutive(bins, return_counts=True)[1].tolist()))


def _find(
    fields: CrystalFields, options: ReconstructOptions, noise: _Noise
) -> tuple[Sites, Evidence]:
    """The sites of a group of crystals, asked again where the count is not the claimed one.

    Returns:
        The sites, and what else was seen on the way.
    """
    pool = Sites.join([], fields.lattice)
    todo = torch.arange(len(fields), device=fields.device)
    spacing, moves = options.grid_spacing, options.moves
    for _ in range(options.max_rounds):
        part = fields if len(todo) == len(fields) else fields.select(todo)
        found = _candidates(part, spacing, moves, options, noise)
        found = found.replace(crystal=todo[found.crystal])
        pool = Sites.join([pool, found], fields.lattice)
        cells = None if options.walls else fields.lattice
        pool = drop_neighbours(pool, cells, options.cluster_radius)
        chosen = choose_sites(
            pool,
            fields.num_atoms,
            len(fields),
            options.sure_spread,
            options.max_spread,
            options.relaxed_spread,
        )
        if fields.num_atoms is None:
            break
        counts = torch.bincount(pool.crystal[chosen], minlength=len(fields))
        todo = (counts != fields.num_atoms).nonzero().squeeze(-1)
        if not len(todo):
            break
        spacing, moves = spacing * options.finer_grid, moves + options.more_moves
    sites = _refine(fields, pool.pick(chosen), options)
    species = vote_species(
        fields,
        sites.cart_coords,
        sites.crystal,
        noise.species,
        options.element_prior,
        options.max_queries,
    )
    clear = pool.crystal[pool.spread <= options.max_spread]
    shown = Evidence(
        torch.bincount(clear, minlength=len(fields)),
        species_evidence(fields, sites.cart_coords, sites.crystal, species, options.max_queries),
    )
    return sites.replace(species=species), shown


def _candidates(
    fields: CrystalFields, spacing: float, moves: int, options: ReconstructOptions, noise: _Noise
) -> Sites:
    """One round: particles -> move -> cluster -> score."""
    particles = grid_particles(fields, spacing, options.max_particles, noise.jitter)
    total = torch.bincount(particles.crystal, minlength=len(fields))
    particles, step = move_particles(fields, particles, moves, options.voxel, options.max_queries)
    arrived = step <= options.max_last_step  # false for NaN
    cells = reduce_lattice(fields.lattice) if fields.periodic else None
    if cells is None:
        arrived &= inside_cell(particles, fields, options.outside)
    particles = merge_particles(particles.keep(arrived), options.voxel, cells)
    sites = sites_of_clusters(
        particles, options.link_radius, options.min_cluster_size, cells, options.backend
    )
    sites = sites.replace(size=sites.size / total[sites.crystal])
    return score_sites(fields, sites, noise.spread, options.max_queries)


def _refine(fields: CrystalFields, sites: Sites, options: ReconstructOptions) -> Sites:
    """A few more steps of the sites themselves, short ones only."""
    for _ in range(options.refine_moves):
        points = sites.cart_coords
        step = ask(fields, "position", points, sites.crystal, options.max_queries)
        # a step to another site, or to nowhere, refines nothing
        short = step.norm(dim=-1, keepdim=True) < options.cluster_radius / 2
        sites = sites.replace(cart_coords=torch.where(short, points + step, points))
    return sites


def _pack(
    fields: CrystalFields,
    sites: Sites,
    evidence: Evidence,
    options: ReconstructOptions,
    ids: Sequence[str] | None,
) -> Reconstruction:
    """Sites of all crystals into padded tensors."""
    size = len(fields)
    counts = torch.bincount(sites.crystal, minlength=size)
    lattice = fields.lattice
    cells = lattice[sites.crystal]
    frac = cart_to_frac(sites.cart_coords.unsqueeze(1), cells).squeeze(1)
    below_one = 1 - torch.finfo(frac.dtype).eps
    crystals = CrystalBatch.from_flat(
        frac.clamp(0, below_one) if options.walls else wrap_frac(frac),
        sites.species + 1,
        counts,
        lattice,
        ids if ids is not None else [str(i) for i in range(size)],
    )

    def padded(values: Tensor) -> Tensor:
        out = values.new_zeros(crystals.mask.shape)
        out[crystals.mask] = values
        return out

    spread, share = padded(sites.spread), padded(sites.size)
    confidence = confidence_of(
        spread, share, crystals.mask, evidence, fields.num_atoms, options.relaxed_spread
    )
    agrees = None if fields.num_atoms is None else counts == fields.num_atoms
    return Reconstruction(crystals, spread, share, agrees, confidence)


def join_reconstructions(parts: Sequence[Reconstruction]) -> Reconstruction:
    """Put reconstructions of one model together, padded to the largest crystal."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.crystals.mask.shape[1] for part in parts)

    def padded(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([_pad_columns(tensor, width) for tensor in tensors])

    crystals = CrystalBatch(
        frac_coords=padded([part.crystals.frac_coords for part in parts]),
        atomic_numbers=padded([part.crystals.atomic_numbers for part in parts]),
        mask=padded([part.crystals.mask for part in parts]),
        lattice=torch.cat([part.crystals.lattice for part in parts]),
        ids=tuple(str(i) for i in range(sum(len(part.crystals) for part in parts))),
    )
    agrees = [part.count_agrees for part in parts if part.count_agrees is not None]
    return Reconstruction(
        crystals,
        padded([part.site_spread for part in parts]),
        padded([part.site_size for part in parts]),
        torch.cat(agrees) if len(agrees) == len(parts) else None,
        torch.cat([part.confidence for part in parts]),
    )


def _pad_columns(tensor: Tensor, width: int) -> Tensor:
    missing = tensor.new_zeros((tensor.shape[0], width - tensor.shape[1], *tensor.shape[2:]))
    return torch.cat([tensor, missing], dim=1)
