"""Rock salt, and the atoms of a box, by brute force or as they are."""

import itertools

import numpy as np
from pymatgen.core import Lattice, Structure
from torch import Tensor

from nesf.boxes.cut import BoxOptions
from nesf.crystal import CrystalBatch

ROCKSALT = Structure.from_spacegroup(
    "Fm-3m", Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
)


def brute_force(
    crystals: CrystalBatch, i: int, options: BoxOptions, rotation: Tensor, origin: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted (x, y, z, Z) inside the box of one crystal, from a large block of cells."""
    frac = crystals.frac_coords[i][crystals.mask[i]].double().numpy()
    numbers = crystals.atomic_numbers[i][crystals.mask[i]].numpy()
    lattice = crystals.lattice[i].double().numpy()
    spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    reach = options.side * np.sqrt(3) / 2
    spans = [range(-k, k + 1) for k in (np.ceil(reach / spacing) + 3).astype(int)]
    shifts = np.array(list(itertools.product(*spans)))
    cart = (frac[:, None] + shifts - origin[i].double().numpy()) @ lattice
    cart = cart.reshape(-1, 3) @ rotation[i].double().numpy().T
    inside = (np.abs(cart) < options.side / 2).all(-1)
    if options.mode == "cluster":
        inside = np.linalg.norm(cart, axis=-1) <= options.side / 2
    found = cart[inside] + options.side / 2
    return sorted_atoms(found, np.repeat(numbers, len(shifts))[inside])


def sorted_atoms(cart: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort(np.round(cart, 4).T)
    return cart[order], numbers[order]


def atoms_of(crystals: CrystalBatch, i: int) -> tuple[np.ndarray, np.ndarray]:
    mask = crystals.mask[i]
    return sorted_atoms(
        crystals.cart_coords[i][mask].numpy(), crystals.atomic_numbers[i][mask].numpy()
    )


def assert_same(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]):
    assert found[0].shape == wanted[0].shape
    np.testing.assert_allclose(found[0], wanted[0], atol=1e-6)
    np.testing.assert_array_equal(found[1], wanted[1])


def assert_same_within(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]):
    distance = np.linalg.norm(found[0][:, None] - wanted[0], axis=-1)
    assert distance.shape == (len(wanted[0]), len(wanted[0]))
    assert distance.min(0).max() < 1e-3
    np.testing.assert_array_equal(found[1][distance.argmin(0)], wanted[1])
