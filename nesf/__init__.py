"""Crystals as continuous fields: one latent vector per crystal, and back.

    import nesf
    model = nesf.load("runs/lcs6")                 # a run folder, a checkpoint, or a shipped name
    latent = model.encode([structure])             # pymatgen Structures -> (B, L)
    structures = model.decode(latent)              # -> pymatgen Structures
    offset = model.position_field(latent)(query)   # (B, Q, 3) Å -> (B, Q, 3) Å

Importing `nesf` imports none of torch, pymatgen and lightning; the names below bring what they
need when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nesf.errors import CheckpointError, InputError, NesfError

if TYPE_CHECKING:
    from nesf.api import Model, load
    from nesf.crystal import CrystalBatch
    from nesf.decoders import PositionField, SpeciesField
    from nesf.exact import exact_fields
    from nesf.fields import CrystalFields
    from nesf.reconstruction.reconstruct import Reconstruction, ReconstructOptions

__version__ = "0.1.0"

_HOMES = {
    "CrystalBatch": "nesf.crystal",
    "CrystalFields": "nesf.fields",
    "Model": "nesf.api",
    "PositionField": "nesf.decoders",
    "ReconstructOptions": "nesf.reconstruction.reconstruct",
    "Reconstruction": "nesf.reconstruction.reconstruct",
    "SpeciesField": "nesf.decoders",
    "exact_fields": "nesf.exact",
    "load": "nesf.api",
}

__all__ = [
    "CheckpointError",
    "CrystalBatch",
    "CrystalFields",
    "InputError",
    "Model",
    "NesfError",
    "PositionField",
    "ReconstructOptions",
    "Reconstruction",
    "SpeciesField",
    "__version__",
    "exact_fields",
    "load",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'nesf' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
