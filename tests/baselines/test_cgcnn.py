"""The property predictor: what its answers may and may not depend on, and that it learns."""

from __future__ import annotations

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Element, Lattice, Structure
from torch import nn

from baselines.voxel_icsg3d import descriptors
from baselines.voxel_icsg3d.cgcnn import CGCNN, Edges, WeightedBatchNorm
from baselines.voxel_icsg3d.graphs import graph_tensors
from baselines.voxel_icsg3d.neighbourhood import GraphOptions
from baselines.voxel_icsg3d.property_training import property_loss
from nesf.checkpoint import load_model, save_model
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet

# Sums over other orders, and over a supercell's repeated atoms, round differently
DOUBLE, SINGLE = 1e-9, 2e-5


def graphs_of(crystals, dtype=torch.float64):
    packed = (
        PackedSet.from_batch(crystals)
        if isinstance(crystals, CrystalBatch)
        else PackedSet.from_batch(CrystalBatch.from_structures(crystals, dtype=torch.float64))
    )
    graphs, refused = graph_tensors(packed, GraphOptions(), dtype=dtype, progress=False)
    assert not refused
    return graphs.batch(torch.arange(len(packed)))


@pytest.fixture(scope="module")
def model():
    """Random weights, and statistics that are not the initial ones."""
    torch.manual_seed(0)
    network = CGCNN(["first", "second"], width=24, num_convolutions=2, hidden_width=16).double()
    for convolution in network.convolutions:  # so that neighbours are heard well
        nn.init.normal_(convolution.edge.weight, std=1.0)
    network.train()
    network(graphs_of(random_crystals(0, count=16)))
    return network.eval()


def answers(network, structures, dtype=torch.float64):
    with torch.no_grad():
        return network(graphs_of(structures, dtype))


def random_structure(seed, max_atoms=5):
    return random_crystals(seed, count=1, max_atoms=max_atoms).to_structures()[0]


def decorated_lattice(seed):
    """Random elements on a cubic lattice: equal distances everywhere."""
    random = np.random.default_rng(seed)
    whole = Structure(Lattice.cubic(3), ["H"], [[0, 0, 0]]) * (2, 2, 1)
    kinds = random.choice(["Na", "Cl", "Fe"], len(whole))
    return Structure(whole.lattice, kinds.tolist(), whole.frac_coords)


MAKERS = st.sampled_from([random_structure, decorated_lattice])
SEEDS = st.integers(0, 10**6)


@settings(max_examples=20, deadline=None)
@given(make=MAKERS, seed=SEEDS)
def test_the_order_of_atoms_is_nothing(model, make, seed):
    one = make(seed)
    order = np.random.default_rng(seed).permutation(len(one))
    other = Structure.from_sites([one[i] for i in order])
    found = answers(model, [one, other])
    assert found[0].tolist() == pytest.approx(found[1].tolist(), abs=DOUBLE)


def cell_changes():
    rows = st.tuples(*[st.integers(-1, 2)] * 9).map(lambda m: np.array(m).reshape(3, 3))
    return rows.filter(lambda m: 1 <= abs(round(np.linalg.det(m))) <= 3)


@settings(max_examples=25, deadline=None)
@given(make=MAKERS, seed=SEEDS, matrix=cell_changes())
def test_the_choice_of_cell_is_nothing(model, make, seed, matrix):
    """Other settings of the cell and supercells, as pymatgen makes them."""
    one = make(seed)
    other = one.make_supercell(matrix, to_unit_cell=True, in_place=False)
    assert len(other) == len(one) * abs(round(np.linalg.det(matrix)))
    found = answers(model, [one, other])
    assert found[0].tolist() == pytest.approx(found[1].tolist(), abs=DOUBLE)


# On a simple cubic lattice: the 12th neighbour is one of 12 at equal distances, and these are of
# both elements, so that it matters which of them are taken
LAYERS = Structure(Lattice.tetragonal(3, 6), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0.5]])
PROTOTYPES = [
    LAYERS * (1, 2, 1),
    Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0] * 3, [0.5] * 3]),
    Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0] * 3]),
    Structure.from_spacegroup("Im-3m", Lattice.cubic(2.87), ["Fe"], [[0] * 3]),
    Structure.from_spacegroup(
        "P6_3/mmc", Lattice.hexagonal(3.21, 5.21), ["Mg"], [[1 / 3, 2 / 3, 1 / 4]]
    ),
]


