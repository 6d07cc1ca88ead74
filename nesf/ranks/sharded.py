"""Crystals through a command by one process, or by N ranks with a shard each and one output.

A rank takes every N-th row of the inputs and writes what becomes of it under the row's number, as
it comes. When all ranks are done, rank 0 puts the shards together in the inputs' order, names the
crystals as one process would have named them, and checks that every row is there once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from nesf.commands.tally import Tally
from nesf.data.files import InputFile, find_files
from nesf.data.latent_file import LatentFile, LatentWriter, from_text, part_of, save_latents
from nesf.data.made_by import MadeBy
from nesf.data.output_lock import OutputLock
from nesf.data.outputs import refuse_earlier
from nesf.data.readers import iter_crystals
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.data.writers import CrystalWriter, StreamWriter, open_writer
from nesf.errors import InputError
from nesf.ranks.environment import Ranks, ranks_here
from nesf.ranks.meeting import Meeting
from nesf.ranks.shards import LatentShard, ShardFormat, Shards

SIZED_FILES = 1000
_SUMMED = ("done", "skipped", "faulty")  # of the tallies of all ranks


def share(
    output: str,
    resume: bool,
    job: Callable[[Work], int],
    overwrite: bool = False,
    refuse: Callable[[str | Path], None] = refuse_earlier,
) -> int:
    """Do a job in one process, or in as many ranks as were started.

    Whatever their number, what any other number of ranks has begun is refused, replaced or gone on
    from as the flags say.

    Args:
        output: of the command.
        resume: go on with what an interrupted run has left.
        job: takes the `Work` to read from and write to, and returns what its `finish` does.
        overwrite: replace what the output holds of an earlier run.
        refuse: raises an InputError if the output holds something.

    Returns:
        The exit code, the same for all ranks.

    Raises:
        InputError: this rank has failed.
        NesfError: another rank has failed, is lost or has not come.
    """
    ranks, shards = ranks_here(), Shards(output)
    if ranks.size == 1 and not shards.hold_results():
        return job(Work(output, resume, overwrite))

    def prepare() -> dict[str, Any]:
        try:
            found = shards.prepare(resume, overwrite, refuse)
        except InputError as error:  # raised below, where no rank waits for another
            return {"refused": str(error)}
        # finished, or begun by one process: rank 0 looks what is left to do
        begun = Path(output).exists() or part_of(output).exists()
        return {"alone": resume and not found and begun}

    with Meeting(shards.folder, ranks, "go on with --resume", prepare) as meeting:
        code = None
        if "refused" in meeting.plan:
            raise InputError(meeting.plan["refused"])
        if not meeting.plan["alone"]:
            # with shards to go on from, a folder holds no more than an interrupted join
            work = RankWork(output, shards, meeting, overwrite or resume)
            try:
                code = job(work)
            finally:
                work.release()
        elif ranks.rank == 0:
            code = job(Work(output, resume))
        return meeting.conclude(code)


class Work:
    """Where a command's crystals come from and go to: one process, which does it all.

    Args:
        output: of the command.
        resume: go on after what the output holds.
        overwrite: replace what the output holds of an earlier run.
        ranks: this one of all.
    """

    def __init__(
        self, output: str, resume: bool, overwrite: bool = False, ranks: Ranks | None = None
    ) -> None:
        self.output, self.resume, self.overwrite = output, resume, overwrite
        self.ranks = ranks or Ranks()

    def read(self, inputs: Sequence[str], options: ReadOptions) -> Iterator[Row | Rejected]:
        """The rows to work on, in order; inputs that do not exist are refused at the call."""
        return iter_crystals(inputs, options, progress=False)

    def writer(self, columns: Sequence[str], made_by: MadeBy | None = None) -> CrystalWriter:
        """Where crystals are written to, with what is done already.

        Args:
            columns: beside each crystal.
            made_by: what makes the crystals.

        Raises:
            InputError: as `open_writer`.
        """
        return open_writer(self.output, self.resume, columns, self.overwrite, made_by)

    def latent_writer(self, latent_dim: int, made_by: MadeBy) -> LatentWriter:
        """Where latents are written to, with what is done already.

        Args:
            latent_dim: length L of a latent.
            made_by: what makes them.

        Raises:
            InputError: as `LatentFile`.
        """
        return LatentFile(self.output, latent_dim, self.resume, self.overwrite, made_by)

    def check(self) -> None:
        """Call it between crystals: raises a NesfError if another rank has failed or is lost."""

    def finish(self, tally: Tally) -> int:
        """Tell the user what became of the crystals, and give the exit code."""
        return tally.finish(self.output)


class RankWork(Work):
    """The share of one rank; its rows are named by their number in the inputs.

    Args:
        output: of the command.
        shards: what this and earlier runs have written for it.
        meeting: with the other ranks.
        overwrite: as of `Work`.
    """

    def __init__(
        self, output: str, shards: Shards, meeting: Meeting, overwrite: bool = False
    ) -> None:
        super().__init__(output, False, overwrite, meeting.ranks)
        self.shards, self.meeting = shards, meeting
        self.inputs: Sequence[str] = ()
        self.digest = ""  # of the input files
        self.rows = 0  # of this rank, so far
        self.names: dict[int, str] = {}  # of rows that could be read, as the inputs give them
        self.unread: dict[int, str | None] = {}
        self.done: dict[int, str] = {}  # by earlier runs
        self.target: CrystalWriter | None = None
        self.latent_dim: int | None = None  # of latents, which have no target until all are done
        self.lock: OutputLock | None = None
        self.made_by: MadeBy | None = None

    def read(self, inputs: Sequence[str], options: ReadOptions) -> Iterator[Row | Rejected]:
        """Every N-th row, its id replaced by its number."""
        self.inputs = inputs
        self.digest = _digest(find_files(inputs))
        options = replace(options, workers=self.ranks.workers(options.workers))
        found = iter_crystals(inputs, options, progress=False, part=self.ranks.part)
        return self._numbered(found)

    def writer(self, columns: Sequence[str], made_by: MadeBy | None = None) -> CrystalWriter:
        """A shard of its own; rank 0 opens the output, too, to know at once if it cannot."""
        path, form = self._shard(made_by)
        if self.ranks.rank == 0:
            self.target = self.shards.open_target(columns, self.overwrite, made_by)
        writer = StreamWriter(path, form, resume=False)
        writer.done = frozenset(map(str, self.done))
        return writer

    def latent_writer(self, latent_dim: int, made_by: MadeBy) -> LatentWriter:
        """A shard of its own; rank 0 keeps others from the output."""
        path, form = self._shard(made_by)
        self.latent_dim = latent_dim
        if self.ranks.rank == 0:
            self.lock = OutputLock(self.output)
        return LatentShard(path, form, frozenset(map(str, self.done)))

    def _shard(self, made_by: MadeBy | None) -> tuple[Path, ShardFormat]:
        """Where this rank writes, and how; finds what earlier runs have done of its rows."""
        self.made_by = made_by
        if made_by is not None:
            self.shards.refuse_other(made_by)
        self.done = self.shards.done(self.ranks)
        return self.shards.new_path(self.ranks.rank), ShardFormat(self.names, made_by)

    def check(self) -> None:
        """Look whether the other ranks go on, and tell them that this one does."""
        self.meeting.check()

    def release(self) -> None:
        """Let other runs come to the output."""
        for held in (self.target, self.lock):
            if held is not None:
                held.release()

    def finish(self, tally: Tally) -> int:
        """Report to rank 0, which joins what all have done."""
        rejected = [self._refusal(int(one.id or ""), one) for one in tally.rejected]
        counts = {"rows": self.rows} | {name: getattr(tally, name) for name in _SUMMED}
        report = counts | {"inputs": self.digest, "rejected": rejected}
        self.meeting.publish("done", report)
        if self.ranks.rank != 0:
            return 0
        reports = self.meeting.collect("done")
        if not any(report["rows"] for report in reports):
            raise InputError(f"no crystal in {', '.join(self.inputs[:3])}")
        total = Tally(tally.verb)
        for name in _SUMMED:
            setattr(total, name, sum(report[name] for report in reports))
        total.rejected = self._join(reports)
        code = total.finish(self.output)
        self.shards.remove()
        return code

    def _numbered(self, found: Iterator[Row | Rejected]) -> Iterator[Row | Rejected]:
        with closing(found):  # type: ignore[type-var]
            for one in found:
                self.meeting.check()
                number = self.ranks.rank + self.rows * self.ranks.size
                self.rows += 1
                if isinstance(one, Row):
                    self.names[number] = one.id_in_file
                    self._refuse_other_inputs(number)
                elif number in self.done:  # an earlier run could read it
                    continue
                else:
                    self.unread[number] = one.id
                yield replace(one, id=str(number))

    def _refuse_other_inputs(self, number: int) -> None:
        before, now = self.done.get(number), self.names[number]
        if before is not None and before != now:
            raise InputError(
                f"{self.shards.folder} holds shards of other inputs, whose row {number + 1} was "
                f"{before} and not {now}; leave --resume out, or give another output"
            )

    def _refusal(self, number: int, one: Rejected) -> list[Any]:
        was_read = number in self.names
        name = self.names[number] if was_read else self.unread[number]
        return [number, was_read, vars(replace(one, id=name))]

    def _join(self, reports: Sequence[dict[str, Any]]) -> list[Rejected]:
        """Write the output; returns what was rejected, in order."""
        rejected: list[Rejected] = []

        def done() -> Iterator[tuple[str, str]]:
            """Names and what their lines tell."""
            for entry in self.shards.join(self.shards.results(), reports):
                self.meeting.check()
                if isinstance(entry.result, Rejected):
                    rejected.append(entry.result)
                else:
                    assert entry.name is not None
                    yield entry.name, entry.result

        if self.latent_dim is not None:
            latents = {name: from_text(line) for name, line in done()}
            save_latents(self.output, latents, self.latent_dim, self.made_by)
            return rejected
        assert self.target is not None
        with self.target as target:
            for name, line in done():
                target.write(name, *ShardFormat.crystal(line))
        self.shards.finish_target(self.made_by)
        return rejected


def _digest(files: Sequence[InputFile]) -> str:
    """What tells input files from others: names, and sizes of the first of very many."""
    told = [str(file.path) for file in files]
    told += [str(file.path.stat().st_size) for file in files[:SIZED_FILES]]
    text = "\n".join(told)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()
