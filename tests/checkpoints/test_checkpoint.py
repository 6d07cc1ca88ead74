"""Model files come back exactly, by path or name, whatever format they were written in."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import pytest
import torch
from model_files import CONFIG, TRUSTED, one_sentence, same_weights
from stand_in_model import Table

from nesf import checkpoint, model_file
from nesf.checkpoint import ModelFile, find_model, load_model, read_model, save_model, sidecar_path
from nesf.checkpoint_io import AtomicCheckpointIO
from nesf.errors import CheckpointError


def test_safetensors_round_trip(shared_file, model):
    loaded = load_model(shared_file, trusted_prefixes=TRUSTED)
    assert same_weights(loaded, model)
    assert not loaded.training
    assert read_model(shared_file).metadata == {"data": "lcs6", "seed": 1}
    listed, name = sidecar_path(shared_file).read_text().split()
    assert listed == hashlib.sha256(shared_file.read_bytes()).hexdigest()
    assert name == "model.safetensors"


def test_lightning_round_trip(lightning_file, model):
    assert same_weights(load_model(lightning_file, trusted_prefixes=TRUSTED), model)
    assert read_model(lightning_file).metadata == {"epoch": 3, "global_step": 70}
    assert AtomicCheckpointIO().load_checkpoint(lightning_file)["global_step"] == 70
    # still an ordinary file to torch and zip tools
    assert torch.load(lightning_file, weights_only=True)["epoch"] == 3
    assert zipfile.ZipFile(lightning_file).testzip() is None


def test_nested_arguments(tmp_path):
    config = {"class_path": "stand_in_model.Table", "init_args": {"inner": CONFIG}}
    model = Table(inner=Table())
    save_model(tmp_path / "m.safetensors", config, model.state_dict())
    assert same_weights(load_model(tmp_path / "m.safetensors", trusted_prefixes=TRUSTED), model)


def test_run_folder_prefers_the_final_model(tmp_path, model, shared_file):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="holds no model") as error:
        find_model(run)
    one_sentence(error, str(run), "best.ckpt")
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "model.safetensors"):
        (run / name).write_bytes(b"x")
        assert find_model(run) == run / name


def test_shipped_names(tmp_path, monkeypatch, shared_file):
    monkeypatch.setattr(checkpoint, "WEIGHTS_FOLDER", tmp_path)
    assert find_model("model") == shared_file
    with pytest.raises(CheckpointError) as error:
        find_model("modle")
    one_sentence(error, "modle", "(model)")
    sidecar_path(shared_file).unlink()
    with pytest.raises(CheckpointError, match="sha256 is missing"):
        find_model("model")


def test_newer_and_older_formats(tmp_path, model, monkeypatch):
    path = tmp_path / "m.safetensors"
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 7)
    save_model(path, CONFIG, model.state_dict())
    assert read_model(path).format_version == 7
    monkeypatch.setattr(model_file, "FORMAT_VERSION", 6)
    with pytest.raises(CheckpointError, match="format 7") as error:
        read_model(path)
    one_sentence(error, "upgrade nesf")

    monkeypatch.setattr(model_file, "FORMAT_VERSION", 9)
    with pytest.raises(CheckpointError, match="no longer read"):
        read_model(path)

    def widen(old: ModelFile) -> ModelFile:
        return dataclasses.replace(old, metadata={"steps": old.metadata.get("steps", 0) + 1})

    monkeypatch.setattr(model_file, "UPGRADES", {7: widen, 8: widen})
    content = read_model(path)
    assert (content.format_version, content.metadata) == (9, {"steps": 2})
    assert same_weights(load_model(path, trusted_prefixes=TRUSTED), model)


def test_upgrades_reach_the_current_format():
    oldest = min(model_file.UPGRADES, default=model_file.FORMAT_VERSION)
    assert set(model_file.UPGRADES) == set(range(oldest, model_file.FORMAT_VERSION))


@pytest.mark.parametrize("name", ["format_1.safetensors", "format_1.ckpt"])
def test_stored_files_of_old_formats_still_load(name):
    """The files were written when their format was current and are never written anew."""
    loaded = load_model(Path(__file__).parents[1] / "formats" / name, trusted_prefixes=TRUSTED)
    assert loaded.count.item() == 3
    expected = torch.arange(4.0).reshape(2, 2) / 4
    assert torch.equal(loaded.first.weight, expected)
    assert torch.equal(loaded.second.weight, expected)
    assert loaded.short.dtype == torch.bfloat16
