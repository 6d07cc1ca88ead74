"""Learned fields: MLPs from a latent code and query points to offsets and species logits."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from nesf.geometry import cart_to_frac, frac_to_cart

Coordinates = Literal["fractional", "cartesian"]
Conditioning = Literal["modulate", "concat"]
HarmonicScale = Literal["linear", "octave"]


def one_of(name: str, value: str, choices: object) -> None:
    """Refuse what is none of the strings of a Literal.

    Raises:
        ValueError: it is none of them.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} is {' or '.join(get_args(choices))}, not {value!r}")


class FourierFeatures(nn.Module):
    """Sines and cosines of coordinates, with the coordinates themselves where not periodic.

    `scale: linear` uses sin and cos of pi*k*x for k = 1..count, which tells 0 from 1 (an in-cell
    field is not periodic) and has the symmetry positions 0, 1/2, 1/3, 1/4 at its nodes.
    `scale: octave` uses 2^k for k = 0..count-1 (NeRF, arXiv:2003.08934, eq. 4). `periodic` keeps
    only whole turns, 2*pi*k*x, and drops the coordinates.

    Args:
        count: frequencies per axis; 0 hands on the bare coordinates.
        scale: how the frequencies grow.
        periodic: features of period 1 only.
    """

    frequencies: Tensor

    def __init__(
        self,
        count: int,
        scale: HarmonicScale = "linear",
        periodic: bool = False,
    ) -> None:
        super().__init__()
        one_of("scale", scale, HarmonicScale)
        if periodic and not count:
            raise ValueError("periodic features need at least one frequency, not 0")
        steps = torch.arange(count, dtype=torch.float32)
        multiples = steps + 1 if scale == "linear" else 2.0**steps
        turn = 2 * math.pi if periodic else math.pi
        self.register_buffer("frequencies", turn * multiples, persistent=False)
        self.periodic = periodic
        self.out_features = 3 * 2 * count + (0 if self.periodic else 3)

    def forward(self, x: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b f"]:
        """Coordinates (..., 3) to features (..., F)."""
        angles = (x.unsqueeze(-1) * self.frequencies).flatten(-2)  # (..., 3, K) -> (..., 3K)
        parts = [angles.sin(), angles.cos()]
        return torch.cat(parts if self.periodic else [x, *parts], dim=-1)


class ModulatedMLP(nn.Module):
    """Residual MLP over query features whose every block is scaled and shifted by the latent.

    The modulation (FiLM, arXiv:1709.07871) comes first in each block, on the block's hidden
    units: with Fourier features as input, a product of latent and query is what reads a density
    out of its Fourier coefficients.
    """

    def __init__(
        self, latent_dim: int, query_dim: int, widths: Sequence[int], out_features: int
    ) -> None:
        super().__init__()
        width = widths[0]
        if any(w != width for w in widths):
            raise ValueError(f"a modulated decoder has one width, not {list(widths)}")
        self.enter = nn.Linear(query_dim, width)
        self.expand = nn.ModuleList(nn.Linear(width, width) for _ in widths)
        self.contract = nn.ModuleList(nn.Linear(width, width) for _ in widths)
        self.modulation = nn.Linear(latent_dim, (2 * len(widths) + 2) * width)
        self.leave = nn.Linear(width, out_features)
        for layer in self.contract:
            layer.weight.data.mul_(1 / math.sqrt(len(widths)))  # type: ignore[operator, union-attr]

    def forward(
        self, latent: Float[Tensor, "b l"], features: Float[Tensor, "b q f"]
    ) -> Float[Tensor, "b q o"]:
        """Latent (B, L) and query features (B, Q, F) to outputs (B, Q, O)."""
        return self.conditioned(self.condition(latent), features)

    def condition(self, latent: Float[Tensor, "b l"]) -> Float[Tensor, "b c"]:
        """All that the network sees of a latent: scales and shifts of its blocks, in turn."""
        return self.modulation(latent)

    def conditioned(
        self, condition: Float[Tensor, "b c"], features: Float[Tensor, "b q f"]
    ) -> Float[Tensor, "b q o"]:
        """`forward` from what `condition` says of the latent."""
        # (B, 2(K+1)W) -> 2(K+1) of (B, 1, W)
        codes = condition.unsqueeze(1).chunk(2 * len(self.expand) + 2, dim=-1)
        hidden = F.gelu(torch.addcmul(codes[1], self.enter(features), 1 + codes[0]))
        for i, (expand, contract) in enumerate(zip(self.expand, self.contract, strict=True)):
            scale, shift = codes[2 * i + 2], codes[2 * i + 3]
            inner = F.gelu(torch.addcmul(shift, expand(hidden), 1 + scale))
            hidden = hidden + contract(inner)
        return self.leave(hidden)

    @property
    def latent_weights(self) -> Float[Tensor, "c l"]:
        """By which the latent enters."""
        return self.modulation.weight


class PointNorm(nn.BatchNorm1d):
    """Batch normalisation over all but the last dimension.

    A single point, which has no variance, is normalised by the running statistics.
    """

    def forward(self, x: Float[Tensor, "*b f"]) -> Float[Tensor, "*b f"]:
        """Points (..., F) to normalised points (..., F)."""
        flat = x.reshape(-1, x.shape[-1])
        if self.training and len(flat) == 1:
            flat = F.batch_norm(
                flat, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        else:
            flat = super().forward(flat)
        return flat.view(x.shape)


class ConcatMLP(nn.Module):
    """The published decoder: an MLP with the query features appended at every hidden layer.

    Chiba et al., arXiv:2212.13120, and the authors' code: the latent and the query enter the
    first layer, the query features again every later hidden one; ReLU and batch normalisation
    after each; a plain linear layer at the end.
    """

    def __init__(
        self, latent_dim: int, query_dim: int, widths: Sequence[int], out_features: int
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        inputs = [latent_dim, *widths[:-1]]
        self.layers = nn.ModuleList(
            nn.Linear(n + query_dim, m) for n, m in zip(inputs, widths, strict=True)
        )
        self.norms = nn.ModuleList(PointNorm(m) for m in widths)
        self.leave = nn.Linear(widths[-1], out_features)

    def forward(
        self, latent: Float[Tensor, "b l"], features: Float[Tensor, "b q f"]
    ) -> Float[Tensor, "b q o"]:
        """Latent (B, L) and query features (B, Q, F) to outputs (B, Q, O)."""
        return self.conditioned(self.condition(latent), features)

    def condition(self, latent: Float[Tensor, "b l"]) -> Float[Tensor, "b l"]:
        """What the network sees of a latent: the latent."""
        return latent

    def conditioned(
        self, condition: Float[Tensor, "b l"], features: Float[Tensor, "b q f"]
    ) -> Float[Tensor, "b q o"]:
        """`forward` from what `condition` says of the latent."""
        hidden = condition.unsqueeze(1)  # (B, 1, L): its share of the first layer once a crystal
        sizes = [condition.shape[1], *(layer.out_features for layer in self.layers)]
        for size, layer, norm in zip(sizes[:-1], self.layers, self.norms, strict=True):
            # the product with the concatenation in two parts: the gradient of a concatenation
            # is a strided view, a hundred times slower in the backward of batch_norm on CPUs
            own, query = layer.weight.split([size, features.shape[2]], dim=1)  # type: ignore[operator]
            both = F.linear(hidden, own, layer.bias) + F.linear(features, query)  # type: ignore[arg-type]
            hidden = norm(torch.relu(both))
        return self.leave(hidden)

    @property
    def latent_weights(self) -> Float[Tensor, "c l"]:
        """By which the latent enters."""
        first: nn.Linear = self.layers[0]  # type: ignore[assignment]
        return first.weight[:, : self.latent_dim]


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
