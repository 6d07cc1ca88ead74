"""Whether a model can take part: some give crystals back, some predict a property."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eval.compare.options import Contestant
from eval.compare.plan import Comparison, Plan
from eval.compare.properties import sets_of
from nesf.checkpoint import find_model, read_model
from nesf.errors import InputError
from nesf.model_config import all_trusted


def check_plan(plan: Plan) -> None:
    """Refuse, before anything is trained, what cannot be compared.

    Raises:
        InputError: a model is of the other kind, or data lack the property.
    """
    for part in plan.parts:
        try:
            for model in part.models:
                if model.simple is None:
                    check_model(part, model)
            if part.predicts:
                sets_of(part)
        except InputError as error:
            where = f"the part {part.name}: " if part.name else ""
            raise InputError(f"{where}{error}") from error


def check_model(part: Comparison, model: Contestant) -> None:
    """Refuse a model of the other kind; one whose class is not known here is let through.

    Args:
        part: the comparison.
        model: trained from a config, or given with its weights.

    Raises:
        InputError: it cannot take part, or its file cannot be read.
    """
    from baselines.voxel_icsg3d.property_network import PropertyNetwork

    told = _told_of(model)
    kind = _class_of(str(told.get("class_path")), model)
    if kind is None:
        return
    predicts = issubclass(kind, PropertyNetwork)
    if predicts and not part.predicts:
        raise InputError(
            f"the model {model.name} is a {kind.__name__}, which gives no crystals back; name it "
            "in a part of kind: properties"
        )
    if predicts and model.latent:
        raise InputError(
            f"the model {model.name} is a {kind.__name__}, which has no latent; leave latent out"
        )
    if part.predicts and not predicts and not model.latent:
        raise InputError(
            f"the model {model.name} is a {kind.__name__}, which predicts no property; give it "
            "latent: true, for a ridge regression on its latents, or name it in a part of kind: "
            "reconstruction"
        )
    known = told.get("init_args", {}).get("properties", [part.target])
    if predicts and model.weights is not None and part.target not in known:
        raise InputError(
            f"the model {model.name} predicts {', '.join(known)} and not {part.target}"
        )


def _told_of(model: Contestant) -> Mapping[str, Any]:
    """`class_path` and `init_args` of a model's network, as far as its file names them."""
    if model.weights is not None:
        return read_model(find_model(model.weights)).model
    try:
        content = yaml.safe_load(Path(str(model.config)).read_text())
    except OSError as error:
        raise InputError(
            f"the model {model.name}: there is no configuration {model.config}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{model.config} is no YAML file") from error
    for key in ("model", "init_args", "model"):  # the training's, and in it the network's
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def _class_of(class_path: str, model: Contestant) -> type | None:
    """The class behind a path, where it is of a package that may be imported."""
    trusted = all_trusted(model.trusted_prefixes)
    if not class_path.startswith(trusted):
        return None
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError:
        return None  # the training says what is wrong with it
    return found if isinstance(found, type) else None
