"""Sets of crystals whose coefficients are kept, so that a training finds them but once."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from baselines.voxelnet.options import VoxelOptions
from baselines.voxelnet.spectra import Spectra, radius, spectra_of
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet, PackedTensors

# of the coefficients of one set: 50,000 perovskites' in float32
MOST_BYTES = 1 << 30
_AT_ONCE = 32  # crystals
_SEEN = frozenset({"frac_coords", "atomic_numbers", "mask", "lattice"})
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SpectralBatch(CrystalBatch):
    """B crystals with their coefficients.

    Attributes:
        spectra: of the crystals as they lie.
    """

    spectra: Spectra

    def replace(self, **changes: object) -> CrystalBatch:
        """A copy with some tensors exchanged; other crystals come without coefficients."""
        if _SEEN & changes.keys() and "spectra" not in changes:
            return CrystalBatch(**{**_parts(self, CrystalBatch), **changes})
        return super().replace(**changes)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> SpectralBatch:
        """A copy on `device`, with everything that is no integer in `dtype`."""
        moved = _parts(super().to(device, dtype), CrystalBatch)
        return SpectralBatch(**moved, spectra=self.spectra.to(device, dtype))

    def select(
        self, index: Sequence[int] | Int[Tensor, " k"] | Bool[Tensor, " b"]
    ) -> SpectralBatch:
        """The crystals at `index` (positions or a mask), trimmed to the largest of them."""
        positions = torch.arange(len(self), device=self.device)[index]
        some = super().select(positions)
        return SpectralBatch(**_parts(some, CrystalBatch), spectra=self.spectra.select(positions))


@dataclass(frozen=True, eq=False, kw_only=True)
class SpectralTensors(PackedTensors):
    """A set of crystals and their coefficients on one device.

    Attributes:
        spectra: of the crystals; one that cannot be used has no points.
    """

    spectra: Spectra

    def batch(self, index: Int[Tensor, " k"]) -> SpectralBatch:
        """The crystals at `index` with their coefficients, gathered on the device."""
        crystals = _parts(super().batch(index), CrystalBatch)
        return SpectralBatch(**crystals, spectra=self.spectra.select(index))


def with_spectra(
    flat: PackedTensors,
    crystals: PackedSet,
    usable: Sequence[int],
    options: VoxelOptions,
    progress: bool = False,
) -> PackedTensors:
    """Find the coefficients of a set and keep them with it, if they are not too many.

    About 0.6 ms and 20 kB a crystal of five atoms and three elements, for a cube of 12.8 Å⁻¹.

    Args:
        flat: the set on its device.
        crystals: the same set.
        usable: positions of the crystals that have any.
        options: of the descriptor.
        progress: show a progress bar when it takes more than two seconds.

    Returns:
        The set with its coefficients, or `flat` as it is where they would take more than
        `MOST_BYTES`.
    """
    from tqdm import tqdm

    expected = kept_bytes(crystals, usable, options, flat.lattice.dtype)
    if expected > MOST_BYTES or not usable:
        if usable:
            _log.warning(
                "the coefficients of %d crystals would take %.1f GB: they are found anew in each "
                "step, not kept",
                len(crystals),
                expected / 1e9,
            )
        return flat
    # crystals of like size together: a batch is padded to the largest
    volume = np.abs(np.linalg.det(np.asarray(crystals.lattice)[list(usable)]))
    order = torch.as_tensor(usable)[torch.from_numpy(volume.argsort(kind="stable"))]
    chunks = tqdm(
        order.split(_AT_ONCE),
        desc="coefficients",
        unit=f" x {_AT_ONCE} crystals",
        delay=2,
        file=sys.stderr,
        disable=not progress,
    )
    found = Spectra.join([spectra_of(flat.batch(chunk), options) for chunk in chunks])
    # a crystal that cannot be used has the place behind the last one, which has no points
    place = torch.full((len(crystals),), len(order))
    place[order] = torch.arange(len(order))
    whole = Spectra.join([found, _none(found)]).select(place)
    return SpectralTensors(**_parts(flat, PackedTensors), spectra=whole)


def kept_bytes(
    crystals: PackedSet, usable: Sequence[int], options: VoxelOptions, dtype: torch.dtype
) -> int:
    """What the coefficients of a set take, near enough: from volumes and channels."""
    wanted = list(usable)
    volume = np.abs(np.linalg.det(np.asarray(crystals.lattice)[wanted])).sum()
    # half the points of a ball, in a lattice of (2π)³ / V
    points = 2 / 3 * math.pi * (radius(options) / (2 * math.pi)) ** 3 * volume
    channels = len(options.properties)
    if options.channels == "elements":
        owner = np.repeat(np.arange(len(crystals)), crystals.num_atoms)
        pairs = np.unique(owner * 256 + np.asarray(crystals.atomic_numbers))
        channels = int(np.bincount(pairs // 256).max()) if len(pairs) else 0
    return int(points * (3 + channels) * torch.empty((), dtype=dtype).element_size())


def _none(like: Spectra) -> Spectra:
    """The coefficients of one crystal without any."""
    return Spectra(
        like.vectors[:, :0],
        like.sizes[:, :0],
        like.offsets.new_zeros(2),
        like.channels.new_zeros(1, len(like.sizes)),
        like.widths.new_zeros(1),
    )


def _parts(whole: Any, kind: type) -> dict[str, Any]:
    """The fields that a subclass has from a dataclass."""
    return {field.name: getattr(whole, field.name) for field in fields(kind)}
