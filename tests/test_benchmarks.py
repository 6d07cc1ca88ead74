"""Each benchmark runs at its smallest size and says what it should."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from crystals import random_crystals
from pymatgen.core import Lattice, Structure

from nesf.data.packed import PackedSet

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # as for the scripts themselves
import cell_size  # noqa: E402
import measure  # noqa: E402
import prototype_set  # noqa: E402
import start_up  # noqa: E402

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a benchmark's main function with some words, and gives the results that it writes."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def with_words(name: str, *words: object) -> dict[str, Any]:
        path = tmp_path / "out.json"
        script = str(BENCHMARKS / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, "--json", str(path), *map(str, words)])
        importlib.import_module(name).main()
        found = json.loads(path.read_text())
        assert found["setup"]["torch"] == torch.__version__
        assert found["setup"]["threads"] == 1
        return found["results"]

    return with_words


def test_training_step(run):
    small = ("--crystals", 12, "--max-atoms", 3, "--batch", 4, "--large", 64)
    widths = ("--latent-dim", 8, "--encoder-width", 16, "--position-widths", 8, 8)
    once = ("--species-widths", 8, "--steps", 1, "--repeats", 1, "--warm-ups", 1)
    (result,) = run("training_step", *small, *widths, *once).values()
    plain, matrix = result["plain"], result["matrix"]
    assert matrix["large_flops_per_second"] > 0
    assert matrix["model_flops_per_step"] > 0
    assert matrix["optimizer_flops_per_step"] > 0
    parts = {"batch", "augmentation", "queries", "targets", "forward", "backward", "optimizer"}
    assert set(plain["ms"]) == parts
    assert plain["crystals_per_second"] == pytest.approx(4 * plain["steps_per_second"])
    share = matrix["model_flops_per_step"] * plain["steps_per_second"]
    assert plain["share_of_large_rate"] == pytest.approx(share / matrix["large_flops_per_second"])
    assert plain["data_share"] > 0
    assert result["in_fit"]["steps_per_second"] > 0
    assert "compiled" not in result


def test_reconstruction_speed(run, tmp_path):
    packed = tmp_path / "few.nesf"
    PackedSet.from_batch(random_crystals(0, count=2, max_atoms=2)).save(packed)
    once = ("--repeats", 1, "--batch", 2)
    (result,) = run("reconstruction_speed", packed, *once).values()
    assert result["crystals"] == 2
    parts = {"encode", "particles", "clustering", "scoring", "species", "other"}
    assert set(result["ms_per_crystal"]) == parts
    asked = result["field_evaluations_by_part"]
    assert sum(asked.values()) == pytest.approx(result["field_evaluations_per_crystal"])
    assert asked["particles (position)"] > 0
    assert result["peak_memory_bytes"] > (result["taken_memory_bytes"] or 0)
    assert 0 <= result["wrong_counts_percent"] <= 100


def test_start_up(run):
    results = run("start_up", "--repeats", 1, "--warm-ups", 0, "--imports", 0)
    assert set(results) == set(start_up.TARGETS)
    for name, target in start_up.TARGETS.items():
        assert results[name]["median_seconds"] >= results[name]["least_seconds"] > 0
        assert results[name]["target_met"] == (results[name]["median_seconds"] < target)


def test_processes(run, tmp_path):
    path = tmp_path / "salt.cif"
    start_up.write_rocksalt(path)
    (result,) = run("processes", path, "--processes", 1, "--refine", 0, "--repeats", 1).values()
    assert result["crystals"] == 1
    assert result["with_faults"] in (0, 1)
    assert result["crystals_per_second"] == pytest.approx(1 / result["seconds"])


def test_slowest_imports():
    log = """import time: self [us] | cumulative | imported package
