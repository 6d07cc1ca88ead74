"""`VoxelNet`: properties of a crystal from its voxels in reciprocal space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from baselines.voxel_icsg3d.property_network import PropertyNetwork
from baselines.voxelnet.channels import unknown_elements
from baselines.voxelnet.kept import SpectralBatch, with_spectra
from baselines.voxelnet.network import VoxelCNN
from baselines.voxelnet.options import VoxelOptions
from baselines.voxelnet.spectra import spectra_of
from baselines.voxelnet.turns import random_turns
from baselines.voxelnet.voxels import reciprocal_voxels, voxels_of
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet, PackedTensors
from nesf.random import generator_for


class VoxelNet(PropertyNetwork):
    """A 3-D CNN on the absolute Fourier coefficients of the elements' fields.

    The answers depend neither on the origin nor on the order of the atoms nor on the choice of the
    cell. How a crystal is turned would matter to the network: training turns it at random
    (`VoxelTraining`), and a prediction is the mean over some fixed turns.

    Args:
        properties: names of what is predicted, P of them.
        widths: channels of each block of convolution and pooling.
        hidden_width: of the layer behind the blocks.
        views: turns that a prediction is the mean of; 0 takes the crystal as it lies.
        voxels: changes to `VoxelOptions`.
    """

    name = "voxelnet"
    turns: Tensor

    def __init__(
        self,
        properties: Sequence[str],
        widths: Sequence[int] = (16, 16, 16),
        hidden_width: int = 32,
        views: int = 4,
        voxels: Mapping[str, Any] | None = None,
    ) -> None:
        arguments = {"widths": list(widths), "hidden_width": hidden_width, "views": views}
        if views < 0:
            raise ValueError(f"views must not be negative, not {views}")
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in (voxels or {}).items()}
        super().__init__(properties, {**arguments, "voxels": plain})
        whole: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()
        }
        self.voxel_options = VoxelOptions(**whole)
        turns = random_turns(views, "any", generator_for(0, "views"))
        self.register_buffer("turns", turns, persistent=False)
        self.network = VoxelCNN(
            self.voxel_options.num_channels,
            len(properties),
            self.voxel_options.resolution,
            self.voxel_options.kind == "spherical",
            widths,
            hidden_width,
        )

    def standardised(self, crystals: CrystalBatch) -> Float[Tensor, "b p"]:
        """The properties as the network tells them: from `target_mean`, in `target_scale`."""
        options = self.voxel_options
        if isinstance(crystals, SpectralBatch):
            spectra = crystals.spectra
        elif self.training or not len(self.turns):
            return self.network(reciprocal_voxels(crystals, options))
        else:
            spectra = spectra_of(crystals, options)
        if self.training or not len(self.turns):
            return self.network(voxels_of(spectra, options))
        total = torch.zeros_like(self.target_mean).expand(len(crystals), -1)
        for turn in self.turns:
            view = spectra.turned(turn.expand(len(crystals), 3, 3))
            total = total + self.network(voxels_of(view, options))
        return total / len(self.turns)

    def tensors(
        self,
        crystals: PackedSet,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        properties: Sequence[str] = (),
        progress: bool = False,
    ) -> tuple[PackedTensors, dict[int, str]]:
        """The crystals and, if they are not too many, their coefficients; voxels when wanted."""
        flat = crystals.tensors(device, dtype, properties)
        lattice = np.asarray(crystals.lattice, dtype=np.float64)
        volume = np.abs(np.linalg.det(np.where(np.isfinite(lattice), lattice, 0.0)))
        refused = {
            int(i): "its cell has no volume or no size" for i in np.flatnonzero(~(volume > 1e-3))
        }
        for i in np.flatnonzero(np.diff(crystals.offsets) == 0):
            refused.setdefault(int(i), "it has no atoms")
        if self.voxel_options.elements:
            everything = flat.batch(torch.arange(len(crystals)))
            for i in unknown_elements(everything, self.voxel_options).nonzero()[:, 0].tolist():
                refused.setdefault(i, "an element has no channel (voxels.elements)")
        usable = [i for i in range(len(crystals)) if i not in refused]
        return with_spectra(flat, crystals, usable, self.voxel_options, progress), refused
