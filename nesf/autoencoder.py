"""The neural structure field: a crystal encoded to one latent, decoded by two fields."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch, standardised
from nesf.decoders import (
    Conditioning,
    Coordinates,
    FieldDecoder,
    PositionField,
    SpeciesField,
)
from nesf.encoder import (
    LENGTH_SCALE,
    RIGHT_ANGLE,
    PointNetEncoder,
    Posterior,
    PublishedEncoder,
    begin_narrow,
    cell_features,
    mlp,
)
from nesf.fields import CrystalFields
from nesf.geometry import parameters_to_lattice
from nesf.precision import autocast, full_precision, has_fast_bfloat16
from nesf.reconstruct import Reconstruction, ReconstructOptions, reconstruct

# activations of so many queries, 256 numbers wide in bfloat16, stay in the caches of a core
QUERIES_IN_CACHE = 8192


@dataclass(frozen=True)
class Heads:
    """What the latent says of the crystal as a whole.

    Attributes:
        cell: (B, 6) lengths / 5 Å - 1, and angles - 90° in radians.
        count: (B, M + 1) logits of the number of atoms, 0 to M.
        elements: (B, S) log-odds that an element occurs.
    """

    cell: Float[Tensor, "b 6"]
    count: Float[Tensor, "b m"]
    elements: Float[Tensor, "b s"]

    @property
    def lattice(self) -> Float[Tensor, "b 3 3"]:
        """Cell vectors, Å, brought back to a valid cell where the heads err."""
        lengths = ((self.cell[:, :3] + 1) * LENGTH_SCALE).clamp_min(0.5)
        angles = (self.cell[:, 3:] + RIGHT_ANGLE).clamp(math.radians(10), math.radians(170))
        return parameters_to_lattice(lengths, angles)

    @property
    def num_atoms(self) -> Int[Tensor, " b"]:
        """The most likely number of atoms."""
        return self.count.argmax(-1)

    def select(self, index: Tensor) -> Heads:
        """Those of some of the latents."""
        return Heads(self.cell[index], self.count[index], self.elements[index])


@dataclass(frozen=True)
class Asked:
    """A decoder as it is asked in use: in bfloat16 where that pays, a cacheful of queries at once.

    Attributes:
        decoder: the decoder, or its rounded twin.
        at_once: queries in one call.
    """

    decoder: FieldDecoder
    at_once: int

    @staticmethod
    def of(decoder: FieldDecoder, device: torch.device) -> Asked:
        """The decoder, rounded once where its weights are no longer trained."""
        frozen = not any(weight.requires_grad for weight in decoder.parameters())
        if frozen and has_fast_bfloat16(device):
            decoder = decoder.rounded()
        return Asked(decoder, QUERIES_IN_CACHE if device.type == "cpu" else sys.maxsize)

    def __call__(
        self,
        latent: Float[Tensor, "b l"],
        query: Float[Tensor, "b q 3"],
        lattice: Float[Tensor, "b 3 3"],
    ) -> Float[Tensor, "b q o"]:
        """The decoder's answers."""
        rows = max(1, self.at_once // max(1, query.shape[1]))
        parts = zip(latent.split(rows), query.split(rows), lattice.split(rows), strict=True)
        with autocast(query.device):
            return torch.cat([self.decoder(*part) for part in parts])


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
    """

    def __init__(
        self,
        latent_dim: int = 256,
        num_species: int = MAX_ATOMIC_NUMBER,
        max_atoms: int = 64,
        periodic: bool = False,
        margin: float = 0.02,
        encoder: Literal["pointnet", "published"] = "pointnet",
        encoder_width: int = 512,
        encoder_stages: int = 2,
        encoder_harmonics: int = 8,
        conditioning: Conditioning = "modulate",
        coordinates: Coordinates = "fractional",
        harmonics: int = 8,
        harmonic_scale: Literal["linear", "octave"] = "linear",
        position_widths: Sequence[int] = (256,) * 6,
        species_widths: Sequence[int] = (256,) * 3,
        count_head: bool = True,
        elements_head: bool = True,
        variational: bool = False,
        reconstruction: Mapping[str, Any] | None = None,
        box: float | None = None,
    ) -> None:
        arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
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
        return self.encoder(standardised(crystals))

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

    def heads(self, latent: Float[Tensor, "b l"]) -> Heads:
        """What the latents say of lattice, atom count and elements."""
        count, elements = (
            self.set_head(latent).float().split([self.max_atoms + 1, self.num_species], dim=-1)
        )
        cell = self.cell_head(latent).float()
        if self.box is not None:
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
            lattice: (B, 3, 3) cell vectors, Å, instead of the lattice head's.
        """
        heads = self.heads(latent)
        cell = heads.lattice if lattice is None else lattice
        position = Asked.of(self.position_decoder, latent.device)
        species = Asked.of(self.species_decoder, latent.device)
        return self._fields(latent, cell, heads, position, species)

    def _fields(
        self, latent: Tensor, cell: Tensor, heads: Heads, position: Asked, species: Asked
    ) -> CrystalFields:
        return CrystalFields(
            position=lambda query: position(latent, query, cell),
            species=lambda query: species(latent, query, cell),
            lattice=cell,
            periodic=self.periodic,
            subset=lambda index: self._fields(
                latent[index], cell[index], heads.select(index), position, species
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
        # the fields turn autocast on for themselves
        with full_precision(latent.device):
            return reconstruct(self.fields(latent), options or self.options)
