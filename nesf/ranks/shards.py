"""What ranks have done, in a folder beside the output: one file a rank and run, and their union.

A row of the inputs is known by its number there, from 0, since an id is unique only once all rows
before it have been read.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from jaxtyping import Float

from nesf.data.append_file import AppendFile
from nesf.data.latent_file import LatentWriter, to_text
from nesf.data.made_by import MadeBy, keep_made_by, refuse_difference
from nesf.data.output_lock import OutputLock
from nesf.data.outputs import is_folder, refuse_earlier
from nesf.data.readers import unique_id
from nesf.data.records import Rejected
from nesf.data.writers import CrystalWriter, open_writer
from nesf.errors import InputError
from nesf.ranks.environment import Ranks

if TYPE_CHECKING:
    from pymatgen.core import Structure

_MADE_BY = "made by\t"  # how the first line of a shard begins


@dataclass(frozen=True)
class Entry:
    """What became of one row of the inputs.

    Attributes:
        number: of the row, from 0.
        name: its id, as the inputs give it; in what `Shards.join` yields, made unique.
        result: what a line of a shard tells, or why there is none.
        was_read: it is a crystal, whatever became of it.
    """

    number: int
    name: str | None
    result: str | Rejected
    was_read: bool = True


class ShardFormat:
    """A line a crystal: number, id and all floats exactly, so that joining loses nothing.

    Args:
        names: the ids of the numbers, as the inputs give them.
        made_by: what makes the crystals, which stands in the first line.
    """

    def __init__(self, names: Mapping[int, str], made_by: MadeBy | None = None) -> None:
        self.names, self.made_by = names, made_by

    def begin(self, info: Sequence[str]) -> str:
        """What makes the crystals, if that is known."""
        return "" if self.made_by is None else f"{_MADE_BY}{json.dumps(self.made_by)}\n"

    def row(self, name: str, structure: Structure, info: dict[str, Any]) -> str:
        """One line; `name` is the number."""
        content = {
            "lattice": structure.lattice.matrix.tolist(),
            "numbers": list(structure.atomic_numbers),
            "frac": structure.frac_coords.tolist(),
            "info": info,
        }
        return f"{name}\t{json.dumps(self.names[int(name)])}\t{json.dumps(content)}\n"

    def latent_row(self, name: str, latent: Float[np.ndarray, " l"]) -> str:
        """One line of a latent (L,); `name` is the number."""
        return f"{name}\t{json.dumps(self.names[int(name)])}\t{to_text(latent)}\n"

    def scan(self, lines: Iterable[str]) -> Iterator[tuple[int, tuple[str, ...] | None]]:
        """Number, id and content of whole lines; a torn last one is left out."""
        for line in lines:
            if not line.endswith("\n"):
                return
            try:
                if line.startswith(_MADE_BY):
                    self.made_by = json.loads(line.removeprefix(_MADE_BY))
                    yield 1, None
                    continue
                number, name, content = line.removesuffix("\n").split("\t")
                yield 1, (str(int(number)), json.loads(name), content)
            except ValueError as error:
                raise InputError("it is no shard, or is damaged") from error

    @staticmethod
    def crystal(content: str) -> tuple[Structure, dict[str, Any]]:
        """The crystal of a line, and its info columns."""
        from pymatgen.core import Lattice, Structure

        found = json.loads(content)
        lattice = Lattice(found["lattice"])
        return Structure(lattice, found["numbers"], found["frac"]), found["info"]


class LatentShard(LatentWriter):
    """Latents of one rank, each under its number.

    Args:
        path: a new file.
        form: how they become lines.
        done: numbers of latents that are in other shards.
    """

    def __init__(self, path: Path, form: ShardFormat, done: frozenset[str]) -> None:
        self.form, self.done = form, done
        self._file = AppendFile(path, form, resume=False)

    def write(self, id: str, latent: Float[np.ndarray, " l"]) -> None:
        """Write one latent; see `LatentWriter.write`."""
        head = self.form.begin([]) if self._file.is_empty else ""
        self._file.append(head + self.form.latent_row(id, latent))

    def close(self, whole: bool = True) -> None:
        """Finish the file and flush it to the disk."""
        self._file.close()


class Shards:
    """The folder `OUTPUT.shards`.

    Args:
        output: of the command.
    """

    def __init__(self, output: str | Path) -> None:
        path = Path(output)
        self.named = output  # as it is written: a slash at its end says that it is a folder
        self.output = path if path.name else path.resolve()
        self.folder = self.output.with_name(f"{self.output.name}.shards")

    def prepare(
        self,
        resume: bool,
        overwrite: bool = False,
        refuse: Callable[[str | Path], None] = refuse_earlier,
    ) -> bool:
        """Clear what an earlier run has left, but for results that are to be gone on from.

        Args:
            resume: go on from them.
            overwrite: replace them, and what the output holds.
            refuse: raises an InputError if the output holds something.

        Returns:
            Whether there are such.

        Raises:
            InputError: there are results, here or in the output, and neither flag was given; or
                another run is writing what is to be replaced.
        """
        if overwrite and not self.output.is_dir():
            lock = OutputLock(self.output)
            try:
                # else an interrupted run would be gone on from with what was to be replaced
                self.output.unlink(missing_ok=True)
                keep_made_by(self.output, None)
            finally:
                lock.release()
        if not (resume or overwrite):
            refuse(self.named)
            if self.hold_results():
                raise InputError(
                    f"{self.folder} holds what an interrupted run has done: go on with --resume, "
                    "remove it with --overwrite, or give another output"
                )
        self._remove("done-*.json", "joined-*")
        if not resume:
            self._remove("shard-*.jsonl")
        return any(self._files())

    def remove(self) -> None:
        """Remove all shards, and the folder where nothing else is in it."""
        self._remove("done-*.json", "joined-*", "shard-*.jsonl")
        with suppress(OSError):
            self.folder.rmdir()

    def new_path(self, rank: int) -> Path:
        """A new file for a rank's results; those of earlier runs are only read."""
        taken = {path.name for path in self._files()}
        names = (f"shard-{rank:05d}-{count}.jsonl" for count in range(len(taken) + 1))
        return self.folder / next(name for name in names if name not in taken)

    def done(self, ranks: Ranks) -> dict[int, str]:
        """Ids by number of the rows that are in the shards and fall to one rank."""
        return {
            entry.number: entry.name or ""
            for path in self._files()
            for entry in _in_order(path)
            if entry.number % ranks.size == ranks.rank
        }

    def refuse_other(self, made_by: MadeBy) -> None:
        """Refuse to go on with shards that something else has made.

        Raises:
            InputError: with what differs.
        """
        for path in self._files():
            form = ShardFormat({})
            with path.open(encoding="utf-8", newline="\n", errors="replace") as lines:
                next(iter(form.scan(lines)), None)
            if form.made_by is not None:
                refuse_difference(self.folder, form.made_by, made_by)

    def open_target(
        self, columns: Sequence[str], overwrite: bool = False, made_by: MadeBy | None = None
    ) -> CrystalWriter:
        """Open what all shards are joined into.

        Args:
            columns: as of `open_writer`.
            overwrite: replace what a folder holds of an earlier run.
            made_by: as of `open_writer`.

        Raises:
            InputError: as `open_writer`.
        """
        if self._joined is None:
            return open_writer(self.named, False, columns, overwrite, made_by)
        return open_writer(self._joined, False, columns, overwrite, becomes=self.output)

    def finish_target(self, made_by: MadeBy | None = None) -> None:
        """Put a joined file in the place of the output, in one step."""
        if self._joined is not None:
            self._joined.replace(self.output)
            keep_made_by(self.output, made_by)

    def results(self) -> list[Iterator[Entry]]:
        """What is in every shard, each in order."""
        return [_in_order(path) for path in self._files()]

    def join(
        self, streams: Sequence[Iterator[Entry]], reports: Sequence[Mapping[str, Any]]
    ) -> Iterator[Entry]:
        """All rows in the inputs' order, named as one process names them.

        Args:
            streams: what was done, each in order.
            reports: of each rank, a digest of its `inputs`, the number of its `rows`, and those
                `rejected` of them: lists of number, whether it was read, and the fields of
                `Rejected`.

        Raises:
            InputError: the ranks have not read the same inputs, or a row is lost or there twice.
        """
        total = sum(report["rows"] for report in reports)
        shares = [len(range(rank, total, len(reports))) for rank in range(len(reports))]
        same = len({report["inputs"] for report in reports}) == 1
        if not same or shares != [report["rows"] for report in reports]:
            raise self._misfit("the ranks have not read the same inputs")
        refusals = [
            Entry(number, content["id"], Rejected(**content), was_read)
            for report in reports
            for number, was_read, content in report["rejected"]
        ]
        order = attrgetter("number")
        taken: dict[str, int] = {}
        expected = 0
        for entry in heapq.merge(*streams, sorted(refusals, key=order), key=order):
            if entry.number != expected:
                lost = entry.number > expected
                row = f"row {expected + 1} is lost" if lost else f"row {expected} is there twice"
                raise self._misfit(row)
            expected += 1
            if entry.was_read and entry.name is not None:
                entry = _renamed(entry, unique_id(entry.name, taken))
            yield entry
        if expected != total:
            raise self._misfit(f"row {expected + 1} is lost")

    def _misfit(self, reason: str) -> InputError:
        return InputError(
            f"the shards in {self.folder} do not fit together: {reason}; start again without "
            "--resume"
        )

    @property
    def _joined(self) -> Path | None:
        return None if is_folder(self.named) else self.folder / f"joined-{self.output.name}"

    def hold_results(self) -> bool:
        """Whether an interrupted run has left results."""
        return any(path.stat().st_size for path in self._files())

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("shard-*.jsonl"))

    def _remove(self, *patterns: str) -> None:
        for pattern in patterns:
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)


def _in_order(path: Path) -> Iterator[Entry]:
    """What is in a shard, in order: it was written as it was done."""
    form, start = ShardFormat({}), 0

    def lines(file: BinaryIO) -> Iterator[str]:
        nonlocal start
        end = 0
        for line in file:
            start, end = end, end + len(line)
            yield line.decode()

    with path.open("rb") as file:
        try:
            found = form.scan(lines(file))
            places = sorted((int(fields[0]), start) for _, fields in found if fields is not None)
            for number, place in places:
                file.seek(place)
                ((_, fields),) = form.scan([file.readline().decode()])
                assert fields is not None
                _, name, content = fields
                yield Entry(number, name, content)
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no shard, or is damaged; remove it") from error


def _renamed(entry: Entry, name: str) -> Entry:
    if isinstance(entry.result, Rejected):
        return replace(entry, name=name, result=replace(entry.result, id=name))
    return replace(entry, name=name)
