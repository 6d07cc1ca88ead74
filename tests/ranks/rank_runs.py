"""Ranks that start quickly, parsing and matching by themselves: as forked processes, or threads."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from nesf.errors import NesfError
from nesf.ranks.environment import PATIENCE
from nesf.ranks.environment import Ranks as RanksHere

ROWS, BAD, TWICE = 7, 2, (1, 4)  # rows: all, the one that is no crystal, those of one id
DONE = ROWS - 1
PRELOAD = [
    "pytest",
    "jsonargparse",
    "docstring_parser",
    "moyopy",
    "pymatgen.io.cif",
    "pymatgen.core.structure_matcher",
    "eval.evaluate",
    "nesf.commands.parser",
    "nesf.commands.models",
    "nesf.data.parsing",
    "nesf.commands.through",
    "nesf.commands.files",
]
LIMIT_S = 240  # on a machine that is busy with other things
PATIENCE_S = 10.0  # likewise; ranks look at each other every 20th part of it
PARSING = threading.Lock()  # parsers catch warnings, of which there is one list for all threads


def exact(table: Path, output: Path, *more: object) -> list[object]:
    """The words that take a table through exact fields."""
    # one crystal at a time: sums over other batches differ in their last digits
    return ["reconstruct", table, "--field=exact", "--output", output, "--batch-size=1",
            "--progress=false", *more]  # fmt: skip


def content(output: Path) -> dict[str, bytes]:
    """All that a command has written, the list of rejected rows included."""
    if output.is_file():
        beside = [f"{output.stem}.rejected.csv", f"{output.name}.made_by.json"]
        return {name: output.with_name(name).read_bytes() for name in (output.name, *beside)}
    return {path.name: path.read_bytes() for path in output.iterdir()}


@dataclass(frozen=True)
class Ended:
    """How a rank ended: exit code (minus the signal that killed it), what it said, and when."""

    code: int
    out: str
    err: str
    seconds: float


def torchrun(rank: int, size: int) -> dict[str, str]:
    """What torchrun tells a rank."""
    return {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}


def srun(rank: int, size: int) -> dict[str, str]:
    """What SLURM's srun tells a rank of a step that is smaller than its job."""
    return {
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(rank),
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_NTASKS": str(size + 3),
        "SLURM_LOCALID": str(rank),
    }


def answers(function: str, items: Any, *, config: Any, **_: Any) -> Iterator[tuple[Any, Any]]:
    """`map_in_workers` in this process."""
    from nesf.data.workers import Failure

    module, name = function.split(":")
    call = getattr(importlib.import_module(module), name)
    for item, payload in items:
        with PARSING:
            try:
                answer = None if payload is None else call(payload, config)
            except Exception as error:
                answer = Failure(str(error))
        yield item, answer


def run_rank(
    argv: Sequence[str],
    log: Path,
    environment: dict[str, str],
    strike: tuple[int, int] | None,
    size: int,
) -> None:
    """Run `nesf ARGV` in this process; `strike` sends it a signal before its n-th crystal.

    The signal waits until all ranks have come: one that comes later finds nobody.
    """
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(log.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(environment)
    import eval.matching
    import nesf.data.readers
    from nesf import model_config
    from nesf.cli import main
    from nesf.data.writers import StreamWriter
    from nesf.ranks.shards import LatentShard

    nesf.data.readers.map_in_workers = eval.matching.map_in_workers = answers
    model_config.TRUSTED_PREFIXES = ("nesf.", "stand_in_model.")
    if strike is not None:
        number, left = strike

        def struck(write: Callable[..., None]) -> Callable[..., None]:
            def instead(self: Any, *arguments: Any) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    while len(list(self._file.path.parent.glob("note-*.json"))) < size:
                        time.sleep(0.01)
                    os.kill(os.getpid(), number)
                    time.sleep(60)  # a signal that is handled interrupts it
                write(self, *arguments)

            return instead

        for kind in (StreamWriter, LatentShard):
            kind.write = struck(kind.write)  # type: ignore[method-assign]
    code = main(argv)
    sys.stdout.flush()
    sys.exit(code)


class Ranks:
    """Starts `nesf` as N ranks, or in one process.

    Args:
        context: of multiprocessing.
        folder: for logs.
    """

    def __init__(self, context: Any, folder: Path) -> None:
        self.context, self.folder = context, folder

    def __call__(
        self,
        size: int,
        *argv: object,
        patience_s: float = PATIENCE_S,
        launcher: Any = torchrun,
        strikes: dict[int, tuple[int, int]] | None = None,
        others: dict[int, Sequence[object]] | None = None,
        absent: Sequence[int] = (),
    ) -> list[Ended]:
        """Run ranks to their end.

        Args:
            size: how many.
            argv: the words after `nesf`.
            patience_s: how long they wait for each other.
            launcher: what their environment is.
            strikes: by rank, a signal and the crystals that are written before it.
            others: by rank, other words than `argv`.
            absent: ranks that are not started.
        """
        begun = time.monotonic()
        processes = {}
        for rank in range(size):
            if rank in absent:
                continue
            words = [str(word) for word in (others or {}).get(rank, argv)]
            environment = launcher(rank, size) if size > 1 else {}
            environment |= {PATIENCE: str(patience_s)}
            log, strike = self.folder / f"rank{rank}", (strikes or {}).get(rank)
            processes[rank] = self.context.Process(
                target=run_rank, args=(words, log, environment, strike, size)
            )
            processes[rank].start()
        ended = {}
        while len(ended) < len(processes):
            for rank, process in processes.items():
                if rank not in ended and process.exitcode is not None:
                    ended[rank] = time.monotonic() - begun
            if time.monotonic() - begun > LIMIT_S:
                for process in processes.values():
                    process.kill()
                pytest.fail(f"ranks {sorted(processes.keys() - ended)} hang")
            time.sleep(0.02)
        return [
            Ended(process.exitcode, *self._said(rank), ended[rank])
            for rank, process in processes.items()
        ]

    def _said(self, rank: int) -> tuple[str, str]:
        log = self.folder / f"rank{rank}"
        return log.with_suffix(".out").read_text(), log.with_suffix(".err").read_text()


class Threads:
    """Calls a command as N ranks in this process: for all but signals, exit and what is said.

    Args:
        monkeypatch: tells the command which rank it is, and keeps it from starting workers.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.here = threading.local()
        monkeypatch.setattr("nesf.ranks.sharded.ranks_here", lambda: self.here.ranks)
        monkeypatch.setattr("nesf.data.readers.map_in_workers", answers)
        monkeypatch.setenv(PATIENCE, str(PATIENCE_S))

    def __call__(
        self, size: int, command: Callable[[int], int], absent: Sequence[int] = ()
    ) -> list[int | NesfError]:
        """Call `command(rank)` in a thread for each rank; its exit codes or what it has raised."""

        def run(rank: int) -> int | NesfError:
            self.here.ranks = RanksHere(rank, size, rank)
            try:
                return command(rank)
            except NesfError as error:
                return error

        present = [rank for rank in range(size) if rank not in absent]
        with ThreadPoolExecutor(len(present)) as pool:
            return list(pool.map(run, present))


KILL = int(signal.SIGKILL)
TERM = int(signal.SIGTERM)
