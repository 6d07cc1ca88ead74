import numpy as np
import pytest
from made_crystals import make_cell, rock_salt

from eval.cells import Cell
from eval.matching import Match
from eval.scores import estimate_ratios, score_crystal, score_row, summarize


def test_averages_pool_the_atoms_of_all_crystals():
    small = Cell(np.eye(3) * 10, np.array([[0.5, 0.5, 0.5]]), np.array([6]))
    moved = Cell(small.lattice, np.array([[0.5, 0.5, 0.54]]), np.array([7]))  # 0.4 Å off
    large = rock_salt()
    scores = [score_crystal("a", small, moved), score_crystal("b", large, large)]
    summary = summarize(scores, bootstrap=0)
    assert summary["position_error_actual"]["value"] == pytest.approx(0.4 / 9)
    assert summary["species_error_actual"]["value"] == pytest.approx(100 / 9)
    assert summary["wrong_count"]["value"] == 0
    assert summary["position_error_actual_median"]["value"] == pytest.approx(0)


def test_a_failure_stays_in_every_denominator():
    true = rock_salt()
    good = [score_crystal(str(i), true, true, Match(rmse=0.0)) for i in range(3)]
    failed = score_crystal("x", true, None, Match(failure="no prediction"))
    summary = summarize([*good, failed], bootstrap=0)
    values = {name: estimate["value"] for name, estimate in summary.items()}
    assert values["wrong_count"] == 25
    assert values["count_mae"] == 2
    assert values["species_error_actual"] == values["species_error_detected"] == 25
    assert values["position_error_actual"] == pytest.approx(5.64 * np.sqrt(3) / 8)
    assert values["position_error_detected_published"] == pytest.approx(5.64 * np.sqrt(3) / 8)
    assert values["length_mae"] == pytest.approx(5.64 / 4)
    assert values["volume_error"] == pytest.approx(25)
    assert values["match_rate"] == 75
    assert values["match_rmse"] == 0  # of the matched
    assert failed.wrong_count


def test_no_predicted_atoms_at_all_leave_no_figure_undefined():
    true = rock_salt()
    empty = Cell(true.lattice, np.zeros((0, 3)), np.zeros(0, dtype=int))
    summary = summarize([score_crystal("x", true, empty, Match())], bootstrap=10)
    assert summary["position_error_detected"]["value"] > 1
    assert summary["match_rmse"] == {"value": None, "low": None, "high": None}


def test_bootstrap_intervals_are_those_of_the_normal_approximation():
    generator = np.random.default_rng(0)
    values = generator.normal(3.0, 1.0, 500)
    tallies = np.stack([values, np.ones(500)], -1)[:, None]
    estimate = estimate_ratios(tallies, 2000, seed=1)[0]
    half = 1.96 * values.std() / np.sqrt(500)
    assert estimate["value"] == pytest.approx(values.mean())
    assert estimate["low"] == pytest.approx(values.mean() - half, abs=0.01)
    assert estimate["high"] == pytest.approx(values.mean() + half, abs=0.01)
    assert estimate == estimate_ratios(tallies, 2000, seed=1)[0]
    assert estimate != estimate_ratios(tallies, 2000, seed=2)[0]


def test_intervals_of_no_crystals_are_empty():
    assert estimate_ratios(np.zeros((0, 1, 2)), 100, 0) == [
        {"value": None, "low": None, "high": None}
    ]


def test_rows_carry_each_crystals_own_means():
    generator = np.random.default_rng(0)
    true, guess = make_cell(generator, 4), make_cell(generator, 5)
    score = score_crystal("a", true, guess, Match())
    row = score_row(score)
    assert row["num_atoms_predicted"] == 5
    assert row["position_error_actual"] == pytest.approx(score.periodic.position_actual.mean())
    assert row["matched"] is False
    assert row["failure"] is None
