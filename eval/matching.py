"""pymatgen's StructureMatcher in worker processes that can be killed, and its chance level.

StructureMatcher never returns for some cells that a poor model writes (needles, flat cells). Every
pair is therefore checked first, then matched in a worker process; a worker that takes longer than
the time limit over one pair is killed and replaced, and that pair is a scored failure.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from eval.cells import Cell, fault
from nesf.data.records import ReadOptions
from nesf.data.workers import Failure, Limits, map_in_workers

PAIRS_PER_WORKER = 16  # fewer are not worth another process


@dataclass(frozen=True)
class MatchOptions:
    """How two crystals are matched.

    Attributes:
        ltol: fractional tolerance of cell lengths. The three tolerances are those that CDVAE
            (Xie et al., arXiv:2110.06197) and the models compared with it use.
        stol: tolerance of sites, in units of the free length per atom (V / N)^(1/3).
        angle_tol: tolerance of cell angles, degrees.
        timeout_s: time limit for one pair, seconds.
        memory_gib: address space of a worker process, GiB.
        workers: worker processes; by default one a CPU core, and fewer for few pairs.
    """

    ltol: float = 0.3
    stol: float = 0.5
    angle_tol: float = 10.0
    timeout_s: float = 20.0
    memory_gib: float = 4.0
    workers: int | None = None


@dataclass(frozen=True)
class Match:
    """The verdict on one pair.

    Attributes:
        rmse: root mean square displacement of the matched sites in units of (V / N)^(1/3), as
            `StructureMatcher.get_rms_dist` gives it; None where the crystals do not match.
        failure: why the pair could not be matched at all (it then counts as unmatched).
    """

    rmse: float | None = None
    failure: str | None = None

    @property
    def matched(self) -> bool:
        """Whether the two crystals match."""
        return self.rmse is not None


def match_pair(first: Cell, second: Cell, options: MatchOptions) -> Match:
    """Match two crystals in this process, which may never return: see `match_pairs`."""
    from pymatgen.core.structure_matcher import StructureMatcher

    matcher = StructureMatcher(
        ltol=options.ltol, stol=options.stol, angle_tol=options.angle_tol, primitive_cell=True
    )
    answer = matcher.get_rms_dist(first.to_structure(), second.to_structure())
    return Match() if answer is None else Match(rmse=float(answer[0]))


def match_pairs(
    pairs: Sequence[tuple[Cell | None, Cell]],
    options: MatchOptions | None = None,
    *,
    progress: str | None = None,
    function: str = "eval.matching:match_payload",
    at_each: Callable[[], None] | None = None,
) -> list[Match]:
    """Match pairs of crystals in parallel, each within its time limit.

    Crystals of different reduced compositions cannot match and cost nothing; a missing or unusable
    crystal (`eval.cells.fault`) is a failure at once.

    Args:
        pairs: predicted and reference crystal of each pair.
        options: tolerances, time limit and number of workers.
        progress: title of the progress bar; none without it.
        function: what a worker does with a pair, "package.module:name".
        at_each: called as each verdict comes; what it raises ends the matching.

    Returns:
        One verdict a pair, in the order of `pairs`.

    Raises:
        NesfError: worker processes cannot be started.
    """
    from tqdm import tqdm

    options = options or MatchOptions()
    verdicts = [_verdict_without_matching(*pair) for pair in pairs]
    todo = [i for i, verdict in enumerate(verdicts) if verdict is None]
    if todo:
        cores = ReadOptions(workers=options.workers).num_workers
        answers = map_in_workers(
            function,
            ((i, [_payload(cell) for cell in pairs[i]]) for i in todo),
            config=asdict(options),
            workers=min(cores, -(-len(todo) // PAIRS_PER_WORKER)),
            limits=Limits(timeout_s=options.timeout_s, memory_gib=options.memory_gib),
            chunk_items=PAIRS_PER_WORKER // 2,
        )
        disable = progress is None
        bar = tqdm(answers, progress, len(todo), unit=" pairs", delay=2, disable=disable)
        with closing(answers):  # type: ignore[type-var]
            for i, answer in bar:
                if at_each is not None:
                    at_each()
                failed = isinstance(answer, Failure)
                verdicts[i] = Match(failure=answer.reason) if failed else Match(rmse=answer)
    return [verdict or Match() for verdict in verdicts]


def match_payload(payload: list[dict[str, Any]], config: dict[str, Any]) -> float | None:
    """`match_pair` in a worker: two crystals as lists of numbers, options as a dict."""
    first, second = (Cell(**{name: np.array(x) for name, x in cell.items()}) for cell in payload)
    return match_pair(first, second, MatchOptions(**config)).rmse


def _payload(cell: Cell | None) -> dict[str, Any]:
    assert cell is not None
    return {name: array.tolist() for name, array in vars(cell).items()}


def random_sites(cell: Cell, seed: int, name: str) -> Cell:
    """The true cell and elements with uniformly random positions: what a blind guess would match.

    Args:
        cell: the true crystal.
        seed: of the whole evaluation.
        name: the crystal's id, so that its draw does not depend on what else is scored.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return Cell(cell.lattice, generator.random((len(cell), 3)), cell.atomic_numbers)


def _verdict_without_matching(predicted: Cell | None, reference: Cell) -> Match | None:
    """The verdict on a pair that needs no matcher, else None."""
    for cell in (predicted, reference):
        reason = fault(cell)
        if reason is not None:
            return Match(failure=reason)
    assert predicted is not None
    if _reduced_composition(predicted) != _reduced_composition(reference):
        return Match()
    return None


def _reduced_composition(cell: Cell) -> dict[int, int]:
    elements, counts = np.unique(cell.atomic_numbers, return_counts=True)
    return dict(zip(elements.tolist(), (counts // np.gcd.reduce(counts)).tolist(), strict=True))
