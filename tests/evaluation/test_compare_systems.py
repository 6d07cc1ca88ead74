"""`nesf compare` with several parts: crystals given back, and a property, on one page."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from compare_plans import SPLITS, made_crystals
from stand_in_model import StandIn

from nesf.checkpoint import save_model
from nesf.cli import main
from nesf.data.packed import PackedSet

TESTS = Path(__file__).resolve().parents[1]
LARGE = 1  # test crystals that the latent's model does not hold
CGCNN: dict[str, Any] = {
    "trainer": {
        "default_root_dir": "elsewhere",
        "max_epochs": 2,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "callbacks": [
            {"class_path": "nesf.callbacks.LastCheckpoint"},
            {"class_path": "nesf.curve.LearningCurve"},
            {"class_path": "nesf.callbacks.FinishedModel"},
        ],
    },
    "model": {
        "class_path": "baselines.voxel_icsg3d.property_training.PropertyTraining",
        "init_args": {
            "model": {
                "class_path": "baselines.voxel_icsg3d.cgcnn.CGCNN",
                # the plan says which property
                "init_args": {"properties": ["another"], "width": 4, "hidden_width": 4},
            }
        },
    },
    "data": {
        "class_path": "baselines.voxel_icsg3d.property_data.PropertyData",
        "init_args": {"train": ["elsewhere"], "val": ["elsewhere"], "batch_size": 8},
    },
}


def write_sets(folder: Path) -> None:
    """Made crystals with the volume of an atom; one test crystal has more than four atoms."""
    crystals = made_crystals()
    sets = PackedSet.from_batch(crystals)
    volume = np.abs(np.linalg.det(sets.lattice)) / sets.num_atoms
    whole = dataclasses.replace(sets, properties={"volume": volume})
    for name, (first, last) in SPLITS.items():
        whole.select(range(first, last)).save(folder / f"{name}.nesf")


def plan_file(folder: Path) -> Path:
    """Two parts: an exact model alone, and its latent beside a network and one that fails."""
    write_sets(folder)
    counts = PackedSet.load(folder / "test.nesf").num_atoms
    most = int(np.sort(counts)[-1])
    for name, max_atoms in (("exact", most), ("small", most - 1)):
        module = StandIn(max_atoms=max_atoms)
        model = {"class_path": "stand_in_model.StandIn", "init_args": {"max_atoms": max_atoms}}
        save_model(folder / f"{name}.safetensors", model, module.state_dict(), {"wall_s": 60.0})
    (folder / "cgcnn.yaml").write_text(yaml.safe_dump(CGCNN))
    (folder / "broken.yaml").write_text(yaml.safe_dump({**CGCNN, "seed_everything": 5}))
    data = {name: [str(folder / f"{name}.nesf")] for name in SPLITS}
    trusted = {"trusted_prefixes": ["stand_in_model."]}
    given = {"weights": str(folder / "exact.safetensors"), **trusted}
    latent = {"weights": str(folder / "small.safetensors"), "latent": True, **trusted}
    scoring = {"bootstrap": 20, "workers": 1, "worst": 1, "median": 1}
    plan = {
        "title": "Two parts",
        "output": str(folder / "out"),
        "device": "cpu",
        "threads": 1,
        "parts": [
            {
                "name": "back",
                "title": "There & back",
                "data": data,
                "scoring": {**scoring, "matching": False, "refine_symmetry": False},
                "growth": {"limit_s": 0},
                "models": [{"name": "exact", **given}],
            },
            {
                "name": "volumes",
                "kind": "properties",
                "target": "volume",
                "data": data,
                "scoring": {**scoring, "batch_size": 4},
                "models": [
                    {"name": "cgcnn", "config": str(folder / "cgcnn.yaml")},
                    {"name": "broken", "config": str(folder / "broken.yaml")},
                    {"name": "latent", "title": "Latent <b>", **latent},
                ],
            },
        ],
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


@dataclass(frozen=True)
class Story:
    """What happened: a comparison that was interrupted in its second part, and went on."""

    plan: Path
    out: Path
    codes: tuple[int, int]
    kept: dict[Path, int]
    page_between: str


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("systems")
    plan, out = plan_file(folder), folder / "out"
    from eval.compare import contest, trainings

    real_train, real_command = contest.train, trainings.fit_command

    def stopped_at_latent(entry, *arguments):
        if entry.model.name == "latent":
            raise KeyboardInterrupt
        return real_train(entry, *arguments)

    def without_luck(entry, device):
        if entry.model.name == "broken":
            return [sys.executable, "-c", "print('nesf: no luck'); raise SystemExit(2)"]
        return real_command(entry, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setattr(trainings, "fit_command", without_luck)
        patch.setattr(contest, "train", stopped_at_latent)
        first = main(["compare", f"--config={plan}"])
        done = [out / "back/models/exact", out / "volumes/models/cgcnn"]
        kept = {
            path: path.stat().st_mtime_ns
            for folder in done
            for path in folder.rglob("*")
            if path.is_file()
        }
        between = (out / "compare.html").read_text()
        patch.setattr(contest, "train", real_train)
        second = main(["compare", f"--config={plan}", "--restart=auto"])
    return Story(plan, out, (first, second), kept, between)


@pytest.fixture(scope="module")
def results(story):
    text = (story.out / "volumes/results.jsonl").read_text()
    return {line["model"]: line for line in map(json.loads, text.splitlines())}


def test_an_interrupt_keeps_both_parts_and_a_failure_is_told(story, results):
    assert story.codes == (130, 1)
    assert {path.name for path in story.kept} >= {"predicted.csv", "reconstructed.jsonl"}
    assert {path: path.stat().st_mtime_ns for path in story.kept} == story.kept
    assert story.page_between.count("not done yet") >= 3
    assert (results["broken"]["stage"], results["broken"]["reason"]) == ("training", "no luck")
    assert "no luck" in (story.out / "compare.html").read_text()


def test_every_contestant_has_a_row_for_every_crystal(story, results):
    test = PackedSet.load(story.plan.parent / "test.nesf")
    truth, mean = np.asarray(test.numbers("volume")), None
    for name in ("cgcnn", "latent", "ridge", "mean"):
        line = results[name]
        folder = next((story.out / "volumes/models" / name).iterdir())
        with (folder / "predicted.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["id"] for row in rows] == list(test.ids)
        np.testing.assert_allclose([float(row["true"]) for row in rows], truth, rtol=1e-6)
        lost = [row for row in rows if not row["predicted"]]
        assert line["counts"] == {"reference": len(test), "failures": len(lost)}
        assert all(row["reason"] for row in lost)
        mean = line["settings"]["training_mean"]
        said = np.array([float(row["predicted"] or mean) for row in rows])
        assert line["metrics"]["mae"]["value"] == pytest.approx(np.abs(said - truth).mean())
    train = PackedSet.load(story.plan.parent / "train.nesf")
    assert mean == pytest.approx(np.mean(train.numbers("volume")))
    assert results["mean"]["metrics"]["mae_share"]["value"] == pytest.approx(100)


def test_a_crystal_that_a_latent_cannot_hold_is_a_failure(story, results):
    latent = results["latent"]
    assert latent["counts"]["failures"] >= LARGE
    assert latent["prediction"]["fit"]["trained_on"] + latent["prediction"]["fit"][
        "not_represented"
    ] >= len(PackedSet.load(story.plan.parent / "train.nesf"))
    scores = json.loads((story.out / "volumes/models/latent/given/scores.json").read_text())
    assert len(scores["failures"]) == latent["counts"]["failures"]
    assert "the model holds up to" in scores["failures"][0]["reason"]


def test_a_network_learns_the_property_of_the_plan(story, results):
    config = yaml.safe_load((story.out / "volumes/models/cgcnn/seed-0/run/config.yaml").read_text())
    assert config["model"]["init_args"]["model"]["init_args"]["properties"] == ["volume"]
    line = results["cgcnn"]
    assert line["training"]["epochs"] == 2
    assert line["parameters"] == line["training"]["parameters"]
    assert line["prediction"]["seconds"] > 0
    assert results["ridge"]["prediction"]["seconds"] is None
    assert "val/mae_volume" in line["training"]["curve"][0]


def test_one_page_has_an_overview_and_a_section_a_part(story):
    page = (story.out / "compare.html").read_text()
    assert page.index('id="table-overview"') < page.index('id="part-back"')
    assert page.index('id="part-back"') < page.index('id="part-volumes"')
    for table in ("table-back-quality", "table-volumes-quality", "table-volumes-cost"):
        assert page.count(f'id="{table}"') == 1
    for attribute in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert attribute.startswith(("#", "data:"))
    ids = re.findall(r' id="([^"]+)"', re.sub(r"<svg.*?</svg>", "", page, flags=re.S))
    assert len(ids) == len(set(ids))
    assert "There &amp; back" in page
    assert "Latent &lt;b&gt;" in page
    assert "a ridge regression on the" in page
    # the drawn crystals are those of the first part
    drawn = json.loads(re.search(r'id="crystals">(.*?)</script>', page, re.S)[1])
    assert len(drawn["pairs"]) == page.count('class="pair case"') > 0


def test_each_part_has_tables_and_charts_of_its_own(story):
    for part, charts in (("back", {"errors"}), ("volumes", {"errors", "scatter", "learning"})):
        folder = story.out / part
        names = {path.stem for path in (folder / "plots").iterdir()}
        assert names >= charts
        assert (folder / "table.md").read_text() in (story.out / "table.md").read_text()
        latex = (folder / "table.tex").read_text()
        assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") >= 2
    table = (story.out / "volumes/table.md").read_text()
    assert re.search(r"\| Ridge on composition +\|", table)
    assert (story.out / "table.md").read_text().startswith("# Two parts\n")
    labels = re.findall(r"\\label\{(.*?)\}", (story.out / "table.tex").read_text())
    assert len(labels) == len(set(labels)) >= 5


def test_results_on_other_terms_are_not_mixed(story, tmp_path, capsys):
    assert main(["compare", f"--config={story.plan}"]) == 2
    assert "--restart auto" in capsys.readouterr().err
    content = yaml.safe_load(story.plan.read_text())
    content["parts"][1]["scoring"]["bootstrap"] = 21
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(content))
    assert main(["compare", f"--config={changed}", "--restart=auto"]) == 2
    assert "other terms (scoring.bootstrap of the part volumes)" in capsys.readouterr().err
