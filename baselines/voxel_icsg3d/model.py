"""The voxel pipeline behind the interface of every model: crystals to latents and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from baselines.voxel_icsg3d.read_out import FoundSites, find_sites, pack, usable
from baselines.voxel_icsg3d.segment import SegmentOptions
from baselines.voxel_icsg3d.unet import AtomUNet
from baselines.voxel_icsg3d.vae import ConditionalVAE, Output
from baselines.voxel_icsg3d.voxelize import (
    VoxelOptions,
    lattice_from_coords,
    refusals,
    representable,
    voxelize,
)
from nesf.autoencoder import Heads
from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch
from nesf.encoder import mlp
from nesf.precision import autocast, full_precision
from nesf.reconstruction.reconstruct import Reconstruction

LatticeReadout = Literal["fit", "head", "released"]
MAX_VOXELS = 2**20  # of the crystals that are in work together: 32 at 32³, 4 at 64³


class VoxelICSG3D(nn.Module):
    """Voxels, conditional VAE, U-Net, segmentation and lattice read-out (Court et al. 2020).

    Its latent is the mean of the VAE (L) followed by the one-hot condition (C), which is all
    zeros where the property is unknown. A crystal that the frame cannot hold has a latent of NaN,
    and a latent with NaN is a crystal without atoms.

    Args:
        voxels: the representation.
        segmentation: how occupied voxels become sites.
        unet_widths: see `AtomUNet`.
        vae_widths: see `ConditionalVAE`.
        latent_dim: length L of the VAE's latent.
        squeeze: see `ConditionalVAE`.
        output: the VAE's last activation; `relu` (published) suits the box frame, whose
            coordinates are positive, and `identity` general cells.
        num_conditions: quantile bins C of the property.
        condition_property: the property that is binned; None for no condition.
        lattice_readout: where the cell is read: `fit`, a least-squares fit to the coordinate
            channels; `head`, a small network on the latent; `released`, the range of the
            coordinate channels, short by 1/D, and right angles.
        num_species: elements known, by Z from 1.
    """

    condition_inner_edges: Tensor

    def __init__(
        self,
        voxels: VoxelOptions = VoxelOptions(),  # noqa: B008 frozen
        segmentation: SegmentOptions = SegmentOptions(),  # noqa: B008 frozen
        unet_widths: Sequence[int] = (32, 64, 128, 256, 512),
        vae_widths: Sequence[int] = (16, 32, 64, 128),
        latent_dim: int = 256,
        squeeze: int = 4,
        output: Output = "identity",
        num_conditions: int = 10,
        condition_property: str | None = None,
        lattice_readout: LatticeReadout = "fit",
        num_species: int = MAX_ATOMIC_NUMBER,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        if num_conditions < 2:
            raise ValueError(f"num_conditions must be at least 2, not {num_conditions}")
        if lattice_readout not in ("fit", "head", "released"):
            raise ValueError(f"lattice_readout is fit, head or released, not {lattice_readout}")
        # plain JSON: what a checkpoint needs to build this model again
        self.init_args: dict[str, Any] = {
            **arguments,
            "voxels": options_entry(voxels),
            "segmentation": options_entry(segmentation),
            "unet_widths": list(unet_widths),
            "vae_widths": list(vae_widths),
        }
        self.voxels, self.segmentation = voxels, segmentation
        self.latent_dim, self.num_conditions = latent_dim, num_conditions
        self.condition_property = condition_property
        self.lattice_readout, self.num_species = lattice_readout, num_species
        self.unet = AtomUNet(unet_widths, num_species + 1)
        if voxels.resolution % self.unet.downscale:
            raise ValueError(
                f"a resolution of {voxels.resolution} does not fit this U-Net; give a multiple of "
                f"{self.unet.downscale}, or fewer unet_widths"
            )
        self.vae = ConditionalVAE(
            voxels.resolution, vae_widths, latent_dim, num_conditions, squeeze, output
        )
        if lattice_readout == "head":
            self.lattice_head = mlp([latent_dim, 128, 6])
        # weights, not arguments: they come from the training set, and are saved with the model
        self.register_buffer("condition_inner_edges", torch.full((num_conditions - 1,), torch.nan))

    @property
    def condition_edges(self) -> list[float]:
        """The inner edges of the property's quantile bins, ascending; none before training."""
        known = not bool(self.condition_inner_edges.isnan().any())
        return self.condition_inner_edges.tolist() if known else []

    def set_condition_edges(self, values: Float[Tensor, " m"]) -> None:
        """Take the edges from a training set's values; unknown ones (NaN) do not count.

        Raises:
            ValueError: no value is known.
        """
        known = values[~values.isnan()].double()
        if not len(known):
            raise ValueError(f"no crystal has a value of {self.condition_property}")
        shares = torch.arange(1, self.num_conditions, dtype=torch.float64) / self.num_conditions
        edges = torch.quantile(known, shares.to(known.device))
        self.condition_inner_edges.copy_(edges)

    def condition(self, crystals: CrystalBatch) -> Float[Tensor, "b c"]:
        """One-hot bins (B, C) of the crystals' property; zeros where it is unknown."""
        empty = torch.zeros(len(crystals), self.num_conditions, device=crystals.device)
        values = crystals.properties.get(self.condition_property or "")
        if values is None or not self.condition_edges:
            return empty
        # (B, C - 1) edges below each value -> (B,) bin
        bins = (values.unsqueeze(-1) > self.condition_inner_edges).sum(-1)
        one_hot = empty.scatter(1, bins.unsqueeze(-1), 1.0)
        return one_hot * ~values.isnan().unsqueeze(-1)

    def refusals(self, crystals: CrystalBatch) -> list[str | None]:
        """Why each crystal cannot be represented, in one sentence, or None if it can."""
        return refusals(crystals, self.voxels)

    @torch.no_grad()
    def encode(self, crystals: CrystalBatch) -> Float[Tensor, "b l"]:
        """Latents (B, L + C); NaN for crystals that the frame cannot hold."""
        condition = self.condition(crystals)
        latent = torch.full(
            (len(crystals), self.latent_dim + self.num_conditions),
            torch.nan,
            device=crystals.device,
        )
        held = representable(crystals, self.voxels).nonzero().squeeze(-1)
        for part in self._parts(held):
            channels = voxelize(crystals.select(part), self.voxels).channels
            with autocast(channels.device):
                mean, _ = self.vae.encode(channels, condition[part])
            latent[part] = torch.cat([mean, condition[part]], dim=-1)
        return latent

    @torch.no_grad()
    def decode(
        self, latent: Float[Tensor, "b l"], options: SegmentOptions | None = None
    ) -> Reconstruction:
        """Crystals from B latents, by way of decoded voxels.

        Args:
            latent: (B, L + C).
            options: of the segmentation, instead of the model's own.
        """
        finite = latent.isfinite().all(-1).nonzero().squeeze(-1)
        found: list[FoundSites | None] = [None] * len(latent)
        # a unit cell where nothing was decoded
        lattice = torch.eye(3, device=latent.device).repeat(len(latent), 1, 1)
        for part in self._parts(finite):
            z, condition = latent[part].float().split([self.latent_dim, self.num_conditions], -1)
            with autocast(latent.device):
                channels = self.vae.decode(z, condition)
            cells = self.lattice(z, channels)
            sound = usable(cells)
            lattice[part[sound]] = cells[sound]
            for i, sites in zip(
                part[sound].tolist(), self.read(channels[sound], options), strict=True
            ):
                found[i] = sites
        return pack(found, lattice)

    def lattice(
        self, latent: Float[Tensor, "b l"], channels: Float[Tensor, "b 4 d d d"]
    ) -> Float[Tensor, "b 3 3"]:
        """Cells (Å) by the read-out that this model uses.

        Args:
            latent: (B, L) latents of the VAE, without the condition.
            channels: (B, 4, D, D, D) the voxels decoded from them.
        """
        with full_precision(latent.device):
            if self.lattice_readout == "head":
                blank = latent.new_zeros(len(latent), 1)
                return Heads(self.lattice_head(latent), blank, blank).lattice
            return lattice_from_coords(channels[:, 1:], self.voxels, self.lattice_readout)

    @torch.no_grad()
    def read(
        self, channels: Float[Tensor, "b 4 d d d"], options: SegmentOptions | None = None
    ) -> Iterator[FoundSites]:
        """The sites in voxels, decoded or true, crystal by crystal."""
        options = options or self.segmentation
        with autocast(channels.device):
            trunk = self.unet.trunk(channels)
            occupancy = self.unet.occupancy_head(trunk).squeeze(1).float().sigmoid()
            occupied = occupancy >= options.threshold
            logits = self.unet.species_at(trunk.movedim(1, -1)[occupied])  # (M, S + 1)
        species = torch.zeros_like(occupied, dtype=torch.long)
        # an occupied voxel holds an atom, whatever the species head thinks of background
        species[occupied] = logits[:, 1:].argmax(-1) + 1
        return find_sites(occupancy, occupied, species, self.voxels, options)

    def set_condition(self, latent: Float[Tensor, "b l"], bin: int) -> Float[Tensor, "b l"]:
        """The same latents with another bin of the property; -1 makes it unknown."""
        if not -1 <= bin < self.num_conditions:
            raise ValueError(f"there are bins 0 to {self.num_conditions - 1}, not {bin}")
        changed = latent.clone()
        changed[:, self.latent_dim :] = 0.0
        if bin >= 0:
            changed[:, self.latent_dim + bin] = 1.0
        return changed

    def sample_latents(
        self, count: int, generator: torch.Generator, condition: int | None = None
    ) -> Float[Tensor, "k l"]:
        """Latents (K, L + C) drawn from the prior N(0, 1), of one bin of the property or none."""
        device = self.condition_inner_edges.device
        draw = torch.randn(count, self.latent_dim, generator=generator, device=generator.device)
        latent = torch.cat([draw, draw.new_zeros(count, self.num_conditions)], dim=-1).to(device)
        return self.set_condition(latent, -1 if condition is None else condition)

    def _parts(self, index: Tensor) -> Iterator[Tensor]:
        """Positions in groups whose voxels fit into memory together."""
        if len(index):
            yield from index.split(max(1, MAX_VOXELS // self.voxels.resolution**3))


def options_entry(options: Any) -> dict[str, Any]:
    """Options (a frozen dataclass) as the plain JSON that a checkpoint rebuilds them from."""
    kind = type(options)
    return {
        "class_path": f"{kind.__module__}.{kind.__qualname__}",
        "init_args": dataclasses.asdict(options),
    }
