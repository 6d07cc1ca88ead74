"""Parts of `nesf compare`: its plan, its lines, its children, its figures and tables."""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from eval.compare.children import TIMED_OUT, run_child
from eval.compare.contest import Contest
from eval.compare.folder import only_one_comparison, prepare
from eval.compare.levels import LEVELS, times_to_levels
from eval.compare.lines import JsonLines
from eval.compare.measuring import merged, spread_choice
from eval.compare.parts import Cell, Row, Table, mark_best, metric_cell, spread_cell
from eval.compare.plan import Comparison, Contestant, DataFiles
from eval.compare.plots import BARS, draw_errors
from eval.compare.read_plan import read_plan
from eval.compare.summary import Outcome, outcomes_of
from eval.compare.tables import levels_table
from eval.compare.trainings import as_max_time, fit_command
from eval.compare.writing import latex_escape, to_html, to_latex, to_markdown
from nesf.errors import InputError

PLAN: dict[str, Any] = {
    "output": "out",
    "data": {"train": ["a.csv"], "val": ["b.csv"], "test": ["c.csv"]},
    "models": [{"name": "one", "config": "one.yaml", "overrides": ["--trainer.max_epochs=3"]}],
}


def plan(folder: Path, **changes: Any) -> Comparison:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({**PLAN, **changes}))
    return read_plan(path)


# the plan


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
        ({"models": [{"name": "a", "config": "c", "overrides": ["x", "1"]}]}, "one word"),
        ({"models": [{"name": "a", "config": "c"}] * 2}, "two models have the name a"),
        ({"growth": {"variants": [{"model": "b", "series": "s", "value": 1}]}}, "names b"),
        ({"growth": {"variants": [{"model": "one", "series": "s"}]}}, "value is missing"),
    ],
)
def test_a_wrong_plan_is_one_sentence_that_names_the_key(tmp_path, changes, said):
    with pytest.raises(InputError, match=said) as error:
        plan(tmp_path, **changes)
    assert "\n" not in str(error.value)


def test_a_plan_keeps_the_classes_that_changes_name_as_text(tmp_path):
    changes = {"part": {"class_path": "os.abort", "init_args": {"x": 1}}}
    variant = {"model": "one", "series": "s", "value": 2, "changes": changes}
    assert plan(tmp_path, growth={"variants": [variant]}).growth.variants[0].changes == changes


def test_the_shared_terms_go_last_and_so_prevail(tmp_path):
    made = plan(tmp_path, budget_minutes=90.5, threads=3)
    words = fit_command(next(iter(made.entries())), torch.device("cuda", 1))
    assert words[:5] == [sys.executable, "-m", "nesf", "fit", "--config=one.yaml"]
    assert words[5] == "--trainer.max_epochs=3"
    assert "--trainer.max_time=00:01:30:30" in words[6:]
    assert {"--trainer.accelerator=gpu", "--trainer.devices=[1]", "--threads=3"} <= set(words[6:])
    assert '--data.train=["a.csv"]' in words[6:]
    assert as_max_time(0.2) == "00:00:00:01"
    assert as_max_time(2.0 * 86400 + 3 * 3600 + 61) == "02:03:01:01"


def test_given_weights_stand_once_whatever_the_seeds(tmp_path):
    models = [*PLAN["models"], {"name": "given", "weights": "lcs6"}]
    keys = [entry.key for entry in plan(tmp_path, seeds=[4, 5], models=models).entries()]
    assert keys == [("one", 4), ("one", 5), ("given", None)]


# lines that survive


