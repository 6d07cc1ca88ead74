"""N processes that work on one output: who is alive, what each has done, and one verdict for all.

They meet in a folder that all of them see, and need no network between them. Each keeps a note
there that changes every few seconds, written by a thread. Rank 0 watches all notes, the others
watch rank 0's; a note that stands still, or that tells of a failure, ends the work of everyone. A
watcher measures by its own clock how long a note has not changed, so that clocks need not agree.
"""

from __future__ import annotations

import json
import secrets
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, TypeVar

from nesf.atomic import atomic_write
from nesf.errors import InputError, NesfError
from nesf.ranks.environment import LostLeader, Patience, Ranks, Terminated

Found = TypeVar("Found")
Note = dict[str, Any]


class Meeting:
    """A context manager within which ranks are watched; every one of them must enter it.

    Args:
        folder: where the ranks meet; rank 0 makes it.
        ranks: this one.
        hint: how the work goes on after a failure, for messages.
        prepare: called by rank 0 alone before the others begin; what it returns is `plan` for all.
        patience: how long to wait; by default as the environment says.
    """

    def __init__(
        self,
        folder: Path,
        ranks: Ranks,
        hint: str,
        prepare: Callable[[], Note] = dict,
        patience: Patience | None = None,
    ) -> None:
        self.folder, self.ranks, self.hint, self.prepare = folder, ranks, hint, prepare
        self.patience = patience or Patience.from_environment()
        self.launch = secrets.token_hex(8)  # tells the notes of this run from those of others
        self._note: Note = {}
        self._lock = threading.Lock()  # of the note
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="nesf-rank", daemon=True)
        self._seen: dict[int, tuple[Note, float]] = {}  # the last change, and when it was seen
        self._begun = self._progress = self._next_look = time.monotonic()
        self._handler: Any = None

    @property
    def plan(self) -> Note:
        """What rank 0 has prepared."""
        return self._note["plan"]

    def __enter__(self) -> Meeting:
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._terminate)
        try:
            if self.ranks.rank == 0:
                self._open()
            else:
                self._join()
        except BaseException:
            self._restore()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if error is not None:
            told = str(error) if isinstance(error, NesfError) else f"{type(error).__name__} {error}"
            if isinstance(error, KeyboardInterrupt):
                told = "interrupted"
            self._leave(self.patience.silent_s / 4, failed=told.strip())
        self._restore()

    def check(self) -> None:
        """Call it often: says that this rank goes on, and looks now and then whether others do.

        Raises:
            NesfError: another rank has failed, is lost or has not come.
        """
        now = self._progress = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + self.patience.interval_s
        for rank in range(1, self.ranks.size) if self.ranks.rank == 0 else [0]:
            self._look(rank, now)

    def publish(self, name: str, data: Any) -> None:
        """Leave JSON-able data for rank 0."""
        with atomic_write(self._path(name, self.ranks.rank)) as file:
            file.write(json.dumps({"launch": self.launch, "data": data}).encode())

    def collect(self, name: str) -> list[Any]:
        """Wait for what all ranks have published under this name.

        Raises:
            NesfError: as `check`.
        """
        ranks = range(self.ranks.size)
        return [self._wait(partial(self._published, name, rank)) for rank in ranks]

    def conclude(self, code: int | None) -> int:
        """Give (rank 0) or await (the others) the exit code of all.

        Raises:
            NesfError: as `check`.
        """
        if self.ranks.rank == 0:
            self._leave(self.patience.silent_s, code=code)
            return code or 0
        found = self._wait(lambda: self._seen[0][0].get("code") if 0 in self._seen else None)
        self._leave(0.0)
        # torchrun ends all ranks when one has exited with a failure: let rank 0 clear up first
        end = time.monotonic() + self.patience.silent_s / 4
        while time.monotonic() < end and self._path("note", 0).exists():
            time.sleep(min(0.05, self.patience.interval_s))
        return found

    def _path(self, name: str, rank: int) -> Path:
        return self.folder / f"{name}-{rank:05d}.json"

    # -- beginning and end

    def _open(self) -> None:
        """Rank 0: refuse to disturb a run that is alive, and call the others."""
        before = self._read("note", 0)
        if before is not None and "code" not in before and "failed" not in before:
            time.sleep(2.5 * self.patience.interval_s)
            if self._read("note", 0) != before:
                raise InputError(
                    f"another run is working in {self.folder}; stop it, or give another output"
                )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_notes()
            plan = self.prepare()
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be written ({error.strerror or error}); give another output"
            ) from error
        self._change(launch=self.launch, plan=plan)

    def _join(self) -> None:
        """Another rank: wait until rank 0's note is new, whatever an earlier run left there."""
        before = self._read("note", 0)
        while True:
            note = self._read("note", 0)
            if note is not None and note != before:
                break
            if time.monotonic() - self._begun > self.patience.absent_s:
                raise LostLeader(self._absent(0))
            time.sleep(min(0.2, self.patience.interval_s))
        self.launch = note["launch"]
        if "failed" in note:
            self._change(launch=self.launch, left=True)
            raise NesfError(self._failed(0, note["failed"]))
        self._seen[0] = (note, time.monotonic())
        self._change(launch=self.launch, plan=note["plan"])

    def _leave(self, limit_s: float, **last: Any) -> None:
        """Write the last note; rank 0 lets the others read it, then clears the folder of notes."""
        if self.ranks.rank != 0:
            self._end()
            self._change(**last, left=True)
            return
        self._change(**last)
        others = range(1, self.ranks.size)
        end = time.monotonic() + limit_s
        while time.monotonic() < end and not all(map(self._has_left, others)):
            time.sleep(min(0.05, self.patience.interval_s))
        self._end()
        with suppress(OSError):  # shards stay after a failure, and so does their folder
            if all(map(self._has_left, others)):
                self._remove_notes()
                self.folder.rmdir()

    def _end(self) -> None:
        """Stop changing the note."""
        self._ended.set()
        self._thread.join()

    def _has_left(self, rank: int) -> bool:
        note = self._read("note", rank)
        return note is not None and note.get("launch") == self.launch and "left" in note

    def _remove_notes(self) -> None:
        for path in self.folder.glob("note-*.json*"):
            path.unlink(missing_ok=True)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        raise Terminated(f"stopped by SIGTERM; {self.hint}")

    def _restore(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)

    # -- notes

    def _beat(self) -> None:
        while not self._ended.wait(self.patience.interval_s):
            if time.monotonic() - self._progress > self.patience.stuck_s:
                return
            self._change(beat=self._note.get("beat", 0) + 1)

    def _change(self, **content: Any) -> None:
        """Put a new note in the place of the old one; one that fails is made up for by the next."""
        path = self._path("note", self.ranks.rank)
        with self._lock, suppress(OSError):
            self._note.update(content)
            temporary = path.with_suffix(".json.tmp")
            temporary.write_text(json.dumps(self._note))
            temporary.replace(path)

    def _read(self, name: str, rank: int) -> Any:
        try:
            return json.loads(self._path(name, rank).read_text())
        except (OSError, ValueError):  # not there yet, or just being replaced
            return None

    def _published(self, name: str, rank: int) -> Any:
        found = self._read(name, rank)
        return found["data"] if found is not None and found["launch"] == self.launch else None

    def _wait(self, ready: Callable[[], Found | None]) -> Found:
        while (found := ready()) is None:
            self.check()
            time.sleep(min(0.1, self.patience.interval_s))
        return found

    def _look(self, rank: int, now: float) -> None:
        note = self._read("note", rank)
        known, since = self._seen.get(rank, (None, self._begun))
        if note is not None and note.get("launch") == self.launch:
            if "failed" in note:
                raise NesfError(self._failed(rank, note["failed"]))
            if note != known:
                self._seen[rank] = (note, now)
                return
        if known is None and now - since > self.patience.absent_s:
            raise NesfError(self._absent(rank))
        if known is not None and now - since > self.patience.silent_s:
            raise (LostLeader if rank == 0 else NesfError)(
                f"rank {rank} of {self.ranks.size} has not been heard of for "
                f"{self.patience.silent_s:g} s: it was killed, or its machine is gone; {self.hint}"
            )

    def _failed(self, rank: int, reason: str) -> str:
        return f"rank {rank} of {self.ranks.size} failed: {reason}"

    def _absent(self, rank: int) -> str:
        return (
            f"rank {rank} of {self.ranks.size} has not begun within {self.patience.absent_s:g} s; "
            f"start all {self.ranks.size} at once, on machines that all see {self.folder.parent}"
        )
