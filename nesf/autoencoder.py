"""The neural structure field: a crystal encoded to one latent, decoded by two fields."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nesf.asked import Asked
from nesf.boxes.frames import NUMBERS, Frame, find_frames, outward
from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch, standardised
from nesf.decoders import Conditioning, Coordinates, PositionField, SpeciesField
from nesf.encoder import (
    PointNetEncoder,
    Posterior,
    PublishedEncoder,
    begin_narrow,
    cell_features,
    mlp,
)
from nesf.fields import CrystalFields
from nesf.heads import Heads
from nesf.mlps import HarmonicScale, one_of
from nesf.precision import full_precision
from nesf.reconstruction.reconstruct import Reconstruction, ReconstructOptions, reconstruct

EncoderKind = Literal["pointnet", "published"]
FrameKind = Literal["none", "atoms"]


class NeSF(nn.Module):
    """Neural structure field: encoder, position and species fields, and heads for the rest.

    Chiba et al., arXiv:2212.13120. The defaults are not the published network; that one is
    `encoder="published"`, `conditioning="concat"`, `coordinates="cartesian"`, see
    `configs/nesf/paper.yaml`.

    Args:
        latent_dim: length L of the latent.
        num_species: elements known, by Z from 1.
        max_atoms: largest atom count the count head can tell.
        periodic: the fields point to nearest images; otherwise to the atoms of the cell.
        margin: in-cell atoms are wrapped into [-margin, 1 - margin).
        encoder: `pointnet`, or `published`.
        encoder_width: hidden width of the encoder (`pointnet` only).
        encoder_stages: rounds of atom features and pooling (`pointnet` only).
        encoder_harmonics: Fourier frequencies of the atoms' coordinates (`pointnet` only).
        conditioning: how the latent enters the fields, `modulate` or `concat`.
        coordinates: what the fields see, `fractional` or `cartesian`.
        harmonics: Fourier frequencies of the query; 0 for bare coordinates.
        harmonic_scale: `linear` or `octave`.
        position_widths: hidden widths of the position field.
        species_widths: hidden widths of the species field.
        count_head: whether the count head is trained and trusted in reconstruction.
        elements_head: the same for the head that tells which elements occur.
        variational: the encoder says a normal distribution of latents, which training holds near
            N(0, 1) (`LossOptions.kl`), so that latents can be drawn (arXiv:1312.6114).
        reconstruction: changes to `ReconstructOptions` that suit this model.
        box: all crystals are boxes of this side, Å (`nesf.boxes`): cubes with faces that are walls.
        frame: `atoms` for boxes that hold a finite cluster: encoder and fields see it in a cell of
            its own, which its atoms tell (`nesf.boxes.frames`); the latent's last numbers are where
            this cell is in the box, and the others know nothing of place and orientation.
    """

    def __init__(
        self,
        latent_dim: int = 256,
        num_species: int = MAX_ATOMIC_NUMBER,
        max_atoms: int = 64,
        periodic: bool = False,
        margin: float = 0.02,
        encoder: EncoderKind = "pointnet",
        encoder_width: int = 512,
        encoder_stages: int = 2,
        encoder_harmonics: int = 8,
        conditioning: Conditioning = "modulate",
        coordinates: Coordinates = "fractional",
        harmonics: int = 8,
        harmonic_scale: HarmonicScale = "linear",
        position_widths: Sequence[int] = (256,) * 6,
        species_widths: Sequence[int] = (256,) * 3,
        count_head: bool = True,
        elements_head: bool = True,
        variational: bool = False,
        reconstruction: Mapping[str, Any] | None = None,
        box: float | None = None,
        frame: FrameKind = "none",
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        one_of("encoder", encoder, EncoderKind)
        one_of("frame", frame, FrameKind)
        # plain JSON: what a checkpoint needs to build this model again
        self.init_args: dict[str, Any] = {
            **arguments,
            "position_widths": list(position_widths),
            "species_widths": list(species_widths),
            "reconstruction": dict(reconstruction or {}),
        }
        self.options = ReconstructOptions(
            **{"walls": box is not None, **self.init_args["reconstruction"]}
        )
        self.box = box
        self.walls = self.options.walls  # crystals are boxes, see `nesf.boxes`
        self.periodic, self.margin = periodic, margin
        self.max_atoms, self.num_species = max_atoms, num_species
        self.count_head, self.elements_head = count_head, elements_head
        self.latent_dim, self.variational = latent_dim, variational
        self.frames = frame == "atoms"
        if self.frames and (box is None or periodic or margin or variational):
            raise ValueError(
                "frame: atoms needs a box, and periodic: false, margin: 0 and variational: false"
            )
        # the numbers that are learned
        latent_dim -= NUMBERS if self.frames else 0
        said = 2 * latent_dim if variational else latent_dim  # mean and log-variance
        if encoder == "published":
            self.encoder: nn.Module = PublishedEncoder(said, num_species, coordinates)
        else:
            self.encoder = PointNetEncoder(
                said,
                num_species,
                encoder_width,
                encoder_stages,
                encoder_harmonics,
                periodic,
                margin,
            )
        if variational:
            begin_narrow(self.encoder.leave[-1])  # type: ignore[index, arg-type]
        shape = (conditioning, coordinates, harmonics, harmonic_scale, periodic)
        self.position_decoder = PositionField(latent_dim, position_widths, *shape)
        self.species_decoder = SpeciesField(latent_dim, num_species, species_widths, *shape)
        self.cell_head = mlp([latent_dim, 256, 6])
        self.set_head = mlp([latent_dim, 256, max_atoms + 1 + num_species])

    def encode(self, crystals: CrystalBatch) -> Float[Tensor, "b l"]:
        """Latent codes (B, L); of a variational encoder the means."""
        if self.variational:
            return self.posterior(crystals).mean
        crystals = standardised(crystals)
        if not self.frames:
            return self.encoder(crystals)
        frame = find_frames(crystals)
        return torch.cat([self.encoder(frame.cell_of(crystals)), frame.numbers(self.side)], dim=-1)

    def posterior(self, crystals: CrystalBatch) -> Posterior:
        """What a variational encoder says of the latents of B crystals.

        Raises:
            ValueError: the encoder is a plain one.
        """
        if not self.variational:
            raise ValueError("this encoder says one latent, and no distribution of them")
        return Posterior.of(self.encoder(standardised(crystals)))

    @property
    def has_prior(self) -> bool:
        """Whether `sample_latents` knows where latents lie."""
        return self.variational

    def sample_latents(
        self, count: int, generator: torch.Generator, condition: int | None = None
    ) -> Float[Tensor, "k l"]:
        """Latents (K, L) drawn from the prior N(0, 1).

        Args:
            count: K.
            generator: draws them, on its own device.
            condition: None; there is nothing to condition on.

        Raises:
            ValueError: the encoder is a plain one, or a condition is given.
        """
        if not self.variational:
            raise ValueError("a NeSF without a variational encoder has no prior to draw from")
        if condition is not None:
            raise ValueError("a NeSF was trained on no property, and knows no condition")
        draw = torch.randn(count, self.latent_dim, generator=generator, device=generator.device)
        return draw.to(next(self.parameters()).device)

    def seen(
        self, crystals: CrystalBatch, latent: Float[Tensor, "b l"]
    ) -> tuple[CrystalBatch, Float[Tensor, "b m"], Float[Tensor, "b k"]]:
        """Crystals as encoder and decoders see them, in their frames where the model has frames.

        Args:
            crystals: B crystals in standard orientation.
            latent: (B, L) their latents.

        Returns:
            The crystals; the numbers of the latents that are learned, which decoders and heads
            take; and the others.
        """
        if not self.frames:
            return crystals, latent, latent[:, :0]
        learned, frame = self._split(latent)
        return frame.cell_of(crystals), learned, latent[:, -NUMBERS:]

    def _split(self, latent: Tensor) -> tuple[Tensor, Frame]:
        learned, told = latent.split([latent.shape[1] - NUMBERS, NUMBERS], dim=-1)
        return learned, Frame.of_numbers(told, self.side)

    @property
    def side(self) -> float:
        """Edge of the model's boxes, Å; infinite where it has none."""
        return math.inf if self.box is None else self.box

    def heads(self, learned: Float[Tensor, "b m"]) -> Heads:
        """What the learned numbers of latents say of lattice, atom count and elements."""
        count, elements = (
            self.set_head(learned).float().split([self.max_atoms + 1, self.num_species], dim=-1)
        )
        cell = self.cell_head(learned).float()
        if self.box is not None and not self.frames:
            # nothing is to be told, but every head is to have a gradient
            cube = torch.eye(3, device=cell.device).unsqueeze(0) * self.box
            cell = 0 * cell + cell_features(cube)
        return Heads(cell, count, elements)

    def fields(
        self, latent: Float[Tensor, "b l"], lattice: Float[Tensor, "b 3 3"] | None = None
    ) -> CrystalFields:
        """The fields behind B latents.

        Args:
            latent: (B, L) latents.
            lattice: (B, 3, 3) cell vectors, Å, instead of the lattice head's; boxes with frames
                are what they are.
        """
        if not self.frames:
            return self.fields_seen(latent, lattice)
        learned, frame = self._split(latent)
        return outward(self.fields_seen(learned, frame.cell), frame, self.side)

    def fields_seen(
        self, learned: Float[Tensor, "b m"], lattice: Float[Tensor, "b 3 3"] | None = None
    ) -> CrystalFields:
        """The fields as the decoders have them: in its frame where a model has frames.

        Args:
            learned: (B, M) the learned numbers of B latents.
            lattice: (B, 3, 3) cell vectors, Å, instead of the lattice head's.
        """
        heads = self.heads(learned)
        cell = heads.lattice if lattice is None else lattice
        position = Asked.of(self.position_decoder, learned, cell)
        species = Asked.of(self.species_decoder, learned, cell)
        return self._fields(heads, position, species)

    def _fields(self, heads: Heads, position: Asked, species: Asked) -> CrystalFields:
        return CrystalFields(
            position=position,
            species=species,
            lattice=position.lattice,
            periodic=self.periodic,
            subset=lambda index: self._fields(
                heads.select(index), position.select(index), species.select(index)
            ),
            margin=self.margin,
            num_atoms=heads.num_atoms if self.count_head else None,
            element_logits=heads.elements if self.elements_head else None,
        )

    @torch.no_grad()
    def decode(
        self, latent: Float[Tensor, "b l"], options: ReconstructOptions | None = None
    ) -> Reconstruction:
        """Crystals from B latents, by moving particles and clustering them."""
        options = options or self.options
        # the fields turn autocast on for themselves
        with full_precision(latent.device):
            if not self.frames:
                return reconstruct(self.fields(latent), options)
            learned, frame = self._split(latent)
            found = reconstruct(self.fields_seen(learned, frame.cell), options)
            return replace(found, crystals=frame.box_of(found.crystals, self.side))
