"""Real crystals to voxels and back: what voxels and each way of reading them lose by themselves.

python benchmarks/voxel_round_trip.py ../shared/data/perov5/test.csv.gz --json out.json
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import measure
import torch
from torch import Tensor

from baselines.voxel_icsg3d.inverse import devoxelize
from baselines.voxel_icsg3d.read_out import find_sites, pack
from baselines.voxel_icsg3d.segment import SegmentOptions
from baselines.voxel_icsg3d.voxelize import (
    VoxelOptions,
    Voxels,
    lattice_from_coords,
    representable,
    voxelize,
)
from nesf.crystal import CrystalBatch, standardised
from nesf.geometry import NearestImage

Labels = Literal["mended", "published"]
ReadOut = Literal["none", "centroid", "published"]
LABELS: tuple[Labels, ...] = ("mended", "published")
READ_OUTS: tuple[ReadOut, ...] = ("none", "centroid", "published")


def published_read_out(voxels: Voxels) -> CrystalBatch:
    """Segments of the occupied voxels, plain centroids, and lengths from the coordinates' range.

    What the pipeline does with voxels that the networks have made, done with exact ones.
    """
    lattice = lattice_from_coords(voxels.coords, voxels.options, "released")
    occupied = voxels.occupancy
    sites = find_sites(occupied.float(), occupied, voxels.species, voxels.options, SegmentOptions())
    return pack(list(sites), lattice).crystals


def nearest_sites(true: CrystalBatch, found: CrystalBatch, options: VoxelOptions) -> dict[str, Any]:
    """Wrong counts, and where the count is right: wrong species, and how far sites are off.

    Sites are compared in the true cell, so that an error of the lattice counts only as one.
    """
    b, n = true.mask.shape
    delta = found.frac_coords.unsqueeze(1) - true.frac_coords.unsqueeze(2)  # (B, N, M, 3)
    cart = torch.einsum("bnmk,bkc->bnmc", delta, true.lattice)
    # (B, N M, 3) -> (B, N, M)
    distance = NearestImage.of(true.lattice)(cart.flatten(1, 2)).norm(dim=-1).view(b, n, -1)
    nearest, index = distance.masked_fill(~found.mask.unsqueeze(1), torch.inf).min(-1)
    voxels = (delta - delta.round()).abs().amax(-1) * (options.resolution / options.extent)
    voxels = voxels.gather(2, index.unsqueeze(-1)).squeeze(-1)
    right = true.num_atoms == found.num_atoms
    counted = true.mask & right.unsqueeze(-1)
    other = found.atomic_numbers.gather(1, index) != true.atomic_numbers
    return {
        "wrong_counts": int((~right).sum()),
        "wrong_species": int((other & counted).sum()),
        "largest_site_error_voxels": _largest(voxels[counted]),
        "largest_site_error_angstrom": _largest(nearest[counted]),
        "largest_lattice_error_angstrom": _largest((found.lattice - true.lattice).abs().flatten()),
    }


def _largest(values: Tensor) -> float:
    return float(values.max()) if len(values) else 0.0


def there_and_back(
    crystals: CrystalBatch, options: VoxelOptions, read_outs: Sequence[ReadOut], batch: int
) -> dict[str, dict[str, Any]]:
    """The figures of each way of reading; crystals that the frame cannot hold are wrong counts."""
    held = crystals.select(representable(crystals, options))
    lost = len(crystals) - len(held)
    results: dict[str, dict[str, Any]] = {}
    for begin in range(0, len(held), batch):
        part = held.select(list(range(begin, min(begin + batch, len(held)))))
        true = standardised(part.to(dtype=torch.float64)).to(dtype=torch.float32)
        voxels = voxelize(part, options)
        for name in read_outs:
            found = published_read_out(voxels) if name == "published" else devoxelize(voxels, name)
            figures = nearest_sites(true, found, options)
            before = results.setdefault(
                name, {"crystals": len(crystals), "not_representable": lost, "wrong_counts": lost}
            )
            for key, value in figures.items():
                old = before.get(key, 0)
                before[key] = max(old, value) if key.startswith("largest") else old + value
    return results


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--resolution", type=int, default=32, help="voxels along each axis")
    parser.add_argument("--frames", nargs="+", choices=["cell", "box"], default=["cell", "box"])
    parser.add_argument("--labels", nargs="+", choices=LABELS, default=LABELS)
    parser.add_argument("--read-outs", nargs="+", choices=READ_OUTS, default=READ_OUTS)
    parser.add_argument("--batch", type=int, default=64, help="crystals at once")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for path in arguments.inputs:
        crystals = measure.read_set(path, arguments.device)
        for frame in arguments.frames:
            for labels in arguments.labels:
                options = VoxelOptions(arguments.resolution, frame=frame)
                if labels == "published":
                    options = replace(options, label_fraction=1.0, label_floor=0.0)
                found = there_and_back(crystals, options, arguments.read_outs, arguments.batch)
                for read_out, figures in found.items():
                    name = (
                        f"{path.parent.name}/{path.name} {frame} {options.resolution}, "
                        f"{labels} labels, read-out {read_out}"
                    )
                    results[name] = figures
                    measure.tell(name, figures)
    measure.write(arguments.json, measure.setup(torch.device(arguments.device)), results)


if __name__ == "__main__":
    main()
