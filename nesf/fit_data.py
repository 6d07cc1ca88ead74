"""A training that goes on must have the data with which it began."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nesf.errors import InputError
from nesf.run_folder import CONFIG

FILES = ("train", "val")
DECIDE = (*FILES, "val_fraction", "seed", "shares")  # which crystals are trained on, and how often


def refuse_other_data(root: Path, data: Mapping[str, Any]) -> None:
    """Refuse to go on with a run on other crystals than it began with.

    Args:
        root: the run folder, whose `config.yaml` tells what it began with; without one, or where
            that cannot be read, nothing is refused.
        data: the data's entry of the configuration now.

    Raises:
        InputError: with what differs.
    """
    try:
        saved = yaml.safe_load((root / CONFIG).read_text(encoding="utf-8"))
        before, now = _entries(saved["data"]), _entries(data)
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return
    differing = [
        name for name in DECIDE if name in before and name in now and before[name] != now[name]
    ]
    if before.get("val") and now.get("val"):  # then nothing is held out
        differing = [name for name in differing if name != "val_fraction"]
    if differing:
        there, here = (
            ", ".join(f"data.{name} {_plain(told[name])}" for name in differing)
            for told in (before, now)
        )
        raise InputError(
            f"{root} was begun with {there}, and not with {here}: give the same, begin anew with "
            "--restart fresh, or go on with other data by --ckpt_path last"
        )


def _entries(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the data, with one file as a list of one."""
    entries = dict(data.get("init_args", data))
    for name in FILES:
        if name in entries:
            files = entries[name] or []
            files = [files] if isinstance(files, str) else files
            entries[name] = [os.path.normpath(file) for file in files]
    if "shares" in entries:
        entries["shares"] = list(entries["shares"] or [])
    return entries


def _plain(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
