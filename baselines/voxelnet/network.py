"""The network on voxels of reciprocal space: blocks of convolution and pooling, and an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.voxelnet.voxels import ReciprocalVoxels

# Å³, of the order of a perovskite's cell: makes numbers around 1 of coefficients per volume
TYPICAL_VOLUME = 50.0


class VoxelCNN(nn.Module):
    """Numbers from voxels.

    |h| is the same at g and -g, so that one half of the voxels says all: the first convolution is
    taken in the half with the smaller second index, which halves the work of every layer and loses
    nothing of the descriptor. Pooling comes before normalisation and activation, which then have an
    eighth of the numbers to do.

    Args:
        num_channels: D, of the dense descriptor.
        num_outputs: numbers that are told of a crystal.
        resolution: N, a multiple of 2 to the number of blocks.
        periodic: whether the last axis is one, as the azimuth of spherical voxels is.
        widths: channels of each block.
        hidden_width: of the layer behind the blocks.
    """

    def __init__(
        self,
        num_channels: int,
        num_outputs: int,
        resolution: int = 32,
        periodic: bool = False,
        widths: Sequence[int] = (16, 16, 16),
        hidden_width: int = 32,
    ) -> None:
        super().__init__()
        last = resolution // 2 ** len(widths)
        if not widths or min(*widths, hidden_width) < 1:
            raise ValueError(f"widths must be numbers above 0, not {widths} and {hidden_width}")
        if last * 2 ** len(widths) != resolution or last % 2:
            raise ValueError(
                f"{len(widths)} blocks halve the voxels and half of them {len(widths)} times: the "
                f"resolution must be a multiple of {2 ** (len(widths) + 1)}, not {resolution}"
            )
        self.periodic = periodic
        self.first = ChannelConvolution(num_channels, widths[0])
        self.convolutions = nn.ModuleList(
            nn.Conv3d(before, after, 3) for before, after in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(width) for width in widths)
        self.hidden = nn.Linear(widths[-1] * last**2 * (last // 2), hidden_width)
        self.output = nn.Linear(hidden_width, num_outputs)

    def forward(self, voxels: ReciprocalVoxels) -> Float[Tensor, "b p"]:
        """What the network tells of each crystal."""
        # the half, and of the other half the one layer that its convolution sees
        half = voxels.half * TYPICAL_VOLUME
        maps = self.first(self._pad(half, (1, 0)), voxels.channels)
        maps = F.relu(self.norms[0](F.max_pool3d(maps, 2)))
        for convolution, norm in zip(self.convolutions, self.norms[1:], strict=True):
            maps = F.relu(norm(F.max_pool3d(convolution(self._pad(maps, (1, 1))), 2)))
        # (B, W, N', N' / 2, N') -> (B, W N'³ / 2)
        return self.output(F.relu(self.hidden(maps.flatten(1))))

    def _pad(self, maps: Tensor, middle: tuple[int, int]) -> Tensor:
        """A layer of voxels around the maps: zeros, but where an axis goes round."""
        if self.periodic:
            maps = torch.cat([maps[..., -1:], maps, maps[..., :1]], dim=-1)
            return F.pad(maps, (0, 0, *middle, 1, 1))
        return F.pad(maps, (1, 1, *middle, 1, 1))


class ChannelConvolution(nn.Module):
    """A convolution of D channels of which each crystal has but a few that are not empty.

    It gives what a dense convolution gives (empty channels add nothing) and multiplies C channels
    instead of D: for three elements of 94, a thirtieth.

    Args:
        num_channels: D.
        width: channels that come out.
    """

    def __init__(self, num_channels: int, width: int) -> None:
        super().__init__()
        # each crystal sees a few channels: their number is what the spread of the sum comes from
        bound = (1 / (27 * min(num_channels, 3))) ** 0.5
        self.weight = nn.Parameter(
            torch.empty(num_channels, width, 3, 3, 3).uniform_(-bound, bound)
        )
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(
        self, values: Float[Tensor, "b c x y z"], channels: Int[Tensor, "b c"]
    ) -> Float[Tensor, "b w u v t"]:
        """The convolution, without padding.

        Args:
            values: (B, C, X, Y, Z).
            channels: (B, C) which of the D they are.
        """
        b, c = channels.shape
        kernels = self.weight[channels].transpose(1, 2)  # (B, W, C, 3, 3, 3)
        if values.device.type == "cpu":
            # one after another: in bfloat16 four times as fast as in groups
            pairs = zip(values.unsqueeze(1), kernels, strict=True)
            return torch.cat([F.conv3d(one, kernel, self.bias) for one, kernel in pairs])
        joined = values.reshape(1, b * c, *values.shape[2:])
        maps = F.conv3d(joined, kernels.flatten(0, 1), self.bias.repeat(b), groups=b)
        return maps.view(b, -1, *maps.shape[2:])
