"""Autocast where it pays, and never on coordinates."""

import pytest
import torch

from nesf.geometry import cart_to_frac, frac_to_cart, parameters_to_lattice, standard_orientation
from nesf.precision import autocast, full_precision, has_fast_bfloat16


def product() -> torch.Tensor:
    return torch.full((4, 4), 1.001) @ torch.eye(4)


@pytest.mark.parametrize("fast", [True, False])
def test_autocast_rounds_only_where_the_hardware_is_fast(monkeypatch, fast):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: fast)
    assert has_fast_bfloat16("cpu") is fast
    with autocast("cpu"):
        assert product().dtype == (torch.bfloat16 if fast else torch.float32)
    assert product().dtype == torch.float32


def test_other_devices_have_no_fast_bfloat16():
    assert not has_fast_bfloat16("meta")
    if not torch.cuda.is_available():
        assert not has_fast_bfloat16("cuda")


def test_full_precision_inside_of_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert product().dtype == torch.bfloat16
        with full_precision("cpu"):
            assert product().dtype == torch.float32
        assert product().dtype == torch.bfloat16


def test_geometry_is_not_rounded_under_autocast():
    generator = torch.Generator().manual_seed(0)
    lattice = torch.rand(20, 3, 3, generator=generator) + 5 * torch.eye(3)
    frac = torch.rand(20, 9, 3, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        cart = frac_to_cart(frac, lattice)
        back = cart_to_frac(cart, lattice)
        turned = standard_orientation(lattice)
        lengths, angles = torch.full((1, 3), 5.01), torch.full((1, 3), 1.57)
        made = parameters_to_lattice(lengths, angles)
    exact = frac.double() @ lattice.double()
    torch.testing.assert_close(cart.double(), exact, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(back, frac, atol=1e-5, rtol=0)
    double = standard_orientation(lattice.double())
    torch.testing.assert_close(turned.double(), double, atol=1e-4, rtol=0)
    double = parameters_to_lattice(lengths.double(), angles.double())
    torch.testing.assert_close(made.double(), double, atol=1e-4, rtol=0)
