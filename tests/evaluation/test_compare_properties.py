"""Parts of a comparison for a property: ridge on latents, errors, data, and who may take part."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from stand_in_model import StandIn

from baselines.voxel_icsg3d.cgcnn import CGCNN
from eval.compare.measuring.latent_ridge import fit_ridge, latents_of
from eval.compare.properties import PropertySets, property_metrics
from nesf import api
from nesf.checkpoint import save_model
from nesf.cli import main
from nesf.data.packed import PackedSet
from nesf.data.records import Row
from nesf.errors import InputError


def crystals(seed: int, count: int, missing: int = 0) -> PackedSet:
    """Rock salts with a column `soft`, the first ones without a value."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        pair = random.choice(["Na", "K", "Cl", "Br"], 2, replace=False).tolist()
        side = float(random.uniform(3.5, 4.5))
        cell = Structure(Lattice.cubic(side), pair, [[0, 0, 0], [0.5, 0.5, 0.5]])
        value = float("nan") if i < missing else cell.composition.average_electroneg + side
        rows.append(Row(f"{seed}-{i}", cell, {"soft": value, "other": 1.0}, "made"))
    return PackedSet.from_rows(rows)


@pytest.fixture
def files(tmp_path) -> dict[str, list[str]]:
    found = {}
    for seed, (name, count) in enumerate({"train": 20, "val": 6, "test": 8}.items()):
        crystals(seed, count).save(tmp_path / f"{name}.nesf")
        found[name] = [str(tmp_path / f"{name}.nesf")]
    return found


# ridge on latents


def latents(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    latent = random.normal(2.0, [1.0, 5.0, 0.1, 1.0, 1.0, 1.0], (count, 6))
    latent[:, 5] = 3.0  # one number that is always the same
    noise = random.normal(0, 2.0, count)
    return latent, latent @ np.array([1.0, -0.3, 4.0, 0.0, 0.0, 7.0]) + noise


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 50), st.sampled_from([3, 5, 40]))
def test_the_closed_form_is_what_scikit_learn_finds(seed, count):
    (latent, target), (val, val_target) = latents(seed, count), latents(seed + 100, 20)
    penalties = (0.01, 1.0, 30.0, 1000.0)
    found = fit_ridge(latent, target, val, val_target, penalties)
    oracles = {
        penalty: make_pipeline(StandardScaler(), Ridge(penalty)).fit(latent, target)
        for penalty in penalties
    }
    errors = {p: mean_absolute_error(val_target, o.predict(val)) for p, o in oracles.items()}
    assert found.penalty == min(errors, key=errors.get)
    assert found.val_mae == pytest.approx(min(errors.values()))
    np.testing.assert_allclose(found.predict(val), oracles[found.penalty].predict(val), rtol=1e-7)
    assert found.trained_on == count


def test_latents_are_those_of_the_model_and_refused_crystals_have_none(tmp_path):
    model = api.Model(StandIn(max_atoms=8), "cpu", 4)
    large = Structure(Lattice.cubic(9), ["Na"] * 9, np.arange(27).reshape(9, 3) / 27)
    rows = [Row("large", large, {"soft": 1.0}, "made")]
    packed = PackedSet.join([crystals(0, 5), PackedSet.from_rows(rows)])
    values, reasons = latents_of(model, packed, 4)
    expected = model.encode(packed.batch(range(5)))
    torch.testing.assert_close(torch.from_numpy(values[:5]), expected.double())
    assert np.isnan(values[5]).all()
    assert reasons == [None] * 5 + ["it has 9 atoms, and the model holds up to 8"]


def test_a_conditional_model_is_not_told_the_property():
    seen = []

    class Conditional(StandIn):
        condition_property = "soft"

        def encode(self, crystals: Any) -> Any:
            seen.append(crystals.properties.get("soft"))
            return super().encode(crystals)

    latents_of(api.Model(Conditional(), "cpu", 4), crystals(0, 5), 4)
    assert all(told is None or told.isnan().all() for told in seen)
    assert any(told is not None for told in seen)


