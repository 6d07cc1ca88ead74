"""`PackedTensors`: a packed set on one device, to draw training batches from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.data.columns import StringColumn


@dataclass(frozen=True, eq=False)
class PackedTensors:
    """A packed set as flat tensors on one device; attributes as in `PackedSet`."""

    frac_coords: Float[Tensor, "total 3"]
    atomic_numbers: UInt8[Tensor, " total"]
    offsets: Int[Tensor, " bounds"]
    lattice: Float[Tensor, "m 3 3"]
    ids: StringColumn
    properties: Mapping[str, Float[Tensor, " m"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lattice)

    def batch(self, index: Int[Tensor, " k"]) -> CrystalBatch:
        """The crystals at `index` as a padded batch, gathered on the device."""
        index = index.to(self.offsets.device)
        atoms, counts = members(self.offsets, index)
        crystals = CrystalBatch.from_flat(
            self.frac_coords[atoms],
            self.atomic_numbers[atoms].long(),
            counts,
            self.lattice[index],
            [self.ids[i] for i in index.tolist()],
        )
        if not self.properties:
            return crystals
        return crystals.replace(properties={k: v[index] for k, v in self.properties.items()})


def members(
    offsets: Int[Tensor, " bounds"], index: Int[Tensor, " k"]
) -> tuple[Int[Tensor, " total"], Int[Tensor, " k"]]:
    """Positions of all members of the groups at `index`, and the sizes of these groups.

    Args:
        offsets: where each group begins, and the total at the end.
        index: K groups.
    """
    starts = offsets[index]
    counts = offsets[index + 1] - starts
    ends = counts.cumsum(0)
    steps = torch.arange(int(ends[-1]) if len(ends) else 0, device=index.device)
    return steps + torch.repeat_interleave(starts - ends + counts, counts), counts
