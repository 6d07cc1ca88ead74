"""Work done in processes of their own: watched, logged, and stopped together with ours."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

TERMINATED = 128 + signal.SIGTERM
TIMED_OUT = -1000  # no exit code and no signal
_POLL_S = 0.2
_TOLD_LINES = 5


@dataclass(frozen=True)
class Ending:
    """How a child process ended.

    Attributes:
        code: exit code; minus the signal that killed it; `TIMED_OUT`.
        tail: the last lines that it wrote.
    """

    code: int
    tail: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Why it failed, in one line."""
        if self.code == TIMED_OUT:
            return "it took longer than its time limit"
        if self.code < 0:
            said = f"it was killed by {signal.Signals(-self.code).name}"
            hint = " (out of memory?)" if -self.code == signal.SIGKILL else ""
            return said + hint
        last = self.tail[-1] if self.tail else "it said nothing"
        return last.removeprefix("nesf: ")[:300]


def run_child(
    command: Sequence[str],
    log: Path,
    tell: Callable[[str], None] | None = None,
    timeout_s: float | None = None,
    keep_open: Sequence[int] = (),
) -> Ending:
    """Run a command with its output in a file.

    Ctrl-C is passed on, so that the child can save its work, and raised again when it has ended;
    a second one does not let it save. Whatever else stops us terminates the child.

    Args:
        command: the words of the command.
        log: the file; added to.
        tell: called with each line that the child writes.
        timeout_s: it is killed after so long, s.
        keep_open: file descriptors that it inherits.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # a process group of its own: the terminal's Ctrl-C reaches it through us, and once
    apart: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
    with log.open("ab") as output:
        start = output.tell()
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(keep_open),
            **apart,
        )
    reader = _Follower(log, start)
    began = time.monotonic()
    try:
        while process.poll() is None:
            if timeout_s is not None and time.monotonic() - began > timeout_s:
                process.kill()
                process.wait()
                reader.read(tell)
                return Ending(TIMED_OUT, tuple(reader.last))
            time.sleep(_POLL_S)
            reader.read(tell)
    except KeyboardInterrupt:
        _interrupt(process)
        raise
    except BaseException:
        process.terminate()
        process.wait()
        raise
    reader.read(tell)
    return Ending(process.returncode, tuple(reader.last))


@contextmanager
def terminating() -> Iterator[None]:
    """Within, SIGTERM ends this process as an error does: in order, children first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Pass Ctrl-C on and wait; the third one kills."""
    for stop in (signal.SIGINT, signal.SIGINT, signal.SIGKILL):
        process.send_signal(stop)
        try:
            process.wait()
            return
        except KeyboardInterrupt:
            continue


class _Follower:
    """Reads a log as it grows, and remembers its last lines."""

    def __init__(self, log: Path, start: int) -> None:
        self.log, self.place = log, start
        self.last: list[str] = []
        self._open = b""

    def read(self, tell: Callable[[str], None] | None) -> None:
        """Read on."""
        with self.log.open("rb") as file:
            file.seek(self.place)
            data = file.read()
            self.place += len(data)
        *whole, self._open = (self._open + data).split(b"\n")
        for raw in whole:
            line = raw.decode(errors="replace").rsplit("\r", 1)[-1].strip()
            if line:
                self.last = [*self.last, line][-_TOLD_LINES:]
                if tell is not None:
                    tell(line)