# errors


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 5))
def test_errors_are_those_of_scikit_learn_with_the_mean_for_what_is_missing(seed, missing):
    random = np.random.default_rng(seed)
    truth, predicted = random.normal(size=(2, 12))
    predicted[:missing] = np.nan
    mean = 0.3
    scored = np.where(np.isfinite(predicted), predicted, mean)
    found = property_metrics(truth, predicted, mean, bootstrap=50, seed=0)
    mae = mean_absolute_error(truth, scored)
    assert found["mae"]["value"] == pytest.approx(mae)
    assert found["rmse"]["value"] == pytest.approx(mean_squared_error(truth, scored) ** 0.5)
    assert found["r2"]["value"] == pytest.approx(r2_score(truth, scored))
    of_mean = mean_absolute_error(truth, np.full(12, mean))
    assert found["mae_share"]["value"] == pytest.approx(100 * mae / of_mean)
    for name in ("mae", "rmse"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found["r2"]["low"] < found["r2"]["high"]


def test_a_perfect_predictor_has_no_error_and_the_mean_its_own():
    truth = np.array([1.0, 2.0, 6.0])
    perfect = property_metrics(truth, truth, 5.0, 0, 0)
    assert [perfect[k]["value"] for k in ("mae", "mae_share", "rmse", "r2")] == [0, 0, 0, 1]
    nothing = property_metrics(truth, np.full(3, np.nan), 5.0, 0, 0)
    assert nothing["mae_share"]["value"] == 100
    assert nothing["mae"]["value"] == pytest.approx((4 + 3 + 1) / 3)


# the data


def test_data_without_the_property_are_refused_in_one_sentence(files, tmp_path):
    PropertySets.read("soft", **files)
    with pytest.raises(InputError, match=r"train.nesf: .*no property hard; .*numbers: soft, other"):
        PropertySets.read("hard", **files)
    crystals(7, 8, missing=3).save(tmp_path / "holes.nesf")
    holes = [str(tmp_path / "holes.nesf")]
    with pytest.raises(
        InputError, match=r"3 of the 8 crystals .* the first is 7-0; leave them out"
    ):
        PropertySets.read("soft", **{**files, "test": holes})
    sets = PropertySets.read("soft", **{**files, "train": holes})  # to learn from, five are enough
    known = sets.train.numbers("soft")[3:]
    assert sets.mean == pytest.approx(known.mean())
    with pytest.raises(InputError, match=r"8 ids of .*test.nesf are in"):
        PropertySets.read("soft", **{**files, "train": files["test"]})


# who may take part


def saved(path: Path, module: torch.nn.Module, class_path: str, arguments: dict[str, Any]) -> str:
    model = {"class_path": class_path, "init_args": arguments}
    save_model(path, model, module.state_dict(), {})
    return str(path)


@pytest.fixture
def models(tmp_path) -> dict[str, dict[str, Any]]:
    arguments: dict[str, Any] = {"properties": ["soft"], "width": 4, "hidden_width": 4}
    fit = {"model": {"init_args": {"model": {"class_path": "nesf.autoencoder.NeSF"}}}}
    (tmp_path / "nesf.yaml").write_text(yaml.safe_dump(fit))
    network = CGCNN(**arguments)
    return {
        "cgcnn": {
            "weights": saved(
                tmp_path / "cgcnn.safetensors",
                network,
                "baselines.voxel_icsg3d.cgcnn.CGCNN",
                network.init_args,
            )
        },
        "nesf": {"config": str(tmp_path / "nesf.yaml")},
        "exact": {
            "weights": saved(
                tmp_path / "exact.safetensors", StandIn(), "stand_in_model.StandIn", {}
            ),
            "trusted_prefixes": ["stand_in_model."],
        },
    }


@pytest.mark.parametrize(
    ("part", "name", "more", "said"),
    [
        ({}, "cgcnn", {}, "cgcnn is a CGCNN, which gives no crystals back; .* kind: properties"),
        ({"target": "soft"}, "nesf", {}, "nesf is a NeSF, which predicts no property; .*latent:"),
        ({"target": "soft"}, "exact", {}, "exact is a StandIn, which predicts no property"),
        ({"target": "soft"}, "cgcnn", {"latent": True}, "a CGCNN, which has no latent"),
        ({"target": "other"}, "cgcnn", {}, "cgcnn predicts soft and not other"),
        ({"target": "hard"}, "cgcnn", {}, "predicts soft and not hard"),
        ({"target": "hard"}, "nesf", {"latent": True}, "train.nesf: .*no property hard; they have"),
        ({"target": ""}, "cgcnn", {}, r"parts\[0\]: target is missing"),
        ({"kind": "reconstruction", "target": "x"}, "nesf", {}, "target belongs to kind: prop"),
        ({}, "nesf", {"latent": True}, "latent of the model nesf belongs to kind: properties"),
        ({"target": "soft", "growth": {"crystals": 3}}, "cgcnn", {}, "growth belongs to kind: rec"),
    ],
)
def test_a_model_of_the_other_kind_ends_it_before_anything_is_trained(
    files, models, tmp_path, capsys, part, name, more, said
):
    if "target" in part:
        part = {"kind": "properties", **part}
    one = {"name": "p", "data": files, "models": [{"name": name, **models[name], **more}], **part}
    plan = {"output": str(tmp_path / "out"), "device": "cpu", "parts": [one]}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    assert main(["compare", f"--config={path}"]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error), error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
