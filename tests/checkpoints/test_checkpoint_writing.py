"""Checkpoints are written whole or not at all, whatever goes wrong."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ordinary_user import read_only_folder

from nesf.atomic import atomic_write
from nesf.checkpoint_io import AtomicCheckpointIO
from nesf.sealed import load_sealed, save_sealed


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
