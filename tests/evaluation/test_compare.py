"""`nesf compare` from config to page, interrupted and resumed, on 40 made crystals."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from compare_plans import NESF, OBLIQUE, SPLITS, VOXELS, fit_config, made_crystals
from stand_in_model import StandIn

from nesf.checkpoint import save_model
from nesf.cli import main
from nesf.data.packed import PackedSet

TESTS = Path(__file__).resolve().parents[1]
EVIL = "NeSF </script><b>&"


def plan_file(folder: Path) -> Path:
    """The comparison: a NeSF, the voxels, a model of another package, and one that fails."""
    crystals = made_crystals()
    for name, (first, last) in SPLITS.items():
        PackedSet.from_batch(crystals.select(range(first, last))).save(folder / f"{name}.nesf")
    save_model(
        folder / "exact.safetensors",
        {"class_path": "stand_in_model.StandIn", "init_args": {"periodic": True}},
        StandIn(periodic=True).state_dict(),
        {"wall_s": 3600.0, "epochs": 7, "device": "cpu"},
    )
    models = [
        {
            "name": "nesf",
            "title": EVIL,
            "config": fit_config(folder, "nesf", NESF),
            "published_epochs": 3200,
        },
        {"name": "broken", "config": fit_config(folder, "broken", NESF)},
        {"name": "voxels", "config": fit_config(folder, "voxels", VOXELS), "published_epochs": 50},
        {
            "name": "exact",
            "weights": str(folder / "exact.safetensors"),
            "trusted_prefixes": ["stand_in_model."],
        },
    ]
    variants = [{"model": "exact", "series": "atoms", "value": 9, "changes": {"max_atoms": 9}}]
    plan = {
        "title": "Made crystals",
        "output": str(folder / "out"),
        "data": {name: [str(folder / f"{name}.nesf")] for name in SPLITS},
        "device": "cpu",
        "threads": 1,
        "budget_minutes": 2,
        "scoring": {"bootstrap": 20, "workers": 1, "worst": 2, "median": 1},
        "growth": {"crystals": 2, "batch_size": 2, "variants": variants},
        "models": models,
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


@dataclass(frozen=True)
class Story:
    """What happened: a comparison that was interrupted, and went on."""

    plan: Path
    out: Path
    interrupted: int
    resumed: int
    kept: dict[Path, int]
    page_between: str


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    plan, out = plan_file(folder), folder / "out"
    from eval.compare import contest, trainings

    real_train, real_command = contest.train, trainings.fit_command

    def stopped_at_voxels(entry, *arguments):
        if entry.model.name == "voxels":
            raise KeyboardInterrupt
        return real_train(entry, *arguments)

    def without_luck(entry, device):
        if entry.model.name == "broken":
            said = "print('some words'); print('nesf: no luck'); raise SystemExit(2)"
            return [sys.executable, "-c", said]
        return real_command(entry, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        patch.setattr(trainings, "fit_command", without_luck)
        patch.setattr(contest, "train", stopped_at_voxels)
        interrupted = main(["compare", f"--config={plan}"])
        kept = {
            path: path.stat().st_mtime_ns
            for path in (out / "models" / "nesf").rglob("*")
            if path.is_file()
        }
        page_between = (out / "compare.html").read_text()
        with (out / "results.jsonl").open("ab") as file:
            file.write(b'{"model":"voxels","se')  # as a crash would leave it
        patch.setattr(contest, "train", real_train)
        resumed = main(["compare", f"--config={plan}", "--restart=auto"])
    return Story(plan, out, interrupted, resumed, kept, page_between)


@pytest.fixture(scope="module")
def results(story):
    lines = [json.loads(line) for line in (story.out / "results.jsonl").read_text().splitlines()]
    return {line["model"]: line for line in lines}


def test_an_interrupt_keeps_what_is_done_and_nothing_is_repeated(story):
    assert story.interrupted == 130
    assert len(story.kept) > 8
    assert {path: path.stat().st_mtime_ns for path in story.kept} == story.kept
    assert "1 not done yet" in story.page_between
    lines = [json.loads(line) for line in (story.out / "results.jsonl").read_text().splitlines()]
    # the failed one was tried again
    assert [line["model"] for line in lines] == ["nesf", "broken", "broken", "voxels", "exact"]


def test_a_failed_training_is_a_row_with_its_reason(story, results):
    assert story.resumed == 1
    assert results["broken"]["status"] == "failed"
    assert (results["broken"]["stage"], results["broken"]["reason"]) == ("training", "no luck")
    assert "no luck" in (story.out / "table.md").read_text()
    assert "no luck" in (story.out / "compare.html").read_text()


def test_a_perfect_model_of_another_package_has_no_errors(results):
    exact = results["exact"]
    # random crystals that are nearly symmetric lose by being made symmetric
    for part, limit in (("metrics", 1e-5), ("refined", 0.05)):
        for name in ("wrong_count", "species_error_actual", "species_error_detected"):
            assert exact[part][name]["value"] == 0.0
        assert exact[part]["position_error_actual"]["value"] < limit
        assert exact[part]["length_mae"]["value"] < limit
        assert exact[part]["match_rate"]["value"] == 100.0
    assert exact["counts"]["failures"] == 0
    assert exact["training"]["wall_s"] == 3600.0
    assert exact["seed"] is None


def test_refused_crystals_are_failures_and_counted_apart(story, results):
    voxels = results["voxels"]
    assert voxels["reconstruction"]["cannot_represent"] == OBLIQUE
    assert voxels["counts"]["failures"] >= OBLIQUE
    assert voxels["counts"]["reference"] == 10
    assert voxels["metrics"]["wrong_count"]["value"] >= 100 * OBLIQUE / 10
    scores = json.loads((story.out / "models/voxels/seed-0/scores.json").read_text())
    reasons = {one["id"]: one["reason"] for one in scores["failures"]}
    for name in made_crystals().ids[-OBLIQUE:]:
        assert reasons[name].startswith("cannot be represented: ")
    assert results["nesf"]["reconstruction"]["cannot_represent"] == 0


def test_a_result_tells_how_it_came_about(story, results):
    for name, published in (("nesf", 3200), ("voxels", 50)):
        line = results[name]
        told = line["training"]
        assert told["epochs"] == 2
        assert told["published_epochs"] == published
        assert told["budget_s"] == 120
        assert told["seed"] == line["seed"] == 0
        assert told["threads"] == line["machine"]["threads"] == 1
        assert told["wall_s"] > 0
        assert told["steps"] == 6
        assert line["parameters"] == told["parameters"] > 0
        assert line["reconstruction"]["crystals_per_s"] > 0
        assert line["reconstruction"]["peak_memory_bytes"] > 50 * 2**20
        assert set(told["times_to_levels"]) >= {"val/wrong_counts_percent", "val/position_actual"}
        assert [point["epoch"] for point in told["curve"]] == [1, 2]
        assert sum(part["crystals"] for part in line["growth"]) >= 2
        train = line["data"]["train"][0]
        assert re.fullmatch("[0-9a-f]{64}", train["sha256"])
    config = yaml.safe_load((story.out / "models/nesf/seed-0/run/config.yaml").read_text())
    assert config["trainer"]["max_time"] == "00:00:02:00"
    assert config["data"]["init_args"]["train"] == [str(story.plan.parent / "train.nesf")]


def test_variants_are_measured_beside_the_models(story):
    (line,) = [json.loads(t) for t in (story.out / "growth.jsonl").read_text().splitlines()]
    assert (line["model"], line["value"], line["status"]) == ("exact", 9, "done")
    assert line["weights"] == "trained"
    assert line["decode_s"] > 0
    assert line["working_memory_bytes"] >= 0


def test_tables_and_charts_are_written(story):
    table = (story.out / "table.md").read_text()
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert any("position error, actual" in row and "**" in row for row in rows)
    assert any("of which it cannot represent" in row and f" {OBLIQUE} " in row for row in rows)
    assert "not yet measured" in table  # there is no GPU figure
    assert "3,200" in table
    latex = (story.out / "table.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") >= 4
    assert r"\textless{}/script\textgreater{}" in latex
    names = {path.name for path in (story.out / "plots").iterdir()}
    for stem in ("errors", "learning", "cells"):
        assert {f"{stem}.svg", f"{stem}.png"} <= names
    assert (story.out / "plots" / "errors.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_loads_nothing_from_elsewhere(story):
    text = (story.out / "compare.html").read_text()
    for attribute in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert attribute.startswith(("#", "data:"))
    assert "<img" not in text
    assert "default-src 'none'" in text
    assert text.count("<script") == 3
    assert "did 2 of the 3,200 epochs" in text
    assert "1.0 h of wall-clock time" in text


def test_a_comparison_is_not_overwritten_nor_mixed(story, capsys):
    assert main(["compare", f"--config={story.plan}"]) == 2
    assert "--restart auto" in capsys.readouterr().err
    changed = ["--restart=auto", "--budget-minutes=3"]
    assert main(["compare", f"--config={story.plan}", *changed]) == 2
    assert "other terms (budget_minutes)" in capsys.readouterr().err


def test_a_browser_without_network_draws_every_case(story, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH")
    picture = tmp_path / "page.png"
    dom = subprocess.run(
        [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=500,900",
            f"--screenshot={picture}",
            "--dump-dom",
            (story.out / "compare.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    data = json.loads(re.search(r'id="crystals">(.*?)</script>', dom, re.S)[1])
    drawn = [side for pair in data["pairs"] for name, side in pair.items() if name != "id"]
    sides = {name for pair in data["pairs"] for name in pair} - {"id"}
    assert sides == {"true", "model:nesf", "model:voxels", "model:exact"}
    crystals = [side for side in drawn if side]
    atoms = sum(len(side["atoms"]) for side in crystals)
    body = re.search(r"<body[^>]*>", dom)[0]
    assert f'data-viewers="{len(crystals)}" data-atoms="{atoms}" data-errors="0"' in body
    assert len(re.findall(r'<div class="empty">no crystal', dom)) == len(drawn) - len(crystals)

    from PIL import Image

    assert np.asarray(Image.open(picture).convert("L")).std() > 5
