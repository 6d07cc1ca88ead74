"""The variational autoencoder of boxes: a density to one latent and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.voxel_icsg3d.unet import LAYOUT
from baselines.voxel_icsg3d.vae import LEAK

COARSEST = 4  # voxels along an axis where convolutions stop halving


class BoxVAE(nn.Module):
    """Convolutions to a latent and back (Hoffmann et al., arXiv:1909.00949).

    Each convolution of the encoder halves the resolution (rounding up) until 4 voxels are left,
    30-15-8-4-4-4 at the published 30; the decoder goes the same way back.

    Args:
        resolution: voxels D along an axis.
        widths: channels of the encoder's convolutions, five as published; the decoder has them
            backwards.
        latent_dim: length L of the latent.
    """

    def __init__(
        self,
        resolution: int = 30,
        widths: Sequence[int] = (32, 64, 128, 256, 256),
        latent_dim: int = 300,
    ) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise ValueError(f"a VAE needs positive widths, not {list(widths)}")
        self.latent_dim = latent_dim
        self.sizes = [resolution]
        for _ in widths:
            self.sizes.append((self.sizes[-1] + 1) // 2 if self.sizes[-1] > COARSEST
                              else self.sizes[-1])  # fmt: skip
        encoder: list[nn.Module] = []
        for (enter, leave), (fine, coarse) in zip(
            pairwise([1, *widths]), pairwise(self.sizes), strict=True
        ):
            stride = 1 if fine == coarse else 2
            encoder += [nn.Conv3d(enter, leave, 3, stride, padding=1), nn.BatchNorm3d(leave),
                        nn.LeakyReLU(LEAK)]  # fmt: skip
        self.encoder = nn.Sequential(*encoder)
        flat = widths[-1] * self.sizes[-1] ** 3
        self.mean = nn.Linear(flat, latent_dim)
        self.log_variance = nn.Linear(flat, latent_dim)
        # begin with little noise: what the latent says must be heard before the KL term silences it
        nn.init.zeros_(self.log_variance.weight)
        nn.init.constant_(self.log_variance.bias, -4.0)
        self.expand = nn.Linear(latent_dim, flat)
        up = [*reversed(widths), 1]
        self.convolutions = nn.ModuleList(
            nn.Conv3d(enter, leave, 3, padding=1) for enter, leave in pairwise(up)
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(width) for width in up[:-1])
        self.to(memory_format=LAYOUT)  # type: ignore[call-overload]

    def encode(
        self, density: Float[Tensor, "b d d d"]
    ) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
        """Mean and log-variance (B, L) of the latent's normal distribution.

        Args:
            density: (B, D, D, D) standardised.
        """
        x = self.encoder(density.unsqueeze(1).contiguous(memory_format=LAYOUT))
        x = rearrange(x, "b c x y z -> b (c x y z)")
        return self.mean(x).float(), self.log_variance(x).float()

    def decode(self, latent: Float[Tensor, "b l"]) -> Float[Tensor, "b d d d"]:
        """Standardised densities (B, D, D, D) of latents."""
        s = self.sizes[-1]
        x = rearrange(self.expand(latent), "b (c x y z) -> b c x y z", x=s, y=s, z=s)
        x = x.contiguous(memory_format=LAYOUT)
        sizes = reversed(self.sizes[:-1])
        for norm, convolution, size in zip(self.norms, self.convolutions, sizes, strict=True):
            x = F.leaky_relu(norm(x), LEAK)
            if x.shape[-1] != size:
                x = F.interpolate(x, size=(size, size, size), mode="nearest")
            x = convolution(x)
        return x.squeeze(1).float()
