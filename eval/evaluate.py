"""Score one set of crystals against another, joined by id: ours, or any other model's."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.matching import Match, MatchOptions
from eval.scores import (
    MATCH_METRICS,
    METRICS,
    CrystalScore,
    estimate_ratios,
    match_tally,
    score_crystal,
    score_row,
    summarize,
)
from eval.sides import CHANCE, CHANCE_CRYSTALS, RAW, REFINED, PairSets, Sides
from eval.symmetry import SYMPREC
from eval.table import format_table, write_rows
from eval.together import (
    Verdicts,
    match_here,
    match_share,
    match_together,
    meeting_folder,
    remove_matches,
)
from nesf.atomic import atomic_write
from nesf.data.outputs import make_ready
from nesf.errors import InputError
from nesf.ranks.environment import ranks_here
from nesf.ranks.meeting import Meeting

if TYPE_CHECKING:
    from eval.sources import Source

__all__ = ["evaluate", "evaluate_files", "format_table"]

SCHEMA_VERSION = 1
# true atom counts, first and last
ATOM_COUNT_BINS = ((1, 4), (5, 8), (9, 16), (17, 32), (33, None))
BOX_COUNT_BINS = ((1, 16), (17, 64), (65, 128), (129, 256), (257, None))


def evaluate(
    predicted: Source,
    reference: Source,
    *,
    matching: bool = True,
    match_options: MatchOptions | None = None,
    refine: bool = False,
    chance_crystals: int = CHANCE_CRYSTALS,
    bootstrap: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
    meeting: Meeting | None = None,
    boxes: bool = False,
) -> dict[str, Any]:
    """Score predicted crystals against reference crystals of the same ids.

    Every reference crystal counts, whatever became of its prediction; what a failure scores is
    said in `eval.metrics`. Predicted crystals that no reference asks for are listed, not scored.

    Args:
        predicted: files that `nesf.data.readers` reads, rows that it has read, or pairs of id and
            Structure (None: the model gave nothing).
        reference: likewise; rows that the reader refuses are listed and not scored.
        matching: whether to run StructureMatcher.
        match_options: its tolerances and time limit.
        refine: whether to score the predictions a second time after `refine_symmetry`.
        chance_crystals: how many reference crystals (a seeded draw) give StructureMatcher's chance
            level: true cell and elements, uniformly random positions; 0 for none.
        bootstrap: resamples for the 95 % intervals.
        seed: of resamples and chance level.
        workers: processes for reading and matching; by default one a CPU core.
        progress: whether to show progress bars.
        meeting: with ranks that share the matching (`match_share`); this is rank 0.
        boxes: both sides are boxes (`nesf.boxes`): distances are plain ones, and there is nothing
            to match.

    Returns:
        A JSON-able dict: "metrics", "refined" (or None), "chance" (or None), "by_num_atoms",
        "rows", "failures", "match_failures", "counts", "not_in_reference", "reference_rejected",
        "settings". Each figure is {"value", "low", "high"}.

    Raises:
        InputError: duplicate ids, no usable reference, or no id in common; or boxes are to be
            symmetrised.
    """
    if boxes and refine:
        raise InputError("boxes have no symmetry to refine; leave --refine-symmetry out")
    matching = matching and not boxes
    match_options = match_options or MatchOptions(workers=workers)
    sides = Sides.read(predicted, reference, workers, progress)
    names, guesses, reasons = sides.names, sides.guesses, sides.reasons
    pairs = sides.pairs(refine, chance_crystals if matching else 0, seed)
    matches: Verdicts = {}
    if matching and meeting is None:
        matches = match_here(pairs, match_options, progress)
    elif matching and meeting is not None:
        matches = match_together(meeting, names, pairs, match_options, progress)
    scores = _score(names, pairs, matches, RAW, boxes)
    refined = _score(names, pairs, matches, REFINED) if refine else None
    chance = _chance(matches[CHANCE], bootstrap, seed) if matches.get(CHANCE) else None
    failures = [{"id": s.id, "reason": reasons.get(s.id, s.failure)} for s in scores if s.failure]
    known = sides.truth.keys() | sides.reference_reasons.keys()
    strangers = sorted((guesses.keys() | reasons.keys()) - known)
    return {
        "schema_version": SCHEMA_VERSION,
        "counts": {
            "reference": len(names),
            "predicted": len(guesses) + len(reasons),
            "failures": len(failures),
            "not_in_reference": len(strangers),
            "reference_rejected": len(sides.unreadable),
        },
        "metrics": _summary(scores, bootstrap, seed, boxes),
        "refined": refined and summarize(refined, bootstrap=bootstrap, seed=seed),
        "chance": chance,
        "by_num_atoms": _by_num_atoms(scores, bootstrap, seed, boxes),
        "failures": failures,
        "match_failures": [
            {"id": s.id, "reason": s.match.failure}
            for s in scores
            if s.match and s.match.failure and not s.failure
        ],
        "not_in_reference": strangers,
        "reference_rejected": sides.unreadable,
        "rows": [score_row(score) for score in scores],
        "settings": _settings(match_options, refine, bootstrap, seed) | {"boxes": boxes},
    }


def evaluate_files(
    predicted: str | Sequence[str],
    reference: str | Sequence[str],
    *,
    json_file: str | None = None,
    rows_file: str | None = None,
    matching: bool = True,
    refine: bool = False,
    bootstrap: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    timeout_s: float = 20.0,
    boxes: bool = False,
) -> int:
    """`nesf evaluate`: print the table, list what failed, write JSON and CSV.

    Args:
        predicted: files or folders of predicted crystals.
        reference: files or folders of reference crystals.
        json_file: where to write the whole result.
        rows_file: where to write one CSV row a crystal.
        matching: run StructureMatcher, which takes most of the time.
        refine: score symmetry-refined predictions beside the raw ones.
        bootstrap: resamples for the intervals.
        seed: of resamples and chance level.
        workers: processes.
        timeout_s: time limit for one StructureMatcher pair, s.
        boxes: both sides are boxes, without periodic images.

    Returns:
        Exit code: 0, or 1 if a prediction is a failure or a reference could not be read.

    Raises:
        InputError: see `evaluate`; or a file cannot be written, which is told before the matching.
    """
    make_ready(json_file, rows_file)
    options = MatchOptions(timeout_s=timeout_s, workers=workers)

    def score(meeting: Meeting | None = None) -> int:
        result = evaluate(
            predicted,
            reference,
            matching=matching,
            match_options=options,
            refine=refine,
            bootstrap=bootstrap,
            seed=seed,
            workers=ranks.workers(workers),
            meeting=meeting,
            boxes=boxes,
        )
        return _tell(result, json_file, rows_file)

    ranks = ranks_here()
    if ranks.size == 1:
        return score()
    folder = meeting_folder(json_file, rows_file)
    with Meeting(folder, ranks, "start again", partial(remove_matches, folder)) as meeting:
        if ranks.rank == 0:
            code = score(meeting)
            remove_matches(folder)
            return meeting.conclude(code)
        sides = Sides.read(predicted, reference, ranks.workers(workers), progress=False)
        pairs = sides.pairs(refine, CHANCE_CRYSTALS, seed, ranks.part)
        if matching and not boxes:
            match_share(meeting, sides.names, pairs, options, progress=False)
        return meeting.conclude(None)


def _tell(result: dict[str, Any], json_file: str | None, rows_file: str | None) -> int:
    """Print and write a result; returns the exit code."""
    print(format_table(result))
    for message in _troubles(result):
        print(message, file=sys.stderr)
    try:
        if rows_file is not None:
            write_rows(rows_file, result["rows"])
        if json_file is not None:
            with atomic_write(json_file) as file:
                file.write(json.dumps(result, indent=1, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written ({error.strerror})") from error
    troubled = ("failures", "match_failures", "reference_rejected")
    return 1 if any(result[name] for name in troubled) else 0


def _score(
    names: Sequence[str], pairs: PairSets, matches: Verdicts, title: str, boxes: bool = False
) -> list[CrystalScore]:
    verdicts: Sequence[Match | None] = matches.get(title, [None] * len(names))
    return [
        score_crystal(name, true, guess, match, boxes)
        for name, (guess, true), match in zip(names, pairs[title], verdicts, strict=True)
    ]


def _chance(matches: Sequence[Match], bootstrap: int, seed: int) -> dict[str, Any]:
    """Match rate and RMSE of random positions in the true cells."""
    tallies = np.array([match_tally(match) for match in matches], dtype=float)
    rate, rmse = estimate_ratios(tallies, bootstrap, seed)
    return {"crystals": len(matches), "match_rate": rate, "match_rmse": rmse}


def _summary(
    scores: Sequence[CrystalScore], bootstrap: int, seed: int, boxes: bool
) -> dict[str, Any]:
    """All figures; of boxes those without images once only."""
    found = summarize(scores, bootstrap=bootstrap, seed=seed)
    return {k: v for k, v in found.items() if not (boxes and k.endswith("_published"))}


def _by_num_atoms(
    scores: Sequence[CrystalScore], bootstrap: int, seed: int, boxes: bool
) -> list[dict[str, Any]]:
    """The same figures for small and large cells."""
    bins = []
    for first, last in BOX_COUNT_BINS if boxes else ATOM_COUNT_BINS:
        part = [s for s in scores if first <= s.num_atoms and (last is None or s.num_atoms <= last)]
        if part:
            metrics = _summary(part, bootstrap, seed, boxes)
            bins.append({"first": first, "last": last, "crystals": len(part), "metrics": metrics})
    return bins


def _settings(options: MatchOptions, refine: bool, bootstrap: int, seed: int) -> dict[str, Any]:
    packages = ("nesf", "numpy", "pymatgen", "moyopy")
    return {
        "seed": seed,
        "bootstrap": bootstrap,
        "structure_matcher": {k: v for k, v in asdict(options).items() if k != "workers"},
        "symprec": SYMPREC if refine else None,
        "units": {metric.name: metric.unit for metric in METRICS + MATCH_METRICS},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }


def _troubles(result: dict[str, Any], limit: int = 20) -> list[str]:
    """One line for each crystal that failed, the first of them."""
    lines = [f"failure: {item['id']}: {item['reason']}" for item in result["failures"]]
    lines += [f"not matched: {item['id']}: {item['reason']}" for item in result["match_failures"]]
    lines += [
        f"reference not scored: {item['id'] or item['source']}: {item['reason']}"
        for item in result["reference_rejected"]
    ]
    lines += [f"not in the reference: {name}" for name in result["not_in_reference"]]
    more = len(lines) - limit
    return lines[:limit] + ([f"... and {more} more (all in the JSON file)"] if more > 0 else [])
