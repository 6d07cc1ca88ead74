"""`nesf fit`: LightningCLI with this package's defaults, and one sentence for what goes wrong."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from nesf.atomic import atomic_write
from nesf.callbacks import LastCheckpoint
from nesf.checkpoint import read_model, sidecar_path
from nesf.checkpoint_io import AtomicCheckpointIO
from nesf.data.module import MissingCrystals
from nesf.errors import CheckpointError, InputError
from nesf.fit_data import refuse_other_data
from nesf.fit_parser import HELP, FitParser, how_made, reason_of, suggestion
from nesf.memory import keep_freed_memory
from nesf.precision import has_fast_bfloat16
from nesf.progress_lines import ProgressLines
from nesf.ranks.stop_together import StopTogether
from nesf.run_folder import BEST, CONFIG, CURVE, LAST, MODEL, TENSORBOARD, TRAINING

TERMINATED = 128 + signal.SIGTERM


class SaveConfig(SaveConfigCallback):
    """Writes the run's whole configuration to `config.yaml` in its folder, atomically."""

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Write the file before training starts."""
        if trainer.is_global_zero and not self.already_saved:
            folder = Path(trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            # how this part of the run was started is not a property of the run
            config = self.config.clone()
            config.restart, config.ckpt_path = "no", None
            text = self.parser.dump(config, skip_unset=False, skip_validation=True)
            with atomic_write(folder / CONFIG) as file:
                file.write(text.encode())
            self.already_saved = True


class FitCLI(LightningCLI):
    """LightningCLI whose run folder is `trainer.default_root_dir`, with `--restart`."""

    checkpoint: Path | None = None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Only `fit`: predictions are made by `nesf reconstruct`."""
        return {"fit": LightningCLI.subcommands()["fit"] | {"ckpt_path", "weights_only"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is not the trainer's, the model's or the data's."""
        parser.add_argument(
            "--restart",
            type=Literal["auto", "fresh", "no"],  # not `choices`, whose type is told as a lambda
            default="no",
            help="where the run folder holds a run: auto goes on from its last checkpoint, fresh "
            "removes it and begins anew, no stops with a message",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="checkpoint to go on from: a file, or `last` for the run folder's last one",
        )
        parser.add_argument(
            "--threads", type=int, default=0, help="CPU threads; 0 leaves torch's own choice"
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and keep the checkpoint to ourselves: its content is not to be trusted yet."""
        # not the inherited method, which warns of arguments from elsewhere than sys.argv
        try:
            self.config = parser.parse_args(args)
        except InputError as error:
            told = str(error).removesuffix(HELP)
            raise InputError(f"{told}{suggestion(told, parser, args)}{HELP}") from error
        except UnicodeDecodeError as error:
            raise InputError("the file given as --config is not a text file") from error

    def _parse_ckpt_path(self) -> None:
        """Take nothing from a checkpoint's hyperparameters: the configuration tells all."""

    def before_instantiate_classes(self) -> None:
        """Find the run folder and the checkpoint; choose what the hardware can do."""
        config = self.config[self.subcommand]
        trainer = config.trainer
        if trainer.default_root_dir is None:
            raise InputError("name the run folder: trainer.default_root_dir in the config")
        root = Path(trainer.default_root_dir)
        self.checkpoint = find_checkpoint(root, config.restart, config.ckpt_path)
        if self.checkpoint is not None and config.ckpt_path is None:
            refuse_other_data(root, config.data.as_dict())
        if config.threads:
            torch.set_num_threads(config.threads)
        keep_freed_memory()
        if trainer.precision == "bf16-mixed" and not has_fast_bfloat16(_kind(trainer.accelerator)):
            _say("this hardware has no fast bfloat16: training in float32")
            trainer.precision = "32-true"

    def instantiate_classes(self) -> None:
        """Model, data and trainer; what they refuse is the configuration's fault."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError, MisconfigurationException) as error:
            raise InputError(f"the configuration does not work: {reason_of(str(error))}") from error

    def instantiate_trainer(self, **kwargs: Any) -> lightning.Trainer:
        """The trainer, with atomic checkpoints and the logger in the run folder."""
        trainer = self._get(self.config_init, "trainer")
        callbacks: list[Callback] = list(trainer.callbacks or [])
        has_bar = any(isinstance(callback, ProgressBar) for callback in callbacks)
        if trainer.enable_progress_bar is not False and not has_bar:
            tty = sys.stdout.isatty()
            callbacks.append(TQDMProgressBar(refresh_rate=10) if tty else ProgressLines())
        if any(isinstance(callback, LastCheckpoint) for callback in callbacks):
            callbacks.append(StopTogether())
        return super().instantiate_trainer(
            callbacks=callbacks,
            logger=TensorBoardLogger(trainer.default_root_dir, name=TENSORBOARD, version=""),
            plugins=[AtomicCheckpointIO()],
            **kwargs,
        )

    def fit(self, **kwargs: Any) -> None:
        """Train, from the checkpoint where there is one."""
        if self.checkpoint is not None:
            refuse_other_model(self.checkpoint, self.model)
            _say(f"going on from {self.checkpoint}")
        before = signal.getsignal(signal.SIGINT)
        try:
            self.trainer.fit(**kwargs, ckpt_path=self.checkpoint)
        except MissingCrystals as error:
            configs = [Path(str(path)) for path in self.config[self.subcommand].config or ()]
            command = how_made(error.path, configs)
            mend = f"{command} makes it" if command else "name yours as --data.train, --data.val"
            raise InputError(f"{error}; {mend}") from error
        except MisconfigurationException as error:
            raise InputError(f"the configuration does not work: {reason_of(str(error))}") from error
        except SIGTERMException:
            raise SystemExit(TERMINATED) from None
        except SystemExit as stop:
            if isinstance(stop.__context__, KeyboardInterrupt):  # which Lightning makes an exit 1
                raise KeyboardInterrupt from None
            raise
        finally:
            if callable(before) and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
                signal.signal(signal.SIGINT, before)
        model = Path(self.trainer.default_root_dir) / MODEL
        if model.is_file():
            _say(f"model: {model}")


def fit_command(argv: Sequence[str]) -> None:
    """Train from a config: `nesf fit --config FILE [--trainer.max_epochs N ...]`.

    Args:
        argv: the words after `nesf fit`.

    Raises:
        InputError: the configuration or its data cannot be used.
        CheckpointError: the checkpoint to go on from is damaged or of another model.
        KeyboardInterrupt: the run was interrupted; `--restart auto` goes on with it.
    """
    if not argv:
        raise InputError(f"give a configuration: nesf fit --config FILE{HELP}")
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # spinning threads starve their neighbours
    with quiet_lightning():
        FitCLI(
            save_config_callback=SaveConfig,
            trainer_defaults={"callbacks": list[Callback]()},
            parser_class=FitParser,
            parser_kwargs={"prog": "nesf"},
            args=["fit", *argv],
            seed_everything_default=0,
            auto_configure_optimizers=False,  # the model brings its own
            load_from_checkpoint_support=False,  # that is `nesf.load`
        )


def find_checkpoint(root: Path, restart: str, ckpt_path: str | None) -> Path | None:
    """The checkpoint to go on from, or None to begin.

    Args:
        root: the run folder.
        restart: `auto`, `fresh` or `no`.
        ckpt_path: a file, `last`, or None.

    Raises:
        InputError: the folder holds a run, and nothing was said of it.
        CheckpointError: the checkpoint asked for does not exist.
    """
    last = root / LAST
    if ckpt_path is not None:
        path = last if ckpt_path == "last" else Path(ckpt_path)
        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint {path} to go on from")
        return path
    if restart == "auto":
        return last if last.is_file() else None
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # others come when it has begun
        if restart == "fresh":
            remove_run(root)
        elif any((root / name).exists() for name in (LAST, BEST, MODEL)):
            raise InputError(
                f"{root} holds a run already: go on with --restart auto, remove it with --restart "
                "fresh, or name another trainer.default_root_dir"
            )
    return None


def remove_run(root: Path) -> None:
    """Remove what `nesf fit` wrote into a run folder, and nothing else."""
    model = (MODEL, sidecar_path(root / MODEL).name)
    for name in (LAST, BEST, *model, TRAINING, CURVE, CONFIG):
        (root / name).unlink(missing_ok=True)
    if (root / TENSORBOARD).is_dir():
        shutil.rmtree(root / TENSORBOARD)


def refuse_other_model(checkpoint: Path, module: lightning.LightningModule) -> None:
    """Refuse a checkpoint that is damaged or belongs to another network than the configured one.

    Raises:
        CheckpointError: with what differs.
    """
    found = read_model(checkpoint).model
    entry: dict[str, Any] = {}
    module.on_save_checkpoint(entry)
    wanted = entry["nesf"]["model"] if "nesf" in entry else found
    old, new = ({"class_path": m["class_path"]} | m.get("init_args", {}) for m in (found, wanted))
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if differing:
        raise CheckpointError(
            f"{checkpoint} is of another model than the configuration names ("
            + ", ".join(f"{key}: {old.get(key)} there, {new.get(key)} here" for key in differing)
            + "); configure the same model, or begin anew in another folder"
        )


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without the engine's chatter; its warnings stay, but for those that users cannot mend."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            # lightning 2.6 on torch 2.13, from inside its own loader
            warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
            # wherever SLURM is installed, though nobody asked for it
            warnings.filterwarnings("ignore", message="The `srun` command is available on your")
            # a small set: steps are counted through all epochs, and logged as often as ever
            warnings.filterwarnings(
                "ignore", message=r"The number of training batches \(\d+\) is smaller than the log"
            )
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _kind(accelerator: str) -> str:
    cuda = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    return "cuda" if cuda else "cpu"


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)
