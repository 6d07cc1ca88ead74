"""The plan of `nesf compare`: what it may say, and what its terms are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from compare_plans import PLAN, one_plan

from eval.compare.contest import Terms
from eval.compare.kinds import check_model
from eval.compare.options import Contestant, DataFiles
from eval.compare.plan import Comparison
from eval.compare.read_plan import read_plan
from eval.compare.reconstructing import ReconstructionContest
from eval.compare.trainings import as_max_time, fit_command
from nesf.errors import InputError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": []}, "models is empty"),
        ({"modles": 1}, "no option modles"),
        ({"seeds": ["x"]}, "seeds takes a whole number and not x"),
        ({"seeds": [1, 1]}, "different numbers"),
        ({"budget_minutes": -1}, "budget_minutes is -1"),
        ({"data": {"train": ["a"], "val": ["b"]}}, "data: test is missing"),
        ({"data": {"train": [], "val": ["b"], "test": ["c"]}}, "data.train names no file"),
        ({"scoring": {"bootstrap": -1}}, "bootstrap is -1"),
        ({"models": [{"name": "a"}]}, r"models\[0\]: give either config.*or weights"),
        ({"models": [{"name": "../a", "config": "a"}]}, "plain word"),
        ({"models": [{"name": "a", "weights": "w", "overrides": ["--x=1"]}]}, "not trained here"),
        ({"models": [{"name": "a", "weights": "w", "val": ["v"]}]}, "not trained here"),
        ({"models": [{"name": "a", "config": "c", "overrides": ["x", "1"]}]}, "one word"),
        ({"models": [{"name": "a", "config": "c", "refine": -1}]}, "refine is -1"),
        ({"models": [{"name": "a", "config": "c"}] * 2}, "two models have the name a"),
        ({"growth": {"variants": [{"model": "b", "series": "s", "value": 1}]}}, "names b"),
        ({"growth": {"variants": [{"model": "one", "series": "s"}]}}, "value is missing"),
    ],
)
def test_a_wrong_plan_is_one_sentence_that_names_the_key(tmp_path, changes, said):
    with pytest.raises(InputError, match=said) as error:
        one_plan(tmp_path, **changes)
    assert "\n" not in str(error.value)


SOME = {"data": PLAN["data"], "models": PLAN["models"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parts": []}, "give parts as a list"),
        ({"parts": [SOME]}, r"parts\[0\]: name is missing"),
        ({"parts": [{"name": "a", **SOME}] * 2}, "two parts have the name a"),
        ({"parts": [{"name": "plots", **SOME}]}, "cannot have the name plots"),
        ({"parts": [{"name": "../a", **SOME}]}, "plain word"),
        ({"parts": [{"name": "a", "device": "cpu", **SOME}]}, "give device once, beside parts"),
        ({"parts": [{"name": "a", **SOME}], "scoring": {}}, "scoring belongs into one of"),
        (
            {"parts": [{"name": "a", "kind": "both", **SOME}]},
            r"parts\[0\]: kind is one of reconstruction, properties, not both",
        ),
        ({"parts": [{"name": "a", **SOME, "models": [{}]}]}, r"parts\[0\].models\[0\]: name"),
        ({"name": "a", **SOME}, "no option name without parts"),
    ],
)
def test_wrong_parts_are_one_sentence_that_names_the_part(tmp_path, changes, said):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"output": "out", **changes}))
    with pytest.raises(InputError, match=said) as error:
        read_plan(path)
    assert "\n" not in str(error.value)


def test_parts_share_what_stands_beside_them(tmp_path):
    parts = [
        {"name": "a", **SOME},
        {"name": "b", **SOME, "budget_minutes": 9, "kind": "properties", "target": "x"},
    ]
    path = tmp_path / "plan.yaml"
    shared = {"output": "out", "threads": 3, "seeds": [4, 5], "budget_minutes": 2, "device": "cpu"}
    path.write_text(yaml.safe_dump({**shared, "parts": parts}))
    first, second = read_plan(path).parts
    assert [p.output for p in (first, second)] == ["out/a", "out/b"]
    assert [p.budget_minutes for p in (first, second)] == [2, 9]
    assert {(p.threads, p.seeds, p.device) for p in (first, second)} == {(3, (4, 5), "cpu")}
    assert [model.name for model in second.contestants] == ["one", "ridge", "mean"]
    given = read_plan(path, {"budget_minutes": 1.0, "seeds": [7]}).parts
    assert [(p.budget_minutes, p.seeds) for p in given] == [(1, (7,))] * 2
    words = fit_command(next(iter(second.entries())), torch.device("cpu"))
    assert '--model.model.properties=["x"]' in words
    assert not any(
        "properties" in word for word in fit_command(next(first.entries()), torch.device("cpu"))
    )


def test_a_plan_keeps_the_classes_that_changes_name_as_text(tmp_path):
    changes = {"part": {"class_path": "os.abort", "init_args": {"x": 1}}}
    variant = {"model": "one", "series": "s", "value": 2, "changes": changes}
    assert one_plan(tmp_path, growth={"variants": [variant]}).growth.variants[0].changes == changes


def test_the_shared_terms_go_last_and_so_prevail(tmp_path):
    made = one_plan(tmp_path, budget_minutes=90.5, threads=3)
    words = fit_command(next(iter(made.entries())), torch.device("cuda", 1))
    assert words[:5] == [sys.executable, "-m", "nesf", "fit", "--config=one.yaml"]
    assert words[5] == "--trainer.max_epochs=3"
    assert "--trainer.max_time=00:01:30:30" in words[6:]
    assert {"--trainer.accelerator=gpu", "--trainer.devices=[1]", "--threads=3"} <= set(words[6:])
    assert '--data.train=["a.csv"]' in words[6:]
    assert as_max_time(0.2) == "00:00:00:01"
    assert as_max_time(2.0 * 86400 + 3 * 3600 + 61) == "02:03:01:01"


def test_a_model_of_crystals_among_boxes_is_validated_on_crystals(tmp_path):
    models = [{"name": "a", "config": "c", "val": ["v.csv"]}, {"name": "b", "config": "c"}]
    made = one_plan(tmp_path, models=models)
    words = [fit_command(entry, torch.device("cpu")) for entry in made.entries()]
    assert '--data.val=["v.csv"]' in words[0]
    assert f"--data.val={json.dumps(list(made.data.val))}" in words[1]


def test_given_weights_stand_once_whatever_the_seeds(tmp_path):
    models = [*PLAN["models"], {"name": "given", "weights": "lcs6"}]
    keys = [entry.key for entry in one_plan(tmp_path, seeds=[4, 5], models=models).entries()]
    assert keys == [("one", 4), ("one", 5), ("given", None)]


def test_boxes_are_neither_matched_nor_symmetrised(tmp_path, monkeypatch):
    asked: dict[str, Any] = {}

    def evaluate(predicted: Any, reference: Any, **options: Any) -> dict[str, Any]:
        asked.update(options)
        names = ("metrics", "refined", "chance", "by_num_atoms", "counts", "settings")
        return {name: {} for name in names} | {"failures": []}

    monkeypatch.setattr("eval.compare.reconstructing.evaluate", evaluate)
    made = one_plan(tmp_path, output=str(tmp_path / "out"), scoring={"boxes": True})
    (entry,) = made.entries()
    entry.folder.mkdir(parents=True)
    contest = ReconstructionContest(made, Terms(torch.device("cpu"), {}))
    contest._score(entry, {"failures": [], "cannot_represent": [], "crystals": 1})
    assert asked["boxes"] is True
    assert asked["refine"] is False
    assert made.shared_terms()["scoring"]["boxes"] is True
    # comparisons of crystals from before boxes were known go on
    assert "boxes" not in one_plan(tmp_path).shared_terms()["scoring"]


def test_the_default_plan_is_complete():
    made = Comparison(
        DataFiles(("a",), ("b",), ("c",)), (Contestant(name="a", weights="w"),), output="o"
    )
    assert made.budget_s is None
    assert json.loads(json.dumps(made.shared_terms()))["scoring"]["refine_symmetry"] is True


SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs/compare").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_plans_in_the_box_name_configs_of_the_right_kind(path, monkeypatch):
    monkeypatch.chdir(path.parents[2])
    made = read_plan(path)
    for part in made.parts:
        for model in part.models:
            check_model(part, model)
    if made.several:  # promised: 40 minutes in all
        trained = [(p, m) for p in made.parts for m in p.models if m.config]
        assert sum(part.budget_minutes or 99 for part, _ in trained) < 32
