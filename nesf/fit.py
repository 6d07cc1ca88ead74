"""`nesf fit`: LightningCLI with this package's defaults."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from nesf.atomic import atomic_write
from nesf.checkpoint_io import AtomicCheckpointIO
from nesf.errors import InputError
from nesf.precision import has_fast_bfloat16

LAST = "checkpoints/last.ckpt"


class SaveConfig(SaveConfigCallback):
    """Writes the run's whole configuration to `config.yaml` in its folder, atomically."""

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Write the file before training starts."""
        if trainer.is_global_zero and not self.already_saved:
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            text = self.parser.dump(self.config, skip_none=False, skip_validation=True)
            with atomic_write(folder / "config.yaml") as file:
                file.write(text.encode())
            self.already_saved = True


class FitCLI(LightningCLI):
    """LightningCLI whose run folder is `trainer.default_root_dir`, with `--restart`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--restart` and `--threads`."""
        parser.add_argument(
            "--restart",
            type=str,
            choices=("auto", "no"),
            default="no",
            help="auto: go on from the run folder's last checkpoint where there is one",
        )
        parser.add_argument(
            "--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice"
        )

    def before_instantiate_classes(self) -> None:
        """Point logs and checkpoints into the run folder; choose what the hardware can do."""
        config = self.config[self.subcommand]
        trainer = config.trainer
        if trainer.default_root_dir is None:
            raise InputError("name the run folder: trainer.default_root_dir in the config")
        if config.threads:
            torch.set_num_threads(config.threads)
        if trainer.precision == "bf16-mixed" and not has_fast_bfloat16(_kind(trainer.accelerator)):
            print("this hardware has no fast bfloat16: training in float32", flush=True)
            trainer.precision = "32-true"
        last = Path(trainer.default_root_dir) / LAST
        if config.restart == "auto" and config.ckpt_path is None and last.is_file():
            config.ckpt_path = str(last)

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """The trainer, with atomic checkpoints and the logger in the run folder."""
        root = Path(self.config[self.subcommand].trainer.default_root_dir)
        logger = TensorBoardLogger(save_dir=root, name="tensorboard", version="")
        return super().instantiate_trainer(logger=logger, plugins=[AtomicCheckpointIO()], **kwargs)


def fit_command(argv: Sequence[str]) -> None:
    """Train from a config: `nesf fit --config FILE [--trainer.max_epochs N ...]`.

    Args:
        argv: the words after `nesf fit`.

    Raises:
        InputError: the configuration or its data cannot be used.
    """
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # spinning threads starve their neighbours
    FitCLI(
        save_config_callback=SaveConfig,
        trainer_defaults={"callbacks": list[Callback]()},
        args=["fit", *argv],
        seed_everything_default=0,
    )


def _kind(accelerator: str) -> str:
    cuda = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    return "cuda" if cuda else "cpu"
