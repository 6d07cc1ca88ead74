"""The same crystals in other cells, for tests."""

import torch

from nesf.crystal import CrystalBatch


def recut(crystals: CrystalBatch, whole: torch.Tensor) -> CrystalBatch:
    """Each crystal in the cell whose vectors are whole multiples (3, 3) of its own.

    The determinant is how many of its cells the new one holds.
    """
    whole = whole.double()
    size = round(abs(float(torch.linalg.det(whole))))
    inverse = torch.linalg.inv(whole)
    span = int(whole.abs().sum()) + 1
    steps = torch.arange(-span, span + 1, dtype=torch.float64)
    shifts = torch.cartesian_prod(steps, steps, steps)
    inside = shifts @ inverse
    shifts = shifts[((inside > -1e-6) & (inside < 1 - 1e-6)).all(-1)]
    assert len(shifts) == size
    # (B, N, size, 3)
    frac = (crystals.frac_coords.unsqueeze(2) + shifts) @ inverse
    return CrystalBatch.from_flat(
        frac[crystals.mask].flatten(0, 1),
        crystals.atomic_numbers[crystals.mask].repeat_interleave(size),
        crystals.num_atoms * size,
        whole @ crystals.lattice,
        crystals.ids,
    )


def shuffled_and_shifted(crystals: CrystalBatch, seed: int) -> CrystalBatch:
    """Atoms in another order, and all moved alike."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.rand(crystals.mask.shape, generator=generator).argsort(-1)
    shift = torch.rand(len(crystals), 1, 3, generator=generator, dtype=torch.float64)
    moved = crystals.frac_coords + shift
    pick = order.unsqueeze(-1).expand_as(moved)
    return crystals.replace(
        frac_coords=moved.gather(1, pick),
        atomic_numbers=crystals.atomic_numbers.gather(1, order),
        mask=crystals.mask.gather(1, order),
    )
