"""From a configuration of plain JSON to the model it names, if that may be named."""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from nesf.errors import CheckpointError
from nesf.precision import float32_by_default
from nesf.sealed import one_line

TRUSTED_PREFIXES = ("nesf.", "baselines.")
TRUSTED_PACKAGES = "NESF_TRUSTED_PACKAGES"  # an environment variable: mypackage,another


def build_model(
    model: Mapping[str, Any], source: str | Path, trusted_prefixes: Sequence[str] = ()
) -> nn.Module:
    """Construct the module that a file names, if its class may be named.

    Only subclasses of `nn.Module` and dataclasses that a trusted package itself defines are
    constructed, at the top and among the arguments: no functions, no classes that a trusted
    package merely imports.

    Args:
        model: `{"class_path": "package.module.Class", "init_args": {...}}`.
        source: the file, for error messages.
        trusted_prefixes: more packages whose classes may be named, e.g. `("mypackage.",)`, beside
            those that the environment variable `NESF_TRUSTED_PACKAGES` names.

    Raises:
        CheckpointError: the class is unknown or not trusted, or its arguments do not fit.
    """
    with float32_by_default():
        module = _construct(model, source, all_trusted(trusted_prefixes))
    if not isinstance(module, nn.Module):
        raise CheckpointError(f"{source} names {model['class_path']}, which is not a model")
    return module


def all_trusted(more: Sequence[str] = ()) -> tuple[str, ...]:
    """Prefixes of the classes that a file may name.

    Args:
        more: than ours and those of the packages that `NESF_TRUSTED_PACKAGES` names.
    """
    told = os.environ.get(TRUSTED_PACKAGES, "").split(",")
    packages = (f"{name.strip().rstrip('.')}." for name in told if name.strip(" ."))
    return (*TRUSTED_PREFIXES, *packages, *more)


def _construct(config: Mapping[str, Any], source: str | Path, prefixes: Sequence[str]) -> Any:
    cls = _trusted_class(config["class_path"], source, prefixes)
    arguments = {
        name: _construct(value, source, prefixes)
        if isinstance(value, dict) and "class_path" in value
        else value
        for name, value in config.get("init_args", {}).items()
    }
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"the arguments in {source} do not fit {config['class_path']}: {one_line(error)}"
        ) from error


def _trusted_class(class_path: str, source: str | Path, prefixes: Sequence[str]) -> type:
    untrusted = CheckpointError(
        f"{source} names the class {class_path}, which is not of a trusted package; it was not "
        f"imported; if you trust it, set {TRUSTED_PACKAGES}={class_path.partition('.')[0]}"
    )
    if not class_path.startswith(tuple(prefixes)):
        raise untrusted
    module_name, _, class_name = class_path.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{source} names the class {class_path}, which does not exist here; it may be of "
            "another version of nesf"
        ) from error
    if not isinstance(cls, type) or not f"{cls.__module__}.".startswith(tuple(prefixes)):
        raise untrusted
    # constructing a module or plain data touches nothing outside itself
    if not (issubclass(cls, nn.Module) or dataclasses.is_dataclass(cls)):
        raise CheckpointError(
            f"{source} names the class {class_path}, which is neither a model nor a set of options"
        )
    return cls
