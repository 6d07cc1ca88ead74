"""Models from their files: found by name, rebuilt, and checked against their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from nesf.errors import CheckpointError
from nesf.model_config import build_model
from nesf.model_file import ModelFile, model_entry, read_model, save_model, sidecar_path
from nesf.run_folder import MODELS
from nesf.sealed import one_line

__all__ = [
    "ModelFile",
    "begin_with",
    "find_model",
    "load_model",
    "model_entry",
    "read_model",
    "save_model",
    "sidecar_path",
]

WEIGHTS_FOLDER = Path(__file__).parent / "weights"


def begin_with(module: nn.Module, name_or_path: str | Path) -> None:
    """Give a model the weights of another one of the same shape, to train it further.

    Args:
        module: takes the weights over.
        name_or_path: as in `load_model`.

    Raises:
        CheckpointError: there is no such model, it cannot be read, or its weights do not fit.
    """
    path = find_model(name_or_path)
    try:
        module.load_state_dict(read_model(path).state_dict)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {path} do not fit this model: {_reason(error)}; give it the shape "
            "that they were trained in"
        ) from error


def load_model(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    trusted_prefixes: Sequence[str] = (),
) -> nn.Module:
    """Rebuild a model from its file alone.

    Args:
        name_or_path: a run folder, a `.safetensors` or `.ckpt` file, or the name of a model that
            is shipped with the package.
        device: where the model goes.
        trusted_prefixes: more packages, besides this one's, whose classes a file may name, e.g.
            `("mypackage.",)`.

    Returns:
        The model, in evaluation mode.

    Raises:
        CheckpointError: there is no such model, or its file is damaged, foreign, of another
            version, or names a class that is not trusted.
    """
    path = find_model(name_or_path)
    content = read_model(path)
    module = build_model(content.model, path, trusted_prefixes)
    try:
        module.load_state_dict(content.state_dict)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {path} do not fit {content.model['class_path']}: {_reason(error)}"
        ) from error
    return module.to(device).eval()


def find_model(name_or_path: str | Path) -> Path:
    """The file behind a run folder, a path or a shipped name.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(name_or_path)
    if path.is_dir():
        for name in MODELS:
            if (path / name).is_file():
                return path / name
        raise CheckpointError(f"the folder {path} holds no model: none of {', '.join(MODELS)}")
    if path.is_file():
        return path
    shipped = sorted(file.stem for file in WEIGHTS_FOLDER.glob("*.safetensors"))
    if str(name_or_path) in shipped:
        path = WEIGHTS_FOLDER / f"{name_or_path}.safetensors"
        if not sidecar_path(path).is_file():
            raise CheckpointError(f"{sidecar_path(path)} is missing; install the package again")
        return path
    known = ", ".join(shipped) if shipped else "none in this version"
    raise CheckpointError(
        f"there is no model {name_or_path}: not a file, not a run folder, and not a shipped model "
        f"({known})"
    )


def _reason(error: RuntimeError) -> str:
    """The first mismatch that `load_state_dict` reports."""
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    return lines[0][:200].rstrip(".") if lines else one_line(error)
