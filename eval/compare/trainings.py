"""One training: `nesf fit` in a process of its own, and what its files and curve tell of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eval.compare.children import Ending, run_child
from eval.compare.plan import Comparison, Entry
from nesf.errors import InputError
from nesf.json_lines import read_json_lines
from nesf.run_folder import CURVE, MODEL, TRAINING

# figure of the learning curve -> levels, in the figure's unit
LEVELS: Mapping[str, tuple[float, ...]] = {
    "val/wrong_counts_percent": (50, 20, 10, 5, 2, 1),
    "val/position_actual": (1.0, 0.5, 0.2, 0.1, 0.05, 0.02),
    "val/species_actual_percent": (50, 20, 10, 5),
}

Curve = Sequence[Mapping[str, Any]]


def train(
    entry: Entry, device: torch.device, tell: Callable[[str], None], keep_open: Sequence[int]
) -> str | None:
    """Train a model, or go on with its training; nothing is done where it is finished.

    Args:
        entry: the model and its seed.
        device: the same for every model.
        tell: called with each line of its log.
        keep_open: file descriptors for the child.

    Returns:
        Why it failed, or None.

    Raises:
        KeyboardInterrupt: it was interrupted, and has saved its work.
    """
    if is_trained(entry):
        return None
    ending: Ending = run_child(
        fit_command(entry, device), entry.folder / "train.log", tell, keep_open=keep_open
    )
    if ending.code == 0 and not is_trained(entry):
        return (
            f"the training left no {MODEL} and {TRAINING}; its configuration needs the callback "
            "nesf.callbacks.FinishedModel"
        )
    return None if ending.code == 0 else ending.reason


def is_trained(entry: Entry) -> bool:
    """Whether the training is finished, or was never ours to do."""
    return entry.seed is None or all((entry.run / name).is_file() for name in (MODEL, TRAINING))


def fit_command(entry: Entry, device: torch.device) -> list[str]:
    """The words of the training's command; the shared terms come last, and so prevail."""
    plan: Comparison = entry.plan
    learns = plan.predicts and not entry.model.latent
    index = [] if device.index is None else [f"--trainer.devices=[{device.index}]"]
    return [
        *(sys.executable, "-m", "nesf", "fit", f"--config={entry.model.config}"),
        *entry.model.overrides,
        f"--seed_everything={entry.seed}",
        f"--trainer.default_root_dir={entry.run}",
        f"--trainer.accelerator={'gpu' if device.type == 'cuda' else device.type}",
        *(index or ["--trainer.devices=1"]),
        *([] if plan.budget_s is None else [f"--trainer.max_time={as_max_time(plan.budget_s)}"]),
        f"--data.train={json.dumps(list(plan.data.train))}",
        f"--data.val={json.dumps(list(entry.model.val or plan.data.val))}",
        *([f"--model.model.properties={json.dumps([plan.target])}"] if learns else []),
        f"--threads={plan.threads}",
        "--restart=auto",
    ]


def as_max_time(seconds: float) -> str:
    """Seconds as Lightning's DD:HH:MM:SS."""
    minutes, s = divmod(max(1, round(seconds)), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days:02d}:{h:02d}:{m:02d}:{s:02d}"


def told_of_training(entry: Entry, metadata: dict[str, Any]) -> dict[str, Any]:
    """What is known of a training: time, epochs, and when which error level was reached.

    Args:
        entry: the model and its seed.
        metadata: what the model's file says, for one whose weights were given.

    Raises:
        InputError: the run's files are damaged.
    """
    told = dict(metadata)
    run = entry.run if entry.seed is not None else Path(entry.weights)
    try:
        if (run / TRAINING).is_file():
            told |= json.loads((run / TRAINING).read_text())
    except ValueError as error:
        raise InputError(f"{run / TRAINING} is damaged; remove it, and train again") from error
    curve, _ = read_json_lines(run / CURVE)
    return {
        "here": entry.seed is not None,
        "published_epochs": entry.model.published_epochs,
        "config": entry.model.config,
        "overrides": list(entry.model.overrides),
        "weights": entry.model.weights,
        "budget_s": entry.plan.budget_s if entry.seed is not None else None,
        **told,
        "times_to_levels": times_to_levels(curve),
        "curve": curve,
    }


def times_to_levels(curve: Curve) -> dict[str, dict[str, float | None] | None]:
    """Wall-clock time until a validation first found an error at or below each level, s.

    Args:
        curve: the lines of a run's `curve.jsonl`; `wall_s` is the time since the training began.

    Returns:
        {figure: {level: seconds, or None if never}}; None for a figure that was never measured.
    """
    found: dict[str, dict[str, float | None] | None] = {}
    for figure, levels in LEVELS.items():
        points = curve_of(curve, figure)
        found[figure] = {
            f"{level:g}": next((time for time, value in points if value <= level), None)
            for level in levels
        }
        if not points:
            found[figure] = None
    return found


def curve_of(curve: Curve, figure: str) -> list[tuple[float, float]]:
    """(wall-clock s, value) of one figure, where it was measured and is a number."""
    points = [(line["wall_s"], line[figure]) for line in curve if line.get(figure) is not None]
    return sorted((float(t), float(v)) for t, v in points if v == v)
