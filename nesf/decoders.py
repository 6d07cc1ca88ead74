"""Learned fields: MLPs from a latent code and query points to offsets and species logits."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nesf.geometry import cart_to_frac, frac_to_cart
from nesf.mlps import ConcatMLP, FourierFeatures, HarmonicScale, ModulatedMLP, one_of

Coordinates = Literal["fractional", "cartesian"]
Conditioning = Literal["modulate", "concat"]


class FieldDecoder(nn.Module):
    """What both fields share: coordinates, Fourier features and the conditioned MLP.

    Args:
        latent_dim: length L of the latent code.
        out_features: numbers for each query.
        widths: hidden widths; their number is the depth.
        conditioning: `modulate` (ModulatedMLP) or `concat` (ConcatMLP, as published).
        coordinates: in what the network sees the query: `fractional` or `cartesian` (Å).
        harmonics: Fourier frequencies per axis; 0 for bare coordinates.
        harmonic_scale: `linear` or `octave`, see FourierFeatures.
        periodic: features of period one cell; needs fractional coordinates.
    """

    def __init__(
        self,
        latent_dim: int,
        out_features: int,
        widths: Sequence[int],
        conditioning: Conditioning = "modulate",
        coordinates: Coordinates = "fractional",
        harmonics: int = 8,
        harmonic_scale: HarmonicScale = "linear",
        periodic: bool = False,
    ) -> None:
        super().__init__()
        one_of("conditioning", conditioning, Conditioning)
        one_of("coordinates", coordinates, Coordinates)
        if periodic and coordinates == "cartesian":
            raise ValueError("a periodic field needs fractional coordinates")
        if not widths:
            raise ValueError("a field decoder needs at least one hidden width")
        self.coordinates = coordinates
        self.features = FourierFeatures(harmonics, harmonic_scale, periodic)
        kind = ModulatedMLP if conditioning == "modulate" else ConcatMLP
        self.mlp: ModulatedMLP | ConcatMLP = kind(
            latent_dim, self.features.out_features, widths, out_features
        )
        self.twin: tuple[object, FieldDecoder] | None = None  # see `nesf.folded`
        self.may_round = True  # to bfloat16, where its weights are frozen and that pays

    def forward(
        self,
        latent: Float[Tensor, "b l"],
        query: Float[Tensor, "b q 3"],
        lattice: Float[Tensor, "b 3 3"],
    ) -> Float[Tensor, "b q o"]:
        """The field's answers (B, Q, O) at query points.

        Args:
            latent: (B, L) latent codes.
            query: (B, Q, 3) query points, Cartesian, Å.
            lattice: (B, 3, 3) cell vectors, Å; used by fractional coordinates only.
        """
        return self.conditioned(self.mlp.condition(latent), query, lattice)

    def conditioned(
        self,
        condition: Float[Tensor, "b c"],
        query: Float[Tensor, "b q 3"],
        lattice: Float[Tensor, "b 3 3"],
    ) -> Float[Tensor, "b q o"]:
        """`forward` from what `mlp.condition` says of the latents, once for many queries."""
        out = self.mlp.conditioned(condition, self.query_features(query, lattice))
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def query_features(
        self, query: Float[Tensor, "b q 3"], lattice: Float[Tensor, "b 3 3"]
    ) -> Float[Tensor, "b q f"]:
        """What the MLP sees of Cartesian query points (Å)."""
        if self.coordinates == "fractional":
            query = cart_to_frac(query, lattice)
        return self.features(query)


class PositionField(FieldDecoder):
    """Displacement from a query point to the nearest atom, as an MLP of latent and query.

    Args: as `FieldDecoder`, without `out_features`.
    """

    # the mean fractional distance to the nearest atom is about a quarter of a small cell
    OFFSET_SCALE = 0.25

    def __init__(
        self,
        latent_dim: int,
        widths: Sequence[int] = (256,) * 6,
        conditioning: Conditioning = "modulate",
        coordinates: Coordinates = "fractional",
        harmonics: int = 8,
        harmonic_scale: HarmonicScale = "linear",
        periodic: bool = False,
    ) -> None:
        super().__init__(
            latent_dim, 3, widths, conditioning, coordinates, harmonics, harmonic_scale, periodic
        )

    def conditioned(
        self,
        condition: Float[Tensor, "b c"],
        query: Float[Tensor, "b q 3"],
        lattice: Float[Tensor, "b 3 3"],
    ) -> Float[Tensor, "b q 3"]:
        """Offsets (B, Q, 3), Cartesian, Å."""
        out = super().conditioned(condition, query, lattice)
        if self.coordinates == "fractional":
            return frac_to_cart(out * self.OFFSET_SCALE, lattice)
        return out

    def units(self, lattice: Float[Tensor, "b 3 3"]) -> Float[Tensor, "b 3 3"]:
        """The displacement (Å) that each of the MLP's three outputs stands for, as rows."""
        if self.coordinates == "fractional":
            return lattice * self.OFFSET_SCALE
        return torch.eye(3, dtype=lattice.dtype, device=lattice.device).expand_as(lattice)


class SpeciesField(FieldDecoder):
    """Logits over elements (class Z - 1) of the atom nearest to a query point.

    Args: as `FieldDecoder`, with `num_species` for `out_features`.
    """

    def __init__(
        self,
        latent_dim: int,
        num_species: int = 94,
        widths: Sequence[int] = (256,) * 3,
        conditioning: Conditioning = "modulate",
        coordinates: Coordinates = "fractional",
        harmonics: int = 8,
        harmonic_scale: HarmonicScale = "linear",
        periodic: bool = False,
    ) -> None:
        super().__init__(
            latent_dim,
            num_species,
            widths,
            conditioning,
            coordinates,
            harmonics,
            harmonic_scale,
            periodic,
        )
