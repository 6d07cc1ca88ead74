"""What made an output, in a small file with it, so that --resume goes on with the same alone.

A folder holds `made_by.json`; `out.csv` has `out.csv.made_by.json` beside it. It tells the verb,
the model by a digest of its weights, and the options that decide what the crystals become; not the
inputs, nor how fast they are gone through. An output without it is gone on with as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nesf.atomic import atomic_write
from nesf.errors import InputError

MadeBy = Mapping[str, Any]  # plain JSON; options by their names, those by default left out
MADE_BY = "made_by.json"
VERB, MODEL, DIGEST = "verb", "model", "model_sha256"
_ALSO_TOLD = (MODEL, "nesf")  # the same model may have another name
_SHOWN = 8  # digits of a digest


def made_by_path(output: str | Path) -> Path:
    """Where it is kept."""
    path = Path(output)
    return path / MADE_BY if path.is_dir() else path.with_name(f"{path.name}.{MADE_BY}")


def keep_made_by(output: str | Path, made_by: MadeBy | None) -> None:
    """Write it in one step; None removes what is there of an earlier run.

    Raises:
        OSError: it cannot be written.
    """
    path = made_by_path(output)
    if made_by is None:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path) as file:
        file.write(json.dumps(made_by, indent=1).encode() + b"\n")


def refuse_other(output: str | Path, made_by: MadeBy) -> None:
    """Refuse to go on with an output that something else has made.

    Raises:
        InputError: with what differs; or the file that tells is damaged.
    """
    path = made_by_path(output)
    if not path.is_file():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read, which tells what made {output}; start anew without "
            "--resume (--overwrite), or give another output"
        ) from error
    if isinstance(before, dict):
        refuse_difference(output, before, made_by)


def refuse_difference(output: str | Path, before: MadeBy, now: MadeBy) -> None:
    """Refuse to go on where what made an output and what would go on with it differ.

    Raises:
        InputError: with what differs.
    """
    now = json.loads(json.dumps(now))  # as it comes back from a file
    keys = [key for key in {**before, **now} if key not in _ALSO_TOLD]
    differing = [key for key in keys if before.get(key) != now.get(key)]
    if differing:
        there, here = (", ".join(_told(key, one) for key in differing) for one in (before, now))
        raise InputError(
            f"{output} was made with {there}, and not with {here}: go on with what made "
            "it, start anew without --resume (--overwrite), or give another output"
        )


def _told(key: str, made_by: MadeBy) -> str:
    """One entry as a user would give it."""
    value = made_by.get(key)
    if key == VERB:
        return f"nesf {value}"
    if key == DIGEST:
        return f"model {made_by.get(MODEL)} ({str(value)[:_SHOWN]})" if value else "no model"
    flag = f"--{key.replace('_', '-')}"
    if value is None:
        return f"no {flag}"
    return f"{flag} {value if isinstance(value, str) else json.dumps(value)}"
