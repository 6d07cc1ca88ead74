"""Fixtures shared by all tests."""

import signal
from pathlib import Path

import pytest
import torch

# test processes run side by side; threads that spin for each other would starve them
torch.set_num_threads(1)

# started in the background of a shell, tests would hand on that Ctrl-C is ignored
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

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
