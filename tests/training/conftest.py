"""A tiny training run, in processes of its own that start quickly."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from crystals import random_crystals
from tiny_run import TRAIN, VAL, Fit, start, tiny_config

from nesf.data.packed import PackedSet


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `train.nesf` and `val.nesf`."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate((("train", TRAIN), ("val", VAL))):
        crystals = random_crystals(seed, count, max_atoms=4)
        ids = tuple(f"{name}-{i}" for i in range(len(crystals)))
        PackedSet.from_batch(crystals.replace(ids=ids)).save(folder / f"{name}.nesf")
    return folder


@pytest.fixture(scope="session")
def forkserver() -> Any:
    """Starts processes that have imported all that a run needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nesf.fit", "nesf.training", "nesf.data.module", "probes"])
    return context


@pytest.fixture
def fit(forkserver: Any, tiny_data: Path, tmp_path: Path) -> Fit:
    """`nesf fit` of the tiny run in a process of its own: `fit(root, *options, probe=...)`."""

    def run(root: Path, *options: str, probe: dict[str, Any] | None = None, **limits: Any) -> Any:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(tiny_config(tiny_data, root, *filter(None, [probe]))))
        return start(forkserver, ["fit", f"--config={path}", *options], tmp_path, **limits)

    return run


@pytest.fixture
def other_file_system() -> Iterator[Path]:
    """A folder on another file system than the temporary folder, where there is one."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None))
    yield folder
    shutil.rmtree(folder)
