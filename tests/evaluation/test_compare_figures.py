"""Figures, charts and tables of `nesf compare`."""

from __future__ import annotations

import re
import statistics
from typing import Any

import pytest
from compare_plans import one_plan
from hypothesis import given
from hypothesis import strategies as st

from eval.compare.measuring.reconstruction import merged, spread_choice
from eval.compare.options import Contestant
from eval.compare.showing.cells import Cell, Row, Table, mark_best, metric_cell, spread_cell
from eval.compare.showing.cost_tables import levels_table
from eval.compare.showing.plots import BARS, draw_errors
from eval.compare.showing.summary import Outcome, outcomes_of
from eval.compare.showing.writing import latex_escape, to_html, to_latex, to_markdown
from eval.compare.trainings import LEVELS, times_to_levels


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


def test_what_mostly_fails_is_never_the_best_and_says_so():
    def lost(failures: int) -> Outcome:
        return outcome(result(0, 1.0, counts={"failures": failures, "reference": 40}))

    outcomes = [lost(0), lost(20), lost(21)]
    assert [one.mostly_fails for one in outcomes] == [False, False, True]
    assert not outcome().mostly_fails
    cells = [spread_cell([v], str) for v in (3.0, 2.0, 1.0)]
    assert [cell.best for cell in mark_best(cells, "low", outcomes)] == [False, True, False]
    assert [cell.best for cell in mark_best(cells, "low")] == [False, False, True]
    figure = draw_errors(outcomes, {"one": "red"})
    (names, *_) = [
        [label.get_text() for label in ax.get_yticklabels()]
        for ax in figure.axes
        if any(label.get_text() for label in ax.get_yticklabels())
    ]
    assert names == ["one", "one\n(20 of 40 failed)", "one\n(21 of 40 failed)"]


@pytest.mark.parametrize("count", range(1, len(BARS) + 1))
def test_the_chart_of_errors_has_a_panel_for_each_known_figure(count):
    known = {name: {"value": 1.0, "low": 0.5, "high": 1.5} for name, _ in BARS[:count]}
    line = result(0, 1.0) | {"metrics": known, "chance": None}
    assert len(draw_errors([outcome(line)], {"one": "#000000"}).axes) == count


def test_outcomes_count_what_failed_and_what_is_open(tmp_path):
    made = one_plan(tmp_path, seeds=[0, 1, 2])
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
