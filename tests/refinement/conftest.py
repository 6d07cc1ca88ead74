"""An untrained model and crystals."""

from __future__ import annotations

import pytest
import torch
from crystals import random_crystals

from nesf.autoencoder import NeSF
from nesf.crystal import CrystalBatch, standardised


@pytest.fixture(scope="module")
def model() -> NeSF:
    torch.manual_seed(0)
    widths = {"position_widths": [32, 32], "species_widths": [32]}
    small = NeSF(latent_dim=16, max_atoms=8, encoder_width=32, **widths)
    return small.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def crystals() -> CrystalBatch:
    return standardised(random_crystals(3, 5, 4, torch.float32))
