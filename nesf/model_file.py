"""Model files: a model's class and arguments, its weights, and a format version.

Two files hold the same thing. `.safetensors` is for weights to keep and share: the configuration
is JSON in its header, with a sha256 over configuration and weights. `.ckpt` is what Lightning
writes while training: it has `checkpoint["nesf"]` beside Lightning's own state. Neither runs code
when it is read, and a model is rebuilt from either alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from nesf.atomic import atomic_write
from nesf.errors import CheckpointError
from nesf.sealed import load_sealed, one_line, read_bytes

FORMAT_VERSION = 1

_HEADER_KEY = "nesf"
_STATE_PREFIX = "model."  # of the model inside its LightningModule


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds.

    Attributes:
        model: `{"class_path": "package.module.Class", "init_args": {...}}`, plain JSON.
        state_dict: the weights.
        metadata: what else is told of the model (data, metrics, versions), plain JSON.
        format_version: of the file's layout.
    """

    model: dict[str, Any]
    state_dict: dict[str, Tensor]
    metadata: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


# From version n to n + 1: each takes the older `ModelFile` and returns the newer.
UPGRADES: dict[int, Callable[[ModelFile], ModelFile]] = {}


def model_entry(class_path: str, init_args: Mapping[str, Any]) -> dict[str, Any]:
    """What a LightningModule puts into `checkpoint["nesf"]` to make its checkpoints loadable.

    Args:
        class_path: the model's class, e.g. "nesf.autoencoder.NeSF".
        init_args: its arguments, plain JSON values; a nested module or dataclass is again
            `{"class_path": ..., "init_args": ...}`.

    Raises:
        TypeError: an argument is not plain JSON.
    """
    model = {"class_path": class_path, "init_args": dict(init_args)}
    _to_json(model)
    return {"format_version": FORMAT_VERSION, "model": model}


def save_model(
    path: str | Path,
    model_config: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a model as `.safetensors`, with a `.sha256` file beside it (for `sha256sum --check`).

    Args:
        path: the file, its suffix `.safetensors`.
        model_config: `{"class_path": ..., "init_args": {...}}`, plain JSON.
        state_dict: the weights.
        metadata: what else to keep, plain JSON.

    Raises:
        ValueError: another suffix.
        TypeError: configuration or metadata are not plain JSON.
        OSError: the file cannot be written; an older one stays as it was.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a model file's suffix is .safetensors")
    # clones, since the format refuses tensors that share memory
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state_dict.items()
    }
    header = {
        "format_version": FORMAT_VERSION,
        "model": dict(model_config),
        "metadata": dict(metadata or {}),
    }
    header["sha256"] = _digest(header, weights)
    data = safetensors.torch.save(weights, {_HEADER_KEY: _to_json(header)})
    sidecar = sidecar_path(path)
    sidecar.unlink(missing_ok=True)  # killed between the two files, none is better than a wrong one
    with atomic_write(path) as file:
        file.write(data)
    with atomic_write(sidecar) as file:
        file.write(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode())


def read_model(path: str | Path) -> ModelFile:
    """Read and check a model file, upgraded to the current format, without building the model.

    Raises:
        CheckpointError: the file is missing, damaged, foreign, or of a newer version.
    """
    path = Path(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_lightning(path)
    version = content.format_version
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} is of format {version}, and this version of nesf reads up to "
            f"{FORMAT_VERSION}; upgrade nesf"
        )
    while content.format_version < FORMAT_VERSION:
        upgrade = UPGRADES.get(content.format_version)
        if upgrade is None:
            raise CheckpointError(
                f"{path} is of format {content.format_version}, which is no longer read; load it "
                "with an older version of nesf"
            )
        content = dataclasses.replace(upgrade(content), format_version=content.format_version + 1)
    return content


def sidecar_path(path: Path) -> Path:
    """The checksum file beside a model file."""
    return path.with_name(path.name + ".sha256")


def _read_safetensors(path: Path) -> ModelFile:
    data = read_bytes(path)
    sidecar = sidecar_path(path)
    if sidecar.is_file():
        expected = read_bytes(sidecar)[:64].decode("ascii", "replace")
        if hashlib.sha256(data).hexdigest() != expected:
            raise CheckpointError(
                f"{path} is damaged: its sha256 is not the one in {sidecar.name}; copy both again"
            )
    try:
        weights = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        header = json.loads(metadata[_HEADER_KEY])
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is damaged or cut off, or no safetensors file ({one_line(error)}); "
            "copy it again"
        ) from error
    except KeyError as error:
        raise CheckpointError(f"{path} was not written by nesf: its header says nothing") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: its header is not JSON") from error
    if not isinstance(header, dict) or header.pop("sha256", None) != _digest(header, weights):
        raise CheckpointError(
            f"{path} is damaged: its content does not have the sha256 it was saved with; "
            "copy it again"
        )
    return _checked(header, weights, path)


def _read_lightning(path: Path) -> ModelFile:
    checkpoint = load_sealed(path)
    entry, state = checkpoint.get("nesf"), checkpoint.get("state_dict")
    if not isinstance(entry, dict) or not isinstance(state, dict):
        raise CheckpointError(
            f"{path} was not written by nesf: it does not say which model its weights belong to"
        )
    weights = {
        name.removeprefix(_STATE_PREFIX): tensor
        for name, tensor in state.items()
        if name.startswith(_STATE_PREFIX)
    }
    progress = {key: checkpoint[key] for key in ("epoch", "global_step") if key in checkpoint}
    return _checked({"metadata": progress, **entry}, weights, path)


def _checked(header: dict[str, Any], weights: dict[str, Any], path: Path) -> ModelFile:
    version, model = header.get("format_version"), header.get("model")
    metadata = header.get("metadata", {})
    if (
        not isinstance(version, int)
        or not isinstance(model, dict)
        or not isinstance(model.get("class_path"), str)
        or not isinstance(model.get("init_args", {}), dict)
        or not isinstance(metadata, dict)
        or not all(isinstance(tensor, Tensor) for tensor in weights.values())
    ):
        raise CheckpointError(f"{path} was not written by nesf: its model entry is incomplete")
    return ModelFile(model, weights, metadata, version)


def _digest(header: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """The sha256 of everything that makes the model: names, shapes, types, bytes and header."""
    digest = hashlib.sha256(_to_json(header).encode())
    for name in sorted(weights):
        tensor = weights[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def _to_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, and nothing that JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
