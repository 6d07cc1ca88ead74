"""A model that learns nothing and forgets nothing: its latent is the crystal, its fields exact."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nesf.crystal import CrystalBatch
from nesf.exact import exact_fields
from nesf.fields import CrystalFields
from nesf.reconstruction.reconstruct import Reconstruction, ReconstructOptions, reconstruct


class StandIn(nn.Module):
    """Writes lattice, atom count, coordinates and atomic numbers into the latent, side by side."""

    num_species = 94

    def __init__(self, max_atoms: int = 8, periodic: bool = True) -> None:
        super().__init__()
        self.max_atoms = max_atoms
        self.periodic = periodic
        self.options = ReconstructOptions()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def encode(self, crystals: CrystalBatch) -> Tensor:
        padding = self.max_atoms - crystals.mask.shape[1]
        frac = nn.functional.pad(crystals.frac_coords, (0, 0, 0, padding)) * self.scale
        numbers = nn.functional.pad(crystals.atomic_numbers, (0, padding))
        parts = [crystals.lattice.flatten(1), crystals.num_atoms[:, None], frac.flatten(1), numbers]
        return torch.cat([part.to(frac.dtype) for part in parts], dim=-1)

    def fields(self, latent: Tensor) -> CrystalFields:
        n = self.max_atoms
        lattice, count, frac, numbers = latent.split([9, 1, 3 * n, n], dim=-1)
        crystals = CrystalBatch(
            frac_coords=frac.reshape(-1, n, 3) / self.scale,
            atomic_numbers=numbers.round().long(),
            mask=torch.arange(n, device=latent.device) < count,
            lattice=lattice.reshape(-1, 3, 3),
            ids=tuple(map(str, range(len(latent)))),
        )
        return exact_fields(crystals, periodic=self.periodic)

    def decode(self, latent: Tensor, options: ReconstructOptions | None = None) -> Reconstruction:
        return reconstruct(self.fields(latent), options or self.options)


class Table(nn.Module):
    """A few weights in several types, among them two that share memory."""

    def __init__(self, width: int = 16, inner: nn.Module | None = None) -> None:
        super().__init__()
        if width < 1:
            raise ValueError("width must be at least 1")
        self.first = nn.Linear(width, width, bias=False)
        self.second = nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.short = nn.Parameter(torch.randn(5).bfloat16())
        self.register_buffer("count", torch.tensor(3))
        self.inner = inner
