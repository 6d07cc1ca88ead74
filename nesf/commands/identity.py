"""What makes crystals, told in plain JSON: which model, and with which options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

import nesf
from nesf import api
from nesf.data.made_by import DIGEST, MODEL, VERB, MadeBy


def made_by(
    verb: str, seed: int, changes: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What an output is made by, but for the model.

    Args:
        verb: of the command.
        seed: of what is drawn.
        changes: of the reconstruction options.
        options: others that decide what the crystals become; those that are None are left out.
    """
    given = {"seed": seed, **options, **changes}
    told = {name: value for name, value in given.items() if value is not None}
    return {"nesf": nesf.__version__, VERB: verb, **told}


def identity(name: str, model: api.Model) -> MadeBy:
    """A model's name, and what tells it from all others, wherever its file lies.

    Args:
        name: what it was loaded by.
        model: just loaded: in use, some models write their weights in another form.
    """
    module = model.module
    kind = f"{type(module).__module__}.{type(module).__qualname__}"
    arguments = json.dumps(getattr(module, "init_args", {}), sort_keys=True, default=str)
    digest = hashlib.sha256(f"{kind}\n{arguments}\n".encode())
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)  # (M,)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return {MODEL: name, DIGEST: digest.hexdigest()}