import time:       100 |        100 |     torch._C
import time:        50 |        150 |   torch
import time:        70 |        220 | nesf.api
a warning
"""
    found = start_up.slowest_imports(log, 2)
    assert list(found["module"]) == ["nesf.api", "torch"]
    assert found["package"] == {"torch": pytest.approx(150e-6), "nesf": pytest.approx(70e-6)}


def test_cell_size(run, tmp_path):
    plot = tmp_path / "out.svg"
    sizes = ("--fields", "exact", "--atoms", 12, "--batch", 2, "--batch-atoms", 4)
    curves = run("cell_size", *sizes, "--repeats", 1, "--plot", plot)
    assert set(curves) == {"exact atoms", "exact batch"}
    for curve, (atoms, batch) in zip(curves.values(), ((12, 1), (4, 2)), strict=True):
        (point,) = curve["points"]
        assert (point["atoms"], point["batch"]) == (atoms, batch)
        assert point["right_counts"] == batch
        assert point["seconds"] > 0
        assert curve["exponents"]["time"] is None  # one point has no slope
    assert "<svg" in plot.read_text()


@pytest.mark.slow
def test_prototype_set(run):
    once = ("--workers", 1, "--steps", 1)
    found = run("prototype_set", "--counts", 40, "--val-count", 0, *once)
    (point,) = found["points"]
    assert point["build"]["packed"] == 40
    assert point["build"]["file_bytes"] > 40 * 9 * 8  # each lattice alone
    assert point["build"]["parent_peak_bytes"] >= point["build"]["before_bytes"]
    assert point["build"]["children_peak_bytes"] > 0
    assert "train" not in point  # nothing else to validate with
    trained = point["train_held_out"]
    assert trained["peak_bytes"] >= trained["before_bytes"] > 0
    assert found["lines"]["build file_bytes"] == {"per_crystal": None}


def test_extrapolation():
    found = prototype_set.line([1000, 3000], [500.0, 900.0])
    assert found["per_crystal"] == pytest.approx(0.2)
    assert found["extrapolated_to_1000000"] == pytest.approx(500 + 0.2 * 999_000)


def test_cells_written(run: Run, tmp_path: Path) -> None:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0] * 3, [0.5] * 3])
    (tmp_path / "mgo.cif").write_text(salt.to(fmt="cif"))
    results = run("cells_written", tmp_path / "mgo.cif")
    assert list(results) == ["as given", "random origin", "primitive Niggli cell", "2x1x1"]
    assert [r["atoms_mean"] for r in results.values()] == [8, 8, 2, 16]
    assert [r["refined, best"]["with_faults"] for r in results.values()] == [0, 0, 0, 0]
    assert all(r["crystals"] == 1 for r in results.values())


def test_slope_of_a_power():
    x = [1.0, 3.0, 10.0]
    assert measure.slope(x, [7 * value**1.5 for value in x], powers=True) == pytest.approx(1.5)
    assert measure.slope(x, [2 - 4 * value for value in x]) == pytest.approx(-4)
    assert measure.slope([2.0], [1.0]) is None
    assert measure.slope(x, [0.0, 1.0, 2.0], powers=True) is None


@pytest.mark.parametrize("seconds", [lambda n: n, lambda n: n**2])
def test_a_quadratic_surprise_is_seen(seconds):
    sizes = (10, 100, 200, 1000)
    points = [{"atoms": n, "seconds": seconds(n), "taken_memory_bytes": n} for n in sizes]
    found = cell_size.exponents(points, "atoms")
    assert found["over"] == [100, 200, 1000]
    assert found["surprise"] == (seconds(3) == 9)


def test_packings_keep_density_and_distance():
    crystals = measure.packings([1, 30], seed=1)
    volume = torch.linalg.det(crystals.lattice)
    np.testing.assert_allclose(volume / crystals.num_atoms, measure.VOLUME_PER_ATOM, rtol=1e-5)

    structure: Structure = crystals.to_structures()[1]
    apart = structure.distance_matrix[np.triu_indices(30, 1)]
    assert apart.min() >= measure.MIN_DISTANCE - 1e-4


@pytest.mark.parametrize(("atoms", "expected"), [(8, 8), (60, 64), (1000, 1000)])
def test_rocksalt_supercells(atoms, expected):
    crystals = cell_size.rocksalt(atoms)
    (structure,) = crystals.to_structures()
    assert len(structure) == expected
    assert structure.composition.reduced_formula == "MgO"
    primitive = structure.get_primitive_structure() if expected < 100 else structure
    assert len(primitive) == (2 if expected < 100 else expected)
    assert structure.volume / expected == pytest.approx(measure.VOLUME_PER_ATOM, rel=1e-5)
