"""Model files that are damaged, foreign or hostile are refused in one sentence."""

from __future__ import annotations

import pickle
import random
import re
import zipfile
from pathlib import Path

import pytest
import torch
from model_files import CONFIG, TRUSTED, lightning_checkpoint, one_sentence, same_weights

from nesf.checkpoint import load_model, model_entry, save_model, sidecar_path
from nesf.checkpoint_io import AtomicCheckpointIO
from nesf.errors import CheckpointError


def flip(path: Path, position: int, bit: int) -> bytes:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    return bytes(data)


def refused_or_same(path: Path, model: torch.nn.Module) -> bool:
    """Whether the file is refused; if it loads instead, it must be the true model."""
    try:
        loaded = load_model(path, trusted_prefixes=TRUSTED)
    except CheckpointError:
        return True
    assert same_weights(loaded, model), f"{path} loaded with wrong weights"
    return False


@pytest.mark.parametrize("file", ["shared_file", "lightning_file"])
def test_every_flipped_bit_is_refused(file, model, tmp_path, request):
    good = request.getfixturevalue(file)
    rng = random.Random(0)
    size = good.stat().st_size
    bad = tmp_path / f"bad{good.suffix}"  # without a sidecar: the file's own checksum must do
    refused = 0
    for _ in range(200):
        bad.write_bytes(flip(good, rng.randrange(size), rng.randrange(8)))
        refused += refused_or_same(bad, model)
    assert refused >= 199


def test_flipped_bits_of_plain_torch_files_are_never_wrong_weights(tmp_path, model):
    """Files without our seal are held to the CRCs of the zip archive."""
    good, bad = tmp_path / "good.ckpt", tmp_path / "bad.ckpt"
    torch.save(lightning_checkpoint(model), good)
    assert same_weights(load_model(good, trusted_prefixes=TRUSTED), model)
    rng = random.Random(1)
    refused = 0
    with zipfile.ZipFile(good) as archive:
        records = [(i.header_offset + 300, i.file_size) for i in archive.infolist()]
    start, length = max(records, key=lambda record: record[1])
    for _ in range(100):
        bad.write_bytes(flip(good, start + rng.randrange(length - 300), rng.randrange(8)))
        refused += refused_or_same(bad, model)
    assert refused == 100
    # the archive's directory: anywhere, and the bit that makes a reader skip a record's content
    size, directory = good.stat().st_size, zipfile.ZipFile(good).start_dir
    data = good.read_bytes()
    places = [(rng.randrange(directory, size), rng.randrange(8)) for _ in range(150)]
    places += [(m.start() + 38, 4) for m in re.finditer(b"PK\x01\x02", data)]
    for position, bit in places:
        bad.write_bytes(flip(good, position, bit))
        refused_or_same(bad, model)


def test_flips_in_the_weights_are_caught_with_and_without_sidecar(shared_file, model, tmp_path):
    damaged = flip(shared_file, shared_file.stat().st_size - 10, 2)
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(alone, trusted_prefixes=TRUSTED)
    shared_file.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.sha256"):
        load_model(shared_file, trusted_prefixes=TRUSTED)


