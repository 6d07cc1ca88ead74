"""`nesf report`: a trained run on a set of crystals, as CIFs, metrics, and one page to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nesf.atomic import atomic_write
from nesf.commands.arguments import Files, listed
from nesf.commands.models import reconstruct_files
from nesf.run_folder import METRICS, RECONSTRUCTED, REPORT, TENSORBOARD, TRAINING

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from eval.report import CrystalPair
    from nesf.data.records import Row

SCHEMA_VERSION = 2
ENCODER = "encoder"  # folder of what the encoder's latents give; of refined ones "refined_480"


def report_run(
    run: str,
    inputs: Sequence[str],
    title: str | None = None,
    device: str = "auto",
    seed: int = 0,
    workers: int | None = None,
    refine: int | None = None,
    refine_symmetry: bool = False,
    slices: int = 3,
    resume: bool = False,
    train: Files = None,
) -> int:
    """Reconstruct crystals with a trained run, score them, and write its report.

    Writes into the run folder: `reconstructed/` (CIFs, in `encoder/` and, where latents are
    refined, in `refined_N/` after at most N steps), `metrics.json` (`refine`, `encoder_alone`,
    `latents_refined`), and `report.html` (loss curves, a table, true and reconstructed cells side
    by side, slices of the fields). Refinement fits latents to the very crystals that are scored, so
    that figures of the encoder alone and of refined latents always stand side by side.

    Args:
        run: a run folder of `nesf fit`.
        inputs: crystals in any of the readers' formats; those the model has not seen.
        title: headline of the report; the run's name by default.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of the random queries, the chance level and the bootstrap.
        workers: processes for reading and matching; by default one a CPU core.
        refine: steps of fitting a latent to its crystal, at most, where the encoder's does not
            decode to it; 0 reports on the encoder alone. By default on where the model can.
        refine_symmetry: score a second time after projecting onto the symmetry found.
        slices: crystals whose fields are drawn, as the encoder's latents give them.
        resume: go on with an interrupted reconstruction.
        train: the run's training files, one or as in [a.csv,b.csv]: tell for each crystal the
            nearest of theirs, and how far it is.
    """
    from eval.field_slices import field_slices
    from eval.report import read_history, write_report
    from eval.table import format_table
    from nesf import api
    from nesf.data.outputs import make_ready
    from nesf.data.readers import read_crystals

    folder = Path(run)
    steps = api.load(run, device).refinement(refine).steps
    make_ready(folder / METRICS)
    truth, _ = read_crystals(inputs, progress=False)
    there = _ThereAndBack(run, inputs, truth, device, seed, workers, refine_symmetry, resume)
    encoder = there(0)
    final = there(steps, chance=encoder.metrics["chance"]) if steps else encoder
    told = {
        "schema_version": SCHEMA_VERSION,
        "refine": steps,
        "encoder_alone": encoder.metrics,
        "latents_refined": final.metrics if steps else None,
    }
    with atomic_write(folder / METRICS) as file:
        file.write(json.dumps(told, indent=1).encode())
    by_id = {row.id: row.structure for row in truth}
    near = _nearest(by_id, listed(train))
    pairs = _pairs(by_id, encoder, final, near, seed)
    drawn = [pair.id for pair in pairs if pair.case != "worst"][:slices]
    beside = encoder.metrics if steps else None
    write_report(
        folder / REPORT,
        title=title or folder.name,
        metrics=final.metrics,
        summary=_facts(folder, inputs, len(truth), steps),
        history=read_history(folder / TENSORBOARD),
        pairs=pairs,
        field_slices=field_slices(run, {name: by_id[name] for name in drawn}, device),
        nearest=near,
        encoder_alone=beside,
        refine=steps,
    )
    print(format_table(final.metrics, beside, steps))
    print(f"report: {folder / REPORT}")
    return max(encoder.code, final.code)


@dataclass(frozen=True)
class _Scored:
    """What came back of all crystals, with its scores.

    Attributes:
        code: exit code of the reconstruction.
        found: crystals by id, of those that can be drawn.
        metrics: what `eval.evaluate.evaluate` gave back.
    """

    code: int
    found: Mapping[str, Structure]
    metrics: dict[str, Any]


@dataclass(frozen=True)
class _ThereAndBack:
    """Takes the crystals through the run and scores what comes back; arguments of `report_run`."""

    run: str
    inputs: Sequence[str]
    truth: Sequence[Row]
    device: str
    seed: int
    workers: int | None
    refine_symmetry: bool
    resume: bool

    def __call__(self, steps: int, chance: dict[str, Any] | None = None) -> _Scored:
        """With latents refined by so many steps at most; with the level of chance, if known."""
        from eval.evaluate import evaluate
        from eval.sides import CHANCE_CRYSTALS
        from nesf.data.readers import read_crystals

        output = Path(self.run) / RECONSTRUCTED / (f"refined_{steps}" if steps else ENCODER)
        code = reconstruct_files(
            self.inputs,
            str(output),
            model=self.run,
            refine=steps,
            setting="given",  # the better of two cells is found by comparing with the truth
            resume=self.resume,
            overwrite=not self.resume,
            device=self.device,
            seed=self.seed,
        )
        nothing = not any(output.glob("*.cif"))  # every crystal failed
        # what cannot be drawn is still scored: `evaluate` reads predictions less strictly
        found = [] if nothing else read_crystals([output], progress=False)[0]
        metrics = evaluate(
            [(row.id, None) for row in self.truth] if nothing else str(output),
            self.truth,
            refine=self.refine_symmetry,
            chance_crystals=0 if chance else CHANCE_CRYSTALS,
            seed=self.seed,
            workers=self.workers,
        )
        if chance:
            metrics["chance"] = chance
        return _Scored(code, {row.id: row.structure for row in found}, metrics)


def _pairs(
    true: Mapping[str, Structure],
    encoder: _Scored,
    final: _Scored,
    near: Mapping[str, tuple[str, float] | None],
    seed: int,
) -> list[CrystalPair]:
    """Crystals to look at, beside what came back of them."""
    from eval.report import CrystalPair, select_cases

    rows = {row["id"]: row for row in final.metrics["rows"]}
    before = {}
    refined = final is not encoder
    chosen = dict(select_cases(final.metrics["rows"], worst=2 if refined else 4, seed=seed))
    if refined:
        before = {row["id"]: row for row in encoder.metrics["rows"]}
        # the worst of both, since those of the encoder are what refinement is for
        worst = select_cases(encoder.metrics["rows"], worst=2, median=0, random=0)
        chosen = dict(worst) | {k: v for k, v in chosen.items() if k not in dict(worst)}
    return [
        CrystalPair(
            name,
            true[name],
            final.found.get(name),
            rows[name],
            case,
            near.get(name),
            encoder.found.get(name),
            before.get(name, {}),
        )
        for name, case in chosen.items()
    ]


def _nearest(
    crystals: Mapping[str, Structure], training: Sequence[str]
) -> dict[str, tuple[str, float] | None]:
    """The nearest training crystal of each, by its fingerprint."""
    if not training or not crystals:
        return {}
    from eval.fingerprint import nearest_training_crystals
    from nesf.data.packed import PackedSet, load_or_pack

    return nearest_training_crystals(crystals, PackedSet.load(load_or_pack(training)))


def _facts(folder: Path, inputs: Sequence[str], count: int, steps: int) -> dict[str, object]:
    """What stands under the title."""
    facts: dict[str, object] = {"crystals": count, "data": ", ".join(map(str, inputs))}
    facts["refinement of latents"] = f"up to {steps} steps" if steps else "none"
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
