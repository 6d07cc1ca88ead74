"""A picture strip: crystals side by side as balls in their cells, in one PNG."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from eval import elements
from eval.cells import Cell, fault
from eval.metrics import standard_cart_coords
from eval.validity import formula
from nesf.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ELEVATION, _AZIMUTH = math.radians(16), math.radians(-68)  # seen from the front, a little above
_PIECES = 24  # of a cell edge, each before or behind an atom
_FADE = 0.35  # how far the farthest atoms fade into the paper
_LARGEST = 1.8  # cells beyond this many medians are drawn smaller instead of all others
_INK, _SOFT, _BAD, _EDGE = "#1f2430", "#6b7280", "#b42318", "#9aa1ad"
# a ball: discs from the rim to the highlight as (radius, offset to the light, whiteness)
_SHADES = ((1.0, 0.0, -0.30), (0.93, 0.03, 0.0), (0.66, 0.16, 0.16), (0.40, 0.27, 0.38))
# inches: side of a panel, space between two, lines below it with and without faults; one element
# of the legend
_PANEL, _GAP, _CAPTION, _PLAIN_CAPTION = 1.7, 0.12, 0.62, 0.48
_ENTRY_WIDTH, _ENTRY_HEIGHT = 0.56, 0.2
_LONGEST_LABEL, _LONGEST_FORMULA = 26, 16  # characters
_DPI = 160


@dataclass(frozen=True)
class Panel:
    """One crystal of a strip.

    Attributes:
        cell: None where there is none.
        label: said below the formula: which one it is.
        faults: what is wrong with it, in a few words; empty if nothing is.
        framed: set it off from the others, as a given crystal beside generated ones.
    """

    cell: Cell | None
    label: str = ""
    faults: Sequence[str] = ()
    framed: bool = False


def draw_strip(path: str | Path, panels: Sequence[Panel], columns: int = 5) -> None:
    """Draw crystals in rows of equal panels, all seen alike and on one scale, as a PNG.

    Cells stand in the standard orientation, with c up. Cells much larger than the others are drawn
    to their own, smaller scale.

    Args:
        path: the PNG file, replaced in one step.
        panels: in reading order, at least one.
        columns: panels in a row.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    caption = _CAPTION if any(panel.faults for panel in panels) else _PLAIN_CAPTION
    width = columns * (_PANEL + _GAP) + _GAP
    present = sorted({z for panel in panels if panel.cell for z in panel.cell.atomic_numbers})
    entries = max(1, int(width / _ENTRY_WIDTH))  # in a row of the legend
    legend = 0.15 + _ENTRY_HEIGHT * math.ceil(len(present) / entries)
    size = (width, rows * (_PANEL + caption + _GAP) + legend + _GAP)
    figure = Figure(figsize=size, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    scenes = [_Scene.of(panel.cell) for panel in panels]
    extents = [scene.extent for scene in scenes if scene is not None]
    common = min(max(extents), _LARGEST * float(np.median(extents))) if extents else 1.0
    with rc_context({"mathtext.default": "regular", "font.family": "DejaVu Sans"}):
        for i, (panel, scene) in enumerate(zip(panels, scenes, strict=True)):
            row, column = divmod(i, columns)
            left = _GAP + column * (_PANEL + _GAP)
            top = size[1] - _GAP - row * (_PANEL + caption + _GAP)
            if panel.framed:
                _draw_frame(figure, left, top - _PANEL - caption, _PANEL, _PANEL + caption)
            place = (left / size[0], (top - _PANEL) / size[1], _PANEL / size[0], _PANEL / size[1])
            _draw_panel(figure.add_axes(place), panel, scene, common)
        if present:
            _draw_legend(figure, [int(z) for z in present], entries)
        with atomic_write(path) as file:
            figure.savefig(file, format="png", metadata={"Software": None})


@dataclass(frozen=True)
class _Scene:
    """Atoms and cell edges as seen: x to the right, y up, z towards the eye, Å."""

    atoms: Float[np.ndarray, "n 3"]
    numbers: list[int]
    edges: Float[np.ndarray, "e 2 3"]  # (12 * pieces, 2 ends, 3)

    @staticmethod
    def of(cell: Cell | None) -> _Scene | None:
        """The scene of a crystal, centred; None for one that cannot be drawn."""
        if cell is None or fault(cell) is not None:
            return None
        whole = with_face_images(cell)
        corners = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
        centre = _seen(cell, np.full((1, 3), 0.5))
        starts = corners[[0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 6]]
        ends = corners[[1, 2, 4, 3, 5, 3, 6, 7, 5, 6, 7, 7]]
        cuts = np.linspace(0, 1, _PIECES + 1)[:, None, None]
        points = starts + cuts * (ends - starts)  # (pieces + 1, 12, 3)
        pieces = np.stack([points[:-1], points[1:]], axis=2).reshape(-1, 3)  # (12 * pieces * 2, 3)
        return _Scene(
            _seen(cell, whole.frac_coords) - centre,
            whole.atomic_numbers.tolist(),
            (_seen(cell, pieces) - centre).reshape(-1, 2, 3),
        )

    @property
    def extent(self) -> float:
        """Half the side of the square that holds everything, Å."""
        radii = np.array([elements.drawn_radius(z) for z in self.numbers])
        reach = (np.abs(self.atoms[:, :2]) + radii[:, None]).max(initial=0.0)
        return float(max(reach, np.abs(self.edges[..., :2]).max()))


def with_face_images(cell: Cell) -> Cell:
    """The crystal wrapped into its cell, atoms whose ball reaches through a face on both sides.

    A site that is found a little off a face is thus drawn as often as the atom on it.
    """
    spacings = 1 / np.linalg.norm(np.linalg.inv(cell.lattice), axis=0)  # (3,) of faces, Å
    frac, numbers = [], []
    for number, coords in zip(cell.atomic_numbers.tolist(), cell.frac_coords % 1.0, strict=True):
        near = np.minimum(elements.drawn_radius(number) / spacings, 0.5)
        choices = [
            (x, x + 1) if x < eps else (x, x - 1) if x > 1 - eps else (x,)
            for x, eps in zip(coords, near, strict=True)
        ]
        images = list(itertools.product(*choices))
        frac += images
        numbers += [number] * len(images)
    return Cell(cell.lattice, np.array(frac, dtype=float), np.array(numbers, dtype=int))


def _seen(cell: Cell, frac_coords: np.ndarray) -> np.ndarray:
    """Fractional to viewing coordinates, in parallel projection."""
    cart = standard_cart_coords(Cell(cell.lattice, frac_coords, np.zeros(len(frac_coords), int)))
    turn = np.array(  # columns: right, up, towards the eye
        [
            [-math.sin(_AZIMUTH), -math.sin(_ELEVATION) * math.cos(_AZIMUTH)],
            [math.cos(_AZIMUTH), -math.sin(_ELEVATION) * math.sin(_AZIMUTH)],
            [0.0, math.cos(_ELEVATION)],
        ]
    )
    return cart @ np.column_stack([turn, np.cross(turn[:, 0], turn[:, 1])])


def _draw_frame(figure: Figure, left: float, bottom: float, width: float, height: float) -> None:
    """A tinted card behind a panel, in inches."""
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.08"
    card = FancyBboxPatch((left, bottom), width, height, style, fc="#eef2f8", ec="none")
    card.set(transform=figure.dpi_scale_trans, zorder=-1)
    figure.add_artist(card)


def _draw_panel(axes: Axes, panel: Panel, scene: _Scene | None, common: float) -> None:
    axes.set_axis_off()
    half = max(common, scene.extent if scene else 0.0) * 1.12
    axes.set(xlim=(-half, half), ylim=(-half, half), aspect="equal")
    if scene is None:
        axes.text(0, 0, "×", size=30, color=_EDGE, ha="center", va="center")
    else:
        _draw_scene(axes, scene)
    place: Any = {"transform": axes.transAxes, "ha": "center", "va": "top"}
    axes.text(0.5, 0.0, _title(panel.cell), size=11, color=_INK, **place)
    axes.text(0.5, -0.125, _short(panel.label), size=7.5, color=_SOFT, parse_math=False, **place)
    told = " · ".join(panel.faults[:2])
    axes.text(0.5, -0.21, told, size=7.5, color=_BAD, parse_math=False, **place)


def _draw_scene(axes: Axes, scene: _Scene) -> None:
    """From back to front: pieces of the edges between the atoms that they lie between."""
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.patches import Circle

    radii = [elements.drawn_radius(z) for z in scene.numbers]
    middles = scene.edges.mean(1)
    hidden = np.zeros(len(middles), dtype=bool)
    for atom, radius in zip(scene.atoms, radii, strict=True):
        hidden |= np.linalg.norm(middles - atom, axis=-1) < radius
    pieces, depths = scene.edges[~hidden], middles[~hidden, 2]
    order = np.argsort(scene.atoms[:, 2], kind="stable")
    bounds = np.searchsorted(scene.atoms[order, 2], depths)  # how many atoms lie behind a piece
    nearest, farthest = scene.edges[..., 2].max(), scene.edges[..., 2].min()
    for place in range(len(order) + 1):
        lines = LineCollection(list(pieces[bounds == place, :, :2]), colors=_EDGE, linewidths=0.9)
        lines.set(zorder=2 * place, capstyle="round")
        axes.add_collection(lines)
        if place == len(order):
            break
        i = order[place]
        x, y, depth = scene.atoms[i]
        far = np.clip((nearest - depth) / max(nearest - farthest, 1e-9), 0, 1)
        discs = [
            Circle((x - shift * radii[i], y + shift * radii[i]), size * radii[i])
            for size, shift, _ in _SHADES
        ]
        colors = [_shade(elements.color(scene.numbers[i]), w, _FADE * far) for _, _, w in _SHADES]
        ball = PatchCollection(discs, facecolors=colors, edgecolors="none")
        ball.set_zorder(2 * place + 1)
        axes.add_collection(ball)


def _shade(color: str, whiteness: float, fade: float) -> np.ndarray:
    """(3,) a colour moved to white (or, below 0, to black), then to white by `fade`."""
    from matplotlib.colors import to_rgb

    base = np.array(to_rgb(color))
    shaded = base * (1 + whiteness) if whiteness < 0 else base + whiteness * (1 - base)
    return shaded + fade * (1 - shaded)


def _draw_legend(figure: Figure, numbers: Sequence[int], columns: int) -> None:
    """The elements at the foot, by atomic number."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="", marker="o", ms=7, mfc=elements.color(z), mec=_SOFT, mew=0.5)
        for z in numbers
    ]
    figure.legend(
        handles,
        [elements.symbol(z) for z in numbers],
        loc="lower center",
        ncols=min(columns, len(numbers)),
        frameon=False,
        fontsize=8.5,
        labelcolor=_INK,
        handletextpad=0.1,
        columnspacing=1.0,
        labelspacing=0.3,
        borderaxespad=0.3,
    )


def _title(cell: Cell | None) -> str:
    """The formula with its numbers below the line, or what fits in its place."""
    from pymatgen.util.string import latexify

    if cell is None or not len(cell):
        return "–"
    name = formula(cell.atomic_numbers)
    if len(name) > _LONGEST_FORMULA:
        return f"{len(np.unique(cell.atomic_numbers))} elements"
    return latexify(name)


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"{label[: _LONGEST_LABEL - 1]}…"
