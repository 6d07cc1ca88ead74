"""A model in a file, and readers without worker processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from parsed_here import parse_here
from stand_in_model import StandIn

from nesf import model_config
from nesf.checkpoint import save_model


@pytest.fixture(autouse=True)
def parsed_here(monkeypatch) -> None:
    """No worker processes."""
    parse_here(monkeypatch)


@pytest.fixture
def model_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(model_config, "TRUSTED_PREFIXES", ("nesf.", "stand_in_model."))
    path = tmp_path / "model.safetensors"
    config = {"class_path": "stand_in_model.StandIn", "init_args": {}}
    save_model(path, config, StandIn().state_dict())
    return path
