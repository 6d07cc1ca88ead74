"""`nesf report`: a trained run on a set of crystals, as CIFs, metrics, and one page to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from nesf import api
from nesf.atomic import atomic_write
from nesf.commands import reconstruct_files
from nesf.crystal import CrystalBatch, standardised
from nesf.data.readers import read_crystals
from nesf.exact import exact_fields
from nesf.slices import cell_extent, slice_fields

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from eval.charts import FieldSlice


def report_run(
    run: str,
    inputs: Sequence[str],
    title: str | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    refine_symmetry: bool = False,
    slices: int = 3,
    resume: bool = False,
) -> int:
    """Reconstruct crystals with a trained run, score them, and write its report.

    Writes into the run folder: `reconstructed/` (CIFs), `metrics.json`, and `report.html` (loss
    curves, a table, true and reconstructed cells side by side, slices of the fields).

    Args:
        run: a run folder of `nesf fit`.
        inputs: crystals in any of the readers' formats; those the model has not seen.
        title: headline of the report; the run's name by default.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of the random queries, the chance level and the bootstrap.
        workers: processes for reading and matching; by default one a CPU core.
        refine_symmetry: score a second time after projecting onto the symmetry found.
        slices: crystals whose fields are drawn.
        resume: go on with an interrupted reconstruction.
    """
    from eval.evaluate import evaluate
    from eval.report import CrystalPair, read_history, select_cases, write_report
    from eval.table import format_table

    folder = Path(run)
    output = folder / "reconstructed"
    code = reconstruct_files(
        inputs, str(output), model=run, resume=resume, device=device, seed=seed
    )
    # what cannot be drawn is still scored: `evaluate` reads predictions less strictly
    found, _ = read_crystals([output], progress=False)
    truth, _ = read_crystals(inputs, progress=False)
    predicted = {row.id: row.structure for row in found}
    metrics = evaluate(
        str(output),
        truth,
        refine=refine_symmetry,
        seed=seed,
        workers=workers,
    )
    with atomic_write(folder / "metrics.json") as file:
        file.write(json.dumps(metrics, indent=1).encode())
    by_id = {row.id: row.structure for row in truth}
    scores = {row["id"]: row for row in metrics["rows"]}
    pairs = [
        CrystalPair(name, by_id[name], predicted.get(name), scores[name], case)
        for name, case in select_cases(metrics["rows"], seed=seed)
    ]
    drawn = [pair.id for pair in pairs if pair.case != "worst"][:slices]
    write_report(
        folder / "report.html",
        title=title or folder.name,
        metrics=metrics,
        summary=_facts(folder, inputs, len(truth)),
        history=read_history(folder / "tensorboard"),
        pairs=pairs,
        field_slices=_slices(run, {name: by_id[name] for name in drawn}, device),
    )
    print(format_table(metrics))
    print(f"report: {folder / 'report.html'}")
    return code


def _facts(folder: Path, inputs: Sequence[str], count: int) -> dict[str, object]:
    """What stands under the title."""
    facts: dict[str, object] = {"crystals": count, "data": ", ".join(map(str, inputs))}
    training = folder / "training.json"
    if training.is_file():
        told: dict[str, Any] = json.loads(training.read_text())
        facts |= {
            "parameters": f"{told['parameters']:,}",
            "epochs": told["epochs"],
            "steps": told["steps"],
            "training time": f"{told['wall_s'] / 60:.1f} min",
            "device": f"{told['device']}, {told['threads']} threads",
            "seed": told["seed"],
            "versions": ", ".join(f"{k} {v}" for k, v in told["versions"].items()),
        }
    return facts


def _slices(run: str, crystals: dict[str, Structure], device: str) -> list[FieldSlice]:
    """A plane through the first atom of each crystal, exact and learned."""
    from eval.charts import FieldSlice

    model = api.load(run, device)
    if not hasattr(model.module, "fields"):
        return []
    pictures = []
    for name, structure in tqdm(crystals.items(), desc="slices", delay=2):
        batch = standardised(CrystalBatch.from_structures([structure], [name])).to(model.device)
        # in the true cell, so that only the fields differ
        with torch.inference_mode():
            learned = model.module.fields(model.module.encode(batch), batch.lattice)
        exact = exact_fields(batch, learned.periodic, margin=learned.margin)
        extent = cell_extent(batch.lattice[0])
        height = float(batch.cart_coords[0, 0, 2])
        planes = [slice_fields(fields, height, extent) for fields in (exact, learned)]
        near = (batch.cart_coords[0, :, 2] - height).abs() < 0.3
        pictures.append(
            FieldSlice(
                name=name,
                title=f"z = {height:.2f} Å",
                distance_exact=planes[0].distance,
                distance_learned=planes[1].distance,
                species_exact=planes[0].atomic_numbers,
                species_learned=planes[1].atomic_numbers,
                extent=extent,
                atoms=[
                    (float(x), float(y), int(z))
                    for (x, y, _), z in zip(
                        batch.cart_coords[0, near].tolist(),
                        batch.atomic_numbers[0, near].tolist(),
                        strict=True,
                    )
                ],
            )
        )
    return pictures
