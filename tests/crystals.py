"""Random crystals for tests."""

import torch

from nesf.crystal import CrystalBatch
from nesf.geometry import NearestImage, plane_spacings


def random_crystals(
    seed: int, count: int = 6, max_atoms: int = 8, dtype: torch.dtype = torch.float64
) -> CrystalBatch:
    """Cells of any shape with 1 to `max_atoms` atoms at random places."""
    generator = torch.Generator().manual_seed(seed)
    lattice = torch.randn(16 * count, 3, 3, generator=generator, dtype=dtype) * 3.5
    lattice = lattice[plane_spacings(lattice).amin(-1) > 1.5][:count]
    num_atoms = torch.randint(1, max_atoms + 1, (len(lattice),), generator=generator)
    total = int(num_atoms.sum())
    return CrystalBatch.from_flat(
        torch.rand(total, 3, generator=generator, dtype=dtype),
        torch.randint(1, 95, (total,), generator=generator),
        num_atoms,
        lattice,
        [str(i) for i in range(len(lattice))],
    )


def site_errors(true: CrystalBatch, found: CrystalBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Per crystal: the largest distance of a true atom to the nearest found one, wrong species.

    Crystals of another atom count have an infinite error.
    """
    b, n = true.mask.shape
    delta = found.cart_coords.unsqueeze(1) - true.cart_coords.unsqueeze(2)  # (B, N, M, 3)
    distance = NearestImage.of(true.lattice)(delta.flatten(1, 2)).norm(dim=-1).view(b, n, -1)
    nearest, index = distance.masked_fill(~found.mask.unsqueeze(1), torch.inf).min(-1)
    wrong = (found.atomic_numbers.gather(1, index) != true.atomic_numbers) & true.mask
    error = torch.where(true.mask, nearest, 0.0).amax(-1)
    error = torch.where(true.num_atoms == found.num_atoms, error, torch.inf)
    return error, wrong.sum(-1)
