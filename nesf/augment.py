"""Augmentation: new crystals from known ones that need no new calculation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch
from nesf.geometry import cart_to_frac, standard_orientation
from nesf.precision import full_precision


def _randn(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


def _rand(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=like.device, dtype=like.dtype)


@dataclass(frozen=True)
class Augmentation:
    """What is changed in a training crystal; everything is off by default.

    Attributes:
        relabel: share of crystals whose elements are exchanged by a random permutation.
        strain: standard deviation of the components of a random symmetric strain.
        scale: standard deviation of the logarithm of a change of all lengths together.
        axes: standard deviation of the logarithm of a change of each cell length alone, which
            keeps the angles, right ones above all.
        displace: largest standard deviation of atomic displacements, Å; each crystal draws its
            own, uniform in [0, displace].
        displaced: share of crystals whose atoms are displaced.
        shift_origin: move the origin at random; for periodic fields.
        num_species: elements to permute, by Z from 1.
    """

    relabel: float = 0.0
    strain: float = 0.0
    scale: float = 0.0
    axes: float = 0.0
    displace: float = 0.0
    displaced: float = 1.0
    shift_origin: bool = False
    num_species: int = MAX_ATOMIC_NUMBER

    def __post_init__(self) -> None:
        for name in ("relabel", "displaced"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, 0 to 1, not {getattr(self, name)}")
        for name in ("strain", "scale", "axes", "displace"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 1 <= self.num_species <= MAX_ATOMIC_NUMBER:
            raise ValueError(
                f"num_species must be 1 to {MAX_ATOMIC_NUMBER}, not {self.num_species}"
            )

    def __call__(self, crystals: CrystalBatch, generator: torch.Generator) -> CrystalBatch:
        """A changed batch, from `generator` alone; changed lattices in standard orientation."""
        with full_precision(crystals.device):
            return self._change(crystals, generator)

    def _change(self, crystals: CrystalBatch, generator: torch.Generator) -> CrystalBatch:
        if self.strain or self.scale or self.axes:
            crystals = self._deform(crystals, generator)
        if self.displace:
            crystals = self._displace(crystals, generator)
        if self.shift_origin:
            shift = _rand((len(crystals), 1, 3), crystals.lattice, generator)
            crystals = crystals.replace(frac_coords=crystals.frac_coords + shift)
        if self.relabel:
            crystals = self._relabel(crystals, generator)
        return crystals

    def _deform(self, crystals: CrystalBatch, generator: torch.Generator) -> CrystalBatch:
        lattice: Float[Tensor, "b 3 3"] = crystals.lattice
        batch = len(crystals)
        noise = _randn((batch, 3, 3), lattice, generator) * self.strain
        identity = torch.eye(3, device=lattice.device, dtype=lattice.dtype)
        lattice = lattice @ (identity + (noise + noise.mT) / 2)
        growth = self.scale * _randn((batch, 1, 1), lattice, generator)
        stretch = self.axes * _randn((batch, 3, 1), lattice, generator)
        return crystals.replace(lattice=standard_orientation(lattice * (growth + stretch).exp()))

    def _displace(self, crystals: CrystalBatch, generator: torch.Generator) -> CrystalBatch:
        batch, lattice = len(crystals), crystals.lattice
        sigma = self.displace * _rand((batch, 1, 1), lattice, generator)
        sigma = sigma * (_rand((batch, 1, 1), lattice, generator) < self.displaced)
        shift = sigma * _randn(tuple(crystals.frac_coords.shape), lattice, generator)
        frac = crystals.frac_coords + cart_to_frac(shift, lattice) * crystals.mask.unsqueeze(-1)
        return crystals.replace(frac_coords=frac)

    def _relabel(self, crystals: CrystalBatch, generator: torch.Generator) -> CrystalBatch:
        order = _rand((len(crystals), self.num_species), crystals.lattice, generator).argsort(-1)
        chosen = _rand((len(crystals), 1), crystals.lattice, generator) < self.relabel
        renamed = order.gather(1, crystals.species) + 1
        numbers = torch.where(chosen & crystals.mask, renamed, crystals.atomic_numbers)
        return crystals.replace(atomic_numbers=numbers)
