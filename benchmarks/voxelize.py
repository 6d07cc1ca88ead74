"""Voxelize real crystals on the device, beside the training step of the U-Net that eats them.

python benchmarks/voxelize.py ../shared/data/perov5/test.csv.gz --device cuda --json out.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from baselines.voxel_icsg3d.voxelize import VoxelOptions, Voxels, representable, voxelize
from nesf.crystal import CrystalBatch
from nesf.data.readers import read_crystals
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


def measure(
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--resolutions", nargs="+", type=int, default=[16, 32, 48, 64])
    parser.add_argument("--frames", nargs="+", choices=["cell", "box"], default=["cell", "box"])
    parser.add_argument("--widths", nargs="+", type=int, default=[32, 64, 128, 256, 512])
    parser.add_argument("--batch", type=int, default=32, help="crystals at once, and in a step")
    parser.add_argument("--repeats", type=int, default=5, help="times to voxelize")
    parser.add_argument("--steps", type=int, default=3, help="training steps; 0: none")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for path in arguments.inputs:
        rows, _ = read_crystals([path])
        crystals = CrystalBatch.from_structures([row.structure for row in rows])
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
                    **measure(part, options, arguments.widths, arguments.repeats, arguments.steps),
                }
                print(name, json.dumps(results[name]), flush=True)
    if arguments.json:
        device = torch.device(arguments.device)
        setup = {
            "torch": torch.__version__,
            "threads": arguments.threads,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "widths": arguments.widths,
        }
        text = json.dumps({"setup": setup, "results": results}, indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
