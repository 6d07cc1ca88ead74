"""The conditional variational autoencoder: voxels to one latent and back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn

from baselines.voxel_icsg3d.unet import LAYOUT, VOXEL_CHANNELS

Output = Literal["relu", "identity"]
LEAK = 0.3  # slope of the published LeakyReLU


class ConditionalVAE(nn.Module):
    """Convolutional VAE conditioned on a one-hot bin of a property (Court et al. 2020).

    The encoder halves the resolution once a width and squeezes what is left into a few channels;
    the decoder begins at twice that resolution. Condition: tiled over the voxels for the encoder,
    beside the latent for the decoder.

    Args:
        resolution: voxels D along an axis, divisible by 2^len(widths).
        widths: channels of the encoder's convolutions; the decoder has them backwards.
        latent_dim: length L of the latent.
        num_conditions: bins C of the condition.
        squeeze: channels between the convolutions and the dense layers. The published 4 leave
            4·(D/16)³ numbers (32 at D = 32) for the latent to be made of.
        output: `relu` as published, or `identity` where coordinates may be negative.
    """

    def __init__(
        self,
        resolution: int = 32,
        widths: Sequence[int] = (16, 32, 64, 128),
        latent_dim: int = 256,
        num_conditions: int = 10,
        squeeze: int = 4,
        output: Output = "relu",
    ) -> None:
        super().__init__()
        coarse = resolution >> len(widths)
        if coarse << len(widths) != resolution or not coarse:
            raise ValueError(
                f"a resolution of {resolution} cannot be halved {len(widths)} times, once a width; "
                f"give a multiple of {2 ** len(widths)}, or fewer widths"
            )
        if output not in ("relu", "identity"):
            raise ValueError(f"output is relu or identity, not {output}")
        self.latent_dim, self.num_conditions = latent_dim, num_conditions
        self.squeeze, self.start = squeeze, 2 * coarse
        encoder: list[nn.Module] = []
        for n, m in pairwise([VOXEL_CHANNELS + num_conditions, *widths]):
            encoder += [*_convolution(n, m), nn.MaxPool3d(2)]
        encoder += [nn.Conv3d(widths[-1], squeeze, 3, padding=1), nn.LeakyReLU(LEAK)]
        self.encoder = nn.Sequential(*encoder)
        self.dense = nn.Linear(squeeze * coarse**3, latent_dim)
        self.mean = nn.Linear(latent_dim, latent_dim)
        self.log_variance = nn.Linear(latent_dim, latent_dim)
        self.expand = nn.Linear(latent_dim + num_conditions, squeeze * self.start**3)
        decoder: list[nn.Module] = []
        for n, m in pairwise([squeeze, *reversed(widths)]):
            decoder += [*_convolution(n, m), nn.Upsample(scale_factor=2.0)]
        decoder[-1] = nn.Conv3d(widths[0], VOXEL_CHANNELS, 3, padding=1)  # no up-sampling at last
        decoder += [nn.BatchNorm3d(VOXEL_CHANNELS)]
        decoder += [nn.ReLU()] if output == "relu" else []
        self.decoder = nn.Sequential(*decoder)
        self.to(memory_format=LAYOUT)  # type: ignore[call-overload]

    @torch.no_grad()
    def set_output_scale(self, mean: Float[Tensor, " 4"], std: Float[Tensor, " 4"]) -> None:
        """Begin with voxels of this mean and standard deviation in each channel.

        The last normalisation gives mean 0 and deviation 1 otherwise, and Adam, whose steps are
        of one size, takes thousands of them to the coordinates' several Å.
        """
        norm = next(m for m in reversed(self.decoder) if isinstance(m, nn.BatchNorm3d))
        norm.weight.copy_(std)
        norm.bias.copy_(mean)

    def encode(
        self, channels: Float[Tensor, "b 4 d d d"], condition: Float[Tensor, "b c"]
    ) -> tuple[Float[Tensor, "b l"], Float[Tensor, "b l"]]:
        """Mean and log-variance (B, L) of the latent's normal distribution.

        Args:
            channels: (B, 4, D, D, D) density and coordinates (Å).
            condition: (B, C) one-hot bin; zeros where it is unknown.
        """
        d = channels.shape[-1]
        tiled = repeat(condition.to(channels), "b c -> b c x y z", x=d, y=d, z=d)
        x = torch.cat([channels, tiled], dim=1).contiguous(memory_format=LAYOUT)
        x = self.encoder(x)
        x = self.dense(rearrange(x, "b c x y z -> b (c x y z)")).relu()
        return self.mean(x).float(), self.log_variance(x).float()

    def decode(
        self, latent: Float[Tensor, "b l"], condition: Float[Tensor, "b c"]
    ) -> Float[Tensor, "b 4 d d d"]:
        """Voxels (B, 4, D, D, D) of latents."""
        x = self.expand(torch.cat([latent, condition.to(latent)], dim=-1))
        s = self.start
        x = rearrange(x, "b (c x y z) -> b c x y z", c=self.squeeze, x=s, y=s, z=s)
        return self.decoder(x.contiguous(memory_format=LAYOUT)).float()


def _convolution(enter: int, leave: int) -> list[nn.Module]:
    return [nn.Conv3d(enter, leave, 3, padding=1), nn.BatchNorm3d(leave), nn.LeakyReLU(LEAK)]
