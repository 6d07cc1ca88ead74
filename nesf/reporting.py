"""`nesf report`: a trained run on a set of crystals, as CIFs, metrics, and one page to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf.arguments import Files, listed
from nesf.atomic import atomic_write
from nesf.commands import reconstruct_files
from nesf.run_folder import METRICS, RECONSTRUCTED, REPORT, TENSORBOARD, TRAINING

if TYPE_CHECKING:
    from pymatgen.core import Structure


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
    train: Files = None,
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
        train: the run's training files, one or as in [a.csv,b.csv]: tell for each crystal the
            nearest of theirs, and how far it is.
    """
    from eval.evaluate import evaluate
    from eval.field_slices import field_slices
    from eval.report import CrystalPair, read_history, select_cases, write_report
    from eval.table import format_table
    from nesf.data.readers import read_crystals

    folder = Path(run)
    output = folder / RECONSTRUCTED
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
    with atomic_write(folder / METRICS) as file:
        file.write(json.dumps(metrics, indent=1).encode())
    by_id = {row.id: row.structure for row in truth}
    scores = {row["id"]: row for row in metrics["rows"]}
    near = _nearest(by_id, listed(train))
    pairs = [
        CrystalPair(name, by_id[name], predicted.get(name), scores[name], case, near.get(name))
        for name, case in select_cases(metrics["rows"], seed=seed)
    ]
    drawn = [pair.id for pair in pairs if pair.case != "worst"][:slices]
    write_report(
        folder / REPORT,
        title=title or folder.name,
        metrics=metrics,
        summary=_facts(folder, inputs, len(truth)),
        history=read_history(folder / TENSORBOARD),
        pairs=pairs,
        field_slices=field_slices(run, {name: by_id[name] for name in drawn}, device),
        nearest=near,
    )
    print(format_table(metrics))
    print(f"report: {folder / REPORT}")
    return code


def _nearest(
    crystals: Mapping[str, Structure], training: Sequence[str]
) -> dict[str, tuple[str, float] | None]:
    """The nearest training crystal of each, by its fingerprint."""
    if not training or not crystals:
        return {}
    from eval.fingerprint import nearest_training_crystals
    from nesf.data.packed import PackedSet, load_or_pack

    return nearest_training_crystals(crystals, PackedSet.load(load_or_pack(training)))


def _facts(folder: Path, inputs: Sequence[str], count: int) -> dict[str, object]:
    """What stands under the title."""
    facts: dict[str, object] = {"crystals": count, "data": ", ".join(map(str, inputs))}
    training = folder / TRAINING
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
