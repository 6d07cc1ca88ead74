"""Crystals made for the tests of this folder, and matchers that misbehave on purpose."""

import os
import time

import numpy as np

from eval.cells import Cell


def make_cell(generator: np.random.Generator, count: int, skew: float = 0.3) -> Cell:
    """A random cell of 3 to 6 Å whose faces stay far apart."""
    while True:
        lattice = np.diag(generator.uniform(3, 6, 3)) + generator.uniform(-skew, skew, (3, 3)) * 4
        cell = Cell(lattice, generator.random((count, 3)), generator.integers(20, 36, count))
        if cell.volume > 15 and np.linalg.inv(lattice).max() < 1.5:
            return cell


def rock_salt(shift: float = 0.0) -> Cell:
    """NaCl, the conventional cell of 8 atoms."""
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    frac = np.concatenate([corners, corners + np.array([0.5, 0, 0])]) % 1.0 + shift
    return Cell(np.eye(3) * 5.64, frac, np.repeat([11, 17], 4))


def stubborn_matcher(payload: list, config: dict) -> float:
    """Hangs over cells of one atom, dies over two, raises over three, else answers at once."""
    count = len(payload[0]["atomic_numbers"])
    while count == 1:
        time.sleep(0.1)
    if count == 2:
        os._exit(3)
    if count == 3:
        raise ValueError("three is too many")
    return 0.25
