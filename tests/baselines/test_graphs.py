"""Neighbours of atoms, against a brute-force search and known crystals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from crystals import random_crystals
from pymatgen.core import Lattice, Structure

from baselines.voxel_icsg3d.graphs import graph_tensors
from baselines.voxel_icsg3d.neighbourhood import GraphOptions, nearest_neighbours, shell_weights
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet
from nesf.errors import InputError


def brute_force(lattice, frac, options, reach):
    """By atom, the sorted (distance, neighbour) pairs among all images within `reach` cells."""
    shifts = np.array(list(itertools.product(range(-reach, reach + 1), repeat=3)))
    images = (frac[:, None] + shifts) @ lattice  # (N, shifts, 3)
    found = []
    for i in range(len(frac)):
        distances = np.linalg.norm(images - frac[i] @ lattice, axis=-1)
        distances[i, np.flatnonzero((shifts == 0).all(1))[0]] = np.inf  # itself
        flat = np.sort(distances, axis=None)
        near = np.argwhere(distances < flat[options.neighbours - 1] + options.shell_width)
        found.append(sorted((distances[j, s], j) for j, s in near))
    return found


@pytest.mark.parametrize("options", [GraphOptions(), GraphOptions(5, 0.2, first_radius=1.0)])
def test_neighbours_are_those_of_a_brute_force_search(options):
    crystals = random_crystals(3, count=8, max_atoms=5)
    for i in range(len(crystals)):
        lattice = crystals.lattice[i].numpy()
        frac = crystals.frac_coords[i][crystals.mask[i]].numpy()
        counts, neighbours, distances = nearest_neighbours(lattice, frac, options)
        truth = brute_force(lattice, frac, options, reach=6)
        assert counts.tolist() == [len(atom) for atom in truth]
        ends = np.cumsum(counts)
        for atom, end, count in zip(truth, ends, counts, strict=True):
            mine = slice(end - count, end)
            assert (np.diff(distances[mine]) >= 0).all()
            np.testing.assert_allclose(distances[mine], [d for d, _ in atom], atol=1e-9)
            # an image of every neighbour as often as in the truth, whatever the order of equals
            assert sorted(neighbours[mine]) == sorted(j for _, j in atom)


@pytest.mark.parametrize(
    ("lattice", "shells"),
    [
        (Lattice([[0, 2, 2], [2, 0, 2], [2, 2, 0]]), [(12, 8**0.5)]),  # fcc
        (Lattice([[-1.5, 1.5, 1.5], [1.5, -1.5, 1.5], [1.5, 1.5, -1.5]]), [(8, 6.75**0.5), (6, 3)]),
        (Lattice.cubic(3), [(6, 3), (12, 18**0.5)]),
    ],
)
def test_whole_shells_of_cubic_metals(lattice, shells):
    counts, neighbours, distances = nearest_neighbours(
        lattice.matrix, np.array([[0.3, 0.7, 0.1]]), GraphOptions()
    )
    wanted = [d for count, d in shells for _ in range(count)]
    assert counts.tolist() == [len(wanted)]
    assert not neighbours.any()
    np.testing.assert_allclose(distances, wanted, atol=1e-9)


def test_an_atom_alone_in_a_large_cell_has_its_images():
    counts, _, distances = nearest_neighbours(60 * np.eye(3), np.zeros((1, 3)), GraphOptions())
    assert counts.tolist() == [18]
    np.testing.assert_allclose(distances, [60.0] * 6 + [60 * 2**0.5] * 12)


def test_weights_fall_smoothly_behind_the_last_that_counts():
    distances = torch.tensor([[1.0, 2.0, 2.0, 2.1, 2.2, 0.0]], dtype=torch.float64)
    real = torch.tensor([[True] * 5 + [False]])
    weights = shell_weights(distances, real, GraphOptions(neighbours=2, shell_width=0.2))
    torch.testing.assert_close(
        weights, torch.tensor([[1.0, 1.0, 1.0, 0.5, 0.0, 0.0]], dtype=torch.float64)
    )


def make_graphs(crystals):
    graphs, refused = graph_tensors(
        PackedSet.from_batch(crystals), GraphOptions(), dtype=torch.float64, progress=False
    )
    assert not refused
    return graphs


def test_a_batch_holds_the_neighbours_of_each_crystal():
    crystals = random_crystals(1, count=5, max_atoms=6)
    graphs = make_graphs(crystals)
    order = torch.tensor([3, 0, 4])
    batch = graphs.batch(order)
    assert batch.ids == tuple(crystals.ids[i] for i in order)
    for row, i in enumerate(order.tolist()):
        n = int(crystals.num_atoms[i])
        counts, neighbours, distances = nearest_neighbours(
            crystals.lattice[i].numpy(), crystals.frac_coords[i, :n].numpy(), GraphOptions()
        )
        real = batch.edge_mask[row]
        assert real.sum(-1)[:n].tolist() == counts.tolist()
        assert not real[n:].any()
        assert batch.neighbours[row][real].tolist() == neighbours.tolist()
        assert batch.distances[row][real].tolist() == pytest.approx(distances.tolist())


def test_select_and_to_keep_the_edges():
    graphs = make_graphs(random_crystals(2, count=5, max_atoms=6))
    picked = graphs.batch(torch.arange(5)).select([1, 3])
    wanted = graphs.batch(torch.tensor([1, 3]))
    for name in ("neighbours", "distances", "edge_mask", "atomic_numbers", "mask", "lattice"):
        torch.testing.assert_close(getattr(picked, name), getattr(wanted, name))
    assert picked.ids == wanted.ids
    single = picked.to(dtype=torch.float32)
    assert single.distances.dtype == single.lattice.dtype == torch.float32
    assert (single.neighbours == picked.neighbours).all()


def test_what_has_no_neighbours_is_told_and_the_others_are_found():
    good = Structure(Lattice.cubic(3.0), ["Po"], [[0, 0, 0]])
    flat = Structure(Lattice([[3, 0, 0], [0, 3, 0], [3, 3, 1e-6]]), ["Po"], [[0, 0, 0]])
    crystals = CrystalBatch.from_structures([flat, good], dtype=torch.float64)
    empty = crystals.select([1]).replace(mask=torch.zeros(1, 1, dtype=torch.bool))
    packed = PackedSet.join(
        [PackedSet.from_batch(crystals), PackedSet.from_batch(empty.replace(ids=("empty",)))]
    )
    graphs, refused = graph_tensors(packed, GraphOptions(), progress=False)
    assert refused.keys() == {0, 2}
    assert "cell" in refused[0]
    assert refused[2] == "no atoms"
    assert graphs.batch(torch.tensor([0, 1])).edge_mask.sum(-1).tolist() == [[0], [18]]


def test_coordinates_must_be_finite():
    with pytest.raises(InputError, match="not finite"):
        nearest_neighbours(3 * np.eye(3), np.array([[0.0, np.nan, 0.0]]), GraphOptions())


@pytest.mark.parametrize(
    "wrong", [{"neighbours": 0}, {"shell_width": 0.0}, {"first_radius": float("nan")}]
)
def test_options_check_themselves(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        GraphOptions(**wrong)


def test_real_crystals_are_quick(shared_data):
    """Far below a parsing's time, so that nothing needs to be kept between runs."""
    import time

    from nesf.data.readers import read_crystals

    rows, _ = read_crystals([shared_data / "perov5" / "test.csv.gz"], progress=False)
    started = time.process_time()
    graphs, refused = graph_tensors(PackedSet.from_rows(rows), GraphOptions(), progress=False)
    assert time.process_time() - started < 5
    assert not refused
    assert len(graphs) == 379
    assert (torch.diff(graphs.edge_offsets) >= 12).all()