@pytest.mark.parametrize("conventional", PROTOTYPES, ids=lambda s: s.reduced_formula)
def test_conventional_and_primitive_cells_have_the_same_properties(model, conventional):
    """Full of equal distances, among which a bare count of neighbours would have to choose."""
    primitive = conventional.get_primitive_structure()
    cells = [conventional, primitive, primitive * (1, 2, 2)]
    for dtype, tolerance in ((torch.float64, DOUBLE), (torch.float32, SINGLE)):
        network = CGCNN(**model.init_args)
        network.load_state_dict(model.state_dict())
        found = answers(network.eval().to(dtype), cells, dtype)
        for cell in found[1:]:
            assert cell.tolist() == pytest.approx(found[0].tolist(), abs=tolerance)


def test_answers_are_continuous_where_a_shell_is_full(model):
    """Moving an atom a little must not change who is seen."""
    still = LAYERS * (2, 1, 1)
    shifted = [still]
    for size in (1e-4, 1e-6):
        moved = still.copy()
        moved.translate_sites([0], [0.1 * size, 0.2 * size, size], frac_coords=False)
        shifted.append(moved)
    found = answers(model, shifted)
    change = (found[1:] - found[0]).abs().amax(-1)
    assert 0 < change[0] < 1e-3
    assert change[1] < 1e-5


def test_answers_depend_on_distances_and_elements(model):
    salt = PROTOTYPES[1]
    wider = salt.copy()
    wider.scale_lattice(1.1 * salt.volume)
    other = salt.copy()
    other.replace_species({"Cl": "Br"})
    found = answers(model, [salt, wider, other])
    assert ((found[1:] - found[0]).abs() > 1e-3).all()


@pytest.mark.parametrize(
    "structure",
    [
        Structure(Lattice.cubic(150), ["He"], [[0, 0, 0]]),
        Structure(Lattice.cubic(3), ["U", "U"], [[0, 0, 0], [0, 0, 0.001]]),
        Structure(Lattice.cubic(3), ["U", "U"], [[0, 0, 0], [0, 0, 0]]),
        Structure(Lattice.orthorhombic(0.6, 30, 190), ["H", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    ],
)
def test_absurd_crystals_have_finite_properties(model, structure):
    assert answers(model, [structure]).isfinite().all()


def test_batch_norm_with_unit_weights_is_torchs(generator):
    ours, theirs = WeightedBatchNorm(5).double(), nn.BatchNorm1d(5).double()
    for step in range(3):
        values = torch.randn(7 + step, 5, generator=generator, dtype=torch.float64) * 3 + 1
        ones = torch.ones(len(values), dtype=torch.float64)
        torch.testing.assert_close(ours(values, ones), theirs(values))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(values, ones), theirs.eval()(values))


def test_batch_norm_counts_by_weight(generator):
    values = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    weights = torch.tensor([1, 0, 2, 1, 0, 3], dtype=torch.float64)
    repeated = values.repeat_interleave(weights.long(), dim=0)
    ours, theirs = WeightedBatchNorm(3).double(), nn.BatchNorm1d(3).double()
    wanted = theirs(repeated)
    found = ours(values, weights).repeat_interleave(weights.long(), dim=0)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_padding_is_nothing_to_training():
    """Atoms and neighbours that are not there change neither answers nor statistics."""
    batch = graphs_of(random_crystals(5, count=4))
    b, n, k = batch.neighbours.shape

    def padded(tensor, *sizes):
        wide = tensor.new_full((b, *sizes), 0)
        wide[tuple(slice(size) for size in tensor.shape)] = tensor
        return wide

    wide = replace(
        batch,
        frac_coords=padded(batch.frac_coords, n + 3, 3),
        atomic_numbers=padded(batch.atomic_numbers, n + 3),
        mask=padded(batch.mask, n + 3),
        neighbours=padded(batch.neighbours, n + 3, k + 5),
        distances=padded(batch.distances, n + 3, k + 5),
        edge_mask=padded(batch.edge_mask, n + 3, k + 5),
    )
    networks = []
    for crystals in (batch, wide):
        torch.manual_seed(1)
        network = CGCNN(["p"], width=8).double().train()
        networks.append((network(crystals), network.convolutions[0].edge_norm.running_var))
    torch.testing.assert_close(networks[0], networks[1])


def test_edges_count_atoms_through_the_batch():
    batch = graphs_of(random_crystals(6, count=3))
    edges = Edges.of(batch, GraphOptions())
    assert len(edges.atoms) == int(batch.edge_mask.sum())
    crystal = batch.mask.nonzero()[:, 0]
    assert (crystal[edges.atoms] == crystal[edges.others]).all()
    numbers = batch.atomic_numbers[batch.mask]
    row = torch.arange(3)[:, None, None]
    others = batch.atomic_numbers[row, batch.neighbours][batch.edge_mask]
    assert (numbers[edges.others] == others).all()


def test_shapes_gradients_and_units():
    torch.manual_seed(0)
    network = CGCNN(["a", "b", "c"], width=16, num_convolutions=3).double()
    network.set_targets(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0]))
    batch = graphs_of(random_crystals(0))
    network.eval()
    found = network(batch)
    assert found.shape == (len(batch), 3)
    units = network.standardised(batch) * torch.tensor([4.0, 5.0, 6.0]) + torch.tensor([1.0, 2, 3])
    torch.testing.assert_close(found, units)
    network.train()
    network.standardised(batch).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # the bias before a batch normalisation is the only one that cannot matter
        assert name.endswith("own.bias") or parameter.grad.abs().sum() > 0, name


