"""A comparison's YAML file to a `Plan`; every complaint is one sentence with the key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from eval.compare.options import Contestant, DataFiles, Growth, Scoring, Variant
from eval.compare.plan import Comparison, Plan
from nesf.errors import InputError

T = TypeVar("T")

# fields that are objects, or lists of objects, of their own
_PARTS: Mapping[type, Mapping[str, type]] = {
    Comparison: {"data": DataFiles, "scoring": Scoring, "growth": Growth},
}
_LISTS: Mapping[type, Mapping[str, type]] = {
    Comparison: {"models": Contestant},
    Growth: {"variants": Variant},
}
# taken as they are: a parser would import the classes that they name
_PLAIN: Mapping[type, tuple[str, ...]] = {Variant: ("changes",)}
# where there are parts: what stands beside them and holds for all, but for a budget of their own
_SHARED = ("output", "device", "threads", "seeds")
_BESIDE = ("title", "budget_minutes", "parts", *_SHARED)


def read_plan(path: str | Path, changes: Mapping[str, Any] | None = None) -> Plan:
    """Read and check a plan.

    Args:
        path: the YAML file; its keys are the attributes of `Comparison`, or `parts`, a list of
            them with a name each, and beside it what they share.
        changes: values that go before those of the file; None leaves the file's.

    Raises:
        InputError: the file cannot be read, or a key is unknown, missing or out of its range.
    """
    try:
        content = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {(error.strerror or '').lower()}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no options; see `nesf compare --help`")
    given = {name: value for name, value in (changes or {}).items() if value is not None}
    if "parts" in content:
        return _with_parts({**content, **given}, str(path), "budget_minutes" in given)
    if "name" in content:
        raise InputError(f"{path}: there is no option name without parts")
    only = _build(Comparison, {**content, **given}, str(path), "")
    return Plan(only.title, only.output, only.device, (only,))


def _with_parts(content: Mapping[str, Any], source: str, same_budget: bool) -> Plan:
    """A plan of several comparisons.

    Args:
        content: of the file.
        source: its path.
        same_budget: the budget beside the parts goes before their own.
    """
    foreign = sorted(set(content) - set(_BESIDE))
    if foreign:
        raise InputError(f"{source}: {foreign[0]} belongs into one of the parts")
    if not isinstance(content["parts"], list) or not content["parts"]:
        raise InputError(f"{source}: give parts as a list")
    if "output" not in content:
        raise InputError(f"{source}: output is missing")
    parts = []
    for number, given in enumerate(content["parts"]):
        key = f"parts[{number}]"
        if not isinstance(given, Mapping) or not given.get("name"):
            raise InputError(f"{source}, {key}: name is missing")
        shared = sorted(set(given) & set(_SHARED))
        if shared:
            raise InputError(f"{source}, {key}: give {shared[0]} once, beside parts")
        own = {**{name: content[name] for name in _SHARED if name in content}, **given}
        own |= {"output": str(Path(str(content["output"])) / str(given["name"]))}
        own.setdefault("title", given["name"])
        if "budget_minutes" in content and (same_budget or "budget_minutes" not in given):
            own["budget_minutes"] = content["budget_minutes"]
        parts.append(_build(Comparison, own, source, key))
    try:
        title = str(content.get("title", Comparison.title))
        return Plan(title, str(content["output"]), parts[0].device, tuple(parts))
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def _build(cls: type[T], content: Any, source: str, key: str) -> T:
    """One object of the plan, its parts first."""
    where = f"{source}, {key}" if key else source
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: give keys and values, not {content!r}")
    if cls is DataFiles:  # one file, or a list of them
        content = {key: [v] if isinstance(v, str) else v for key, v in content.items()}
    parts: dict[str, Any] = {}
    for name, part in _PARTS.get(cls, {}).items():
        if name in content:
            parts[name] = _build(part, content[name], source, _within(key, name))
    for name, part in _LISTS.get(cls, {}).items():
        if name in content:
            if not isinstance(content[name], list):
                raise InputError(f"{where}: give {name} as a list")
            parts[name] = tuple(
                _build(part, item, source, _within(key, f"{name}[{i}]"))
                for i, item in enumerate(content[name])
            )
    for name in _PLAIN.get(cls, ()):
        if name in content:
            parts[name] = content[name]
    ours = {*_PARTS.get(cls, {}), *_LISTS.get(cls, {}), *_PLAIN.get(cls, ())}
    for field in fields(cls):  # type: ignore[arg-type]
        needed = field.default is MISSING and field.default_factory is MISSING
        if field.name in ours and needed and field.name not in parts:
            raise InputError(f"{where}: {field.name} is missing")
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(cls, skip=ours)
    plain = {name: value for name, value in content.items() if name not in parts}
    try:
        parsed = parser.parse_object(plain).as_dict()
        return cls(**parts, **{name: _frozen(value) for name, value in parsed.items()})
    except ArgumentError as error:
        raise InputError(f"{where}: {_reason(str(error))}") from error
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _within(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _reason(message: str) -> str:
    """A parser's message as a user would put it."""
    message = " ".join(message.split())
    unknown = re.search(
        r"[Oo]ption '(.+?)' is not accepted|does not accept option '(.+?)'", message
    )
    if unknown:
        return f"there is no option {unknown[1] or unknown[2]}"
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing:
        return f"{missing[1]} is missing"
    wrong = re.match(r'Parser key "([\w.]+)": (.*)', message)
    if not wrong:
        return message
    value = re.findall(r"(?:Given|Got) value: (.*?)(?= Given|$)", wrong[2])
    choices = re.search(r"Literal\[(.*?)\]", wrong[2])
    if choices:
        given = f", not {value[-1]}" if value else ""
        return f"{wrong[1]} is one of {choices[1].replace(chr(39), '')}{given}"
    kinds = re.findall(r"Expected an? <class '(\w+)'>", wrong[2])
    words = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
    wanted = " or ".join(dict.fromkeys(words[k] for k in kinds if k in words)) or "a list"
    return f"{wrong[1]} takes {wanted}" + (f" and not {value[-1]}" if value else "")
