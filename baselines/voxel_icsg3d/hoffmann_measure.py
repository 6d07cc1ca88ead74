"""What is lost where: in the voxels, in reading true densities, in the latent.

python -m baselines.voxel_icsg3d.hoffmann_measure RUN CRYSTALS
"""

from __future__ import annotations

import sys

import torch

from baselines.voxel_icsg3d.box_grid import box_labels
from baselines.voxel_icsg3d.box_sites import BoxReadOut
from baselines.voxel_icsg3d.hoffmann import VoxelHoffmann
from baselines.voxel_icsg3d.read_out import FoundSites, pack
from nesf.checkpoint import load_model
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet, load_or_pack
from nesf.scoring import quick_scores

_CHUNK = 32  # boxes at once


def reading(run: str, crystals: str) -> None:
    """Scores after each part of the way from boxes to latents and back.

    Args:
        run: a run folder or a model file.
        crystals: boxes or crystals: a packed set or any file that the readers know.
    """
    model = load_model(run)
    if not isinstance(model, VoxelHoffmann):
        raise SystemExit(f"{run} holds no voxel model of boxes")
    packed = PackedSet.load(load_or_pack([crystals], progress=False))
    rows: dict[str, list[torch.Tensor]] = {}
    left_over, variance, refused = 0.0, 0.0, 0
    for part in torch.arange(len(packed)).split(_CHUNK):
        batch = packed.batch(part.tolist())
        boxes, index = model.boxes_of(batch)
        refused += len(batch) - len(index)
        if not len(boxes):
            continue
        for name, found in _ways(model, boxes).items():
            scores = quick_scores(pack(found, boxes.lattice).crystals, boxes, walls=True)
            counted = (scores.crystals, scores.right_counts, scores.atoms, scores.distance,
                       scores.wrong_species)  # fmt: skip
            rows.setdefault(name, []).append(torch.stack([one.double() for one in counted]))
        density = model.density(boxes)
        left_over += float((_decoded(model, boxes) - density).square().sum())
        variance += float((density - density.mean()).square().sum())
    print(f"{refused} of {len(packed)} crystals have no box")
    for name, parts in rows.items():
        count, right, atoms, distance, wrong = torch.stack(parts).sum(0).tolist()
        print(
            f"{name}: {100 * (1 - right / count):.1f} % wrong counts, {distance / atoms:.3f} Å, "
            f"{100 * wrong / atoms:.1f} % wrong species"
        )
    if variance:
        print(f"share of the density's variance that the latent loses: {left_over / variance:.3f}")


@torch.no_grad()
def _ways(model: VoxelHoffmann, boxes: CrystalBatch) -> dict[str, list[FoundSites]]:
    """The atoms found after each part of the way."""
    labels, density = box_labels(boxes, model.grid), model.density(boxes)
    sure = torch.ones_like(density)
    finest = BoxReadOut(1, refine="density")
    return {
        "true labels": model.atoms_of(labels, sure, density),
        "true labels, refined on the true density": model.atoms_of(labels, sure, density, finest),
        "U-Net on true densities": model.read(density),
        "U-Net on decoded densities": model.read(_decoded(model, boxes)),
    }


@torch.no_grad()
def _decoded(model: VoxelHoffmann, boxes: CrystalBatch) -> torch.Tensor:
    return model.vae.decode(model.encode(boxes))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: python -m {__spec__.name} RUN CRYSTALS")
    reading(*sys.argv[1:])