@pytest.mark.parametrize("file", ["shared_file", "lightning_file"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated(file, kept, request):
    path = request.getfixturevalue(file)
    sidecar_path(path).unlink(missing_ok=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(CheckpointError) as error:
        load_model(path, trusted_prefixes=TRUSTED)
    one_sentence(error, path.name)


class Trap:
    """Leaves a file behind if its pickle is ever run."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_code_in_a_pickle_is_not_run(tmp_path, model):
    mark = tmp_path / "code_ran"
    plain = tmp_path / "plain.ckpt"
    plain.write_bytes(pickle.dumps(Trap(mark)))
    legacy = tmp_path / "legacy.ckpt"
    torch.save(Trap(mark), legacy, _use_new_zipfile_serialization=False)
    inside = tmp_path / "inside.ckpt"
    torch.save({**lightning_checkpoint(model), "extra": Trap(mark)}, inside)
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(inside.read_bytes())
    for path in (plain, legacy, inside, renamed):
        with pytest.raises(CheckpointError) as error:
            load_model(path, trusted_prefixes=TRUSTED)
        one_sentence(error, str(path))
        assert not mark.exists()


def test_objects_are_refused_when_saving(tmp_path):
    with pytest.raises(TypeError, match="PosixPath"):
        AtomicCheckpointIO().save_checkpoint({"folder": Path("x")}, tmp_path / "x.ckpt")
    with pytest.raises(TypeError):
        model_entry("nesf.autoencoder.NeSF", {"path": Path("x")})
    assert not list(tmp_path.iterdir())


def test_packages_can_be_trusted_by_the_environment(tmp_path, model, monkeypatch):
    path = tmp_path / "mine.safetensors"
    save_model(path, CONFIG, model.state_dict())
    with pytest.raises(CheckpointError, match=r"set NESF_TRUSTED_PACKAGES=stand_in_model$"):
        load_model(path)
    monkeypatch.setenv("NESF_TRUSTED_PACKAGES", "other, stand_in_model.")
    load_model(path)
    monkeypatch.setenv("NESF_TRUSTED_PACKAGES", "stand_in, .")
    with pytest.raises(CheckpointError, match="not of a trusted package"):
        load_model(path)


@pytest.mark.parametrize(
    ("class_path", "words"),
    [
        ("os.system", "not of a trusted package"),
        ("nesf_evil.Model", "not of a trusted package"),
        ("torch.nn.Linear", "not of a trusted package"),
        ("nesf.checkpoint.Path", "not of a trusted package"),  # merely imported there
        ("nesf.checkpoint.load_model", "not of a trusted package"),
        ("nesf.errors.InputError", "neither a model nor"),
        ("nesf.fields.CrystalFields", "do not fit"),
        ("nesf.crystal.Nothing", "does not exist"),
        ("nesf.nothing.Nothing", "does not exist"),
        ("nesf.", "does not exist"),
        ("nesf", "not of a trusted package"),
        ("stand_in_model.Table", "not of a trusted package"),  # unless its caller says so
    ],
)
def test_only_trusted_classes_are_built(tmp_path, model, class_path, words):
    path = tmp_path / "m.safetensors"
    save_model(path, {"class_path": class_path, "init_args": {}}, model.state_dict())
    with pytest.raises(CheckpointError, match=words) as error:
        load_model(path)
    one_sentence(error, str(path))


def test_arguments_and_weights_that_do_not_fit(tmp_path, model):
    path = tmp_path / "m.safetensors"
    for init_args, words in [
        ({"width": 16, "depth": 3}, "depth"),
        ({"width": 0}, "at least 1"),
        ({"width": 8}, "first.weight"),
    ]:
        save_model(path, {**CONFIG, "init_args": init_args}, model.state_dict())
        with pytest.raises(CheckpointError, match=words) as error:
            load_model(path, trusted_prefixes=TRUSTED)
        one_sentence(error, str(path))
    AtomicCheckpointIO().save_checkpoint(
        {**lightning_checkpoint(model), "state_dict": {"model.a": 1}}, tmp_path / "m.ckpt"
    )
    with pytest.raises(CheckpointError, match="incomplete"):
        load_model(tmp_path / "m.ckpt")


def test_foreign_files(tmp_path, model):
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6"}, foreign)
    bare = tmp_path / "bare.ckpt"
    torch.save(torch.zeros(3), bare)
    text = tmp_path / "config.yaml"
    text.write_text("model: nesf\n")
    weights = tmp_path / "foreign.safetensors"
    import safetensors.torch

    safetensors.torch.save_file({"w": torch.zeros(3)}, weights)
    for path in (foreign, bare, text, weights, tmp_path / "missing.ckpt"):
        with pytest.raises(CheckpointError) as error:
            load_model(path)
        one_sentence(error, str(path))
