"""An epoch of reciprocal-space voxels: as in a training, and one crystal at a time in NumPy.

python benchmarks/voxelnet_features.py ../shared/data/aflow_perovskite_oxides/train.csv.gz
    [--device cuda] [--json out.json]

Every crystal of the set is drawn, turned at random and voxelized, as in each epoch of a training,
in batches as the network takes them: with the coefficients that are found before the first epoch
and kept, or found anew in each step, as where they are too many to be kept. Beside them two plain
ways: point after point of the reciprocal lattice, as the definition reads, and all points of a
crystal at once. The plain ones do a part of the set, and their time is scaled to the whole.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch

from baselines.voxelnet.kept import SpectralBatch, SpectralTensors, with_spectra
from baselines.voxelnet.options import VoxelOptions
from baselines.voxelnet.turns import random_turns, turned
from baselines.voxelnet.voxels import reciprocal_voxels, voxels_of
from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch
from nesf.data.packed import PackedSet, PackedTensors

TARGET = 20.0  # times as fast as the plain way


def shares(x: float, options: VoxelOptions) -> list[tuple[int, float]]:
    """The voxels of one axis that a coordinate falls to."""
    position = x / options.spacing + options.resolution / 2 - 0.5
    below = int(np.floor(position))
    both = ((below, 1 - (position - below)), (below + 1, position - below))
    return [(i, share) for i, share in both if 0 <= i < options.resolution]


def point_by_point(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, options: VoxelOptions
) -> np.ndarray:
    """(94, N, N, N) Cartesian voxels, as the definition reads."""
    n, half = options.resolution, (options.side + options.spacing) / 2
    reciprocal = 2 * np.pi * np.linalg.inv(lattice).T
    volume = abs(np.linalg.det(lattice))
    grid = np.zeros((MAX_ATOMIC_NUMBER, n, n, n), dtype=np.float32)
    most = (half * np.abs(lattice).sum(1) / (2 * np.pi)).astype(int)
    for hkl in itertools.product(*(range(-m, m + 1) for m in most)):
        g = hkl @ reciprocal
        if np.abs(g).max() >= half:
            continue
        phases = np.exp(-2j * np.pi * (frac @ np.array(hkl)))
        blur = np.exp(-0.5 * options.sigma**2 * (g @ g)) / volume
        voxels = list(itertools.product(*(shares(x, options) for x in g)))
        for z in np.unique(numbers):
            h = abs(phases[numbers == z].sum()) * blur
            for (i, p), (j, q), (k, r) in voxels:
                grid[z - 1, i, j, k] += h * p * q * r
    return grid


def points_at_once(
    lattice: np.ndarray, frac: np.ndarray, numbers: np.ndarray, options: VoxelOptions
) -> np.ndarray:
    """(94, N, N, N) Cartesian voxels, array operations over all points of the crystal."""
    n, half = options.resolution, (options.side + options.spacing) / 2
    most = (half * np.abs(lattice).sum(1) / (2 * np.pi)).astype(int)
    axes = [np.arange(-m, m + 1) for m in most]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    g = 2 * np.pi * hkl @ np.linalg.inv(lattice).T
    inside = np.abs(g).max(1) < half
    hkl, g = hkl[inside], g[inside]
    blur = np.exp(-0.5 * options.sigma**2 * (g**2).sum(1)) / abs(np.linalg.det(lattice))
    phases = np.exp(-2j * np.pi * hkl @ frac.T)
    position = g / options.spacing + n / 2 - 0.5
    below = np.floor(position).astype(int)
    upper = position - below
    grid = np.zeros((MAX_ATOMIC_NUMBER, n, n, n), dtype=np.float32)
    for corner in itertools.product((0, 1), repeat=3):
        place = below + corner
        share = np.where(corner, upper, 1 - upper).prod(1)
        kept = ((place >= 0) & (place < n)).all(1)
        for z in np.unique(numbers):
            h = np.abs(phases[:, numbers == z].sum(1)) * blur * share
            np.add.at(grid[z - 1], tuple(place[kept].T), h[kept])
    return grid


PLAIN = {"point by point": point_by_point, "points at once": points_at_once}


def plain_seconds(crystals: CrystalBatch, options: VoxelOptions, way: str, count: int) -> float:
    """Seconds that an epoch takes in one of the plain ways, from its first `count` crystals."""
    some = crystals.select(list(range(min(count, len(crystals))))).to("cpu", torch.float64)
    start = time.perf_counter()
    for i in range(len(some)):
        real = some.mask[i].numpy()
        lattice = turned(some.select([i]), some_turns(1, i).double()).lattice[0].numpy()
        frac, numbers = some.frac_coords[i].numpy()[real], some.atomic_numbers[i].numpy()[real]
        PLAIN[way](lattice, frac, numbers, options)
    return (time.perf_counter() - start) / len(some) * len(crystals)


def some_turns(count: int, seed: int) -> torch.Tensor:
    return random_turns(count, "any", torch.Generator().manual_seed(seed))


def epoch(crystals: PackedTensors, options: VoxelOptions, batch: int) -> None:
    """All crystals, turned and voxelized as the network takes them."""
    for number, part in enumerate(torch.randperm(len(crystals)).split(batch)):
        some = turned(crystals.batch(part), some_turns(len(part), number).to(crystals.lattice))
        if isinstance(some, SpectralBatch):
            voxels_of(some.spectra, options)
        else:
            reciprocal_voxels(some, options)


def epochs(
    crystals: PackedSet, options: VoxelOptions, device: torch.device, batch: int, repeats: int
) -> dict[str, Any]:
    """Seconds of epochs, and bytes that are kept for them."""
    flat = crystals.tensors(device)

    def find() -> PackedTensors:
        return with_spectra(flat, crystals, range(len(crystals)), options)

    kept = find()
    found: dict[str, Any] = {"crystals": len(crystals)}
    if isinstance(kept, SpectralTensors):
        tensors = (kept.spectra.vectors, kept.spectra.sizes)
        found["kept_bytes_per_crystal"] = sum(one.nbytes for one in tensors) / len(crystals)
    taken = measure.seconds(lambda: epoch(kept, options, batch), device, repeats)
    first = taken + measure.seconds(find, device, repeats)
    anew = measure.seconds(lambda: epoch(flat, options, batch), device, repeats)
    return found | {
        "epoch_seconds": taken,
        "first_epoch_seconds": first,
        "nothing_kept_epoch_seconds": anew,
        "ms_per_crystal": 1e3 * taken / len(crystals),
    }


def furthest(crystals: CrystalBatch, options: VoxelOptions, way: str) -> float:
    """The largest difference of a voxel between kept coefficients, turned, and a plain way."""
    one = crystals.select([0]).to("cpu", torch.float64)
    packed, turns = PackedSet.from_batch(one), some_turns(1, 0).double()
    kept = with_spectra(packed.tensors(dtype=torch.float64), packed, [0], options)
    as_drawn = turned(kept.batch(torch.tensor([0])), turns)
    assert isinstance(as_drawn, SpectralBatch)
    found = voxels_of(as_drawn.spectra, options).dense()[0].numpy()
    arrays = (as_drawn.lattice[0], one.frac_coords[0], one.atomic_numbers[0])
    wanted = PLAIN[way](*(array.numpy() for array in arrays), options)
    return float(np.abs(found - wanted).max())


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--resolutions", nargs="+", type=int, default=[32])
    parser.add_argument("--kinds", nargs="+", default=["cartesian", "spherical"])
    parser.add_argument("--batch", type=int, default=32, help="crystals at once")
    parser.add_argument("--plain", type=int, default=20, help="crystals in the plain ways")
    parser.add_argument("--repeats", type=int, default=3, help="epochs of a training")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    results: dict[str, Any] = {}
    for path in arguments.inputs:
        crystals = measure.read_set(path, device)
        packed = PackedSet.from_batch(crystals)
        for resolution in arguments.resolutions:
            cartesian = VoxelOptions("cartesian", resolution)
            plain = {way: plain_seconds(crystals, cartesian, way, arguments.plain) for way in PLAIN}
            for kind in arguments.kinds:
                options = VoxelOptions(kind, resolution)
                result = epochs(packed, options, device, arguments.batch, arguments.repeats)
                taken = result["epoch_seconds"]
                result |= {
                    "plain_epoch_seconds": plain,
                    "times_as_fast": {way: seconds / taken for way, seconds in plain.items()},
                    "target_met": {way: s / taken >= TARGET for way, s in plain.items()},
                }
                if kind == "cartesian":
                    apart = {way: furthest(crystals, options, way) for way in PLAIN}
                    result["largest_difference"] = apart
                name = f"{path.parent.name}/{path.name} {kind} {resolution}"
                measure.tell(name, result)
                results[name] = result
    setup = measure.setup(device, batch=arguments.batch, plain=arguments.plain)
    measure.write(arguments.json, setup, results)


if __name__ == "__main__":
    main()
