"""Charts as SVG text to stand in a page: they take the page's font and text colour."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from eval import elements

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curve = Sequence[tuple[int, float]]

INK = "#010203"  # stands for the page's text colour until the SVG is written
_COLORS = {"train": "#2f7ed8", "val": "#e8710a"}
_MAX_POINTS = 600
STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "image.composite_image": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
}


@dataclass(frozen=True)
class FieldSlice:
    """A plane through the exact and the learned fields of one crystal.

    Attributes:
        name: the crystal's id.
        title: which plane, e.g. "z = 1.2 Å".
        distance_exact: (H, W) distance to the nearest atom, Å; NaN is not drawn.
        distance_learned: (H, W) length of the learned offset, Å; likewise.
        species_exact: (H, W) atomic number of the nearest atom; 0 is not drawn.
        species_learned: (H, W) atomic number that the learned field names; likewise.
        extent: x from, x to, y from, y to, Å; row 0 of the arrays is at the smallest y.
        atoms: (x, y, atomic number) of the true atoms in or near the plane, Å.
    """

    name: str
    title: str
    distance_exact: Float[np.ndarray, "h w"]
    distance_learned: Float[np.ndarray, "h w"]
    species_exact: Int[np.ndarray, "h w"]
    species_learned: Int[np.ndarray, "h w"]
    extent: tuple[float, float, float, float]
    atoms: Sequence[tuple[float, float, int]] = ()


def read_history(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars from the TensorBoard event files of a run, in order of steps.

    Args:
        folder: a folder that holds event files, at any depth. Where a resumed run wrote a step
            again, the later value stands.

    Returns:
        {tag: [(step, value), ...]}, without tags that say nothing of learning (epoch, hp_metric).
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    merged: dict[str, dict[int, tuple[float, float]]] = {}
    folders = {path.parent for path in Path(folder).rglob("events.out.tfevents.*")}
    for place in sorted(folders):
        events = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            steps = merged.setdefault(tag, {})
            for event in events.Scalars(tag):
                if event.step not in steps or event.wall_time >= steps[event.step][0]:
                    steps[event.step] = (event.wall_time, event.value)
    return {
        tag: [(step, steps[step][1]) for step in sorted(steps)]
        for tag, steps in sorted(merged.items())
        if tag not in ("epoch", "hp_metric")
    }


def history_charts(history: Mapping[str, Curve]) -> list[str]:
    """One SVG chart for each quantity, with its training and validation curves together.

    Args:
        history: curves by tag; "train/loss" and "val/loss" (or "train_loss", ...) share a chart.
    """
    panels: dict[str, dict[str, Curve]] = {}
    for tag, curve in history.items():
        split, quantity = _split_tag(tag)
        finite = [(step, value) for step, value in curve if np.isfinite(value)]
        if finite:
            panels.setdefault(quantity, {})[split] = finite
    order = sorted(panels, key=lambda quantity: ("loss" not in quantity, quantity))
    return [_history_chart(quantity, panels[quantity]) for quantity in order]


def slice_chart(field: FieldSlice) -> str:
    """An SVG chart of one plane: distance to the nearest atom and species, exact and learned."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 2.9), layout="constrained")
        axes = figure.subplots(1, 4)
        top = float(np.fmax.reduce(field.distance_exact, axis=None, initial=1e-3))
        for ax, title, values in zip(
            axes[:2],
            ("distance, exact", "distance, learned"),
            (field.distance_exact, field.distance_learned),
            strict=True,
        ):
            picture = ax.imshow(
                values, extent=field.extent, origin="lower", cmap="viridis_r", vmin=0, vmax=top
            )
            _finish_slice(ax, title, field)
        bar = figure.colorbar(picture, ax=axes[1], shrink=0.8)
        bar.ax.set_title("Å")
        for ax, title, numbers in zip(
            axes[2:],
            ("species, exact", "species, learned"),
            (field.species_exact, field.species_learned),
            strict=True,
        ):
            ax.imshow(_paint(numbers), extent=field.extent, origin="lower", interpolation="nearest")
            _finish_slice(ax, title, field)
        axes[0].set_ylabel("Å")
        _species_legend(axes[3], field)
        return to_svg(figure, f"fields of {field.name}, {field.title}")


