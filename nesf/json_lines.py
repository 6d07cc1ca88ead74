"""Reading JSON lines whose writer may have been interrupted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nesf.errors import InputError


def read_json_lines(path: str | Path) -> tuple[list[dict[str, Any]], bool]:
    """The whole lines of a file, none where there is no file; and whether its end is torn.

    Args:
        path: a file of JSON objects, one a line, each with its line end.

    Raises:
        InputError: a line before the last is damaged, which no interrupt does.
    """
    path = Path(path)
    if not path.is_file():
        return [], False
    *pieces, rest = path.read_bytes().split(b"\n")
    found: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces, 1):
        try:
            line = json.loads(piece)
        except ValueError:
            line = None
        if isinstance(line, dict):
            found.append(line)
        elif number < len(pieces) or rest:
            raise InputError(f"{path}, line {number} is damaged; remove that line")
        else:
            return found, True
    return found, bool(rest)
