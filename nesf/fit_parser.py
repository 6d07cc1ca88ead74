"""The parser of `nesf fit`, which tells in one sentence what is wrong with a configuration."""

from __future__ import annotations

import re
from typing import NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from nesf.errors import InputError

HELP = "; see nesf fit --help"
# what the parser says beside the reason, when it has tried one type after another
_BESIDE = re.compile(
    r"Parser key|Does not validate|Subtypes:|Errors:|Given value|$"
    r"|Expected a (<class 'NoneType|path)"
)


class FitParser(LightningArgumentParser):
    """A parser whose every complaint is one sentence."""

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
    keys = ".".join(re.findall(r'Parser key "([^"]+)":$', message, re.MULTILINE))
    value = re.search(r"^ *Given value: (\S{1,60})$", message, re.MULTILINE)
    if value and value[1] not in reason.split():
        reason += f", not {value[1]}"
    return (f"{keys}: {reason}" if keys else reason).replace("fit.", "").rstrip(".")[:300]
