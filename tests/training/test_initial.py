"""A training that begins with another model's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nesf.autoencoder import NeSF
from nesf.checkpoint import save_model
from nesf.errors import CheckpointError
from nesf.training import FieldTraining

SHAPE = {"latent_dim": 8, "max_atoms": 4, "encoder_width": 8, "position_widths": [8, 8],
         "species_widths": [8]}  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    path = tmp_path / "model.safetensors"
    model = NeSF(**SHAPE)
    config = {"class_path": "nesf.autoencoder.NeSF", "init_args": model.init_args}
    save_model(path, config, model.state_dict())
    return path


def test_begins_with_the_weights(weights: Path) -> None:
    module = FieldTraining(NeSF(**SHAPE), initial=str(weights))
    torch.manual_seed(5)
    expected = NeSF(**SHAPE).state_dict()
    name = "position_decoder.mlp.enter.weight"
    assert not torch.equal(module.model.state_dict()[name], expected[name])
    module.setup("fit")
    for name, value in module.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
        assert value.dtype == expected[name].dtype


def test_another_shape_is_refused(weights: Path) -> None:
    module = FieldTraining(NeSF(**{**SHAPE, "latent_dim": 9}), initial=str(weights))
    with pytest.raises(CheckpointError, match=r"model\.safetensors do not fit this model"):
        module.setup("fit")
    with pytest.raises(CheckpointError, match="nowhere"):
        FieldTraining(NeSF(**SHAPE), initial="nowhere").setup("fit")
