"""Which crystals train, validate and test: files, or a seeded rule over the ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from nesf.data.columns import StringColumn
from nesf.data.container import writing
from nesf.errors import InputError

_TWICE = "an id occurs twice among the crystals to split; rename the rows"


def split_ids(
    ids: Iterable[str], fractions: Mapping[str, float], seed: int = 0
) -> dict[str, list[str]]:
    """Split ids by a seeded rule that depends on nothing but the ids and the seed.

    The ids are ranked by sha256(seed, id) and cut at the fractions: the order of the input, the
    platform and Python's hash seed do not matter, and new ids move only few of the old ones.

    Args:
        ids: identifiers, all different.
        fractions: of each part, by name; they sum to 1.
        seed: of the rule.

    Returns:
        The ids of each part, sorted.

    Raises:
        InputError: the fractions do not sum to 1, or an id occurs twice.
    """
    names = list(ids)
    return split_groups(names, names, fractions, seed)


def split_groups(
    ids: Sequence[str], groups: Sequence[str], fractions: Mapping[str, float], seed: int = 0
) -> dict[str, list[str]]:
    """Split ids so that those of one group (a formula, say) stay together.

    Args:
        ids: identifiers, all different.
        groups: the group of each id.
        fractions: of each part, by name, counted in ids; they sum to 1.
        seed: of the rule.

    Returns:
        The ids of each part, sorted.

    Raises:
        InputError: the fractions do not sum to 1, or an id occurs twice.
    """
    _check(fractions)
    if len(set(ids)) < len(ids):
        raise InputError(_TWICE)
    members: dict[str, list[str]] = {}
    for name, group in zip(ids, groups, strict=True):
        members.setdefault(group, []).append(name)
    ranked = [members[group] for group in sorted(members, key=lambda group: _rank(seed, group))]

    parts: dict[str, list[str]] = {name: [] for name in fractions}
    taken, share, start = 0, 0.0, 0
    for part, fraction in fractions.items():
        share += fraction
        end = round(share * len(ids))
        while start < len(ranked) and taken < end:
            parts[part] += ranked[start]
            taken += len(ranked[start])
            start += 1
    return {part: sorted(chosen) for part, chosen in parts.items()}


def split_positions(
    ids: Sequence[StringColumn],
    fractions: Mapping[str, float],
    seed: int = 0,
    index: Int[np.ndarray, " m"] | None = None,
) -> dict[str, Int[np.ndarray, " part"]]:
    """`split_ids` for many ids: where they are in place of the ids, 40 bytes each while it works.

    Args:
        ids: columns of identifiers, one after another.
        fractions: of each part, by name; they sum to 1.
        seed: of the rule.
        index: positions of those to split; None for all.

    Returns:
        The positions of each part, in the order of their ids.

    Raises:
        InputError: the fractions do not sum to 1, or an id occurs twice.
    """
    _check(fractions)
    by_id = _alphabetical(ids)
    if index is not None:
        wanted = np.zeros(len(by_id), bool)
        wanted[index] = True
        by_id = by_id[wanted[by_id]]
    # the first 64 bits of a rank order ids as all of it does, but once in 10^13 pairs or less
    parts = [
        np.fromiter((int.from_bytes(_rank(seed, x)[:8], "big") for x in column), np.uint64)
        for column in ids
    ]
    ranks = np.concatenate(parts)[by_id]
    order = np.argsort(ranks, kind="stable")
    if (np.diff(ranks[order]) == 0).any():
        raise InputError(_TWICE)
    number = np.empty(len(order), np.uint8)
    share, start = 0.0, 0
    for i, fraction in enumerate(fractions.values()):
        share += fraction
        end = round(share * len(order))
        number[order[start:end]] = i
        start = max(start, end)
    return {name: by_id[number == i] for i, name in enumerate(fractions)}


def read_splits(path: str | Path) -> dict[str, list[str]]:
    """Read a split file: JSON, {part: [id, ...]}.

    Raises:
        InputError: the file is missing, no such JSON, or an id occurs twice.
    """
    try:
        parts = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON; a split file reads {{part: [id, ...]}}") from error
    if not isinstance(parts, dict) or not all(
        isinstance(ids, list) and all(isinstance(name, str) for name in ids)
        for ids in parts.values()
    ):
        raise InputError(f"{path} is no split file; it should read {{part: [id, ...]}}")
    seen: dict[str, str] = {}
    for part, ids in parts.items():
        for name in ids:
            if name in seen:
                raise InputError(
                    f"{path}: {name} is in {seen[name]} and again in {part}; keep it in one"
                )
            seen[name] = part
    return parts


def write_splits(path: str | Path, parts: Mapping[str, Sequence[str]]) -> None:
    """Write a split file that `read_splits` reads, atomically.

    Raises:
        InputError: the file cannot be written.
    """
    with writing(Path(path)) as file:
        file.write(json.dumps(parts, indent=1, ensure_ascii=False).encode() + b"\n")


def _check(fractions: Mapping[str, float]) -> None:
    if any(f < 0 for f in fractions.values()) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise InputError(f"split fractions must be positive and sum to 1, got {dict(fractions)}")


def _alphabetical(ids: Sequence[StringColumn]) -> Int[np.ndarray, " m"]:
    """Positions in the order of the strings: of their UTF-8, which orders as their letters do.

    A radix sort, eight bytes at a time from the last on, so that no string is held.
    """
    lengths = np.concatenate([np.diff(column.offsets) for column in ids])
    order = np.argsort(lengths, kind="stable")
    for at in reversed(range(0, int(lengths.max(initial=0)), 8)):
        keys = np.concatenate([column.eight_bytes(at) for column in ids])
        order = order[np.argsort(keys[order], kind="stable")]
    return order


def _rank(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode("utf-8", "surrogateescape")).digest()
