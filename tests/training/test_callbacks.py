"""What the callbacks keep, whatever their order among the others."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from nesf.autoencoder import NeSF
from nesf.callbacks import (
    BestCheckpoint,
    FieldPictures,
    FinishedModel,
    LastCheckpoint,
)
from nesf.checkpoint_io import AtomicCheckpointIO
from nesf.data.module import CrystalData
from nesf.errors import InputError
from nesf.progress_lines import ProgressLines
from nesf.queries import CellQueries
from nesf.training import FieldTraining, OptimizerOptions

EPOCHS = 3


class Losses(Callback):
    """Makes up validation losses."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def on_validation_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        module.log("val/made_up", self.values[trainer.current_epoch], on_epoch=True, batch_size=1)


def train(data: Path, root: Path, *extra: Callback, epochs: int = EPOCHS) -> lightning.Trainer:
    model = NeSF(
        latent_dim=16, max_atoms=8, encoder_width=64, position_widths=[32], species_widths=[32]
    )
    trainer = lightning.Trainer(
        default_root_dir=root,
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_model_summary=False,
        enable_progress_bar=any(isinstance(callback, ProgressLines) for callback in extra),
        callbacks=list(extra),
        logger=TensorBoardLogger(root, name="tensorboard", version=""),
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(
        FieldTraining(
            model,
            CellQueries(uniform=8, near=8, species=8),
            optimizer=OptimizerOptions(kind="adamw", warmup_steps=1, lr=1e-2),
            reconstruct_every=0,
        ),
        CrystalData([str(data / "train.nesf")], [str(data / "val.nesf")], 16, val_batch_size=16),
    )
    return trainer


def test_the_best_and_the_averaged_weights_are_kept(tiny_data: Path, tmp_path: Path) -> None:
    said = io.StringIO()
    best = BestCheckpoint("val/made_up")
    with redirect_stdout(said):
        trainer = train(
            tiny_data,
            tmp_path,
            FinishedModel(),  # before what it must come after
            FieldPictures(every=2, crystals=2),
            best,
            LastCheckpoint(every_steps=2),
            EMAWeightAveraging(decay=0.5),
            Losses([2.0, 1.0, 3.0]),
            ProgressLines(interval_s=0.0),
        )
    assert said.getvalue().count("epoch ") == EPOCHS
    assert best.best == 1.0

    saved = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["epoch"] == 1
    weights = load_file(tmp_path / "model.safetensors")
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == trainer.global_step == 9
    for name, tensor in weights.items():  # the average, and not what was trained last
        torch.testing.assert_close(last["state_dict"][f"model.{name}"], tensor)
    trained = last["current_model_state"]
    assert any(not torch.equal(trained[f"model.{name}"], t) for name, t in weights.items())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["images"]) == {"fields/0", "fields/1"}
    assert [event.step for event in events.Images("fields/0")] == [6]


def test_pictures_are_of_the_averaged_weights(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    encode = NeSF.encode

    def spy(self: NeSF, crystals: Any) -> Tensor:
        if len(crystals) == 1:  # the pictures' only crystal
            seen.append(self.cell_head[0].weight.clone())
        return encode(self, crystals)

    monkeypatch.setattr(NeSF, "encode", spy)
    average = EMAWeightAveraging(decay=0.9)
    train(tiny_data, tmp_path, average, FieldPictures(every=1, crystals=1), epochs=1)
    weights = average._average_model.module.model.cell_head[0].weight
    assert len(seen) == 1
    assert torch.equal(seen[0], weights)


def test_a_loss_that_nobody_logs(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot watch val/lost; there are .*val/loss"):
        train(tiny_data, tmp_path, BestCheckpoint("val/lost"), epochs=1)


def test_time_goes_on_counting() -> None:
    first = FinishedModel()
    first.load_state_dict({"wall_s": 100.0, "cpu_s": 50.0})
    first.on_train_start(lightning.Trainer(logger=False, accelerator="cpu"), None)
    wall, cpu = first.spent()
    assert 100.0 <= wall < 110.0
    assert 50.0 <= cpu < 60.0
    second = FinishedModel()
    second.load_state_dict(first.state_dict())
    assert second.wall_s >= wall
