"""Where the pipeline loses: reading true voxels and decoded ones, and the lattice each way.

python -m baselines.voxel_icsg3d.measure RUN CRYSTALS
"""

from __future__ import annotations

import sys
from typing import get_args

from baselines.voxel_icsg3d.model import LatticeReadout, VoxelICSG3D
from baselines.voxel_icsg3d.read_out import pack
from baselines.voxel_icsg3d.voxelize import voxelize
from nesf.checkpoint import load_model
from nesf.crystal import CrystalBatch, standardised
from nesf.data.packed import PackedSet, load_or_pack
from nesf.geometry import lattice_to_parameters
from nesf.scoring import quick_scores


def reading(run: str, crystals: str) -> None:
    """Scores with true voxels and with decoded ones, and lattice errors by each read-out.

    Args:
        run: a run folder or a model file.
        crystals: a packed set or any file that the readers know.
    """
    model = load_model(run)
    if not isinstance(model, VoxelICSG3D):
        raise SystemExit(f"{run} holds no voxel pipeline")
    packed = PackedSet.load(load_or_pack([crystals], progress=False))
    truth = standardised(packed.batch(range(len(packed))))
    found = pack(list(model.read(voxelize(truth, model.voxels).channels)), truth.lattice)
    print(f"U-Net on true voxels: {_scores(found.crystals, truth)}")
    latent = model.encode(truth)
    print(f"pipeline: {_scores(model.decode(latent).crystals, truth)}")
    lengths, angles = lattice_to_parameters(truth.lattice)
    for readout in get_args(LatticeReadout):
        if readout == "head" and not hasattr(model, "lattice_head"):
            continue
        model.lattice_readout = readout
        said = lattice_to_parameters(model.decode(latent).crystals.lattice)
        off = [(a - b).abs().mean() for a, b in zip(said, (lengths, angles), strict=True)]
        print(f"lattice by {readout}: {off[0]:.3f} Å, {off[1].rad2deg():.2f} degrees off")


def _scores(found: CrystalBatch, truth: CrystalBatch) -> str:
    scores = quick_scores(found, truth)
    return (
        f"{100 * (1 - scores.right_counts / scores.crystals):.1f} % wrong counts, "
        f"{scores.distance / scores.atoms:.3f} Å, "
        f"{100 * scores.wrong_species / scores.atoms:.1f} % wrong species"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(f"usage: python -m {__spec__.name} RUN CRYSTALS")
    reading(*sys.argv[1:])
