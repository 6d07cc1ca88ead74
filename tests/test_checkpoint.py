"""Model files: they come back exactly, or they are refused in one sentence."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from ordinary_user import read_only_folder
from stand_in_model import Table

from nesf import checkpoint, model_file
from nesf.atomic import atomic_write
from nesf.checkpoint import (
    ModelFile,
    find_model,
    load_model,
    model_entry,
    read_model,
    save_model,
    sidecar_path,
)
from nesf.checkpoint_io import AtomicCheckpointIO
from nesf.errors import CheckpointError
from nesf.sealed import load_sealed, save_sealed

TRUSTED = ("stand_in_model.",)
CONFIG = {"class_path": "stand_in_model.Table", "init_args": {"width": 16}}


def lightning_checkpoint(model: torch.nn.Module, config: dict | None = None) -> dict:
    config = config or CONFIG
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    return {
        "nesf": model_entry(config["class_path"], config["init_args"]),
        "state_dict": state,
        "epoch": 3,
        "global_step": 70,
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
    }


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and torch.equal(left[k], right[k]) for k in left
    )


@pytest.fixture
def model() -> Table:
    torch.manual_seed(0)
    return Table()


@pytest.fixture
def shared_file(tmp_path, model) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, CONFIG, model.state_dict(), {"data": "lcs6", "seed": 1})
    return path


@pytest.fixture
def lightning_file(tmp_path, model) -> Path:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(lightning_checkpoint(model), path)
    return path


def one_sentence(error: pytest.ExceptionInfo[CheckpointError], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message


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
    loaded = load_model(Path(__file__).parent / "formats" / name, trusted_prefixes=TRUSTED)
    assert loaded.count.item() == 3
    expected = torch.arange(4.0).reshape(2, 2) / 4
    assert torch.equal(loaded.first.weight, expected)
    assert torch.equal(loaded.second.weight, expected)
    assert loaded.short.dtype == torch.bfloat16


# -- writing


def disk_is_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("place", "name", "failure", "expected"),
    [(os, "fsync", disk_is_full, OSError), (Path, "replace", interrupt, KeyboardInterrupt)],
)
def test_failed_save_keeps_the_old_file(
    tmp_path, lightning_file, monkeypatch, place, name, failure, expected
):
    before = lightning_file.read_bytes()
    monkeypatch.setattr(place, name, failure)
    with pytest.raises(expected) as caught:
        AtomicCheckpointIO().save_checkpoint({"epoch": 4}, lightning_file)
    if isinstance(caught.value, OSError):
        assert caught.value.filename == str(lightning_file)
    assert lightning_file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_full_disk_is_an_error(tmp_path, lightning_file):
    """A real one: the kernel lets no file of this process grow beyond 10 kB."""
    before = lightning_file.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            AtomicCheckpointIO().save_checkpoint({"w": torch.zeros(10_000)}, lightning_file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert error.value.filename == str(lightning_file)
    assert lightning_file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_read_only_folder_is_an_error(lightning_file):
    with read_only_folder(lightning_file) as folder:
        path = folder / lightning_file.name
        with pytest.raises(PermissionError) as error:
            AtomicCheckpointIO().save_checkpoint({"epoch": 4}, path)
        assert error.value.filename == str(path)
        assert AtomicCheckpointIO().load_checkpoint(path)["epoch"] == 3


def test_killed_save_leaves_the_old_file_and_is_tidied(tmp_path, lightning_file):
    program = (
        "import sys, time\n"
        "from nesf.atomic import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n"
        "    file.write(b'half')\n"
        "    file.flush()\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    before = lightning_file.read_bytes()
    child = subprocess.Popen(
        [sys.executable, "-c", program, lightning_file], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "writing\n"
    (temporary,) = tmp_path.glob(".*.tmp")
    with atomic_write(lightning_file) as file:  # a living writer's file is left alone
        file.write(before)
    assert temporary.exists()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert lightning_file.read_bytes() == before
    assert temporary.exists()
    AtomicCheckpointIO().save_checkpoint({"epoch": 9}, lightning_file)
    assert not temporary.exists()
    assert load_sealed(lightning_file) == {"epoch": 9}


def test_remove_checkpoint(tmp_path, lightning_file):
    (tmp_path / ".last.ckpt.00000000.tmp").write_bytes(b"left by a killed run")
    (tmp_path / ".other.ckpt.00000000.tmp").write_bytes(b"another file's")
    AtomicCheckpointIO().remove_checkpoint(lightning_file)
    AtomicCheckpointIO().remove_checkpoint(lightning_file)
    assert [p.name for p in tmp_path.iterdir()] == [".other.ckpt.00000000.tmp"]


def test_unsafe_load_is_refused(lightning_file):
    with pytest.raises(ValueError, match="weights_only"):
        AtomicCheckpointIO().load_checkpoint(lightning_file, weights_only=False)


def test_saving_is_quick(tmp_path):
    """40 MB, sealed and flushed, without reading it back: seconds would stall training."""
    started = time.perf_counter()
    save_sealed({"w": torch.zeros(10_000_000)}, tmp_path / "x.ckpt")
    assert load_sealed(tmp_path / "x.ckpt")["w"].shape == (10_000_000,)
    assert time.perf_counter() - started < 10
