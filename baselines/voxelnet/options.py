"""What a reciprocal-space voxel descriptor is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from baselines.voxel_icsg3d.descriptors import NAMES, element_properties
from nesf.crystal import MAX_ATOMIC_NUMBER

# "one" weighs all atoms alike, Z as X-rays nearly do; the tables and their sources are in
# `descriptors`
PROPERTIES = ("one", "atomic_number", *NAMES)


@dataclass(frozen=True)
class VoxelOptions:
    """How a crystal becomes voxels of reciprocal space.

    Attributes:
        kind: cartesian voxels (x, y, z) of a cube around g = 0, or spherical ones: distance, polar
            angle and azimuth in the ball that the cube holds.
        resolution: N, voxels along each axis, an even number.
        side: L, of the cube and diameter of the ball, Å⁻¹.
        sigma: of the Gaussians, Å.
        channels: elements gives each element a channel of its own; property gives one to each of
            `properties`, in which an atom weighs what its element has of it.
        elements: atomic numbers of the element channels; empty for all of Z = 1 to 94.
        properties: among `PROPERTIES`.
    """

    kind: Literal["cartesian", "spherical"] = "cartesian"
    resolution: int = 32
    side: float = 12.8
    sigma: float = 0.1
    channels: Literal["elements", "property"] = "elements"
    elements: tuple[int, ...] = ()
    properties: tuple[str, ...] = ("atomic_number", "electronegativity", "radius")

    def __post_init__(self) -> None:
        if self.kind not in ("cartesian", "spherical"):
            raise ValueError(f"kind must be cartesian or spherical, not {self.kind}")
        if self.channels not in ("elements", "property"):
            raise ValueError(f"channels must be elements or property, not {self.channels}")
        if self.resolution < 2 or self.resolution % 2:
            raise ValueError(f"resolution must be an even number from 2, not {self.resolution}")
        for name in ("side", "sigma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        # lists, as JSON has them
        object.__setattr__(self, "elements", tuple(self.elements))
        object.__setattr__(self, "properties", tuple(self.properties))
        if not all(1 <= z <= MAX_ATOMIC_NUMBER for z in self.elements):
            raise ValueError(f"elements must be 1 to {MAX_ATOMIC_NUMBER}, not {self.elements}")
        unknown = sorted(set(self.properties) - set(PROPERTIES))
        if unknown or (self.channels == "property" and not self.properties):
            raise ValueError(f"properties must be among {', '.join(PROPERTIES)}, not {unknown}")
        for name in ("elements", "properties"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name} must differ from each other: {getattr(self, name)}")

    @property
    def spacing(self) -> float:
        """Of the voxels along x, y and z; along the radius it is half of that, Å⁻¹."""
        return self.side / self.resolution

    @property
    def num_channels(self) -> int:
        """Of the dense descriptor."""
        if self.channels == "property":
            return len(self.properties)
        return len(self.elements) or MAX_ATOMIC_NUMBER

    def element_table(self) -> Float[Tensor, "95 p"]:
        """What an atom weighs in each of `properties`, a row for each Z; row 0, of padding, is 0.

        Each column is divided by its root mean square over the elements, so that the channels are
        of like size.
        """
        numbers = torch.arange(1, MAX_ATOMIC_NUMBER + 1, dtype=torch.float64)
        facts = dict(zip(NAMES, element_properties().unbind(-1), strict=True))
        facts |= {"one": torch.ones_like(numbers), "atomic_number": numbers}
        chosen = torch.stack([facts[name] for name in self.properties], dim=-1)
        chosen = chosen / chosen.square().mean(0).sqrt()
        return torch.cat([torch.zeros_like(chosen[:1]), chosen])
