"""What the fields are made of: Fourier features, and MLPs that a latent conditions."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

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
