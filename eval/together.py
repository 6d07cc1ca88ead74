"""Matching that ranks share: each takes every N-th pair, rank 0 puts the verdicts together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.matching import Match, MatchOptions, match_pairs
from eval.sides import PairSets
from nesf.errors import InputError
from nesf.ranks.meeting import Meeting

Verdicts = dict[str, list[Match]]


def match_here(pairs: PairSets, options: MatchOptions, progress: bool) -> Verdicts:
    """Match all pairs in this process and its workers."""
    return {
        title: match_pairs(some, options, progress=title if progress else None)
        for title, some in pairs.items()
    }


def match_share(
    meeting: Meeting, names: Sequence[str], pairs: PairSets, options: MatchOptions, progress: bool
) -> None:
    """Match the pairs of one rank and leave the verdicts for rank 0.

    Args:
        meeting: with the other ranks.
        names: of all reference crystals, by which rank 0 sees that all ranks have the same.
        pairs: this rank's, every N-th of each set.
        options: of the matching.
        progress: whether to show progress bars.
    """
    options = replace(options, workers=meeting.ranks.workers(options.workers))
    verdicts = {
        title: match_pairs(
            some, options, progress=title if progress else None, at_each=meeting.check
        )
        for title, some in pairs.items()
    }
    found = {title: [[m.rmse, m.failure] for m in some] for title, some in verdicts.items()}
    meeting.publish("matches", {"names": _digest(names), "verdicts": found})


def match_together(
    meeting: Meeting, names: Sequence[str], pairs: PairSets, options: MatchOptions, progress: bool
) -> Verdicts:
    """Rank 0: match its share and wait for the others'.

    Args:
        meeting: with the other ranks.
        names: of all reference crystals.
        pairs: those of all ranks.
        options: of the matching.
        progress: whether to show progress bars, of this rank's share.

    Raises:
        InputError: the ranks have read different crystals.
        NesfError: another rank has failed, is lost or has not come.
    """
    part = meeting.ranks.part
    share = {title: some[part] for title, some in pairs.items()}
    match_share(meeting, names, share, options, progress)
    reports = meeting.collect("matches")
    verdicts = {title: [Match()] * len(some) for title, some in pairs.items()}
    for rank, report in enumerate(reports):
        if report["names"] != _digest(names):
            raise _different(rank)
        for title, found in report["verdicts"].items():
            own = slice(rank, None, meeting.ranks.size)
            if len(found) != len(verdicts[title][own]):
                raise _different(rank)
            verdicts[title][own] = [Match(rmse, failure) for rmse, failure in found]
    return verdicts


def meeting_folder(json_file: str | None, rows_file: str | None) -> Path:
    """Where the ranks of an evaluation meet: beside the file that they write.

    Raises:
        InputError: they write none.
    """
    output = json_file or rows_file
    if output is None:
        raise InputError("give --json FILE: ranks that share an evaluation meet beside it")
    path = Path(output)
    return path.with_name(f"{path.name}.shards")


def _different(rank: int) -> InputError:
    return InputError(
        f"rank {rank} has read other crystals than rank 0; give files that are the same on all "
        "machines"
    )


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogatepass")).hexdigest()


def remove_matches(folder: Path) -> dict[str, Any]:
    """Clear what an earlier evaluation has left in the folder."""
    for path in folder.glob("matches-*.json"):
        path.unlink(missing_ok=True)
    return {}
