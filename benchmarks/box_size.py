"""Time and memory of reconstructing boxes against the atoms in them, fields beside voxels, plotted.

python benchmarks/box_size.py --json out.json --plot out.svg
python benchmarks/box_size.py --set boxes.nesf --models runs/box_repeat runs/hoffmann_repeat

Without a set, boxes are random packings of one density with 10 to 1,000 atoms, taken as not
periodic, so that the box grows with its atoms. `exact` are their exact fields; `learned` the same
at the cost of a network of the shape in `configs/nesf/box_repeat.yaml`: it is asked too, and its
answer dropped; `voxels` their exact labels, at the cost of the networks of Hoffmann et al. with
random weights, at the published three voxels an Å in each direction. `repeat` are boxes of the same
numbers of atoms cut from a repeating crystal, in any rotation: the repeat is found, given back by
the fields of the model `general`, refined, and the box cut again.

With a set (`nesf data boxes`) and models, each model encodes and decodes boxes of that set, a group
for each range of atom counts, and its errors stand beside its time. Models of crystals are given
what the boxes repeat.

Each point is measured in a process of its own. Memory is what is taken beyond what was held before
(None where Linux cannot tell). The exponent is the slope in log-log over the upper half of the
range: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import measure
import torch
import yaml
from cell_size import costly, exponents
from growth_plot import LEGEND, MEASURED, draw_growth, recorded

from baselines.voxel_icsg3d.box_grid import box_density, box_labels
from baselines.voxel_icsg3d.hoffmann import VoxelHoffmann
from baselines.voxel_icsg3d.read_out import pack
from nesf import api
from nesf.autoencoder import NeSF
from nesf.boxes.cut import BoxOptions, random_boxes
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet
from nesf.exact import exact_fields
from nesf.memory import PeakMemory
from nesf.neighbors import MANY_ATOMS
from nesf.precision import autocast
from nesf.reconstruction.options import ReconstructOptions
from nesf.reconstruction.reconstruct import reconstruct
from nesf.scoring import quick_scores

CONFIG = Path(__file__).parents[1] / "configs" / "nesf" / "box_repeat.yaml"
VOXELS_PER_ANGSTROM = 3
REPEAT_MODEL = "general"
MGO_LENGTH = 4.21  # Å
SMALLEST_REPEAT = 50  # atoms: a box must hold some two cells in each direction
LABELS = {"repeat": f"fields of the repeat, model {REPEAT_MODEL}"}
SIZES = [10, 20, 50, 100, 200, 350, 500, 700, 1000]
RANGES = [1, 33, 65, 97, 129, 193, 257, 385, 513, 1025]  # atoms, first of each group

Run = Callable[[], CrystalBatch]


def run_of(point: dict[str, Any]) -> tuple[CrystalBatch, Run]:
    """The boxes of a point, and what takes them there and back."""
    device = torch.device(point["device"])
    if point["kind"] == "model":
        boxes = boxes_of_set(point).to(device)
        model = api.load(point["model"], device)
        return boxes, lambda: model.reconstruct_boxes(boxes, refine=0).crystals
    if point["kind"] == "repeat":
        boxes = repeating(point["atoms"]).to(device)
        model = api.load(REPEAT_MODEL, device)
        return boxes, lambda: model.reconstruct_boxes(boxes).crystals
    boxes = measure.packings([point["atoms"]]).to(device)
    if point["kind"] == "voxels":
        return boxes, voxel_run(boxes)
    fields = exact_fields(boxes, periodic=False)
    options = ReconstructOptions(walls=True)
    if point["kind"] == "learned":
        model = untrained().to(device)
        latent = torch.randn(1, model.init_args["latent_dim"], device=device)
        fields = costly(fields, model, latent)
    return boxes, lambda: reconstruct(fields, options).crystals


def repeating(atoms: int) -> CrystalBatch:
    """One box of about so many atoms, cut from MgO."""
    half = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])
    crystal = CrystalBatch.from_flat(
        torch.cat([half, half + 0.5]) % 1,
        torch.tensor([12] * 4 + [8] * 4),
        torch.tensor([8]),
        torch.eye(3)[None] * MGO_LENGTH,
        [f"repeat-{atoms}"],
    )
    options = BoxOptions(side=MGO_LENGTH * (atoms / 8) ** (1 / 3))
    return random_boxes(crystal, options, torch.Generator().manual_seed(0))


def boxes_of_set(point: dict[str, Any]) -> CrystalBatch:
    """The boxes of one range of atom counts, the first of them in the set."""
    packed = PackedSet.load(point["set"])
    counts = torch.from_numpy(packed.num_atoms.copy())
    inside = (counts >= point["first"]) & (counts <= point["last"])
    return packed.batch(inside.nonzero().squeeze(-1)[: point["boxes"]])


def untrained() -> NeSF:
    """A network of the config's shape with random weights."""
    torch.manual_seed(0)
    shape = yaml.safe_load(CONFIG.read_text())["model"]["init_args"]["model"]["init_args"]
    return NeSF(**shape).eval().requires_grad_(False)


