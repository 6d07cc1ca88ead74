"""JSON lines that grow while a comparison runs, and survive its interrupts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from nesf.atomic import atomic_write
from nesf.json_lines import read_json_lines

Line = dict[str, Any]


class JsonLines:
    """A file of JSON objects, one a line; of several with one key the last one stands.

    A line is on the disk before `append` returns; numbers that are not finite become null. What an
    interrupt tore off at the end is cut away when the file is opened again.

    Args:
        path: the file; made with the first line.
        keys: names whose values together tell lines apart.

    Raises:
        InputError: a line that an interrupt cannot have torn is damaged.
    """

    def __init__(self, path: str | Path, keys: Sequence[str]) -> None:
        self.path, self.keys = Path(path), tuple(keys)
        self._by_key: dict[tuple[Hashable, ...], Line] = {}
        lines, torn = read_json_lines(self.path)
        if torn:
            with atomic_write(self.path) as file:
                file.writelines(_encoded(line) for line in lines)
        for line in lines:
            self._by_key[self._key(line)] = line

    def __iter__(self) -> Any:
        return iter(self._by_key.values())

    def get(self, *key: Hashable) -> Line | None:
        """The line of that key, or None."""
        return self._by_key.get(key)

    def append(self, line: Line) -> None:
        """Write a line behind the others, in one piece."""
        line = finite(line)
        data = _encoded(line)
        with self.path.open("ab", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
        self._by_key[self._key(line)] = line

    def _key(self, line: Line) -> tuple[Hashable, ...]:
        return tuple(line.get(name) for name in self.keys)


def finite(value: Any) -> Any:
    """The same value with None for every number that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return value


def _encoded(line: Line) -> bytes:
    return json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n"
