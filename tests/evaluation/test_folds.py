"""Cross-validation: every fold is trained on its own ids, scored on its own, and done once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from crystals import random_crystals

from eval.folds import command, cut_out, main, over_folds, read_folds
from nesf.data.packed import PackedSet
from nesf.errors import InputError


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folds") / "all.nesf"
    PackedSet.from_batch(random_crystals(0, 6, max_atoms=2)).save(path)
    return path


def folds_file(folder: Path, folds: object) -> Path:
    path = folder / "folds.json"
    path.write_text(json.dumps(folds))
    return path


def test_the_parts_hold_the_ids_of_the_fold(data: Path, tmp_path: Path) -> None:
    fold = {"train": ["5", "0", "2"], "val": ["1"], "test": ["4", "3"]}
    files = cut_out(PackedSet.load(data), fold, tmp_path / "a" / "b")
    for part, ids in fold.items():
        assert list(PackedSet.load(files[part]).ids) == ids
    with pytest.raises(InputError, match="nine"):
        cut_out(PackedSet.load(data), {**fold, "val": ["nine"]}, tmp_path)


@pytest.mark.parametrize(
    ("folds", "complaint"),
    [
        ({}, "no list of folds"),
        ([], "no list of folds"),
        ([{"train": ["1"], "val": ["2"]}], "fold 0 .* needs ids"),
        ([{"train": ["1"], "val": ["2"], "test": []}], "fold 0 .* needs ids"),
        ([{"train": ["1"], "val": ["2"], "test": ["1"]}], "in two of its parts"),
    ],
)
def test_folds_that_are_none(folds: object, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=complaint):
        read_folds(folds_file(tmp_path, folds))
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_folds(tmp_path / "missing.json")


def test_means_over_folds() -> None:
    def result(**values: float | None) -> dict[str, object]:
        return {"metrics": {name: {"value": value} for name, value in values.items()}}

    found = over_folds([result(a=1.0, b=None), result(a=3.0, b=5.0), result(a=8.0, b=None)])
    assert found["a"] == {"mean": 4.0, "std": pytest.approx(13**0.5), "folds": 3}
    assert found["b"] == {"mean": 5.0, "std": 0.0, "folds": 1}


def test_an_interrupt_is_one_line_and_keeps_what_is_done(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fold = {"train": ["0", "1", "2"], "val": ["3"], "test": ["4", "5"]}
    folds = folds_file(tmp_path, [fold, fold])
    finished = tmp_path / "runs" / "fold00" / "metrics.json"
    finished.parent.mkdir(parents=True)
    finished.write_text('{"metrics": {"a": {"value": 2.0}}}')

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    words = ["x.yaml", str(data), str(folds), str(tmp_path / "runs")]
    with monkeypatch.context() as patch:
        patch.setattr("eval.folds.run_child", stopped)
        assert command(words) == 130
    out, err = capfd.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "eval.folds: interrupted; call it again to go on"
    # the first fold was not touched, and the second is what is left to do
    assert finished.is_file()
    assert not (tmp_path / "runs" / "fold01" / "metrics.json").exists()
    (tmp_path / "runs" / "fold01" / "metrics.json").write_text(finished.read_text())
    assert command(words) == 0
    assert "2.0000" in capfd.readouterr().out
    assert command(["x.yaml", str(data), str(tmp_path / "none"), str(tmp_path)]) == 2
    assert capfd.readouterr().err.startswith("eval.folds: ")


def test_a_fold_is_trained_and_scored_once(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = {"train": ["0", "1", "2"], "val": ["3"], "test": ["4", "5"]}
    folds = folds_file(tmp_path, [fold, {**fold, "test": ["5"]}])
    config = Path(__file__).parents[2] / "configs" / "nesf" / "finetune.yaml"
    small = {"latent_dim": 8, "encoder_width": 8, "position_widths": [8], "species_widths": [8]}
    shape = [f"--model.model.{name}={value}" for name, value in small.items()]
    arguments = [
        *(str(config), str(data), str(folds), str(tmp_path / "runs")),
        *("--json", str(tmp_path / "means.json"), "--"),
        *("--model.initial=null", "--trainer.max_steps=2", "--trainer.val_check_interval=1"),
        *("--trainer.callbacks=[{class_path: nesf.callbacks.FinishedModel}]", *shape),
    ]
    assert main(arguments) == 0
    means = json.loads((tmp_path / "means.json").read_text())
    assert means["folds"] == 2
    each = [
        json.loads((tmp_path / "runs" / name / "metrics.json").read_text())
        for name in ("fold00", "fold01")
    ]
    assert [one["counts"]["reference"] for one in each] == [2, 1]
    wrong = [one["metrics"]["wrong_count"]["value"] for one in each]
    assert means["metrics"]["wrong_count"]["mean"] == pytest.approx(sum(wrong) / 2)
    trained = (tmp_path / "runs" / "fold00" / "training.json").stat().st_mtime_ns
    (tmp_path / "runs" / "fold01" / "metrics.json").unlink()
    assert main(arguments) == 0
    assert (tmp_path / "runs" / "fold00" / "training.json").stat().st_mtime_ns == trained
    assert "wrong_count" in capsys.readouterr().out
