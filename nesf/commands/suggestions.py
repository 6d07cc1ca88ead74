"""The option that somebody meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

LEAST = 0.6  # below which names have nothing in common


def nearest_option(unknown: str, known: Iterable[str]) -> str | None:
    """The known name that an unknown one is most like.

    What counts is difflib's ratio, half of it for the last parts and half for the whole name and
    as much of the end of the known one as fits best.

    Args:
        unknown: a name, its parts divided by dots, as in optim.lr.
        known: such names, as in model.optimizer.lr.
    """
    last = unknown.rpartition(".")[2]
    best, found = LEAST, None
    for name in sorted(known, key=lambda name: (len(name), name)):
        parts = name.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts)))
        likeness = (max(_ratio(end, unknown) for end in ends) + _ratio(parts[-1], last)) / 2
        if likeness > best:
            best, found = likeness, name
    return found


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()
