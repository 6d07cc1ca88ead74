"""`nesf fit` of a property predictor, and `nesf properties`, on made crystals."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from pymatgen.core import Composition, Lattice, Structure
from pymatgen.io.cif import CifWriter

import nesf
from baselines.voxel_icsg3d.cgcnn import CGCNN
from baselines.voxel_icsg3d.descriptors import element_properties
from baselines.voxel_icsg3d.property_baselines import composition_features, fit_baselines
from baselines.voxel_icsg3d.property_predictions import load_predictor, predict_properties
from nesf.checkpoint import save_model
from nesf.cli import main
from nesf.commands.parts import COLUMNS
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet
from nesf.data.records import Row
from nesf.data.writers import open_writer
from nesf.errors import InputError

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "voxel_icsg3d").glob("cgcnn_*.yaml"))
ELEMENTS = ("Na", "K", "Mg", "Al", "O", "S", "F", "Cl")


def made_rows(seed: int, count: int) -> list[Row]:
    """Two-atom cells with `size`, which is their length, and `seldom`, often unknown."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        length = float(random.uniform(3.0, 6.0))
        pair = random.choice(ELEMENTS, 2, replace=False).tolist()
        structure = Structure(Lattice.cubic(length), pair, [[0, 0, 0], [0.5, 0.5, 0.5]])
        seldom = float(random.normal()) if i % 3 == 0 else float("nan")
        rows.append(
            Row(f"{seed}-{i}", structure, {"size": length, "seldom": seldom, "note": "x"}, "made")
        )
    return rows


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate((("train", 48), ("val", 12), ("test", 20))):
        PackedSet.from_rows(made_rows(seed, count)).save(folder / f"{name}.nesf")
    return folder


