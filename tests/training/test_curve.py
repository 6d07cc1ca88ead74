"""`curve.jsonl`, from which a comparison reads how good a model was after how much time."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from test_callbacks import EPOCHS, train
from tiny_run import TRAIN, Fit

from nesf.curve import CURVE, LearningCurve
from nesf.errors import InputError
from nesf.json_lines import read_json_lines


class SecondOnly(LearningCurve):
    """Logs a figure in the second epoch alone, as a reconstruction does."""

    def on_validation_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        if trainer.current_epoch == 1:
            module.log("val/now_and_then", 7.0, on_epoch=True, batch_size=1)


def test_a_line_for_each_validation(tiny_data: Path, tmp_path: Path):
    train(tiny_data, tmp_path, SecondOnly())
    lines, _ = read_json_lines(tmp_path / CURVE)
    assert [line["epoch"] for line in lines] == list(range(1, EPOCHS + 1))
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    assert all(0 < a["wall_s"] < b["wall_s"] for a, b in pairwise(lines))
    assert all(line["val/loss"] > 0 for line in lines)
    assert [line.get("val/now_and_then") for line in lines] == [None, 7.0, None]


def test_a_resumed_run_repeats_no_line(fit: Fit, tmp_path: Path):
    root, curve = tmp_path / "run", {"class_path": "nesf.curve.LearningCurve", "init_args": {}}
    assert fit(root, "--trainer.max_epochs=2", probe=curve).code == 0
    first, _ = read_json_lines(root / CURVE)
    stale = {"epoch": 9, "step": 10**6, "wall_s": 1.0, "cpu_s": 1.0, "val/loss": 0.0}
    with (root / CURVE).open("a") as file:  # as if killed between a validation and the next save
        file.write(json.dumps(stale) + "\n" + '{"epoch": 10, "st')
    assert fit(root, "--restart=auto", probe=curve).code == 0
    lines, _ = read_json_lines(root / CURVE)
    assert lines[:2] == first
    steps = TRAIN // 8
    assert [line["step"] for line in lines] == [steps, 2 * steps, 3 * steps]
    assert lines[2]["wall_s"] > lines[1]["wall_s"]
    assert fit(root, "--restart=fresh", "--trainer.max_epochs=1", probe=curve).code == 0
    assert [line["step"] for line in read_json_lines(root / CURVE)[0]] == [steps]


def test_a_damaged_line_is_named(tmp_path: Path):
    path = tmp_path / CURVE
    assert read_json_lines(path) == ([], False)
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(InputError, match="line 2 is damaged"):
        read_json_lines(path)
