"""Crystals to start from, and a model that stands for every other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from generating import salt
from parsed_here import parse_here
from stand_in_model import StandIn

from nesf.api import Model


@pytest.fixture(autouse=True)
def parsed_here(monkeypatch) -> None:
    """No worker processes."""
    parse_here(monkeypatch)


@pytest.fixture
def inputs(tmp_path) -> Path:
    """Four salts, a0 to a3."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i, metal in enumerate(("Na", "K", "Li", "Rb")):
        salt(5 + 0.2 * i, metal).to(filename=str(folder / f"a{i}.cif"))
    return folder


@pytest.fixture
def use(monkeypatch):
    """Let a module stand for every model."""

    def put(module: torch.nn.Module, **_) -> torch.nn.Module:
        monkeypatch.setattr(
            "nesf.api.load", lambda name, device, batch_size: Model(module, device, batch_size)
        )
        return module

    put(StandIn())
    return put
