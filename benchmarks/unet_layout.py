"""A training step of the U-Net by memory layout and precision, on real voxels.

python benchmarks/unet_layout.py ../shared/data/perov5/test.csv.gz --threads 1 --json out.json
python benchmarks/unet_layout.py SET --widths 16 16 32 64 128 --resolutions 16 --batch 8
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import measure
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.benchmark import Timer

from baselines.voxel_icsg3d import unet
from baselines.voxel_icsg3d.voxelize import VoxelOptions, Voxels, voxelize
from nesf.precision import has_fast_bfloat16

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last_3d": torch.channels_last_3d}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def training_step(network: nn.Module, voxels: Voxels, dtype: torch.dtype) -> Callable[[], None]:
    """A step with both heads on every voxel, forward and backward."""
    channels, species, occupied = voxels.channels, voxels.species, voxels.occupancy.float()
    kind = voxels.device.type

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(kind, dtype, enabled=dtype != torch.float32):
            found = network(channels)
        loss = F.cross_entropy(found.species.float(), species)
        loss = loss + F.binary_cross_entropy_with_logits(found.occupancy.float(), occupied)
        loss.backward()

    return step


def milliseconds(step: Callable[[], None], min_s: float) -> tuple[float, float, int]:
    """Median and interquartile range of a step, after one that warms up, and how many it was."""
    step()
    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    times = timer.blocked_autorange(min_run_time=min_s)
    return 1e3 * times.median, 1e3 * times.iqr, len(times.times) * times.number_per_run


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("input", type=Path, help="crystals")
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 64, 128, 256, 512])
    parser.add_argument("--resolutions", nargs="+", type=int, default=[32])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--batch", type=int, default=8, help="crystals in a step")
    parser.add_argument("--min-seconds", type=float, default=10.0, help="of each measurement")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    crystals = measure.read_set(arguments.input, device, limit=arguments.batch)
    results = {}
    ways = itertools.product(arguments.resolutions, arguments.precisions, arguments.layouts)
    for resolution, precision, layout in ways:
        voxels = voxelize(crystals, VoxelOptions(resolution))
        torch.manual_seed(0)
        # the network looks its layout up when it is built, and at every call
        with mock.patch.object(unet, "LAYOUT", LAYOUTS[layout]):
            network = unet.AtomUNet(arguments.widths).to(device)
            step = training_step(network, voxels, PRECISIONS[precision])
            median, spread, steps = milliseconds(step, arguments.min_seconds)
        name = f"{'-'.join(map(str, arguments.widths))} {resolution} {precision} {layout}"
        results[name] = {
            "parameters": sum(p.numel() for p in network.parameters()),
            "crystals": len(crystals),
            "steps": steps,
            "seconds_per_step": median / 1e3,
            "ms_per_crystal": median / len(crystals),
            "iqr_ms_per_crystal": spread / len(crystals),
        }
        measure.tell(name, results[name])
    setup = measure.setup(device, fast_bfloat16=has_fast_bfloat16(device))
    measure.write(arguments.json, setup, results)


if __name__ == "__main__":
    main()
