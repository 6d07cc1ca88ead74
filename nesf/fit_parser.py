"""The parser of `nesf fit`, which tells in one sentence what is wrong with a configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from nesf.commands.suggestions import nearest_option
from nesf.errors import InputError

HELP = "; see nesf fit --help"
# what the parser says beside the reason, when it has tried one type after another
_BESIDE = re.compile(
    r"Parser key|Does not validate|Subtypes:|Errors:|Given value|$"
    r"|Expected a (<class 'NoneType|path)"
)
# an option that is none, behind the key that it was given to
_UNKNOWN = re.compile(
    r"(?:([\w.]+): )?(?:unrecognized arguments: --([\w.-]+)|Option '([\w.-]+)' is not accepted)"
)
_CHOICE = re.compile(r"Expected a Literal\[([^\]]*)\]\. Got value:")
_COMMAND = re.compile(r"#   (\S.*?)(?:  +\(.*\))?$")  # in a configuration's comments


class FitParser(LightningArgumentParser):
    """A parser whose every complaint is one sentence, and that takes whole names alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the complaint.

        Raises:
            InputError: always.
        """
        raise InputError(reason_of(message) + HELP) from ex


def reason_of(message: str) -> str:
    """The key and the reason out of a parser's page about every type that it has tried."""
    message = message.replace(HELP, "").replace('Parser key "config": ', "")
    lines = [line.strip(" -") for line in message.splitlines()]
    reasons = [line for line in lines if not _BESIDE.match(line)]
    if "Errors:" in lines:
        reasons = reasons[: 2 if reasons[0].endswith(":") else 1]
    reason = re.sub(r"(typing\.|<class ')([\w.]+)('>)?", r"\2", " ".join(reasons))
    reason = _CHOICE.sub(lambda found: f"give one of {found[1].replace(chr(39), '')}, not", reason)
    keys = ".".join(re.findall(r'Parser key "([^"]+)":$', message, re.MULTILINE))
    value = re.search(r"^ *Given value: (\S{1,60})$", message, re.MULTILINE)
    if value and value[1] not in reason.split():
        reason += f", not {value[1]}"
    return (f"{keys}: {reason}" if keys else reason).replace("fit.", "").rstrip(".")[:300]


def suggestion(message: str, parser: LightningArgumentParser, args: Sequence[str]) -> str:
    """What to add to a complaint about an option that does not exist; nothing if none is like it.

    Args:
        message: the complaint.
        parser: whose it is.
        args: what it was given: the options of the configuration in there are those that exist.
    """
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        return ""
    name = ".".join(filter(None, unknown.groups()))
    configs = [
        word
        for before, word in zip(["", *args], args, strict=False)
        if word.startswith("--config=") or "--config" in (word, before)
    ]
    try:
        given = parser.parse_args([args[0], *configs])
    except InputError:  # the configuration is what is wrong
        return ""
    known = {key.replace(".init_args", "") for key in given[args[0]].keys()}  # noqa: SIM118
    nearest = nearest_option(name.replace(".init_args", ""), known)
    return f"; the nearest option is --{nearest}" if nearest else ""


def how_made(missing: Path, configs: Sequence[Path]) -> str | None:
    """The command that makes a file, as the comments of the configurations tell it.

    It is the one that names the file, or else the nearest folder above it.

    Args:
        missing: the file.
        configs: files of configurations.
    """
    lines = [line for config in configs for line in config.read_text().splitlines()]
    commands = [found[1] for line in lines if (found := _COMMAND.match(line))]
    for place in (missing, *missing.parents):
        for command in commands:
            if str(place) in command.split():
                return command
    return None
