"""Crystals parsed in the process of the test, which saves the start of a worker a command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nesf.data.parsing import parse
from nesf.data.workers import Failure
from nesf.errors import InputError


def parse_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the readers parse in this process."""

    def answers(function, items, *, config, **_) -> Iterator[tuple[Any, Any]]:
        for item, payload in items:
            try:
                yield item, None if payload is None else parse(payload, config)
            except InputError as error:
                yield item, Failure(str(error))

    monkeypatch.setattr("nesf.data.readers.map_in_workers", answers)
