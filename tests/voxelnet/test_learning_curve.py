"""Learning curves: their parts, their results, and going on after an interrupt."""

from __future__ import annotations

import json
import statistics

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from baselines.voxelnet import curve_trainings, learning_curve
from baselines.voxelnet.curve_trainings import CurveData, duration, simple_errors
from eval.compare import children
from eval.compare.children import Ending
from nesf.data.packed import PackedSet
from nesf.data.records import Row
from nesf.errors import InputError


def write_set(path, seed: int, count: int) -> str:
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        pair = random.choice(["Na", "K", "Cl", "Br"], 2, replace=False).tolist()
        cell = Structure(Lattice.cubic(4), pair, [[0, 0, 0], [0.5, 0.5, 0.5]])
        rows.append(Row(f"{seed}-{i}", cell, {"soft": cell.composition.average_electroneg}, "made"))
    PackedSet.from_rows(rows).save(path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    counts = {"train": 40, "val": 6, "test": 10}
    return {
        name: write_set(tmp_path / f"{name}.nesf", seed, count)
        for seed, (name, count) in enumerate(counts.items())
    }


@pytest.fixture
def data(files):
    return CurveData.of(files["train"], files["val"], files["test"], "soft")


def test_parts_are_nested_and_decided_by_the_seed(data):
    small, large, other = (set(data.part(*one).ids) for one in ((5, 0), (20, 0), (20, 1)))
    assert (len(small), len(large)) == (5, 20)
    assert small < large
    assert large != other
    assert set(data.part(5, 0).ids) == small


def test_simple_errors_are_those_of_the_part(data):
    part, truth = np.asarray(data.part(12, 3).numbers("soft")), data.test.numbers("soft")
    found = simple_errors(data, 12, 3)
    assert found["mean"] == pytest.approx(np.abs(truth - part.mean()).mean())
    assert found["median"] == pytest.approx(np.abs(truth - np.median(part)).mean())
    assert found["ridge"] < 0.5 * found["mean"]


def test_a_missing_prediction_counts(data):
    truth = np.asarray(data.test.numbers("soft"))
    predicted = truth.copy()
    predicted[0] = np.nan
    assert data.error(predicted, 5.0) == pytest.approx(abs(5.0 - truth[0]) / len(truth))


def test_test_crystals_are_not_training_crystals(files):
    with pytest.raises(InputError, match="40 ids"):
        CurveData.of(files["train"], files["val"], files["train"], "soft")


def test_results_come_one_by_one_and_are_not_done_twice(files, tmp_path, monkeypatch, capsys):
    done = []

    def train_one(data, config, size, seed, folder, seconds, threads, options):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((config, size, seed, seconds))
        return {"mae": 1 / size + 0.01 * seed, "wall_s": 1.0}

    monkeypatch.setattr(learning_curve, "train_one", train_one)
    out = tmp_path / "out"
    words = [str(out), *(f"--{name}={path}" for name, path in files.items()), "--property=soft"]
    words += ["--sizes", "10", "40", "--seeds", "2", "--seconds", "9", "--method", "net=c.yaml"]
    with pytest.raises(KeyboardInterrupt):
        learning_curve.main(words)
    with (out / "results.jsonl").open("a") as file:
        file.write('{"method": "ne')  # torn by the interrupt
    first, done[:] = list(done), []
    assert learning_curve.main(words) == 0
    assert [one[1:] for one in first + done] == [
        (10, 0, 3.0),
        (40, 0, 9.0),
        (10, 1, 3.0),
        (40, 1, 9),
    ]
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(lines) == 4 * 4
    table = (out / "table.md").read_text()
    mean, spread = 1 / 10 + 0.005, statistics.stdev([0.0, 0.01])
    assert f"| net | {mean:.3f} ± {spread:.3f} | {1 / 40 + 0.005:.3f} ± {spread:.3f} |" in table
    assert table in capsys.readouterr().out
    picture = (out / "learning_curve.svg").read_text()
    assert all(name in picture for name in ("net", "ridge", "mean", "training crystals"))
    with pytest.raises(InputError, match="another output"):
        learning_curve.main([*words, "--seconds", "10"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sizes", "41"], "40 crystals"),
        (["--method", "c.yaml"], "name of its own"),
        (["--seeds", "0"], "at least one seed"),
    ],
)
def test_what_cannot_work_is_one_sentence(files, tmp_path, words, said):
    sets = [*(f"--{name}={path}" for name, path in files.items()), "--property=soft"]
    with pytest.raises(InputError, match=said):
        learning_curve.main([str(tmp_path), *sets, "--sizes", "10", *words])


def test_a_failed_training_is_one_sentence(data, tmp_path, monkeypatch):
    asked = []

    def fail(command, log):
        asked.extend(command)
        return Ending(2, ("nesf: there is no file no.yaml",))

    monkeypatch.setattr(children, "run_child", fail)
    with pytest.raises(InputError, match=r"failed: there is no file no\.yaml"):
        curve_trainings.train_one(data, "no.yaml", 5, 3, tmp_path / "run", 90.0, 1, ["--x=1"])
    words = {"--config=no.yaml", "--trainer.max_time=00:00:01:30", "--seed_everything=3", "--x=1"}
    assert words <= set(asked)
    part = PackedSet.load(tmp_path / "run" / "train.nesf")
    assert list(part.ids) == list(data.part(5, 3).ids)


def test_durations():
    assert duration(3725.4) == "00:01:02:05"
    assert duration(0.2) == "00:00:00:01"
