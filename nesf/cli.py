"""The `nesf` command: finds the verb, calls its function, and turns errors into one sentence.

Exit codes: 0 success; 1 some rows failed, and they are listed; 2 usage or input error;
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from nesf.commands.verbs import VERBS, Verb
from nesf.errors import InputError, NesfError
from nesf.ranks.environment import LostLeader, Terminated, ranks_here

USAGE, INTERRUPTED, BROKEN_PIPE, TERMINATED = 2, 130, 141, 143
EXIT_CODES = (
    "Exit codes: 0 success; 1 some rows failed, and they are listed; 2 usage or input error; "
    "130 interrupted."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments behind `nesf`; those of the process by default.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    verb: Verb | None = None
    output: str | None = None
    try:
        name, rest = split_verb(arguments)
        if name is None:
            return _top_level(rest)
        verb = VERBS[name]
        if verb.raw:
            code = _call_raw(name, verb, [word for word in rest if word != "--debug"])
        else:
            with _told_to_end(verb):
                output, code = _call(name, verb, rest)
        sys.stdout.flush()  # a reader that has gone away shows here, not at exit
        return int(code or 0)
    except KeyboardInterrupt:
        hint = f"; {verb.resumes}" if verb and verb.resumes else ""
        return _stop(f"interrupted{hint}", INTERRUPTED, debug, verb)
    except BrokenPipeError:
        # as the interpreter's documentation advises: keep it from flushing once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except NesfError as error:
        code = TERMINATED if isinstance(error, Terminated) else USAGE
        return _stop(str(error), code, debug, verb, error)
    except (OSError, MemoryError, RuntimeError) as error:
        message = _tell(error, output or option_value(arguments, "output"))
        if message is None:
            raise
        return _stop(message, USAGE, debug, verb)


@contextmanager
def _told_to_end(verb: Verb) -> Iterator[None]:
    """SIGTERM ends a command as an interrupt does: what is open is closed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated(f"stopped by SIGTERM{f'; {verb.resumes}' if verb.resumes else ''}")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def split_verb(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """The verb (one or two words) and what follows it; None where there is none yet.

    Raises:
        InputError: the verb is unknown.
    """
    words = list(arguments)
    while words and words[0] == "--debug":
        del words[0]
    if not words or words[0].startswith("-"):
        return None, words
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in VERBS:
            return name, words[length:]
    if any(name.startswith(f"{words[0]} ") for name in VERBS):
        if len(words) == 1 or words[1].startswith("-"):
            return None, words
        raise InputError(f"there is no command {words[0]} {words[1]}; see nesf --help")
    raise InputError(f"there is no command {words[0]}; see nesf --help")


def option_value(arguments: Sequence[str], name: str) -> str | None:
    """What an option was given, told before any parser has run."""
    flag = f"--{name}"
    for i, word in enumerate(arguments):
        if word == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith(f"{flag}="):
            return word.removeprefix(f"{flag}=")
    return None


def _call_raw(name: str, verb: Verb, arguments: list[str]) -> int | None:
    from jsonargparse import ArgumentError

    try:
        return verb.load()(arguments)
    except ArgumentError as error:  # it may quote a whole configuration
        raise InputError(f"{_sentence(str(error))[:300]}; see nesf {name} --help") from error


def _call(name: str, verb: Verb, arguments: list[str]) -> tuple[str | None, int | None]:
    from nesf.commands.parser import FunctionParser

    function = verb.load()
    parser = FunctionParser(function, f"nesf {name}", EXIT_CODES, verb.processes)
    try:
        given, processes = parser.parse_shared(arguments)
    except InputError as error:
        raise InputError(f"{error}; see nesf {name} --help") from error
    if processes > 1 and ranks_here().size == 1:
        from nesf.ranks.launch import run_ranks

        return given.get("output"), run_ranks([*name.split(), *arguments], processes)
    return given.get("output"), function(**given)


def _top_level(arguments: Sequence[str]) -> int:
    """`nesf`, `nesf --help`, `nesf --version`, `nesf data --help`."""
    first = arguments[0] if arguments else ""
    if first == "--version":
        from nesf import __version__

        print(f"nesf {__version__}")
        return 0
    if first.startswith("-") and first not in ("-h", "--help"):
        raise InputError(f"there is no option {first} before the command; see nesf --help")
    asked = first in ("-h", "--help") or "--help" in arguments or "-h" in arguments
    print(
        _usage(first if not first.startswith("-") else ""), file=sys.stdout if asked else sys.stderr
    )
    return 0 if asked else USAGE


def _usage(group: str) -> str:
    chosen = {name: verb for name, verb in VERBS.items() if name.startswith(group)}
    width = max(map(len, chosen))
    lines = [
        "usage: nesf COMMAND ... (nesf COMMAND --help tells its options)",
        "",
        "Crystals as continuous fields: one latent vector per crystal, and back.",
        "",
        "commands:",
        *(f"  {name:<{width}}  {verb.summary}" for name, verb in chosen.items()),
        "",
        "options:",
        "  --help     this text, or a command's",
        "  --version  the version",
        "  --debug    show a traceback for errors, too",
        "",
        EXIT_CODES,
    ]
    return "\n".join(lines)


def _tell(error: OSError | MemoryError | RuntimeError, output: str | None) -> str | None:
    """One sentence for what the machine refuses; None if the error is a fault of ours."""
    # torch.OutOfMemoryError, without importing torch
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; try a smaller --batch-size or fewer --workers"
    if isinstance(error, RuntimeError):
        return _tell_lost_peer(error)
    if not isinstance(error, OSError) or error.errno is None:
        return None
    place = error.filename or output
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"no space left to write {place or 'the output'}; what was written stays"
    if place is None:
        return None
    return f"{place}: {(error.strerror or str(error)).lower()}"


def _tell_lost_peer(error: RuntimeError) -> str | None:
    """One sentence where the processes of a training have lost each other."""
    # of torch.distributed, without importing torch; gloo's errors have no class of their own
    kinds = ("DistBackendError", "DistNetworkError", "DistStoreError")
    if type(error).__name__ not in kinds and "/gloo/" not in str(error):
        return None
    reason = str(error).rpartition("] ")[2].split("\n")[0].split(". ")[0]
    return (
        f"another process of this training was killed or cannot be reached ({reason[:100]}); go "
        "on with --restart auto"
    )


def _stop(
    message: str,
    code: int,
    debug: bool,
    verb: Verb | None = None,
    error: NesfError | None = None,
) -> int:
    if debug:
        traceback.print_exc()
    if debug or not (verb and verb.shared and _another_tells(error)):
        print(f"nesf: {_sentence(message)}", file=sys.stderr)
    return code


def _another_tells(error: NesfError | None) -> bool:
    """Whether another rank says what went wrong here."""
    try:
        rank = ranks_here().rank
    except InputError:  # which is then what went wrong
        return False
    return rank > (1 if isinstance(error, LostLeader) else 0)


def _sentence(message: str) -> str:
    """A message in one line."""
    return " ".join(message.split())
