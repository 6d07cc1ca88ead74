"""A function's signature and docstring as the parser of its command."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ArgumentError, ArgumentParser

from nesf.commands.suggestions import nearest_option
from nesf.errors import InputError

# every command takes these; one that has no use for them says so
COMMON = {
    "device": (str, "auto", "every command takes it; this one computes on the CPU"),
    "seed": (int, 0, "every command takes it; this one draws nothing"),
}
# those take this one that start ranks of their own
PROCESSES = {
    "processes": (
        int,
        1,
        "processes that share the work on this machine, each with a GPU of its own or its share of "
        "the cores; a single file is there when all is done",
    )
}


class FunctionParser:
    """Parses the arguments of one command and calls its function.

    A parameter that is a dataclass becomes a group of options, one a field. So does one that is
    `Annotated[Mapping[str, Any], SomeDataclass]`, and it gets only the fields that were given. A
    parameter `inputs` is positional, one or more; a `bool` that is False by default is a switch;
    underscores become hyphens.

    Args:
        function: its Google docstring tells each parameter, with units.
        prog: how the command is called.
        epilog: the last lines of its help.
        processes: the command starts ranks of its own where `--processes` asks for them.
    """

    def __init__(
        self,
        function: Callable[..., int | None],
        prog: str,
        epilog: str = "",
        processes: bool = False,
    ) -> None:
        self.function = function
        text = docstring_parser.parse(inspect.getdoc(function) or "")
        summary = (text.short_description or "", text.long_description or "")
        self.parser = ArgumentParser(
            prog=prog,
            description="\n\n".join(part for part in summary if part),
            epilog=epilog,
            exit_on_error=False,
            default_env=False,
            allow_abbrev=False,
        )
        helps = _helps(text)
        hints = get_type_hints(function, include_extras=True)
        self.parameters = inspect.signature(function).parameters
        self.groups: dict[str, _Group] = {}
        if "config" not in self.parameters:
            self.parser.add_argument("--config", action="config", help="a file of these options")
        for name, parameter in self.parameters.items():
            group = _Group.of(hints[name], self.parameters)
            if group is None:
                _add(self.parser, name, hints[name], parameter.default, helps.get(name, ""))
            else:
                self.groups[name] = group
                group.add_to(self.parser.add_argument_group(helps.get(name, name)))
        common = COMMON | PROCESSES if processes else COMMON
        for name, (kind, default, help_) in common.items():
            if name not in self.parameters:
                self.parser.add_argument(f"--{name}", type=kind, default=default, help=help_)
        self.parser.add_argument(
            "--debug", action="store_true", help="show a traceback for errors, too"
        )

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """Arguments of the function.

        Raises:
            InputError: an argument is unknown, missing, of a wrong type or out of its range.
        """
        return self.parse_shared(argv)[0]

    def parse_shared(self, argv: Sequence[str]) -> tuple[dict[str, Any], int]:
        """Arguments of the function, and how many processes are to share its work.

        Raises:
            InputError: as of `parse`.
        """
        try:
            parsed = self.parser.parse_args(list(argv)).as_dict()
        except ArgumentError as error:
            raise InputError(self._reason(str(error))) from error
        given = {
            name: self.groups[name].read(parsed) if name in self.groups else parsed[name]
            for name in self.parameters
        }
        processes = parsed.get("processes", 1)
        if processes < 1:
            raise InputError(f"--processes is {processes}; give 1, 2, 3, ...")
        return given, processes

    def _reason(self, message: str) -> str:
        """A parser's message as a user would put it."""
        message = " ".join(message.split())
        wrong_type = re.match(r'Parser key "(\w+)": (?:Expected|Does not validate)', message)
        if wrong_type:
            name = wrong_type[1]
            given = re.findall(r"(?:Given|Got) value: (.*?)(?= Given|$)", message)
            value = f" and not {given[-1]}" if given else ""
            return f"{_flag(name)} takes {_wanted(self._hint(name))}{value}"
        unknown = re.match(r"unrecognized arguments: --([\w.-]+)", message)
        if unknown:
            flags = (flag for action in self.parser._actions for flag in action.option_strings)
            nearest = nearest_option(unknown[1], (flag.removeprefix("--") for flag in flags))
            return f"{message}; the nearest option is --{nearest}" if nearest else message
        missing = re.match(r"the following arguments are required: (.*)", message)
        if missing:
            names = [_flag(name) for name in missing[1].split(", ")]
            return f"missing: {', '.join(names)}"
        return re.sub(r'^Parser key "(\w+)": ', lambda key: f"{_flag(key[1])}: ", message)

    def _hint(self, name: str) -> Any:
        hints = get_type_hints(self.function)
        for group in self.groups.values():
            hints |= get_type_hints(group.options)
        return hints.get(name, (COMMON | PROCESSES).get(name, (str,))[0])


@dataclass(frozen=True)
class _Group:
    """The options of one dataclass."""

    options: type
    fields: tuple[str, ...]
    partial: bool  # hand on what was given, as a dict, instead of an object

    @staticmethod
    def of(hint: Any, taken: Container[str]) -> _Group | None:
        partial = get_origin(hint) is Annotated
        options = get_args(hint)[1] if partial else hint
        if not dataclasses.is_dataclass(options) or not isinstance(options, type):
            return None
        names = (field.name for field in dataclasses.fields(options))
        return _Group(options, tuple(name for name in names if name not in taken), partial)

    def add_to(self, target: Any) -> None:
        helps = _helps(docstring_parser.parse(inspect.getdoc(self.options) or ""))
        hints = get_type_hints(self.options)
        for field in dataclasses.fields(self.options):
            if field.name in self.fields:
                hint = hints[field.name] | None if self.partial else hints[field.name]
                default = None if self.partial else field.default
                _add(target, field.name, hint, default, helps.get(field.name, ""))

    def read(self, parsed: Mapping[str, Any]) -> Any:
        given = {name: parsed[name] for name in self.fields}
        if self.partial:
            return {name: value for name, value in given.items() if value is not None}
        try:
            return self.options(**given)
        except ValueError as error:
            raise InputError(str(error)) from error


def _add(target: Any, name: str, hint: Any, default: Any, text: str) -> None:
    flag = _flag(name)
    if name == "inputs":
        target.add_argument(name, nargs="+", type=str, metavar="INPUT", help=text)
    elif default is inspect.Parameter.empty:
        target.add_argument(flag, type=hint, required=True, help=text)
    elif hint is bool and default is False:
        target.add_argument(flag, action="store_true", help=text)
    else:
        target.add_argument(flag, type=hint, default=default, help=text)


def _flag(name: str) -> str:
    return "INPUT" if name == "inputs" else f"--{name.replace('_', '-')}"


def _wanted(hint: Any) -> str:
    """What an option takes, in words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if get_origin(hint) is Literal:
        return " or ".join(str(value) for value in get_args(hint))
    if get_args(hint) and type(None) in get_args(hint):
        return " or ".join(_wanted(part) for part in get_args(hint) if part is not type(None))
    return words.get(hint, "a list" if get_origin(hint) is list else f"a {hint}")


def _helps(text: docstring_parser.Docstring) -> dict[str, str]:
    return {param.arg_name: " ".join((param.description or "").split()) for param in text.params}
