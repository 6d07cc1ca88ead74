import os
import signal
import time
from pathlib import Path

import pytest

from nesf.data.workers import Failure, Limits, map_in_workers
from nesf.errors import NesfError

FUNCTION = """
import os, sys, time

def misbehave(payload, config):
    if payload == "hang":
        time.sleep(60)
    if payload == "hang in C":
        return "x" in "a" * 100 or sum(range(10**12))
    if payload == "eat":
        return len(bytearray(8 * 2**30))
    if payload == "die":
        os._exit(7)
    if payload == "recurse":
        return misbehave_deeply()
    if payload == "raise":
        raise ValueError("two\\nlines")
    if payload == "panic":
        raise KeyboardInterrupt("panicked")
    if payload == "talk":
        print("words on standard output", flush=True)
    if payload == "pid":
        return os.getpid()
    if payload == "die once":
        flag = config["flag"]
        if not os.path.exists(flag):
            open(flag, "w").close()
            os.kill(os.getpid(), 9)
    return [payload, "torch" in sys.modules]

def misbehave_deeply():
    return misbehave_deeply()
"""


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "misbehaving.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(tmp_path)
    return "misbehaving:misbehave"


def test_each_misdeed_costs_its_own_item_only(function: str, tmp_path: Path) -> None:
    payloads = [
        *("a", "hang", "b", "eat", "c", "die", "d", "recurse", "raise", "panic", "talk"),
        *("die once", "hang in C", "e", None, "f"),
    ]
    started = time.monotonic()
    answers = list(
        map_in_workers(
            function,
            enumerate(payloads),
            config={"flag": str(tmp_path / "flag")},
            workers=2,
            limits=Limits(timeout_s=1.0, memory_gib=1.0),
            chunk_items=6,
        )
    )
    assert time.monotonic() - started < 90
    assert [i for i, _ in answers] == list(range(len(payloads)))  # input order
    told = dict(zip(payloads, (answer for _, answer in answers), strict=True))
    for good in ("a", "b", "c", "d", "e", "f", "talk", "die once"):
        assert told[good] == [good, False]  # and without torch
    assert told[None] is None
    assert told["hang"] == told["hang in C"] == Failure("took longer than 1 s")
    assert told["eat"] == Failure("needed more than 1 GiB")
    assert told["die"] == Failure("crashed the parser twice")
    assert told["recurse"] == Failure("is nested too deeply")
    assert told["raise"] == Failure("two lines")
    assert told["panic"] == Failure("panicked")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_idle_worker_costs_nothing_and_closing_ends_all(function: str) -> None:
    answers = map_in_workers(function, ((i, "pid") for i in range(10)), workers=1, chunk_items=1)
    _, first = next(answers)
    time.sleep(0.2)  # it has run ahead by its two chunks and waits
    os.kill(first, signal.SIGKILL)
    pids = [pid for _, pid in (next(answers) for _ in range(6))]
    assert all(isinstance(pid, int) for pid in pids)
    assert pids[-1] != first
    answers.close()  # type: ignore[attr-defined]
    assert not is_alive(first)
    assert not is_alive(pids[-1])


def test_closing_does_not_wait_for_a_hanging_item(function: str) -> None:
    answers = map_in_workers(
        function, [(0, "a"), (1, "hang")], limits=Limits(timeout_s=50.0), chunk_items=1
    )
    next(answers)
    started = time.monotonic()
    answers.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 25


def test_a_worker_that_cannot_start_says_why() -> None:
    with pytest.raises(NesfError, match="no_such_module"):
        list(map_in_workers("no_such_module:parse", [(0, 1)]))