class StopAt(Callback):
    """Ends a run after so many steps, in an orderly way."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        trainer.should_stop |= trainer.global_step == self.step


@pytest.fixture(scope="module")
def fit(data):
    """`nesf fit` of 4 epochs of 6 steps."""

    def run(root: Path, *options: str, properties=("size", "seldom"), stop: int = 0) -> int:
        config = yaml.safe_load(CONFIGS[0].read_text())
        config["model"]["init_args"]["model"]["init_args"] |= {
            "properties": list(properties),
            "width": 16,
            "hidden_width": 16,
        }
        config["data"]["init_args"] = {
            "train": [str(data / "train.nesf")],
            "val": [str(data / "val.nesf")],
            "batch_size": 8,
        }
        config["trainer"] |= {
            "default_root_dir": str(root),
            "max_epochs": 4,
            "check_val_every_n_epoch": 2,
            "accelerator": "cpu",
            "enable_progress_bar": False,
        }
        if stop:
            stopping = {"class_path": f"{__name__}.StopAt", "init_args": {"step": stop}}
            config["trainer"]["callbacks"].insert(0, stopping)
        root.parent.mkdir(exist_ok=True)
        path = root.parent / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return main(["fit", f"--config={path}", *options])

    return run


@pytest.fixture(scope="module")
def trained(fit, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("trained") / "run"
    assert fit(root) == 0
    return root


def test_a_run_leaves_a_model_that_knows_its_units(trained, data):
    model = load_predictor(str(trained))
    assert isinstance(model, CGCNN)
    train = PackedSet.load(data / "train.nesf")
    for i, name in enumerate(("size", "seldom")):
        column = train.numbers(name)
        known = column[np.isfinite(column)]
        assert model.target_mean[i].item() == pytest.approx(known.mean(), rel=1e-5)
        assert model.target_scale[i].item() == pytest.approx(known.std(), rel=1e-5)
    lines = [json.loads(line) for line in (trained / "curve.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [2, 4]
    assert {"val/loss", "val/mae_size", "val/mae_seldom"} <= lines[-1].keys()
    told = json.loads((trained / "training.json").read_text())
    assert (told["steps"], told["seed"]) == (24, 0)


def test_the_validation_error_is_that_of_the_saved_model(trained, data):
    """The last line of the curve, computed anew; unknown values left out."""
    model = load_predictor(str(trained))
    val = PackedSet.load(data / "val.nesf")
    values = predict_properties(model, val).values
    line = json.loads((trained / "curve.jsonl").read_text().splitlines()[-1])
    errors = []
    for i, name in enumerate(model.properties):
        error = abs(values[:, i] - val.numbers(name))
        assert line[f"val/mae_{name}"] == pytest.approx(np.nanmean(error), rel=1e-4)
        errors.append(error / model.target_scale[i].item())
    assert line["val/loss"] == pytest.approx(np.nanmean(errors), rel=1e-4)


def test_a_stopped_run_goes_on_as_if_unbroken(fit, trained, tmp_path):
    root = tmp_path / "run"
    assert fit(root, stop=15) == 0
    assert json.loads((root / "training.json").read_text())["steps"] == 15
    assert fit(root, "--restart=auto") == 0
    ours, theirs = (load_predictor(str(folder)).state_dict() for folder in (root, trained))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize(("wrong", "said"), [("weight", "size, seldom"), ("note", "size, seldom")])
def test_a_missing_property_is_one_sentence(fit, tmp_path, capsys, wrong, said):
    assert fit(tmp_path / "run", properties=("size", wrong)) == 2
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"no property {wrong}" in sentence
    assert said in sentence


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configs_name_what_exists(path, tmp_path, capsys):
    """Refused for the data that is not there, and for nothing else."""
    options = [f"--data.train=[{tmp_path / 'none.csv'}]", f"--trainer.default_root_dir={tmp_path}"]
    assert main(["fit", f"--config={path}", *options]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_the_verb_predicts_compares_and_lists(trained, data, tmp_path, capsys):
    rows = made_rows(2, 20)
    table = tmp_path / "in.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif", "size", "seldom"])
        for row in rows:
            writer.writerow([row.id, CifWriter(row.structure), *list(row.properties.values())[:2]])
        writer.writerow(["broken", "data_x\nno crystal", 1.0, 1.0])
        close = Structure(Lattice.cubic(4), ["H", "H"], [[0, 0, 0], [0, 0, 0.05]])
        writer.writerow(["close", CifWriter(close), 1.0, 1.0])
    output, told = tmp_path / "out.csv", tmp_path / "out.json"
    words = [str(table), "--model", str(trained), "--output", str(output), "--batch-size", "7"]
    words += ["--train", str(data / "train.nesf"), "--json", str(told), "--progress", "false"]
    assert main(["properties", *words]) == 1

    rejected = list(csv.DictReader((tmp_path / "out.rejected.csv").open()))
    assert [row["id"] for row in rejected] == ["broken", "close"]
    assert "nearer than" in rejected[1]["reason"]
    written = list(csv.DictReader(output.open()))
    assert [row["id"] for row in written] == [row.id for row in rows]
    model = load_predictor(str(trained))
    alone = predict_properties(model, PackedSet.from_rows(rows)).values
    found = np.array([[float(row["size"]), float(row["seldom"])] for row in written])
    np.testing.assert_allclose(found, alone, rtol=1e-4, atol=1e-5)

    result = json.loads(told.read_text())
    assert result["counts"] == {"predicted": 20, "rejected": 2}
    assert result["ids_in_training"] == 0
    train = PackedSet.load(data / "train.nesf")
    truth = np.array([[row.properties["size"], row.properties["seldom"]] for row in rows])
    for i, (name, count) in enumerate((("size", 20), ("seldom", 7))):
        scores = result["properties"][name]
        known = np.isfinite(truth[:, i])
        assert scores["crystals"] == count == known.sum()
        column = train.numbers(name)[np.isfinite(train.numbers(name))]
        for method, guess in (
            ("cgcnn", alone[:, i]),
            ("mean", column.mean()),
            ("median", np.median(column)),
        ):
            error = abs(guess - truth[:, i])[known]
            mae = scores["mae"][method]
            assert mae["value"] == pytest.approx(error.mean(), rel=1e-4)
            assert error.min() <= mae["low"] < mae["value"] < mae["high"] <= error.max()
    said = capsys.readouterr().out
    assert "| property | crystals | cgcnn | ridge | median | mean |" in said
    assert "20 predicted, 2 rejected" in said


def test_the_verb_without_true_values_only_predicts(trained, tmp_path, capsys):
    table = tmp_path / "one.cif"
    CifWriter(made_rows(5, 1)[0].structure).write_file(table)
    output = tmp_path / "out.csv"
    words = ["properties", str(table), "--model", str(trained), "--output", str(output)]
    assert main(words) == 0
    assert output.read_text().splitlines()[0] == "id,size,seldom"
    assert "error" not in capsys.readouterr().out
    assert main([*words, "--json", str(tmp_path / "none.json")]) == 2
    said = capsys.readouterr().err
    assert "no column of numbers size or seldom" in said
    assert not (tmp_path / "none.json").exists()


def test_generated_crystals_with_a_bad_file_among_them(trained, tmp_path, capsys):
    rows = made_rows(6, 3)
    table, bad, output = (tmp_path / name for name in ("near.csv", "bad.cif", "told.csv"))
    with open_writer(table, columns=COLUMNS) as writer:  # as nesf perturb writes them
        for row in rows:
            writer.write(row.id, row.structure, dict(zip(COLUMNS, (0.9, "true"), strict=True)))
    bad.write_text("data_x\n_cell_length_a ?\n")
    words = ["--model", str(trained), "--output", str(output)]
    assert main(["properties", str(table), str(bad), *words]) == 1
    lines = output.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["id", *(row.id for row in rows)]
    listed = output.with_name(f"{output.stem}.rejected.csv").read_text()
    assert "bad.cif" in listed
    assert "near.csv" not in listed
    said = capsys.readouterr()
    assert "3 predicted, 1 rejected" in said.out
    assert "Traceback" not in said.err
    # nothing can be read: that, and not a missing column, is what is wrong
    assert main(["properties", str(bad), *words, "--json", str(tmp_path / "none.json")]) == 1
    assert "column" not in capsys.readouterr().err
    assert output.read_text().splitlines() == ["id,size,seldom"]
    assert not (tmp_path / "none.json").exists()


def test_the_verb_refuses_other_models_and_outputs(trained, data, tmp_path, capsys):
    path = tmp_path / "other.safetensors"
    other = nesf.autoencoder.NeSF(latent_dim=8, encoder_width=16, position_widths=[8])
    config = {"class_path": "nesf.autoencoder.NeSF", "init_args": other.init_args}
    save_model(path, config, other.state_dict())
    words = ["properties", str(data / "test.nesf")]
    assert main([*words, "--model", str(path), "--output", str(tmp_path / "out.csv")]) == 2
    assert "NeSF, which predicts no properties" in capsys.readouterr().err
    assert main([*words, "--model", str(trained), "--output", str(tmp_path / "out.txt")]) == 2
    assert "give a .csv file" in capsys.readouterr().err


def test_what_cannot_be_predicted_is_refused_and_the_rest_is_not():
    torch.manual_seed(0)
    model = CGCNN(["a"], width=8).eval()
    cells = [Structure(Lattice.cubic(4), ["Na"], [[0, 0, 0]]) for _ in range(4)]
    crystals = CrystalBatch.from_structures(cells)
    lattice = crystals.lattice.clone()
    lattice[1] = torch.nan
    mask = crystals.mask.clone()
    mask[2] = False
    found = predict_properties(model, crystals.replace(lattice=lattice, mask=mask))
    assert np.isfinite(found.values[:, 0]).tolist() == [True, False, False, True]
    assert [bool(reason) for reason in found.refusals] == [False, True, True, False]
    assert found.values[0, 0] == pytest.approx(found.values[3, 0])
    with torch.no_grad():
        model.output.bias.fill_(torch.inf)
    assert predict_properties(model, crystals).refusals == [
        "what is predicted for it is not finite"
    ] * len(crystals)


def test_composition_features_are_those_of_the_formula():
    formulas = ["NaCl", "MgAl2O4", "Fe"]
    numbers, bounds = [], [0]
    for formula in formulas:
        for element, amount in Composition(formula).items():
            numbers += [element.Z] * int(amount)
        bounds.append(len(numbers))
    found = composition_features(np.array(numbers), np.array(bounds))
    facts = element_properties().numpy()
    for row, formula, begin, end in zip(found, formulas, bounds, bounds[1:], strict=False):
        composition = Composition(formula)
        for element in composition:
            assert row[element.Z - 1] == pytest.approx(composition.get_atomic_fraction(element))
        assert row[:94].sum() == pytest.approx(1)
        mine = facts[np.array(numbers[begin:end]) - 1]
        wanted = np.concatenate([mine.mean(0), mine.std(0), mine.min(0), mine.max(0)])
        np.testing.assert_allclose(row[94:], wanted, atol=1e-9)


def test_the_ridge_learns_what_is_linear_in_the_composition():
    """Mean electronegativity, say; the constants are those of the known values."""
    rows = made_rows(0, 60)
    for i, row in enumerate(rows):
        row.properties["soft"] = (
            float("nan") if i == 7 else row.structure.composition.average_electroneg
        )
    train = PackedSet.from_rows(rows)
    unseen = made_rows(9, 20)
    features = composition_features(*numbers_and_bounds(unseen))
    found = fit_baselines(train, "soft", features)
    truth = [row.structure.composition.average_electroneg for row in unseen]
    np.testing.assert_allclose(found.ridge, truth, atol=0.02)
    assert found.trained_on == 59
    assert found.mean == pytest.approx(np.nanmean(train.numbers("soft")))
    with pytest.raises(InputError, match="no property hard"):
        fit_baselines(train, "hard", features)


def numbers_and_bounds(rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    packed = PackedSet.from_rows(rows)
    return packed.atomic_numbers, packed.offsets
