"""One point of a learning curve: a training on some of the crystals, and what it is worth."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baselines.voxel_icsg3d.property_baselines import composition_features, fit_baselines
from baselines.voxel_icsg3d.property_predictions import load_predictor, predict_properties
from nesf.data.packed import PackedSet, load_or_pack
from nesf.errors import InputError
from nesf.random import generator_for
from nesf.run_folder import TRAINING

SIMPLE = ("ridge", "median", "mean")


@dataclass(frozen=True)
class CurveData:
    """The sets that a learning curve is made of.

    Attributes:
        train: the crystals that parts are drawn from.
        val: files of validation crystals.
        test: the crystals that errors are measured on.
        name: of the property.
    """

    train: PackedSet
    val: tuple[str, ...]
    test: PackedSet
    name: str

    @staticmethod
    def of(train: str, val: str, test: str, name: str) -> CurveData:
        """Read the files.

        Raises:
            InputError: a set lacks the property, or a test crystal has a training crystal's id.
        """
        sets = [PackedSet.load(load_or_pack([path])) for path in (train, test)]
        for crystals in sets:
            if not np.isfinite(crystals.numbers(name)).all():
                raise InputError(f"not all crystals of {train} and {test} have a value of {name}")
        if seen := set(sets[0].ids) & set(sets[1].ids):
            raise InputError(f"{len(seen)} ids of {test} are in {train}, too; give other crystals")
        return CurveData(sets[0], (val,), sets[1], name)

    def part(self, size: int, seed: int) -> PackedSet:
        """Training crystals drawn by a seed; a smaller part lies in a larger one."""
        order = torch.randperm(len(self.train), generator=generator_for(seed, "part"))
        return self.train.select(order[:size].sort().values.numpy())

    def error(self, predicted: np.ndarray, fallback: float) -> float:
        """Mean absolute error over all test crystals; a missing prediction counts as `fallback`."""
        truth = np.asarray(self.test.numbers(self.name))
        return float(np.abs(np.where(np.isfinite(predicted), predicted, fallback) - truth).mean())


def simple_errors(data: CurveData, size: int, seed: int) -> dict[str, float]:
    """Test errors of the training mean, its median, and a ridge regression on the composition."""
    features = composition_features(data.test.atomic_numbers, data.test.offsets)
    found = fit_baselines(data.part(size, seed), data.name, features)
    told = {"ridge": found.ridge}
    told |= {name: np.full(len(data.test), getattr(found, name)) for name in ("median", "mean")}
    return {name: data.error(told[name], found.mean) for name in SIMPLE}


def train_one(
    data: CurveData,
    config: str,
    size: int,
    seed: int,
    folder: Path,
    seconds: float,
    threads: int,
    options: Sequence[str] = (),
) -> dict[str, Any]:
    """Train a config's network on a part of the crystals, for so long, and test it.

    Args:
        data: the sets.
        config: for `nesf fit`.
        size: training crystals.
        seed: of the part, of the first weights, and of all else.
        folder: of the run; an interrupted one goes on.
        seconds: time limit.
        threads: CPU threads.
        options: more options for `nesf fit`.

    Returns:
        `mae` and what the training took.

    Raises:
        InputError: the training failed.
    """
    from eval.compare.children import run_child

    if not (folder / TRAINING).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "train.nesf"
        data.part(size, seed).save(part)
        # validation costs as much in a small part as in the whole: do it after as many steps
        every = max(1, round(10 * len(data.train) / size))
        command = [
            *(sys.executable, "-m", "nesf", "fit", f"--config={config}"),
            f"--trainer.default_root_dir={folder}",
            f"--data.train=[{part}]",
            f"--data.val=[{','.join(data.val)}]",
            f"--data.seed={seed}",
            f"--seed_everything={seed}",
            f"--threads={threads}",
            f"--trainer.max_time={duration(seconds)}",
            "--trainer.max_epochs=1000000",
            f"--trainer.check_val_every_n_epoch={every}",
            "--trainer.enable_progress_bar=false",
            *options,
            "--restart=auto",
        ]
        ending = run_child(command, folder / "train.log")
        if ending.code:
            raise InputError(f"the training in {folder} failed: {ending.reason}")
    told: Mapping[str, Any] = json.loads((folder / TRAINING).read_text())
    network = load_predictor(str(folder))
    found = predict_properties(network, data.test)
    column = network.properties.index(data.name)
    return {
        "mae": data.error(found.values[:, column], float(network.target_mean[column])),
        "refused": sum(map(bool, found.refusals)),
        **{key: told[key] for key in ("parameters", "epochs", "steps", "wall_s", "cpu_s")},
    }


def duration(seconds: float) -> str:
    """DD:HH:MM:SS, as the trainer has it."""
    whole = max(1, round(seconds))
    return f"{whole // 86400:02}:{whole // 3600 % 24:02}:{whole // 60 % 60:02}:{whole % 60:02}"
