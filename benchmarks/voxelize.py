"""Voxelize real crystals on the device, beside the training step of the U-Net that eats them.

python benchmarks/voxelize.py ../shared/data/perov5/test.csv.gz --device cuda --json out.json
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import measure
import torch

from baselines.voxel_icsg3d.voxelize import VoxelOptions, Voxels, representable, voxelize
from nesf.crystal import CrystalBatch
from nesf.precision import autocast


def seconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """The median time of a call, after one that warms up."""
    run()
    taken = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def unet_step(voxels: Voxels, widths: Sequence[int]) -> Callable[[], None]:
    """One training step of the U-Net on voxels: both heads, backward, Adam."""
    from baselines.voxel_icsg3d.unet import AtomUNet

    network = AtomUNet(widths).to(voxels.device)
    optimizer = torch.optim.Adam(network.parameters(), 1e-4)
    functional = torch.nn.functional

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(voxels.device):
            found = network(voxels.channels)
            loss = functional.cross_entropy(
                found.species, voxels.species
            ) + functional.binary_cross_entropy_with_logits(
                found.occupancy, voxels.occupancy.to(found.occupancy.dtype)
            )
        loss.backward()
        optimizer.step()

    return step


def speed(
    crystals: CrystalBatch, options: VoxelOptions, widths: Sequence[int], repeats: int, steps: int
) -> dict[str, Any]:
    device = crystals.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    drawing = seconds(lambda: voxelize(crystals, options), device, repeats)
    result: dict[str, Any] = {
        "crystals_per_second": len(crystals) / drawing,
        "voxels_per_second": len(crystals) * options.resolution**3 / drawing,
        "voxelize_ms_per_crystal": 1e3 * drawing / len(crystals),
    }
    if device.type == "cuda":
        result["voxelize_peak_bytes"] = torch.cuda.max_memory_allocated(device)
    if steps:
        training = seconds(unet_step(voxelize(crystals, options), widths), device, steps)
        result["unet_step_ms_per_crystal"] = 1e3 * training / len(crystals)
        result["voxelize_share_of_step"] = drawing / training
    return result


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--resolutions", nargs="+", type=int, default=[16, 32, 48, 64])
    parser.add_argument("--frames", nargs="+", choices=["cell", "box"], default=["cell", "box"])
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 64, 128, 256, 512])
    parser.add_argument("--batch", type=int, default=32, help="crystals at once, and in a step")
    parser.add_argument("--repeats", type=int, default=5, help="times to voxelize")
    parser.add_argument("--steps", type=int, default=3, help="training steps; 0: none")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for path in arguments.inputs:
        crystals = measure.read_set(path)
        for frame in arguments.frames:
            held = crystals.select(representable(crystals, VoxelOptions(frame=frame)))
            part = held.select(list(range(min(len(held), arguments.batch))))
            part = part.to(arguments.device)
            for resolution in arguments.resolutions:
                options = VoxelOptions(resolution, frame=frame)
                name = f"{path.parent.name}/{path.name} {frame} {resolution}"
                results[name] = {
                    "crystals": len(part),
                    "largest_cell": int(part.num_atoms.max()),
                    "not_representable": len(crystals) - len(held),
                    **speed(part, options, arguments.widths, arguments.repeats, arguments.steps),
                }
                measure.tell(name, results[name])
    setup = measure.setup(torch.device(arguments.device), widths=arguments.widths)
    measure.write(arguments.json, setup, results)


if __name__ == "__main__":
    main()
