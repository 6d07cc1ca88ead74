"""The field decoders: formulas, symmetries, units, precision, and training them alone."""

import math

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from nesf.crystal import CrystalBatch
from nesf.decoders import PositionField, SpeciesField
from nesf.exact import exact_fields
from nesf.geometry import frac_to_cart
from nesf.mlps import ConcatMLP, FourierFeatures, ModulatedMLP, PointNorm
from nesf.queries import uniform_in_cell

KINDS = ("modulate", "concat")
WIDTHS = {"modulate": (16, 16), "concat": (24, 16, 16)}


def position_field(conditioning: str = "modulate", **options) -> PositionField:
    torch.manual_seed(0)
    field = PositionField(8, WIDTHS[conditioning], conditioning, **{"harmonics": 3, **options})
    return field.eval()


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, queries (Å) and lattices of some crystals."""
    generator = torch.Generator().manual_seed(seed)
    lattice = random_crystals(seed, 3, dtype=torch.float32).lattice
    latent = torch.randn(len(lattice), 8, generator=generator)
    return latent, uniform_in_cell(lattice, 10, generator), lattice


@pytest.mark.parametrize(
    ("scale", "periodic", "multiples"),
    [
        ("linear", False, math.pi * np.array([1, 2, 3, 4])),
        ("octave", False, math.pi * np.array([1, 2, 4, 8])),
        ("linear", True, 2 * math.pi * np.array([1, 2, 3, 4])),
    ],
)
def test_fourier_features_formula(scale, periodic, multiples):
    features = FourierFeatures(4, scale, periodic)
    x = torch.rand(5, 3, generator=torch.Generator().manual_seed(0))
    angles = (x.double().numpy()[:, :, None] * multiples).reshape(5, -1)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    if not periodic:
        expected = np.concatenate([x.numpy(), expected], axis=1)
    assert features.out_features == expected.shape[1]
    np.testing.assert_allclose(features(x).numpy(), expected, atol=1e-5)


def test_fourier_features_can_be_off():
    x = torch.rand(2, 3)
    assert torch.equal(FourierFeatures(0)(x), x)


def test_linear_features_tell_opposite_faces_apart():
    # an in-cell field differs at 0 and 1, a periodic one does not
    x = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    zero, one = FourierFeatures(3)(x)
    assert (zero - one).abs().max() > 1
    zero, one = FourierFeatures(3, periodic=True)(x)
    torch.testing.assert_close(zero, one, atol=1e-5, rtol=0)


def test_modulated_mlp_formula():
    torch.manual_seed(0)
    mlp = ModulatedMLP(5, 7, [16, 16, 16], 4).double()
    latent, features = torch.randn(2, 5).double(), torch.randn(2, 6, 7).double()
    codes = (latent @ mlp.modulation.weight.T + mlp.modulation.bias).reshape(2, 8, 16)
    for b in range(2):
        for q in range(6):
            entered = mlp.enter.weight @ features[b, q] + mlp.enter.bias
            hidden = F.gelu(entered * (1 + codes[b, 0]) + codes[b, 1])
            for i in range(3):
                inner = mlp.expand[i].weight @ hidden + mlp.expand[i].bias
                inner = F.gelu(inner * (1 + codes[b, 2 * i + 2]) + codes[b, 2 * i + 3])
                hidden = hidden + mlp.contract[i].weight @ inner + mlp.contract[i].bias
            expected = mlp.leave.weight @ hidden + mlp.leave.bias
            torch.testing.assert_close(mlp(latent, features)[b, q], expected)


@pytest.mark.parametrize("training", [True, False])
def test_concat_mlp_is_the_plain_concatenation(training):
    torch.manual_seed(0)
    mlp = ConcatMLP(5, 7, [24, 16, 16], 4).double()
    for norm in mlp.norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.uniform_(0.5, 2)
        norm.bias.data.normal_()
    mlp.train(training)
    latent, features = torch.randn(2, 5).double(), torch.randn(2, 6, 7).double()
    x, query = latent.repeat_interleave(6, 0), features.reshape(12, 7)
    for layer, norm in zip(mlp.layers, mlp.norms, strict=True):
        x = torch.cat([x, query], dim=1) @ layer.weight.T + layer.bias
        x = x.clamp_min(0)
        mean = x.mean(0) if training else norm.running_mean.clone()
        variance = x.var(0, unbiased=False) if training else norm.running_var.clone()
        x = (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
    expected = x @ mlp.leave.weight.T + mlp.leave.bias
    torch.testing.assert_close(mlp(latent, features).reshape(12, 4), expected)


def test_a_single_point_is_normalised_by_the_running_statistics():
    norm = PointNorm(4).train()
    norm.running_mean.fill_(2.0)
    x = torch.randn(1, 1, 4)
    torch.testing.assert_close(norm(x), (x - 2) / math.sqrt(1 + norm.eps))
    assert norm(torch.randn(3, 2, 4)).mean().abs() < 1e-6


@pytest.mark.parametrize("conditioning", KINDS)
def test_answers_belong_to_their_own_query_and_crystal(conditioning):
    field = position_field(conditioning)
    latent, query, lattice = case()
    together = field(latent, query, lattice)
    for b in range(len(latent)):
        alone = field(latent[b : b + 1], query[b : b + 1, :1], lattice[b : b + 1])
        torch.testing.assert_close(alone[0, 0], together[b, 0], atol=1e-5, rtol=1e-4)
    flipped = field(latent, query.flip(1), lattice)
    torch.testing.assert_close(flipped.flip(1), together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("conditioning", KINDS)
def test_the_latent_matters(conditioning):
    field = position_field(conditioning)
    latent, query, lattice = case()
    assert (field(latent, query, lattice) - field(latent + 1, query, lattice)).abs().min() > 1e-6


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.floats(0.5, 3.0))
def test_fractional_offsets_scale_and_turn_with_the_cell(seed, factor):
    field = position_field()
    latent, query, lattice = case(seed)
    offset = field(latent, query, lattice)
    torch.testing.assert_close(
        field(latent, query * factor, lattice * factor), offset * factor, atol=1e-3, rtol=1e-3
    )
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)))[0]
    torch.testing.assert_close(
        field(latent, query @ turn, lattice @ turn), offset @ turn, atol=1e-3, rtol=1e-3
    )


def test_offsets_are_in_angstrom():
    # an MLP that always answers (1, 0, 0) means a quarter of the first cell vector
    field = position_field()
    field.mlp.leave.weight.data.zero_()
    field.mlp.leave.bias.data = torch.tensor([1.0, 0.0, 0.0])
    latent, query, lattice = case()
    expected = (field.OFFSET_SCALE * lattice[:, :1]).expand(-1, 10, -1)
    torch.testing.assert_close(field(latent, query, lattice), expected)
    cartesian = position_field("concat", coordinates="cartesian")
    cartesian.mlp.leave.weight.data.zero_()
    cartesian.mlp.leave.bias.data = torch.tensor([1.0, 2.0, 3.0])
    expected = torch.tensor([1.0, 2.0, 3.0]).expand(3, 10, 3)
    torch.testing.assert_close(cartesian(latent, query, lattice), expected)


def test_cartesian_fields_do_not_look_at_the_lattice():
    field = position_field("concat", coordinates="cartesian")
    latent, query, lattice = case()
    assert torch.equal(field(latent, query, lattice), field(latent, query, lattice * 2))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.tuples(*[st.integers(-2, 2)] * 3))
def test_periodic_fields_repeat_with_the_lattice(seed, shift):
    latent, query, lattice = case(seed)
    step = torch.tensor(shift, dtype=torch.float32) @ lattice  # (B, 3)
    field = position_field(periodic=True)
    here, there = (field(latent, q, lattice) for q in (query, query + step.unsqueeze(1)))
    torch.testing.assert_close(here, there, atol=2e-3, rtol=1e-3)
    torch.manual_seed(0)
    species = SpeciesField(8, 5, (16,), harmonics=3, periodic=True)
    here, there = (species(latent, q, lattice) for q in (query, query + step.unsqueeze(1)))
    torch.testing.assert_close(here, there, atol=2e-3, rtol=1e-3)


def test_in_cell_fields_do_not_repeat():
    latent, query, lattice = case()
    field = position_field()
    moved = field(latent, query + lattice[:, :1], lattice)
    assert (moved - field(latent, query, lattice)).abs().max() > 1e-3


@pytest.mark.parametrize("conditioning", KINDS)
def test_gradients_reach_every_parameter(conditioning):
    latent, query, lattice = case()
    for field in (
        position_field(conditioning).train(),
        SpeciesField(8, 5, WIDTHS[conditioning], conditioning).train(),
    ):
        latent.requires_grad_()
        field(latent, query, lattice).square().sum().backward()
        dead = [n for n, p in field.named_parameters() if p.grad is None or not p.grad.any()]
        assert dead == []
        assert latent.grad.abs().min(dim=0).values.sum() > 0


@pytest.mark.parametrize("conditioning", KINDS)
def test_autocast_rounds_the_network_and_not_the_coordinates(conditioning):
    field = position_field(conditioning)
    latent, query, lattice = case()
    query = query + 50  # far from the origin bfloat16 would be off by a tenth of an Å
    seen = []
    field.features.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    exact = field(latent, query, lattice)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = field(latent, query, lattice)
    assert rounded.dtype == torch.float32
    assert torch.equal(seen[0], seen[1])
    double = frac_to_cart(query.double(), torch.linalg.inv(lattice.double()))
    torch.testing.assert_close(seen[1].double(), double, atol=1e-4, rtol=1e-5)
    assert (rounded - exact).norm() < 0.05 * exact.norm()


def test_refused_arguments():
    with pytest.raises(ValueError, match="periodic field needs fractional"):
        PositionField(8, (16,), coordinates="cartesian", periodic=True)
    with pytest.raises(ValueError, match="at least one frequency"):
        PositionField(8, (16,), harmonics=0, periodic=True)
    with pytest.raises(ValueError, match="one width"):
        PositionField(8, (16, 32))
    with pytest.raises(ValueError, match="at least one hidden width"):
        PositionField(8, ())


def caesium_chloride() -> CrystalBatch:
    return CrystalBatch.from_flat(
        torch.tensor([[0.1, 0.1, 0.1], [0.6, 0.6, 0.6]]),
        torch.tensor([2, 3]),
        torch.tensor([2]),
        4.1 * torch.eye(3).unsqueeze(0),
        ["CsCl-like"],
    )


@pytest.mark.parametrize("conditioning", KINDS)
def test_fields_can_be_trained_alone(conditioning):
    torch.manual_seed(0)
    crystals = caesium_chloride()
    truth = exact_fields(crystals, periodic=False, num_species=4)
    latent = torch.randn(1, 8)
    position = PositionField(8, (64, 64), conditioning, harmonics=2)
    species = SpeciesField(8, 4, (32,), conditioning, harmonics=2)
    parameters = [*position.parameters(), *species.parameters()]
    optimizer = torch.optim.Adam(parameters, 5e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        query = uniform_in_cell(crystals.lattice, 256, generator)
        error = position(latent, query, crystals.lattice) - truth.position(query)
        logits = species(latent, query, crystals.lattice)
        wrong = F.cross_entropy(logits.flatten(0, 1), truth.species(query).argmax(-1).flatten())
        loss = error.square().mean() + wrong
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    query = uniform_in_cell(crystals.lattice, 1000, generator)
    position.eval(), species.eval()
    with torch.no_grad():
        error = position(latent, query, crystals.lattice) - truth.position(query)
        agree = species(latent, query, crystals.lattice).argmax(-1)
    assert error.norm(dim=-1).median() < 0.25
    assert (agree == truth.species(query).argmax(-1)).float().mean() > 0.95