def voxel_run(boxes: CrystalBatch) -> Run:
    """Exact voxels read out, after both networks have been asked about them in vain."""
    side = float(boxes.lattice[0, 0, 0])
    torch.manual_seed(0)
    resolution = max(4, round(VOXELS_PER_ANGSTROM * side))
    options = BoxOptions(side=side, capacity=boxes.mask.shape[1])
    model = VoxelHoffmann(options, resolution).to(boxes.device).eval().requires_grad_(False)
    latent = torch.randn(1, model.latent_dim, device=boxes.device)

    def run() -> CrystalBatch:
        with autocast(boxes.device):
            model.unet(model.vae.decode(latent))
        density, labels = box_density(boxes, model.grid), box_labels(boxes, model.grid)
        sites = model.atoms_of(labels, torch.ones_like(density), density)
        return pack(sites, boxes.lattice).crystals

    return run


@torch.no_grad()
def measured(point: dict[str, Any]) -> dict[str, Any]:
    """Time and memory of one point, and what came back."""
    torch.set_num_threads(point["threads"])
    device = torch.device(point["device"])
    if point["kind"] in ("exact", "learned"):
        run_of(point | {"atoms": MANY_ATOMS})[1]()  # imports what is needed for many atoms
    boxes, run = run_of(point)
    if point["kind"] in ("model", "repeat", "voxels"):
        run()
    memory = PeakMemory(device)
    memory.start()
    found = run()
    peak, beyond = memory.read()
    taken = measure.seconds(run, device, point["repeats"], 0)
    scores = quick_scores(found, boxes, walls=True)
    return {
        "kind": point["kind"],
        "atoms": float(boxes.num_atoms.double().mean()),
        "boxes": len(boxes),
        "seconds": taken / len(boxes),
        "peak_memory_bytes": peak,
        "taken_memory_bytes": beyond,
        "wrong_counts_percent": 100 * (1 - int(scores.right_counts) / len(boxes)),
        "position_error": float(scores.distance / scores.atoms),
        "wrong_species_percent": float(100 * scores.wrong_species / scores.atoms),
    }


def plot(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """Time and memory against atoms, log-log, with the fitted power laws."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 5), layout="constrained")
    for ax, measured in zip(axes, MEASURED, strict=True):
        draw_growth(ax, curves, "atoms", measured)
        ax.set_xlabel("N, atoms in the box")
    figure.suptitle(f"A box there and back; {LEGEND}", fontsize=10)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def made_points(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Points of made boxes, by kind."""
    return {
        LABELS.get(kind, kind): [
            {"kind": kind, "atoms": atoms}
            for atoms in arguments.atoms
            if kind != "repeat" or atoms >= SMALLEST_REPEAT
        ]
        for kind in arguments.kinds
    }


def set_points(arguments: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Points of a set's boxes, by model; ranges without a box have none."""
    counts = PackedSet.load(arguments.set).num_atoms
    ranges = [
        {"first": first, "last": end - 1}
        for first, end in pairwise(RANGES)
        if ((counts >= first) & (counts < end)).any()
    ]
    common = {"kind": "model", "set": str(arguments.set), "boxes": arguments.boxes}
    return {
        model: [{**common, "model": model, **one} for one in ranges] for model in arguments.models
    }


def main() -> None:
    if sys.argv[1:2] == ["--point"]:
        print(json.dumps(measured(json.loads(sys.argv[2]))))
        return
    parser = measure.parser(__doc__)
    kinds = ["exact", "learned", "voxels", "repeat"]
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--atoms", nargs="+", type=int, default=SIZES)
    parser.add_argument("--set", type=Path, help="boxes for models, a packed set")
    parser.add_argument("--models", nargs="+", default=[], help="runs that are given the set")
    parser.add_argument("--boxes", type=int, default=32, help="of the set, in a range of counts")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="an SVG or PNG file to draw")
    parser.add_argument("--recorded", type=Path, help="JSON to plot instead of measuring")
    arguments = parser.parse_args()
    if arguments.recorded and arguments.plot:
        plot(recorded(arguments.recorded), arguments.plot)
        return
    if bool(arguments.set) != bool(arguments.models):
        parser.error("a set needs models, and models a set")
    common = {name: getattr(arguments, name) for name in ("threads", "device", "repeats")}
    curves: dict[str, dict[str, Any]] = {}
    for name, points in (set_points if arguments.set else made_points)(arguments).items():
        found = []
        for point in points:
            found.append(measure.in_fresh_process(__file__, point | common))
            measure.tell(f"{name} {found[-1]['atoms']:.0f} atoms", found[-1])
        slopes = exponents(found, "atoms")
        measure.tell(f"{name} exponents", slopes)
        curves[name] = {"points": found, "exponents": slopes}
    if arguments.plot:
        plot(curves, arguments.plot)
    torch.set_num_threads(arguments.threads)
    named = {"set": str(arguments.set)} if arguments.set else {}
    measure.write(arguments.json, measure.setup(torch.device(arguments.device), **named), curves)


if __name__ == "__main__":
    main()
