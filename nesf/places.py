"""Points of interest in crystals, around which fields are asked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """As many points in each of B crystals as each has.

    Attributes:
        points: (B, M, 3) Å; the first `count` of a row.
        count: (B,) how many, at least one.
    """

    points: Float[Tensor, "b m 3"]
    count: Int[Tensor, " b"]

    @property
    def mask(self) -> Bool[Tensor, "b m"]:
        """Which points are some."""
        return torch.arange(self.points.shape[1], device=self.count.device) < self.count[:, None]

    def around(
        self, number: int, width: float, generator: torch.Generator, shared: bool = False
    ) -> Float[Tensor, "b q 3"]:
        """Queries around points drawn at random, Gaussian of a width uniform in [0, width].

        Args:
            number: queries in each crystal.
            width: the largest standard deviation, Å.
            generator: draws them.
            shared: one draw for all crystals, each of which takes its own points by it.
        """
        device, dtype = self.points.device, self.points.dtype
        shape = (1 if shared else len(self.points), number)
        draw = torch.rand(shape, generator=generator, device=device)
        index = (draw * self.count.unsqueeze(-1)).long()  # (B, Q)
        centre = self.points.gather(1, index.unsqueeze(-1).expand(-1, -1, 3))  # (B, Q, 3)
        sigma = width * torch.rand((*shape, 1), generator=generator, device=device, dtype=dtype)
        return centre + sigma * torch.randn(
            (*shape, 3), generator=generator, device=device, dtype=dtype
        )

    def select(self, rows: Bool[Tensor, " b"]) -> Places:
        """Those of some of the crystals."""
        return Places(self.points[rows], self.count[rows])

    def exchanged(self, rows: Int[Tensor, " k"], others: Places) -> Places:
        """With those of the crystals `rows` exchanged for others, where these have any."""
        some = others.count > 0
        rows, new = rows[some], others.points[some]
        width = max(self.points.shape[1], new.shape[1])
        points, count = _widened(self.points, width), self.count.clone()
        points[rows], count[rows] = _widened(new, width), others.count[some]
        return Places(points, count)


def places_where(points: Float[Tensor, "b m 3"], mask: Bool[Tensor, "b m"]) -> Places:
    """The points at which a mask is true; a crystal may have none."""
    order = (~mask).int().argsort(dim=1, stable=True)
    count = mask.sum(-1)
    order = order[:, : int(count.max()) if len(count) else 0]
    return Places(points.gather(1, order.unsqueeze(-1).expand(-1, -1, 3)), count)


def _widened(points: Tensor, width: int) -> Tensor:
    more = points.new_zeros(points.shape[0], width - points.shape[1], 3)
    return torch.cat([points, more], dim=1)
