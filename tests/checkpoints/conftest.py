"""A small model and its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_files import CONFIG, lightning_checkpoint
from stand_in_model import Table

from nesf.checkpoint import save_model
from nesf.checkpoint_io import AtomicCheckpointIO


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
