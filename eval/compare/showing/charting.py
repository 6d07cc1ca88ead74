"""What all charts of a comparison share: colours, axes, and how they are kept."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.charts import STYLE, to_svg
from eval.compare.plan import Comparison
from nesf.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# told apart by any eye, on light and dark pages
PALETTE = ("#2f7ed8", "#e8710a", "#1a9c74", "#c04fa3", "#8a8f98", "#b58900", "#7a5cd0", "#d64550")
WIDE = 8.6  # inches


@dataclass(frozen=True)
class Chart:
    """A finished chart.

    Attributes:
        name: a plain word, of its files.
        svg: for a page: it takes the page's font and text colour.
        png: on white.
    """

    name: str
    svg: str
    png: bytes

    @staticmethod
    def of(name: str, title: str, draw: Callable[[], Figure]) -> Chart:
        """Draw a figure.

        Args:
            name: a plain word.
            title: for those who cannot see it.
            draw: makes the figure.
        """
        import matplotlib

        with matplotlib.rc_context(STYLE):
            figure = draw()
            svg = to_svg(figure, title)
            figure.set_layout_engine("none")  # it is laid out already, which takes longest
            png = io.BytesIO()
            figure.savefig(png, format="png", facecolor="white", dpi=160)
        return Chart(name, svg, png.getvalue())

    def save(self, folder: Path) -> None:
        """As `.svg` and `.png` files on white."""
        alone = self.svg.replace("<svg ", '<svg style="color: #1c2430; background: white" ', 1)
        for suffix, data in ((".svg", alone.encode()), (".png", self.png)):
            with atomic_write(folder / f"{self.name}{suffix}") as file:
                file.write(data)


def model_colors(plan: Comparison) -> dict[str, str]:
    """Each model's colour, the same in every chart."""
    return {model.name: PALETTE[i % len(PALETTE)] for i, model in enumerate(plan.contestants)}


def logarithmic(ax: Axes) -> None:
    """A logarithmic axis with plain numbers, and enough of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if not ax.lines:
        return
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    few = high < 300 * low
    ax.yaxis.set_major_locator(
        LogLocator(subs=(1, 2, 3, 5, 7) if high < 3 * low else (1, 2, 5)) if few else LogLocator()
    )
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure) -> None:
    """One legend below all panels, each model once."""
    entries: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower center",
            ncols=min(5, len(entries)),
            frameon=False,
        )