def test_a_torn_last_line_is_cut_away_and_later_lines_stand(tmp_path):
    path = tmp_path / "results.jsonl"
    lines = JsonLines(path, ("model", "seed"))
    for value in (1, 2):
        lines.append({"model": "a", "seed": 0, "value": value})
    lines.append({"model": "b", "seed": None, "value": 3})
    whole = path.read_bytes()
    for cut in range(1, 30):
        path.write_bytes(whole + whole[:cut])
        again = JsonLines(path, ("model", "seed"))
        assert path.read_bytes() == whole
        assert [line["value"] for line in again] == [2, 3]
        assert again.get("b", None) == {"model": "b", "seed": None, "value": 3}
    again.append({"model": "c", "seed": 1, "value": 4})
    assert [json.loads(line)["value"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_training_that_diverged_is_still_a_line_of_json(tmp_path):
    lines = JsonLines(tmp_path / "results.jsonl", ("model",))
    lines.append({"model": "a", "curve": [{"val/loss": float("nan"), "step": 1}], "x": (1e400,)})
    (text,) = (tmp_path / "results.jsonl").read_text().splitlines()
    assert json.loads(text, parse_constant=pytest.fail) == lines.get("a")
    assert lines.get("a") == {"model": "a", "curve": [{"val/loss": None, "step": 1}], "x": [None]}


def test_a_damaged_line_in_the_middle_is_told(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"model": "a", "seed": 0}\n{"model\n{"model": "b", "seed": 0}\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        JsonLines(path, ("model", "seed"))


# children


def child(text: str) -> list[str]:
    return [sys.executable, "-u", "-c", textwrap.dedent(text)]


def test_ctrl_c_reaches_the_child_once_and_waits_until_it_has_saved(tmp_path):
    program = f"""
        import time
        print("ready")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.5)  # a second signal would break this off
            open({str(tmp_path / "saved")!r}, "w").close()
    """

    def tell(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_child(child(program), tmp_path / "log", tell)
    assert (tmp_path / "saved").exists()


def test_whatever_else_stops_us_ends_the_child(tmp_path):
    pids = []

    def tell(line: str) -> None:
        pids.append(int(line))
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        run_child(
            child("import os, time; print(os.getpid()); time.sleep(60)"), tmp_path / "log", tell
        )
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_a_child_tells_how_it_ended(tmp_path):
    log = tmp_path / "log"
    log.write_text("of an earlier run\n")
    ending = run_child(child("print('a'); print('nesf: no such file'); exit(2)"), log)
    assert (ending.code, ending.tail, ending.reason) == (
        2,
        ("a", "nesf: no such file"),
        "no such file",
    )
    killed = run_child(child("import os; os.kill(os.getpid(), 9)"), log)
    assert killed.reason.startswith("it was killed by SIGKILL")
    began = time.monotonic()
    late = run_child(child("import time; time.sleep(60)"), log, timeout_s=0.3)
    assert late.code == TIMED_OUT
    assert time.monotonic() - began < 20


def test_a_left_over_child_keeps_the_folder(tmp_path):
    with only_one_comparison(tmp_path) as lock:
        inherited = os.dup(lock[0])  # as a child has it
    with pytest.raises(InputError, match="at work in"), only_one_comparison(tmp_path):
        pass
    os.close(inherited)
    with only_one_comparison(tmp_path):
        pass


def test_fresh_removes_what_a_comparison_wrote_and_nothing_else(tmp_path):
    terms = {"data": {}, "models": {}}
    prepare(tmp_path, terms, "no")
    (tmp_path / "models").mkdir()
    for name in ("results.jsonl", "models/x", "mine.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="holds a comparison already"):
        prepare(tmp_path, terms, "no")
    prepare(tmp_path, terms, "fresh")
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", "plan.json"}


def test_models_may_be_added_but_not_changed(tmp_path):
    terms = {"data": {}, "models": {"a": {"config": "a", "sha256": "1"}}}
    prepare(tmp_path, terms, "no")
    more = {"data": {}, "models": {"b": {"config": "b", "sha256": "2"}}}
    prepare(tmp_path, more, "auto")
    changed = {"data": {}, "models": {"a": {"config": "a", "sha256": "3"}}}
    with pytest.raises(InputError, match=r"other terms \(sha256 of the model a\)"):
        prepare(tmp_path, changed, "auto")


# figures


def test_times_are_those_of_the_first_validation_at_or_below_a_level():
    def point(wall: float, **values: float) -> dict[str, float]:
        return {"epoch": 1, "step": 1, "wall_s": wall, "cpu_s": wall} | {
            f"val/{name}": value for name, value in values.items()
        }

    curve = [
        point(1.0, loss=3.0, wrong_counts_percent=60.0, position_actual=1.2),
        point(2.0, loss=2.0),
        point(3.0, loss=1.0, wrong_counts_percent=20.0, position_actual=0.2),
        point(4.0, loss=1.0, wrong_counts_percent=30.0, position_actual=float("nan")),
        point(5.0, loss=1.0, wrong_counts_percent=4.0, position_actual=0.05),
    ]
    found = times_to_levels(curve)
    assert found["val/wrong_counts_percent"] == {
        "50": 3.0,
        "20": 3.0,
        "10": 5.0,
        "5": 5.0,
        "2": None,
        "1": None,
    }
    assert found["val/position_actual"] == {
        "1": 3.0,
        "0.5": 3.0,
        "0.2": 3.0,
        "0.1": 5.0,
        "0.05": 5.0,
        "0.02": None,
    }
    assert found["val/species_actual_percent"] is None
    assert times_to_levels([]) == dict.fromkeys(LEVELS)


def result(seed: int, value: float | None, **more: Any) -> dict[str, Any]:
    estimate = {"value": value, "low": None, "high": None}
    if value is not None:
        estimate |= {"low": value - 1, "high": value + 1}
    line = {"model": "one", "seed": seed, "status": "done", "metrics": {"wrong_count": estimate}}
    return line | {"refined": None} | more


def outcome(*lines: dict[str, Any], failed: int = 0) -> Outcome:
    model = Contestant(name="one", config="c")
    return Outcome(model, lines, ({"status": "failed"},) * failed, 0)


def test_several_seeds_give_mean_and_sample_deviation():
    values = [1.25, 4.5, 2.0]
    cell = metric_cell(
        outcome(*(result(i, v) for i, v in enumerate(values))), "metrics", "wrong_count", "%"
    )
    expected = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %"
    assert (cell.text, cell.note) == (expected, "3 seeds")
    alone = metric_cell(outcome(result(0, 1.25)), "metrics", "wrong_count", "%")
    assert (alone.text, alone.note) == ("1.25 %", "0.25 … 2.25")
    assert metric_cell(outcome(), "metrics", "wrong_count", "%").text == "–"
    assert metric_cell(outcome(result(0, None)), "metrics", "wrong_count", "%").text == "–"
    assert metric_cell(outcome(result(0, 1.0)), "refined", "wrong_count", "%").value is None


def test_the_best_is_marked_and_so_is_what_reads_the_same():
    def bests(better: str | None, *values: float | None) -> list[bool]:
        cells = [Cell() if v is None else spread_cell([v], "{:.1f}".format) for v in values]
        return [cell.best for cell in mark_best(cells, better)]

    assert bests("low", 3.0, 1.0, 2.0) == [False, True, False]
    assert bests("high", 3.0, 1.0, None) == [True, False, False]
    assert bests("low", 1.01, 0.99, 2.0) == [True, True, False]  # both read 1.0
    assert bests("low", 1.0, None) == [False, False]  # nothing to compare with
    assert bests("low", 1.0, 1.0) == [False, False]
    assert bests(None, 3.0, 1.0) == [False, False]


@pytest.mark.parametrize("count", range(1, len(BARS) + 1))
def test_the_chart_of_errors_has_a_panel_for_each_known_figure(count):
    known = {name: {"value": 1.0, "low": 0.5, "high": 1.5} for name, _ in BARS[:count]}
    line = result(0, 1.0) | {"metrics": known, "chance": None}
    assert len(draw_errors([outcome(line)], {"one": "#000000"}).axes) == count


def test_boxes_are_neither_matched_nor_symmetrised(tmp_path, monkeypatch):
    asked: dict[str, Any] = {}

    def evaluate(predicted: Any, reference: Any, **options: Any) -> dict[str, Any]:
        asked.update(options)
        names = ("metrics", "refined", "chance", "by_num_atoms", "counts", "settings")
        return {name: {} for name in names} | {"failures": []}

    monkeypatch.setattr("eval.compare.contest.evaluate", evaluate)
    made = plan(tmp_path, output=str(tmp_path / "out"), scoring={"boxes": True})
    (entry,) = made.entries()
    entry.folder.mkdir(parents=True)
    contest = Contest(made, torch.device("cpu"), {}, ())
    contest._score(entry, {"failures": [], "cannot_represent": [], "crystals": 1})
    assert asked["boxes"] is True
    assert asked["refine"] is False
    assert made.shared_terms()["scoring"]["boxes"] is True
    # comparisons of crystals from before boxes were known go on
    assert "boxes" not in plan(tmp_path).shared_terms()["scoring"]


def test_outcomes_count_what_failed_and_what_is_open(tmp_path):
    made = plan(tmp_path, seeds=[0, 1, 2])
    lines = [
        result(0, 1.0),
        {"model": "one", "seed": 1, "status": "failed"},
        {**result(0, 1.0), "model": "another"},
    ]
    (found,) = outcomes_of(made, lines)
    assert (len(found.done), len(found.failed), found.open) == (1, 1, 1)


def test_a_level_that_a_seed_never_reached_is_not_averaged_away():
    def with_time(seconds: float | None) -> dict[str, Any]:
        levels = {name: {f"{v:g}": seconds for v in values} for name, values in LEVELS.items()}
        return result(0, 1.0, training={"times_to_levels": levels})

    def first_cell(*times: float | None) -> Cell:
        table = levels_table([outcome(*map(with_time, times))])
        return table.sections[0][1][0].cells[0]

    assert first_cell(10.0, 20.0).text == "15 ± 7.07 s"
    assert first_cell(10.0, None) == Cell("not reached", "by 1 of 2 seeds")
    assert first_cell(None).text == "not reached"


# tables in three languages

HOSTILE = r"50% & $x_1$ {#} \~^ |*a*| <b>`c`</b>"
SPECIAL = "&%$#_{}~^\\"


@given(st.text(alphabet=st.sampled_from([*SPECIAL, "a", " ", "Å", "<", "\n"]), max_size=30))
def test_latex_sets_any_text_as_it_is(text):
    escaped = latex_escape(text)
    # an oracle: take away every command and escaped character, and nothing special may be left
    known = r"\\text[a-z]+\{\}|\\AA\{\}|\\[&%$#_{}]"
    assert not set(re.sub(known, "", escaped)) & set(SPECIAL)
    for character in "&%$#_{}":
        assert escaped.count(f"\\{character}") >= " ".join(text.split()).count(character)


def hostile_table() -> Table:
    cells = (Cell("1.0 %", best=True), Cell(HOSTILE))
    sections = ((HOSTILE, (Row(HOSTILE, cells),)),)
    return Table("t", HOSTILE, HOSTILE, ((HOSTILE, 2),), ("raw", "refined"), sections)


def test_hostile_names_break_no_table():
    latex = to_latex(hostile_table())
    body = latex.split("\\midrule")[-1].split("\\bottomrule")[0].strip().splitlines()
    assert body[0].strip().startswith(r"\multicolumn{3}{l}{\emph{")
    assert len(re.findall(r"(?<!\\)&", body[1])) == 2  # three cells
    assert r"\textbf{1.0 \%}" in body[1]
    markdown = to_markdown(hostile_table()).splitlines()
    rows = [line for line in markdown if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    page = to_html(hostile_table())
    assert "<b>" not in page
    assert page.count("<td") == 2
    assert '<td class="best first">1.0 %</td>' in page


# measuring


def test_changes_reach_into_nested_arguments():
    base = {
        "voxels": {"class_path": "a.B", "init_args": {"resolution": 32, "margin": 0.25}},
        "k": 1,
    }
    changed = merged(base, {"voxels": {"init_args": {"resolution": 16}}, "m": 2})
    assert changed["voxels"]["init_args"] == {"resolution": 16, "margin": 0.25}
    assert (changed["voxels"]["class_path"], changed["k"], changed["m"]) == ("a.B", 1, 2)
    assert base["voxels"]["init_args"]["resolution"] == 32


@given(st.integers(1, 50), st.integers(1, 60))
def test_a_choice_is_spread_over_all(count, wanted):
    chosen = spread_choice(list(range(count)), wanted)
    assert len(chosen) == min(count, wanted) == len(set(chosen))
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    if wanted > 1:
        assert chosen[-1] == count - 1


def test_the_default_plan_is_complete():
    made = Comparison(
        DataFiles(("a",), ("b",), ("c",)), (Contestant(name="a", weights="w"),), output="o"
    )
    assert made.budget_s is None
    assert json.loads(json.dumps(made.shared_terms()))["scoring"]["refine_symmetry"] is True
