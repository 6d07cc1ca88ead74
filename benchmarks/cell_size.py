"""Time and memory of a reconstruction against atoms in the cell and crystals in a batch, plotted.

python benchmarks/cell_size.py --json out.json --plot out.svg

Cells are random packings (or supercells of rocksalt) of one density, with 10 to 1,000 atoms. The
fields are the exact ones; those of a network of the shipped shape with random weights (`random`),
whose particles go anywhere; or the exact ones at that network's cost (`learned`): it is asked too,
and its answer dropped, so that particles go where a trained network sends them. Each point is
measured in a process of its own. Memory is what a reconstruction takes beyond what was held before
(None where Linux cannot tell).
The exponent is the slope in log-log over the upper half of the range: 1 is linear.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import measure
import torch
from growth_plot import LEGEND, MEASURED, draw_growth, recorded
from torch import Tensor

from nesf.checkpoint import load_model
from nesf.crystal import CrystalBatch
from nesf.exact import exact_fields
from nesf.fields import CrystalFields
from nesf.memory import PeakMemory
from nesf.neighbors import MANY_ATOMS
from nesf.precision import autocast
from nesf.reconstruction.options import ReconstructOptions
from nesf.reconstruction.reconstruct import reconstruct
from nesf.scoring import quick_scores

SURPRISE = 1.2  # an exponent above is clearly more than linear
ROCKSALT_LENGTH = (8 * measure.VOLUME_PER_ATOM) ** (1 / 3)  # Å, the density of the packings


def rocksalt(atoms: int) -> CrystalBatch:
    """The supercell of rocksalt with the atom count nearest to `atoms`, as cubic as may be."""
    counts = [(a, b, c) for a in range(1, 9) for b in range(1, a + 1) for c in range(1, b + 1)]
    best = min(counts, key=lambda n: (abs(8 * math.prod(n) - atoms), max(n)))
    shift = torch.cartesian_prod(*(torch.arange(n) for n in best)).float()  # (K, 3) cells
    corner = torch.tensor([[0.0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    sites = torch.cat([corner, corner + 0.5])  # (8, 3): the anions on the edges' middles
    size = torch.tensor(best).float()
    frac = ((shift.unsqueeze(1) + sites) / size).flatten(0, 1)  # (K, 8, 3) -> (K*8, 3)
    numbers = torch.tensor([12] * 4 + [8] * 4).repeat(len(shift))
    lattice = torch.diag(size * ROCKSALT_LENGTH).unsqueeze(0)
    return CrystalBatch.from_flat(
        frac % 1.0, numbers, torch.tensor([len(frac)]), lattice, ["rocksalt"]
    )


def crystals_of(point: dict[str, Any]) -> CrystalBatch:
    """The crystals of a point, all with one atom count."""
    if point["crystal"] == "rocksalt":
        return rocksalt(point["atoms"]).select([0] * point["batch"])
    return measure.packings([point["atoms"]] * point["batch"])


def fields_of(crystals: CrystalBatch, point: dict[str, Any]) -> tuple[CrystalFields, Any]:
    """The fields of a point, and the options of their reconstruction."""
    backend = point["backend"]
    if point["fields"] == "exact":
        return exact_fields(crystals, backend=backend), ReconstructOptions()
    shipped: Any = load_model(point["model"], crystals.device, ())
    torch.manual_seed(0)
    model = type(shipped)(**shipped.init_args).to(crystals.device).eval().requires_grad_(False)
    latent = torch.randn(len(crystals), model.init_args["latent_dim"], device=crystals.device)
    if point["fields"] == "random":
        return model.fields(latent, crystals.lattice), model.options
    exact = exact_fields(crystals, model.periodic, margin=model.margin, backend=backend)
    return costly(exact, model, latent), model.options


def costly(exact: CrystalFields, model: Any, latent: Tensor) -> CrystalFields:
    """Exact fields that ask a network, too, and drop its answer."""

    def position(query: Tensor) -> Tensor:
        with autocast(query.device):
            model.position_decoder(latent, query, exact.lattice)
        return exact.position(query)

    def species(query: Tensor) -> Tensor:
        with autocast(query.device):
            model.species_decoder(latent, query, exact.lattice)
        return exact.species(query)

    return dataclasses.replace(
        exact,
        position=position,
        species=species,
        subset=lambda index: costly(exact.subset(index), model, latent[index]),
    )


def measured(point: dict[str, Any]) -> dict[str, Any]:
    """Time and memory of one point."""
    torch.set_num_threads(point["threads"])
    device = torch.device(point["device"])
    crystals = crystals_of(point).to(device)
    with torch.no_grad():
        for atoms in (8, MANY_ATOMS):  # warms up, what is imported for many atoms included
            small = dict(point, atoms=atoms, batch=1)
            reconstruct(*fields_of(crystals_of(small).to(device), small))
        fields, options = fields_of(crystals, point)
        memory = PeakMemory(device)
        memory.start()
        found = reconstruct(fields, options).crystals
        peak, beyond = memory.read()
        taken = measure.seconds(lambda: reconstruct(fields, options), device, point["repeats"], 0)
    scores = quick_scores(found, crystals)
    return {
        "fields": point["fields"],
        "atoms": int(crystals.num_atoms[0]),
        "batch": len(crystals),
        "seconds": taken,
        "crystals_per_second": len(crystals) / taken,
        "peak_memory_bytes": peak,
        "taken_memory_bytes": beyond,
        "right_counts": int(scores.right_counts),
    }


def exponents(points: list[dict[str, Any]], axis: str) -> dict[str, Any]:
    """Slopes in log-log over the upper half of the range, and whether one is a surprise."""
    places = [one[axis] for one in points]
    middle = math.sqrt(min(places) * max(places))
    upper = [one for one in points if one[axis] >= middle]
    x = [float(one[axis]) for one in upper]
    time = measure.slope(x, [one["seconds"] for one in upper], powers=True)
    memory = measure.slope(x, [float(one["taken_memory_bytes"] or 0) for one in upper], powers=True)
    surprise = any(value is not None and value > SURPRISE for value in (time, memory))
    return {"time": time, "memory": memory, "over": x, "surprise": surprise}


def plot(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """Time and memory against atoms and batch, log-log, with the fitted power laws."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 8), layout="constrained")
    labels = {"atoms": "N, atoms in the cell", "batch": "N, crystals in the batch"}
    for column, (axis, label) in enumerate(labels.items()):
        shown = {one["fields"]: one for one in curves.values() if one["axis"] == axis}
        for row, measured in enumerate(MEASURED):
            draw_growth(axes[row][column], shown, axis, measured)
            axes[row][column].set_xlabel(label)
    figure.suptitle(f"A reconstruction; {LEGEND}", fontsize=10)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main() -> None:
    if sys.argv[1:2] == ["--point"]:
        print(json.dumps(measured(json.loads(sys.argv[2]))))
        return
    parser = measure.parser(__doc__)
    kinds = ["exact", "learned", "random"]
    parser.add_argument("--fields", nargs="+", choices=kinds, default=["exact", "learned"])
    parser.add_argument("--crystal", choices=["packing", "rocksalt"], default="packing")
    parser.add_argument("--model", default="lcs6", help="whose shape the network has")
    sizes = [10, 20, 50, 100, 200, 350, 500, 700, 1000]
    parser.add_argument("--atoms", nargs="+", type=int, default=sizes)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4, 16, 64, 256])
    parser.add_argument("--batch-atoms", type=int, default=20, help="in the cells of a batch")
    backends = ["auto", "torch", "torch_cluster"]
    parser.add_argument("--backend", choices=backends, default="auto", help="of exact fields")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path, help="an SVG or PNG file to draw")
    parser.add_argument("--recorded", type=Path, help="JSON to plot instead of measuring")
    arguments = parser.parse_args()
    if arguments.recorded and arguments.plot:
        plot(recorded(arguments.recorded), arguments.plot)
        return
    curves = {}
    for fields in arguments.fields:
        by_atoms = [(atoms, 1) for atoms in arguments.atoms]
        by_batch = [(arguments.batch_atoms, batch) for batch in arguments.batch]
        for axis, places in (("atoms", by_atoms), ("batch", by_batch)):
            points = [point_of(arguments, fields, *place) for place in places]
            found = exponents(points, axis)
            measure.tell(f"{fields} exponents over {axis}", found)
            curve = {"fields": fields, "axis": axis, "points": points, "exponents": found}
            curves[f"{fields} {axis}"] = curve
    if arguments.plot:
        plot(curves, arguments.plot)
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    names = ("model", "crystal", "backend")
    found = measure.setup(device, **{name: getattr(arguments, name) for name in names})
    measure.write(arguments.json, found, curves)


def point_of(arguments: argparse.Namespace, fields: str, atoms: int, batch: int) -> dict[str, Any]:
    names = ("crystal", "backend", "model", "threads", "device", "repeats")
    point = {name: getattr(arguments, name) for name in names}
    point |= {"fields": fields, "atoms": atoms, "batch": batch}
    result = measure.in_fresh_process(__file__, point)
    measure.tell(f"{fields} {atoms} atoms x {batch}", result)
    return result


if __name__ == "__main__":
    main()