def _split_tag(tag: str) -> tuple[str, str]:
    match = re.match(r"(train|val|test)[/_](.+)", tag)
    if match is None:
        return "train", tag
    return match[1], match[2].removesuffix("_epoch").removesuffix("_step")


def _history_chart(quantity: str, curves: Mapping[str, Curve]) -> str:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.9, 2.5), layout="constrained")
        ax = figure.subplots()
        for split, curve in sorted(curves.items()):
            steps, values = np.array(_thin(curve), dtype=float).T
            marker = "o" if len(steps) < 30 else None
            kind = _COLORS.get(split, "#7a5195")
            ax.plot(steps, values, color=kind, lw=1.5, marker=marker, ms=3, label=split)
        everything = np.array([value for curve in curves.values() for _, value in curve])
        if "loss" in quantity and everything.min() > 0 and np.ptp(np.log10(everything)) > 1.3:
            ax.set_yscale("log")
        ax.set_title(quantity.replace("_", " "))
        ax.set_xlabel("step")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.grid(alpha=0.2, lw=0.6, color=INK)
        if len(curves) > 1:
            ax.legend(frameon=False)
        return to_svg(figure, quantity)


def _thin(curve: Curve) -> Curve:
    """At most `_MAX_POINTS` points, each the mean of a stretch of the curve."""
    if len(curve) <= _MAX_POINTS:
        return curve
    parts = np.array_split(np.array(curve, dtype=float), _MAX_POINTS)
    return [(int(part[-1, 0]), float(part[:, 1].mean())) for part in parts]


def _finish_slice(ax: Axes, title: str, field: FieldSlice) -> None:
    for x, y, number in field.atoms:
        kind = elements.color(number)
        ax.plot(x, y, "o", ms=6, mfc=kind, mec="white", mew=1.6, clip_on=False)
        ax.plot(x, y, "o", ms=7.5, mfc="none", mec="#333333", mew=0.7, clip_on=False)
    ax.set(title=title, xlim=field.extent[:2], ylim=field.extent[2:], xlabel="Å")
    ax.set_aspect("equal")


def _paint(numbers: np.ndarray) -> np.ndarray:
    """(H, W) atomic numbers to (H, W, 4) colours; 0 is clear."""
    from matplotlib.colors import to_rgba

    present, index = np.unique(numbers, return_inverse=True)
    palette = [to_rgba(elements.color(int(z))) if z else (0.0,) * 4 for z in present]
    return np.array(palette)[index].reshape(*numbers.shape, 4)


def _species_legend(ax: Axes, field: FieldSlice) -> None:
    from matplotlib.patches import Patch

    both = np.concatenate([field.species_exact.ravel(), field.species_learned.ravel()])
    present, counts = np.unique(both[both > 0], return_counts=True)
    shown = present[np.argsort(-counts)][:8]
    patches = [
        Patch(fc=elements.color(int(z)), ec="#888888", lw=0.6, label=elements.symbol(int(z)))
        for z in shown
    ]
    ax.legend(handles=patches, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)


def to_svg(figure: Figure, label: str) -> str:
    """The figure as SVG for use in a page: no prolog, no stray ids, the page's colours."""
    import html

    import matplotlib

    buffer = io.StringIO()
    # ids are hashes of what they name: equal only where the content is
    with matplotlib.rc_context({"svg.hashsalt": label}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z]+[0-9.]*_[0-9]+"', "", text)
    title = f'<svg role="img" aria-label="{html.escape(label, quote=True)}" class="chart" '
    return text.replace("<svg ", title, 1)
