"""The README's picture: exact and learned distance in one plane, and particles on their way.

python docs/pictures.py --model runs/demo --crystals runs/demo/data/test.nesf
"""

import argparse

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import nesf
from nesf.crystal import CrystalBatch, standardised
from nesf.data.packed import PackedSet
from nesf.exact import exact_fields
from nesf.fields import CrystalFields
from nesf.particles import grid_particles, move_particles
from nesf.slices import cell_extent, slice_fields

INK, SITE, PARTICLE = "#22303c", "#ffffff", "#d9480f"


def paths(fields: CrystalFields, spacing: float, moves: int) -> Tensor:
    """Where the particles of a grid are after 0, 1, ..., `moves` moves: (moves + 1, M, 3), Å."""
    places = [grid_particles(fields, spacing, 100_000).cart_coords]
    for _ in range(moves):
        places.append(places[-1] + fields.position(places[-1][None])[0])
    return torch.stack(places)


def draw_plane(axes: Axes, crystal: CrystalBatch, fields: CrystalFields, title: str) -> None:
    """The distance to the nearest atom, with the true atoms of the plane on top."""
    height = float(crystal.cart_coords[0, 0, 2])
    plane = slice_fields(fields, height, cell_extent(crystal.lattice[0]), 160)
    axes.imshow(plane.distance, origin="lower", extent=plane.extent, cmap="viridis", vmin=0)
    near = (crystal.cart_coords[0, :, 2] - height).abs() < 0.1
    atoms = crystal.cart_coords[0, near]
    axes.scatter(atoms[:, 0], atoms[:, 1], s=46, c=SITE, edgecolors=INK, zorder=3)
    axes.set_title(title, fontsize=10)


def draw_particles(axes: Axes, crystal: CrystalBatch, fields: CrystalFields, moves: int) -> None:
    """Paths of the particles, seen along z, and where they come to rest."""
    track = paths(fields, 0.9, moves)
    for i in range(track.shape[1]):
        axes.plot(track[:, i, 0], track[:, i, 1], color=INK, alpha=0.12, lw=0.6)
    rest, _ = move_particles(fields, grid_particles(fields, 0.9, 100_000), moves)
    axes.scatter(
        rest.cart_coords[:, 0], rest.cart_coords[:, 1], s=10, c=PARTICLE, zorder=3, alpha=0.6
    )
    axes.set_title("particles following it, seen along z", fontsize=10)


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
    exact = exact_fields(crystal, learned.periodic, margin=learned.margin)
    figure = Figure(figsize=(10, 3.5), layout="constrained", dpi=160)
    figure.get_layout_engine().set(h_pad=0.15)  # type: ignore[union-attr]
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    draw_plane(panels[0], crystal, exact, "distance to the nearest atom, exact")
    draw_plane(panels[1], crystal, learned, "the same from the latent vector")
    draw_particles(panels[2], crystal, learned, moves=6)
    for axes in panels:
        axes.set_aspect("equal")
        axes.set_xlabel("x, Å")
    panels[0].set_ylabel("y, Å")
    figure.savefig(given.output, bbox_inches="tight")
    print(f"{crystal.ids[0]}: {given.output}")


if __name__ == "__main__":
    main()
