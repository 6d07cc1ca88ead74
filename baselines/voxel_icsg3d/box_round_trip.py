"""What boxes lose in exact voxels, without any network.

python -m baselines.voxel_icsg3d.box_round_trip RESOLUTION COUNT CRYSTALS...
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from baselines.voxel_icsg3d.box_grid import BoxGrid, box_density, box_labels
from baselines.voxel_icsg3d.box_sites import BoxReadOut, find_atoms, refine_in_boxes
from nesf.boxes.cut import BoxOptions, training_boxes
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet, load_or_pack
from nesf.random import generator_for


def round_trip(resolution: int, count: int, paths: list[str]) -> None:
    """Print how well random repeating boxes of 10 Å are read from their exact voxels.

    Args:
        resolution: voxels along an axis.
        count: crystals of each file, the first ones.
        paths: files of crystals.
    """
    grid, options = BoxGrid(resolution=resolution), BoxReadOut(min_voxels=1)
    for path in paths:
        packed = PackedSet.load(load_or_pack([path], progress=False))
        generator = generator_for(0, "round trip")
        crystals = packed.batch(range(min(count, len(packed))))
        boxes = training_boxes(crystals, BoxOptions(capacity=1000), generator)
        errors: dict[str, list[np.ndarray]] = {"by labels": [], "refined": []}
        for i in range(len(boxes)):
            one = boxes.select([i])
            found = atoms_in(one, grid, options)
            if not same_elements(one, found):
                continue
            refined = refine_in_boxes(found, box_density(one, grid), grid)
            errors["by labels"].append(distances(one, found))
            errors["refined"].append(distances(one, refined))
        wrong = len(boxes) - len(errors["refined"])
        print(
            f"{path}, {resolution}³: {boxes.num_atoms.float().mean():.0f} atoms a box; "
            f"{wrong} of {len(boxes)} boxes with wrong counts or elements; of the others"
        )
        for name, some in errors.items():
            if some:
                every = np.concatenate(some)
                print(f"  {name}: mean {every.mean():.2g} Å, worst {every.max():.2g} Å")


def atoms_in(box: CrystalBatch, grid: BoxGrid, options: BoxReadOut) -> CrystalBatch:
    """What is read from the exact labels of one box."""
    sites = find_atoms(box_labels(box, grid)[0].numpy(), grid, options)
    return CrystalBatch.from_flat(
        torch.from_numpy((sites.centroids + 0.5) / grid.resolution),
        torch.from_numpy(sites.atomic_numbers),
        torch.tensor([len(sites)]),
        box.lattice.double(),
        box.ids,
    )


def same_elements(box: CrystalBatch, found: CrystalBatch) -> bool:
    """Whether two boxes hold as many atoms of each element."""
    return torch.equal(
        box.atomic_numbers[box.mask].sort().values, found.atomic_numbers[found.mask].sort().values
    )


def distances(box: CrystalBatch, found: CrystalBatch) -> np.ndarray:
    """(N,) Å from each atom of one box to the nearest found one of its element."""
    delta = box.cart_coords[0].double().unsqueeze(1) - found.cart_coords[0]
    other = box.atomic_numbers[0].unsqueeze(1) != found.atomic_numbers[0]
    return delta.norm(dim=-1).masked_fill(other, torch.inf).amin(1).numpy()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(f"usage: python -m {__spec__.name} RESOLUTION COUNT CRYSTALS...")
    round_trip(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
