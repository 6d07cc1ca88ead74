"""The picture strip: what it shows, that it never fails, and that it is the same every time."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_crystals import make_cell, rock_salt
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from eval import elements
from eval.cells import Cell
from eval.strip import Panel, draw_strip, with_face_images

NO_ATOMS = Cell(np.eye(3) * 4, np.zeros((0, 3)), np.zeros(0, dtype=int))
FLAT = Cell(np.diag([4.0, 4.0, 0.01]), np.zeros((1, 3)), np.array([6]))


def drawn(path: Path, panels: list[Panel], columns: int = 5) -> np.ndarray:
    """(H, W, 3) in 0..1."""
    draw_strip(path, panels, columns)
    return imread(path)[..., :3]


def has_color(image: np.ndarray, color: tuple[float, float, float], pixels: int = 20) -> bool:
    return bool((np.abs(image - np.array(color)).max(-1) < 0.02).sum() > pixels)


def test_every_element_is_seen(tmp_path):
    atoms = Cell(np.eye(3) * 6, np.array([[0.3, 0.2, 0.3], [0.7, 0.2, 0.7]]), np.array([8, 92]))
    image = drawn(tmp_path / "a.png", [Panel(atoms, "one")])
    empty = drawn(tmp_path / "b.png", [Panel(None, "one")])
    for z in (8, 92):
        assert has_color(image, to_rgb(elements.color(z)))  # in the legend, unfaded
        assert not has_color(empty, to_rgb(elements.color(z)))
    assert not has_color(image, to_rgb(elements.color(17)))


def test_panels_stand_in_rows(tmp_path):
    atom = Cell(np.eye(3) * 3, np.zeros((1, 3)), np.array([29]))
    panels = [Panel(atom, str(i)) for i in range(7)]
    row = drawn(tmp_path / "row.png", panels, columns=7)
    grid = drawn(tmp_path / "grid.png", panels, columns=3)
    assert row.shape[1] > 2 * row.shape[0]
    assert grid.shape[0] > 2 * row.shape[0]
    blank = grid[-grid.shape[0] // 3 : -60, -grid.shape[1] // 3 :]
    assert blank.min() == 1.0  # the seventh stands alone in its row


def test_faults_are_told_in_red(tmp_path):
    red = to_rgb("#b42318")
    told = drawn(tmp_path / "a.png", [Panel(rock_salt(), "0", ["not neutral"])])
    silent = drawn(tmp_path / "b.png", [Panel(rock_salt(), "0")])
    assert has_color(told, red)
    assert not has_color(silent, red)


def test_a_given_crystal_stands_on_a_card(tmp_path):
    card, salt = to_rgb("#eef2f8"), rock_salt()
    assert has_color(drawn(tmp_path / "a.png", [Panel(salt, framed=True)]), card, 10_000)
    assert not has_color(drawn(tmp_path / "b.png", [Panel(salt)]), card, 1_000)


@pytest.mark.parametrize(
    "cell",
    [
        None,
        NO_ATOMS,
        FLAT,
        Cell(np.full((3, 3), np.nan), np.zeros((1, 3)), np.array([6])),
        Cell(np.eye(3) * 4, np.zeros((2, 3)), np.array([6, 8])),
        Cell(-np.eye(3) * 4, np.full((1, 3), 1.7), np.array([6])),
        Cell(np.eye(3) * 90, np.random.default_rng(0).random((94, 3)), np.arange(1, 95)),
    ],
)
def test_nothing_keeps_it_from_being_drawn(tmp_path, cell):
    panels = [Panel(cell, "$a_{long} label, longer than the panel", ["no atoms", "$"], True)]
    image = drawn(tmp_path / "odd.png", [*panels, Panel(rock_salt())])
    assert image.min() < 0.6
    assert image[:, image.shape[1] // 2 :].std() > 0.05  # its neighbour is there


def test_one_huge_cell_leaves_the_others_large(tmp_path):
    huge = Cell(np.eye(3) * 80, np.zeros((1, 3)), np.array([6]))
    salt = [Panel(rock_salt())] * 3
    alone = drawn(tmp_path / "a.png", salt, columns=4)
    beside = drawn(tmp_path / "b.png", [*salt, Panel(huge)], columns=4)

    def inked(image: np.ndarray) -> int:
        return int((image[:280, :250].min(-1) < 0.9).sum())

    assert inked(beside) > 0.2 * inked(alone)


def test_the_same_bytes_again(tmp_path):
    panels = [Panel(rock_salt(), "a"), Panel(make_cell(np.random.default_rng(0), 5), "b", ["x"])]
    for name in ("a.png", "b.png"):
        draw_strip(tmp_path / name, panels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_corner_atoms_stand_on_every_corner():
    whole = with_face_images(rock_salt())
    # of NaCl's conventional cell: 14 Na on corners and faces, 12 Cl on edges and 1 inside
    assert np.bincount(whole.atomic_numbers)[[11, 17]].tolist() == [14, 13]
    assert whole.frac_coords.min() >= 0
    assert whole.frac_coords.max() <= 1


def test_an_atom_a_little_off_a_face_is_drawn_as_often_as_the_one_on_it():
    cell = rock_salt()
    for shift in (0.02, -0.04):  # 0.11 and 0.23 Å, to either side
        moved = with_face_images(Cell(cell.lattice, cell.frac_coords + shift, cell.atomic_numbers))
        assert np.bincount(moved.atomic_numbers)[[11, 17]].tolist() == [14, 13]
    inside = Cell(cell.lattice, cell.frac_coords[:1] + 0.25, cell.atomic_numbers[:1])
    assert len(with_face_images(inside)) == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_images_are_the_same_atoms(seed):
    cell = make_cell(np.random.default_rng(seed), 4)
    whole = with_face_images(cell)
    away = whole.frac_coords[:, None] - cell.frac_coords[None]
    away -= np.round(away)
    nearest = np.abs(away).max(-1).argmin(1)
    assert np.abs(away).max(-1).min(1) == pytest.approx(0, abs=1e-9)
    assert cell.atomic_numbers[nearest].tolist() == whole.atomic_numbers.tolist()
    assert set(nearest) == set(range(len(cell)))
