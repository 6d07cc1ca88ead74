"""N processes of this machine at one command: what torchrun does, without its server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from types import FrameType

from nesf.data.records import usable_cores
from nesf.errors import NesfError
from nesf.ranks.environment import PATIENCE

PATIENCE_S = 15  # without other machines and network file systems a note is seen at once
_LOOK_S = 0.05
_GRACE_S = 3.0  # a terminal interrupts all processes; whoever interrupts this one alone does not


def run_ranks(words: Sequence[str], count: int) -> int:
    """Run `nesf WORDS` as some ranks, each with its share of the cores, or with a GPU of its own.

    Signals are handed on to them, and the first of them speaks for all.

    Args:
        words: the command and its arguments.
        count: of processes.

    Returns:
        The exit code of rank 0.

    Raises:
        NesfError: one of them was killed; the others have been ended.
    """
    context = multiprocessing.get_context("spawn")
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // count))
    told = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": threads,
        PATIENCE: os.environ.get(PATIENCE, str(PATIENCE_S)),
    }
    ranks = [
        context.Process(
            target=_rank, args=(list(words), told | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        )
        for rank in range(count)
    ]
    with _handing_on(ranks):
        for rank in ranks:
            rank.start()
        try:
            killed = _first_killed(ranks)
        except KeyboardInterrupt:
            _end(ranks, signal.SIGINT, _GRACE_S)
            killed = None
        if killed is not None:
            _end(ranks, signal.SIGTERM)
            number = -(ranks[killed].exitcode or 0)
            raise NesfError(
                f"process {killed + 1} of {count} was killed by signal {number} (for want of "
                "memory, if by nobody); go on with --resume"
            )
    return ranks[0].exitcode or 0


def _rank(words: list[str], environment: dict[str, str]) -> None:
    os.environ.update(environment)  # before torch is imported
    from nesf.cli import main

    sys.exit(main(words))


def _first_killed(ranks: Sequence[SpawnProcess]) -> int | None:
    """Wait until all have come to their end, or one was killed: which."""
    while True:
        # asked of the kernel: what a rank has started may hold its pipe open after its end
        codes = [rank.exitcode for rank in ranks]
        killed = [number for number, code in enumerate(codes) if code is not None and code < 0]
        if killed:
            return killed[0]
        if None not in codes:
            return None
        time.sleep(_LOOK_S)


def _end(ranks: Sequence[SpawnProcess], number: int, grace_s: float = 0.0) -> None:
    """Send a signal to those that run after a while, and wait for their end."""
    end = time.monotonic() + grace_s
    for rank in ranks:
        rank.join(max(0.0, end - time.monotonic()))
    _send(ranks, number)
    for rank in ranks:
        rank.join()


@contextmanager
def _handing_on(ranks: Sequence[SpawnProcess]) -> Iterator[None]:
    """SIGTERM goes to all of them."""

    def hand_on(number: int, frame: FrameType | None) -> None:
        _send(ranks, number)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _send(ranks: Sequence[SpawnProcess], number: int) -> None:
    for rank in ranks:
        if rank.pid is not None and rank.is_alive():
            os.kill(rank.pid, number)
