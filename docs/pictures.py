"""The README's picture: exact and learned distance in one plane, and particles on their way.

python docs/pictures.py --model runs/demo --id proto-000431-d019-ZrIn3
"""

import argparse

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from pymatgen.core import Element
from torch import Tensor

import nesf
from nesf.crystal import CrystalBatch, standardised
from nesf.data.packed import PackedSet
from nesf.exact import exact_fields
from nesf.fields import CrystalFields
from nesf.reconstruction.particles import grid_particles, move_particles
from nesf.slices import PlaneOfFields, cell_extent, slice_fields

INK, SITE, PARTICLE = "#22303c", "#ffffff", "#d9480f"
PAD = 0.35  # Å around the cell
IN_PLANE = 0.1  # Å: atoms so near to the plane are drawn in it


def paths(fields: CrystalFields, spacing: float, moves: int) -> Tensor:
    """Where the particles of a grid are after 0, 1, ..., `moves` moves: (moves + 1, M, 3), Å."""
    places = [grid_particles(fields, spacing, 100_000).cart_coords]
    for _ in range(moves):
        places.append(places[-1] + fields.position(places[-1][None])[0])
    return torch.stack(places)


def draw_plane(
    axes: Axes, crystal: CrystalBatch, plane: PlaneOfFields, height: float, top: float
) -> AxesImage:
    """The distance to the nearest atom in the cell, with the true atoms of the plane on top."""
    image = axes.imshow(
        plane.known_distance,
        origin="lower",
        extent=plane.extent,
        cmap="viridis",
        vmin=0,
        vmax=top,
    )
    near = (crystal.cart_coords[0, :, 2] - height).abs() < IN_PLANE
    for (x, y, _), number in zip(
        crystal.cart_coords[0, near].tolist(), crystal.atomic_numbers[0, near].tolist(), strict=True
    ):
        axes.scatter(x, y, s=46, c=SITE, edgecolors=INK, zorder=3)
        symbol = Element.from_Z(number).symbol
        place = {"xytext": (6, 5), "textcoords": "offset points"}
        axes.annotate(symbol, (x, y), color=SITE, fontsize=9, **place)
    return image


def draw_particles(axes: Axes, fields: CrystalFields, moves: int) -> None:
    """Paths of the particles, seen along z, and where they come to rest."""
    track = paths(fields, 0.9, moves)
    for i in range(track.shape[1]):
        axes.plot(track[:, i, 0], track[:, i, 1], color=INK, alpha=0.12, lw=0.6)
    rest, _ = move_particles(fields, grid_particles(fields, 0.9, 100_000), moves)
    axes.scatter(
        rest.cart_coords[:, 0], rest.cart_coords[:, 1], s=10, c=PARTICLE, zorder=3, alpha=0.6
    )


def outline(crystal: CrystalBatch, height: float | None) -> Tensor:
    """Where the plane z = `height` cuts the cell's edges, in order around; None for its base."""
    lattice = crystal.lattice[0]
    base = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]])
    if height is not None:  # in the standard orientation the base lies in z = 0
        base = base + torch.tensor([0.0, 0.0, height / float(lattice[2, 2])])
    return (base @ lattice)[:, :2]


def figure_of(crystal: CrystalBatch, learned: CrystalFields) -> Figure:
    """The three panels."""
    exact = exact_fields(crystal, learned.periodic, margin=learned.margin)
    height, extent = float(crystal.cart_coords[0, 0, 2]), cell_extent(crystal.lattice[0])
    planes = [slice_fields(fields, height, extent, 240) for fields in (exact, learned)]
    top = float(np.nanmax(planes[0].known_distance))
    figure = Figure(figsize=(11, 3.1), layout="constrained", dpi=160)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    titles = ("exact fields", "from the latent vector", "particles following it, seen along z")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set(aspect="equal", xlabel="x, Å", facecolor="#f4f5f7")
    for axes, plane in zip(panels[:2], planes, strict=True):
        image = draw_plane(axes, crystal, plane, height, top)
        (edge,) = axes.fill(*outline(crystal, height).T, fill=False, edgecolor=INK, lw=0.8)
        image.set_clip_path(edge)
    draw_particles(panels[2], learned, moves=6)
    panels[0].set(xlim=(extent[0] - PAD, extent[1] + PAD), ylim=(extent[2] - PAD, extent[3] + PAD))
    panels[2].plot(*outline(crystal, None).T, color=INK, lw=0.8)
    panels[0].set_ylabel("y, Å")
    bar = figure.colorbar(image, ax=list(panels[:2]), shrink=0.85, pad=0.01, extend="max")
    bar.set_label("distance to the nearest atom, Å", fontsize=9)
    formula = crystal.to_structures()[0].composition.reduced_formula
    figure.suptitle(
        f"{formula}: distance to the nearest atom of the cell in the plane z = {height:.2f} Å, "
        "inside the cell",
        fontsize=11,
    )
    return figure


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="runs/demo")
    parser.add_argument("--crystals", default="runs/demo/data/test.nesf")
    parser.add_argument("--id", help="which crystal; by default the largest")
    parser.add_argument("--output", default="docs/images/fields.png")
    given = parser.parse_args()
    crystals = PackedSet.load(given.crystals)
    index = int(crystals.num_atoms.argmax())
    if given.id:
        index = list(crystals.ids).index(given.id)
    crystal = standardised(crystals.batch([index]))
    module = nesf.load(given.model).module
    with torch.no_grad():
        learned = module.fields(module.encode(crystal), crystal.lattice)
        figure_of(crystal, learned).savefig(given.output)
    print(f"{crystal.ids[0]}: {given.output}")


if __name__ == "__main__":
    main()
