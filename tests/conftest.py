"""Fixtures shared by all tests."""

from pathlib import Path

import pytest
import torch

# test processes run side by side; threads that spin for each other would starve them
torch.set_num_threads(1)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real crystals beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real crystals are not at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded random generator."""
    return torch.Generator().manual_seed(0)
