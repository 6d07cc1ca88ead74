"""Planes through the fields of a crystal, for pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from nesf.fields import CrystalFields
from nesf.geometry import cart_to_frac

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FACE = 1e-4  # of the cell: points this little beyond a face are on it


@dataclass(frozen=True)
class PlaneOfFields:
    """The fields of one crystal on a horizontal plane.

    Attributes:
        distance: (H, W) length of the offset to the nearest atom, Å; row 0 at the smallest y.
        atomic_numbers: (H, W) element of the nearest atom.
        extent: x from, x to, y from, y to, Å.
        known: (H, W) where the fields mean something: in-cell fields in their cell, periodic ones
            anywhere.
    """

    distance: Float[np.ndarray, "h w"]
    atomic_numbers: Int[np.ndarray, "h w"]
    extent: tuple[float, float, float, float]
    known: Bool[np.ndarray, "h w"]

    @property
    def known_distance(self) -> Float[np.ndarray, "h w"]:
        """The distance, NaN where it means nothing."""
        return np.where(self.known, self.distance, np.nan)

    @property
    def known_numbers(self) -> Int[np.ndarray, "h w"]:
        """The elements, 0 where they mean nothing."""
        return np.where(self.known, self.atomic_numbers, 0)


@torch.no_grad()
def slice_fields(
    fields: CrystalFields,
    height: float,
    extent: tuple[float, float, float, float],
    points: int = 96,
) -> PlaneOfFields:
    """Ask the fields of the first crystal on the plane z = `height`.

    Args:
        fields: of at least one crystal; the first is asked.
        height: z of the plane, Å.
        extent: x from, x to, y from, y to, Å.
        points: queries along each axis.
    """
    fields = fields.select([0])
    x = torch.linspace(extent[0], extent[1], points)
    y = torch.linspace(extent[2], extent[3], points)
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")  # (H, W)
    query = torch.stack([grid_x, grid_y, torch.full_like(grid_x, height)], dim=-1)
    query = query.reshape(1, -1, 3).to(fields.lattice)  # (H, W, 3) -> (1, HW, 3)
    distance = fields.position(query).norm(dim=-1)
    numbers = fields.species(query).argmax(-1) + 1
    shape = (points, points)
    known = torch.ones_like(distance, dtype=torch.bool)
    if not fields.periodic:
        frac = cart_to_frac(query, fields.lattice)
        known = ((frac > -fields.margin - FACE) & (frac < 1 + FACE)).all(-1)
    return PlaneOfFields(
        distance.reshape(shape).float().cpu().numpy(),
        numbers.reshape(shape).cpu().numpy(),
        extent,
        known.reshape(shape).cpu().numpy(),
    )


def cell_extent(lattice: Float[torch.Tensor, "3 3"]) -> tuple[float, float, float, float]:
    """The box around a cell: x from, x to, y from, y to, Å."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3).to(lattice) @ lattice
    low, high = corners.amin(0).tolist(), corners.amax(0).tolist()
    return low[0], high[0], low[1], high[1]


def draw_distance(exact: PlaneOfFields, learned: PlaneOfFields, title: str) -> Figure:
    """Exact distance, learned distance and their difference side by side, where they are known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    panels = (
        ("exact", exact.known_distance, "viridis", 0.0),
        ("learned", learned.known_distance, "viridis", 0.0),
        ("difference", learned.known_distance - exact.known_distance, "RdBu", -1.0),
    )
    top = max(float(exact.distance.max(where=exact.known, initial=0.0)), 1e-6)
    for axes, (name, values, colours, low) in zip(figure.subplots(1, 3), panels, strict=True):
        high = 1.0 if low else top
        image = axes.imshow(
            values, origin="lower", extent=exact.extent, cmap=colours, vmin=low, vmax=high
        )
        axes.set_title(f"{name}, Å")
        figure.colorbar(image, ax=axes, shrink=0.8)
    figure.suptitle(title)
    return figure