def test_it_overfits_one_batch():
    torch.manual_seed(0)
    batch = graphs_of(random_crystals(2, count=12), torch.float32)
    target = torch.randn(len(batch), 2)
    network = CGCNN(["a", "b"], width=32)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    known = torch.ones_like(target, dtype=torch.bool)
    losses = []
    for _ in range(100):
        loss = property_loss(network.standardised(batch), target, known, "squared")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 0.01


@pytest.mark.parametrize("kind", ["absolute", "huber", "squared"])
def test_unknown_targets_are_left_out_of_the_loss(kind, generator):
    predicted = torch.randn(6, 2, generator=generator, requires_grad=True)
    target = torch.randn(6, 2, generator=generator)
    target[[1, 4], 0] = torch.nan
    known = target.isfinite()
    loss = property_loss(predicted, target, known, kind)
    error = [predicted[known[:, i], i] - target[known[:, i], i] for i in range(2)]
    theirs = {
        "absolute": lambda e: e.abs().mean(),
        "squared": lambda e: e.square().mean(),
        "huber": lambda e: nn.functional.smooth_l1_loss(e, torch.zeros_like(e), beta=0.5),
    }[kind]
    torch.testing.assert_close(loss, sum(map(theirs, error)) / 2)
    loss.backward()
    assert predicted.grad.isfinite().all()
    assert ((predicted.grad == 0) == ~known).all()


def test_a_batch_without_any_target_costs_nothing():
    predicted = torch.randn(3, 2, requires_grad=True)
    target = torch.full((3, 2), torch.nan)
    loss = property_loss(predicted, target, target.isfinite())
    loss.backward()
    assert loss.item() == 0
    assert (predicted.grad == 0).all()


def test_save_and_load(tmp_path, model):
    path = tmp_path / "model.safetensors"
    network = CGCNN(**model.init_args)
    network.load_state_dict(model.state_dict())
    network.set_targets(torch.tensor([1.5, -2.0]), torch.tensor([0.5, 3.0]))
    config = {"class_path": "baselines.voxel_icsg3d.cgcnn.CGCNN", "init_args": model.init_args}
    save_model(path, config, network.state_dict())
    loaded = load_model(path)
    assert isinstance(loaded, CGCNN)
    assert loaded.properties == ("first", "second")
    batch = graphs_of(PROTOTYPES, torch.float32)
    torch.testing.assert_close(loaded(batch), network.eval()(batch), rtol=0, atol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"properties": []},
        {"properties": ["a", "a"]},
        {"properties": ["a"], "width": 0},
        {"properties": ["a"], "num_convolutions": -1},
        {"properties": ["a"], "radius_step": 0.0},
        {"properties": ["a"], "graph": {"neighbours": 0}},
    ],
)
def test_options_check_themselves(wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1].replace("graph", "neighbours")):
        CGCNN(**wrong)


def test_elements_are_as_in_pymatgen():
    for z in range(1, 95):
        element = Element.from_Z(z)
        period, group, block = descriptors.period_group_block(z)
        assert (period, group) == (element.row, element.group)
        assert block == (element.block if z != 2 else "s")  # pymatgen puts helium to its group
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pymatgen, where there is no value
            value, radius = element.X, element.atomic_radius or element.atomic_radius_calculated
        assert descriptors.ELECTRONEGATIVITY[z - 1] == (0.0 if np.isnan(value) else value)
        assert descriptors.ATOMIC_RADIUS[z - 1] == float(radius or 0.0)
        assert descriptors.MENDELEEV_NUMBER[z - 1] == element.mendeleev_no
    for lists in (descriptors.ELECTRONEGATIVITY, descriptors.MENDELEEV_NUMBER):
        assert len(lists) == 94


def test_elements_have_different_features():
    features = descriptors.element_features()
    assert features.isfinite().all()
    assert all((a != b).any() for a, b in pairwise(features))
    assert len(features.unique(dim=0)) == 94
