"""Commands that generate crystals, run in this process, and what they are run on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pymatgen.core import Lattice, Structure
from stand_in_model import StandIn
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.data.readers import read_crystals
from nesf.generation import commands as generate


class Conditional(StandIn):
    """Its latent is a stand-in's and the one-hot of a property bin; its prior is of known kind."""

    condition_property = "gap"
    condition_edges = (0.5, 1.25)
    prior_scale = 0.01

    def encode(self, crystals: CrystalBatch) -> Tensor:
        plain = super().encode(crystals)
        told = plain.new_zeros(len(plain), 3)
        told[:, 1] = 1.0
        return torch.cat([plain, told], dim=-1)

    def fields(self, latent: Tensor) -> Any:
        return super().fields(latent[:, :-3])

    def set_condition(self, latent: Tensor, bin: int) -> Tensor:
        told = torch.zeros_like(latent[:, -3:])
        if bin >= 0:
            told[:, bin] = 1.0
        return torch.cat([latent[:, :-3], told], dim=-1)

    def sample_latents(
        self, count: int, generator: torch.Generator, condition: int | None = None
    ) -> Tensor:
        base = self.encode(CrystalBatch.from_structures([salt()]))
        moved = base + self.prior_scale * torch.randn(count, base.shape[-1], generator=generator)
        # what may not vary: how many atoms there are, and of which elements
        moved[:, 9] = base[:, 9]
        moved[:, -11:] = base[:, -11:]
        return self.set_condition(moved, -1 if condition is None else condition)


def salt(length: float = 5.6, metal: str = "Na") -> Structure:
    return Structure(
        Lattice.from_parameters(length, length + 0.1, length + 0.2, 90, 91, 92),
        [metal, "Cl"],
        [[0.1, 0.1, 0.1], [0.6, 0.6, 0.6]],
    )


def same(one: Structure, other: Structure, tolerance: float = 0.02) -> bool:
    if sorted(one.atomic_numbers) != sorted(other.atomic_numbers):
        return False
    away = one.lattice.get_all_distances(one.frac_coords, other.frac_coords)
    return bool(
        np.allclose(one.lattice.parameters, other.lattice.parameters, atol=tolerance)
        and away.min(1).max() < tolerance
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def crystals_of(path: Path) -> dict[str, Structure]:
    rows, rejected = read_crystals([path], progress=False)
    assert not rejected
    return {row.id: row.structure for row in rows}


def run(verb: str, *arguments: Any, **options: Any) -> int:
    """One command, on the CPU, quietly, without a picture unless asked."""
    quiet = {"model": "any", "device": "cpu", "progress": False, "picture": False}
    return getattr(generate, f"{verb}_files")(*arguments, **{**quiet, **options})
