"""A small model, its files, and what is asked of them."""

from __future__ import annotations

import pytest
import torch

from nesf.checkpoint import model_entry
from nesf.errors import CheckpointError

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


def one_sentence(error: pytest.ExceptionInfo[CheckpointError], *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    for word in words:
        assert word in message
