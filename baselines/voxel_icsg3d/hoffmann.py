"""Boxes of atoms to a latent and back, by way of voxels (Hoffmann et al., arXiv:1909.00949)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from baselines.voxel_icsg3d.attention_unet import AttentionUNet
from baselines.voxel_icsg3d.box_grid import BoxGrid, box_density
from baselines.voxel_icsg3d.box_losses import ClassLoss
from baselines.voxel_icsg3d.box_sites import BoxReadOut, find_atoms, refine_in_boxes
from baselines.voxel_icsg3d.box_vae import BoxVAE
from baselines.voxel_icsg3d.model import MAX_VOXELS, options_entry
from baselines.voxel_icsg3d.read_out import FoundSites, pack
from nesf.boxes.cut import BoxOptions, box_fits, box_refusals, is_box, random_boxes
from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch, standardised
from nesf.precision import autocast, full_precision
from nesf.reconstruction.reconstruct import Reconstruction


class VoxelHoffmann(nn.Module):
    """Voxels, variational autoencoder and attention U-Net of Hoffmann et al. 2019.

    It encodes boxes (see `nesf.boxes`): those of its side as they are; of any other crystal, the
    box that is cut around its origin (`repeat`) or around its unit cell, without turning it. What
    it gives back are boxes. A crystal without a box has a latent of NaN, and a latent with NaN is
    a box without atoms.

    Args:
        boxes: what a box is, in training too.
        resolution: voxels along each axis, D.
        sigma: width of the atoms' Gaussians, Å.
        label_radius: how near an atom (Å) a voxel carries its atomic number.
        read_out: how labels become atoms.
        vae_widths: see `BoxVAE`.
        unet_widths: see `AttentionUNet`.
        latent_dim: length L of the latent.
        class_probability: whether each class has a probability of its own (`sigmoid`), or all
            share one (`softmax`); the loss that the model is trained with.
        num_species: elements known, by Z from 1.
    """

    density_mean: Tensor
    density_std: Tensor
    walls = True  # what it gives back has no periodic images

    def __init__(
        self,
        boxes: BoxOptions = BoxOptions(),  # noqa: B008 frozen
        resolution: int = 30,
        sigma: float = 1.0,
        label_radius: float = 0.65,
        read_out: BoxReadOut = BoxReadOut(),  # noqa: B008 frozen
        vae_widths: Sequence[int] = (32, 64, 128, 256, 256),
        unet_widths: Sequence[int] = (32, 64, 128, 256),
        latent_dim: int = 300,
        class_probability: ClassLoss = "sigmoid",
        num_species: int = MAX_ATOMIC_NUMBER,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        if class_probability not in ("sigmoid", "softmax"):
            raise ValueError(f"class_probability is sigmoid or softmax, not {class_probability}")
        # plain JSON: what a checkpoint needs to build this model again
        self.init_args: dict[str, Any] = {
            **arguments,
            "boxes": options_entry(boxes),
            "read_out": options_entry(read_out),
            "vae_widths": list(vae_widths),
            "unet_widths": list(unet_widths),
        }
        self.boxes, self.read_out = boxes, read_out
        self.grid = BoxGrid(boxes.side, resolution, sigma, label_radius)
        self.latent_dim, self.num_species = latent_dim, num_species
        self.class_probability: ClassLoss = class_probability
        self.max_atoms = boxes.capacity
        self.vae = BoxVAE(resolution, vae_widths, latent_dim)
        self.unet = AttentionUNet(unet_widths, num_species + 1)
        # weights, not arguments: they come from the training set, and are saved with the model
        self.register_buffer("density_mean", torch.zeros(()))
        self.register_buffer("density_std", torch.ones(()))

    def density(self, boxes: CrystalBatch) -> Float[Tensor, "b d d d"]:
        """Densities as the networks see them, in deviations from the training boxes' mean."""
        return (box_density(boxes, self.grid) - self.density_mean) / self.density_std

    def refusals(self, crystals: CrystalBatch) -> list[str | None]:
        """Why each crystal has no box, in one sentence, or None if it has one."""
        crystals = standardised(crystals)
        ready = is_box(crystals, self.grid.side) & crystals.mask.any(-1)
        reasons = box_refusals(crystals, self._as_given())
        return [None if box else r for box, r in zip(ready.tolist(), reasons, strict=True)]

    def boxes_of(self, crystals: CrystalBatch) -> tuple[CrystalBatch, Int[Tensor, " k"]]:
        """The boxes that stand for crystals, and which crystals they are of.

        Those that are no boxes yet are cut, always in the same way. The boxes come in the order
        of the positions returned; crystals without a box are not among them.
        """
        with full_precision(crystals.device):
            crystals = standardised(crystals)
            ready = is_box(crystals, self.grid.side)
            have = ready & crystals.mask.any(-1)
            cut = box_fits(crystals, self._as_given()) & ~ready
            boxes = crystals.select(have)
            unused = torch.Generator()  # nothing is random in these boxes
            more = random_boxes(crystals.select(cut), self._as_given(), unused)
        index = torch.cat([have.nonzero(), cut.nonzero()]).squeeze(-1)
        return joined(boxes, more), index

    @torch.no_grad()
    def encode(self, crystals: CrystalBatch) -> Float[Tensor, "b l"]:
        """Latents (B, L); NaN for crystals that have no box."""
        latent = torch.full((len(crystals), self.latent_dim), torch.nan, device=crystals.device)
        boxes, index = self.boxes_of(crystals)
        for part in self._parts(torch.arange(len(boxes), device=index.device)):
            density = self.density(boxes.select(part))
            with autocast(density.device):
                latent[index[part]] = self.vae.encode(density)[0]
        return latent

    @torch.no_grad()
    def decode(
        self, latent: Float[Tensor, "b l"], options: BoxReadOut | None = None
    ) -> Reconstruction:
        """Boxes from B latents.

        Args:
            latent: (B, L).
            options: of the read-out, instead of the model's own.
        """
        found: list[FoundSites | None] = [None] * len(latent)
        for part in self._parts(latent.isfinite().all(-1).nonzero().squeeze(-1)):
            with autocast(latent.device):
                density = self.vae.decode(latent[part].float())
            for i, sites in zip(part.tolist(), self.read(density, options), strict=True):
                found[i] = sites
        box = torch.eye(3, device=latent.device) * self.grid.side
        return pack(found, box.repeat(len(latent), 1, 1))

    @torch.no_grad()
    def read(
        self, density: Float[Tensor, "b d d d"], options: BoxReadOut | None = None
    ) -> list[FoundSites]:
        """The atoms in standardised densities, decoded or true."""
        with autocast(density.device):
            logits = self.unet(density)
        confidence, labels = logits.max(1)
        if self.class_probability == "softmax":
            confidence = confidence.float() - logits.float().logsumexp(1)
            confidence = confidence.exp()
        else:
            confidence = confidence.float().sigmoid()
        return self.atoms_of(labels, confidence, density, options)

    def atoms_of(
        self,
        labels: Int[Tensor, "b d d d"],
        confidence: Float[Tensor, "b d d d"],
        density: Float[Tensor, "b d d d"],
        options: BoxReadOut | None = None,
    ) -> list[FoundSites]:
        """The atoms that labels stand for, box by box.

        Args:
            labels: (B, D, D, D) Z of each voxel, 0 for background.
            confidence: (B, D, D, D) probability of the label.
            density: (B, D, D, D) standardised.
            options: of the read-out, instead of the model's own.
        """
        options = options or self.read_out
        grids = (labels.cpu().numpy(), confidence.float().cpu().numpy())
        found = []
        for numbers, share in zip(*grids, strict=True):
            sites = find_atoms(numbers, self.grid, options)
            frac = (sites.centroids + 0.5) / self.grid.resolution
            sure = float(share[numbers > 0].mean()) if len(sites) else 0.0
            size = sites.sizes / max(1, np.count_nonzero(numbers))
            found.append(FoundSites(frac, sites.atomic_numbers, size, min(1.0, sure)))
        if options.refine == "density":
            electrons = density.float() * self.density_std + self.density_mean
            return [self._refined(*one) for one in zip(found, electrons, strict=True)]
        return found

    def _refined(self, sites: FoundSites, density: Float[Tensor, "d d d"]) -> FoundSites:
        box = torch.eye(3, device=density.device).unsqueeze(0) * self.grid.side
        moved = refine_in_boxes(pack([sites], box).crystals, density.unsqueeze(0), self.grid)
        frac = moved.frac_coords[0, : len(sites.frac_coords)]
        return dataclasses.replace(sites, frac_coords=frac.double().cpu().numpy())

    def sample_latents(
        self, count: int, generator: torch.Generator, condition: int | None = None
    ) -> Float[Tensor, "k l"]:
        """Latents (K, L) drawn from the prior N(0, 1).

        Raises:
            ValueError: a condition is asked for, which this model does not have.
        """
        if condition is not None:
            raise ValueError("this model has no condition")
        draw = torch.randn(count, self.latent_dim, generator=generator, device=generator.device)
        return draw.to(self.density_mean.device)

    def _as_given(self) -> BoxOptions:
        """Boxes in which nothing is random."""
        return dataclasses.replace(self.boxes, rotate="none", shift=False)

    def _parts(self, index: Int[Tensor, " k"]) -> list[Tensor]:
        """Positions in groups whose voxels fit into memory together."""
        step = max(1, MAX_VOXELS // self.grid.resolution**3)
        return list(index.split(step)) if len(index) else []


def joined(first: CrystalBatch, second: CrystalBatch) -> CrystalBatch:
    """Two batches as one."""
    if not len(first) or not len(second):
        return first if len(first) else second
    both = (first, second)
    return CrystalBatch.from_flat(
        torch.cat([one.frac_coords[one.mask] for one in both]),
        torch.cat([one.atomic_numbers[one.mask] for one in both]),
        torch.cat([one.num_atoms for one in both]),
        torch.cat([one.lattice for one in both]),
        first.ids + second.ids,
    )
