"""Worker processes that may hang, crash or eat memory at the cost of one item only.

A worker is a fresh Python that imports one function by its name and answers items with it: JSON
lines in, JSON lines out. Nothing is inherited from the parent and nothing is pickled, so that a
worker starts in the time of its imports whatever the parent holds (a model, CUDA, threads), and a
script needs no `if __name__ == "__main__"`. Limits are the kernel's: an alarm per item and a
limited address space hold in C code too, and outlive a killed parent.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from itertools import islice
from typing import Any, TypeVar

from nesf.errors import NesfError

Item = TypeVar("Item")

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from nesf.data.workers import serve; serve(**json.loads(sys.argv[2]))"
)
# libraries that start a thread a core reserve address space for each
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Failure:
    """An item without an answer.

    Attributes:
        reason: one line for the user.
    """

    reason: str


@dataclass(frozen=True)
class Limits:
    """What one item may take.

    Attributes:
        timeout_s: wall-clock time, s.
        memory_gib: address space of the worker, GiB.
    """

    timeout_s: float = 60.0
    memory_gib: float = 4.0


def map_in_workers(
    function: str,
    items: Iterable[tuple[Item, Any]],
    *,
    config: Any = None,
    preload: Sequence[str] = (),
    workers: int = 1,
    limits: Limits | None = None,
    chunk_items: int = 32,
) -> Iterator[tuple[Item, Any]]:
    """Apply a function to payloads in worker processes, in order.

    Args:
        function: "package.module:name" of a function of (payload, config); what it raises becomes
            a `Failure` whose reason is the message.
        items: pairs of anything and a JSON-able payload; a payload of None is not sent and comes
            back as None. Pulled lazily, a few chunks ahead.
        config: JSON-able second argument of every call.
        preload: modules that a worker imports before the clock of its first item starts.
        workers: largest number of processes; they start as they are needed.
        limits: per item.
        chunk_items: items that travel together.

    Yields:
        Pairs of the item and the function's JSON-able answer, or a `Failure`.

    Raises:
        NesfError: the worker cannot even start.
    """
    limits = limits or Limits()
    setup = {"function": function, "config": config, "preload": preload, **asdict(limits)}
    pool = [_Worker(setup, limits) for _ in range(workers)]
    idle: queue.LifoQueue[_Worker] = queue.LifoQueue()  # the warm worker first
    for worker in pool:
        idle.put(worker)

    def answer(payloads: list[Any]) -> list[Any]:
        worker = idle.get()
        try:
            return worker.answer(payloads)
        finally:
            idle.put(worker)

    source = iter(items)
    pending: deque[tuple[list[tuple[Item, Any]], Future[list[Any]]]] = deque()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="nesf-worker")
    try:
        while True:
            while len(pending) < 2 * workers and (chunk := list(islice(source, chunk_items))):
                payloads = [payload for _, payload in chunk if payload is not None]
                pending.append((chunk, executor.submit(answer, payloads)))
            if not pending:
                return
            chunk, future = pending.popleft()
            answers = iter(future.result())
            for item, payload in chunk:
                yield item, (None if payload is None else next(answers))
    finally:
        for worker in pool:
            worker.kill()  # so that no thread waits for an answer
        executor.shutdown(wait=True, cancel_futures=True)
        for worker in pool:
            worker.bury()


class _Worker:
    """The parent's end of one worker process, which is started again after a death."""

    def __init__(self, setup: dict[str, Any], limits: Limits):
        self.setup, self.limits = setup, limits
        self.process: subprocess.Popen[bytes] | None = None
        self.closed = False

    def answer(self, payloads: list[Any]) -> list[Any]:
        """Answers or failures, one a payload."""
        answers: list[Any] = []
        innocent = True  # a worker that died of something else is not this item's fault: once
        while len(answers) < len(payloads) and not self.closed:
            fresh = self._ask(payloads[len(answers) :])
            answers.extend(fresh)
            innocent = innocent or bool(fresh)
            if len(answers) == len(payloads):
                break
            if self.process is None:  # given up for want of memory, and already blamed
                continue
            failure = self.bury()
            if innocent and failure is None:
                innocent = False
            else:
                answers.append(failure or Failure("crashed the parser twice"))
                innocent = True
        return answers

    def _ask(self, payloads: list[Any]) -> list[Any]:
        """Answers until the last payload or the worker's death."""
        answers: list[Any] = []
        process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(payloads).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return answers
        for _ in payloads:
            line = process.stdout.readline()
            if not line.endswith(b"\n"):
                return answers
            reply = json.loads(line)
            if reply.get("failed") is not None:
                answers.append(Failure(reply["failed"]))
            elif reply.get("starved"):
                answers.append(Failure(f"needed more than {self.limits.memory_gib:g} GiB"))
                self.bury()
                return answers
            else:
                answers.append(reply["answer"])
        return answers

    def _start(self) -> subprocess.Popen[bytes]:
        paths = json.dumps([path or os.getcwd() for path in sys.path])
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, paths, json.dumps(self.setup)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **_ONE_THREAD},
            )
            self.process = process
            if self.closed:  # by the main thread, while this one was starting it
                process.kill()
            assert process.stdout is not None
            if not process.stdout.readline() and not self.closed:
                process.wait()
                errors.seek(0)
                lines = errors.read().decode(errors="replace").strip().splitlines()
                raise NesfError(
                    f"a worker process cannot start: {lines[-1] if lines else 'it says nothing'}"
                )
        return process

    def bury(self) -> Failure | None:
        """Reap a dead or dying worker; a failure where it is certain what killed it."""
        process, self.process = self.process, None
        if process is None:
            return None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # unsent bytes for a dead worker
                    pipe.close()
        try:
            code = process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code == -signal.SIGALRM:
            return Failure(f"took longer than {self.limits.timeout_s:g} s")
        return None

    def kill(self) -> None:
        """Kill the process, whatever it does, and start no other."""
        self.closed = True
        if (process := self.process) is not None:
            process.kill()


def serve(
    function: str, config: Any, preload: Sequence[str], timeout_s: float, memory_gib: float
) -> None:
    """Answer JSON lines on standard input: a worker's main function."""
    # what the function prints must not end up among the answers
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _limit_memory(memory_gib)
    module, name = function.split(":")
    call = getattr(import_module(module), name)
    for extra in preload:
        import_module(extra)
    replies.write(b'"ready"\n')
    replies.flush()
    for line in sys.stdin.buffer:
        for payload in json.loads(line):
            signal.setitimer(signal.ITIMER_REAL, timeout_s)
            reply = _reply(call, payload, config)
            signal.setitimer(signal.ITIMER_REAL, 0)
            replies.write(reply + b"\n")
            replies.flush()
            if reply == _STARVED:
                return


_STARVED = b'{"starved": true}'


def _reply(call: Any, payload: Any, config: Any) -> bytes:
    try:
        return json.dumps({"answer": call(payload, config)}).encode()
    except MemoryError:
        return _STARVED
    except RecursionError:
        return json.dumps({"failed": "is nested too deeply"}).encode()
    except BaseException as error:  # Rust extensions panic with a BaseException
        text = " ".join(str(error).split()) or type(error).__name__
        return json.dumps({"failed": text[:300]}).encode()


def _limit_memory(gib: float) -> None:
    import resource

    limit = int(gib * 2**30)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with suppress(ValueError, OSError):  # macOS knows the limit but does not set it
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
