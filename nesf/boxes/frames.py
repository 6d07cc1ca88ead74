"""Frames that the atoms of a finite cluster tell: a cell around them, along the planes they share.

A cluster in any orientation is the same cluster. Its frame is an oblique cell around its atoms with
faces parallel to the three planes that they share most (`nesf.boxes.planes`), named and signed by a
rule (`nesf.boxes.poses`). A turned, mirrored or moved cluster has a turned, mirrored or moved cell,
and its atoms have the same fractions of it. Clusters of one structure type have nearly the same
fractions, whatever their lengths and angles, so that a network has no more to learn than of
crystals in their own cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from nesf.boxes.planes import shared_planes
from nesf.boxes.poses import best_poses
from nesf.crystal import CrystalBatch
from nesf.encoder import LENGTH_SCALE, cell_features, cell_of_features
from nesf.fields import CrystalFields
from nesf.geometry import cart_to_frac, frac_to_cart, standard_orientation
from nesf.precision import full_precision

NUMBERS = 16  # of a frame in a latent
# atoms reach from FIRST to LAST along each axis: ends and middle lie on eighths of the cell, where
# sine features have their nodes, and the fields have some room around the atoms
FIRST, LAST = 0.125, 0.875
SHORTEST = 1.0  # Å; atoms in one plane have a cell as if they were so far apart across it
# of what a pose is worth, beside the planes that are shared: decides between symmetric triples
POSE_WEIGHT = 0.01


@dataclass(frozen=True)
class Frame:
    """A cell around the atoms of each of B clusters, in their boxes.

    Fractions f of the cell are at origin + (f - 1/2) @ cell @ rotation in the box.

    Attributes:
        cell: (B, 3, 3) cell vectors as rows, in standard orientation, Å.
        rotation: (B, 3, 3) orthogonal; with a reflection where the determinant is -1.
        origin: (B, 3) middle of the cell, Å from the box's corner.
    """

    cell: Float[Tensor, "b 3 3"]
    rotation: Float[Tensor, "b 3 3"]
    origin: Float[Tensor, "b 3"]

    def inside(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Points of the box (Å) as fractions of the cell."""
        away = points - self.origin.unsqueeze(1)
        return cart_to_frac(_turned(away, self.rotation.mT), self.cell) + 0.5

    def outside(self, frac: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Fractions of the cell as points of the box, Å."""
        away = _turned(frac_to_cart(frac - 0.5, self.cell), self.rotation)
        return away + self.origin.unsqueeze(1)

    def cell_of(self, boxes: CrystalBatch) -> CrystalBatch:
        """The atoms of B boxes in their cells."""
        frac = self.inside(boxes.cart_coords) * boxes.mask.unsqueeze(-1)
        return boxes.replace(frac_coords=frac, lattice=self.cell)

    def box_of(self, cells: CrystalBatch, side: float) -> CrystalBatch:
        """The atoms of B cells in boxes of an edge (Å), those outside at the nearest face."""
        place = self.outside(cells.frac_coords) / side
        place = place.clamp(0, 1 - torch.finfo(place.dtype).eps) * cells.mask.unsqueeze(-1)
        cube = torch.eye(3, dtype=place.dtype, device=place.device) * side
        return cells.replace(frac_coords=place, lattice=cube.repeat(len(cells), 1, 1))

    def select(self, index: Int[Tensor, " k"]) -> Frame:
        """Those of some of the clusters."""
        return Frame(self.cell[index], self.rotation[index], self.origin[index])

    def numbers(self, side: float) -> Float[Tensor, "b 16"]:
        """The frame as numbers of order 1, which vary evenly with it.

        Lengths and angles of the cell; two rows of the rotation (Zhou et al., arXiv:1812.07035)
        and its determinant; the origin, from the middle of the box.

        Args:
            side: edge of the boxes, Å.
        """
        parts = (
            cell_features(self.cell),
            self.rotation[:, :2].flatten(1),  # (B, 2, 3) -> (B, 6)
            torch.linalg.det(self.rotation).sign().unsqueeze(-1),
            (self.origin - side / 2) / LENGTH_SCALE,
        )
        return torch.cat(parts, dim=-1)

    @staticmethod
    def of_numbers(numbers: Float[Tensor, "b 16"], side: float) -> Frame:
        """The frame that numbers stand for; any numbers are those of a frame.

        Args:
            numbers: see `numbers`.
            side: edge of the boxes, Å.
        """
        shape, rows, sign, origin = numbers.split([6, 6, 1, 3], dim=-1)
        first = F.normalize(rows[:, :3], dim=-1)
        second = rows[:, 3:] - (rows[:, 3:] * first).sum(-1, keepdim=True) * first
        second = F.normalize(second, dim=-1)
        third = torch.linalg.cross(first, second)
        third = torch.where(sign < 0, -third, third)
        rotation = torch.stack([first, second, third], dim=1)
        return Frame(cell_of_features(shape), rotation, origin * LENGTH_SCALE + side / 2)


def _turned(vectors: Tensor, rotation: Tensor) -> Tensor:
    return frac_to_cart(vectors, rotation)


def outward(fields: CrystalFields, frame: Frame, side: float) -> CrystalFields:
    """Fields of cells as fields of the boxes that they are in.

    Args:
        fields: of B cells.
        frame: where these are.
        side: edge of the boxes, Å.
    """

    def inward(query: Tensor) -> Tensor:
        return frac_to_cart(frame.inside(query), frame.cell)

    cube = torch.eye(3, dtype=frame.cell.dtype, device=frame.cell.device) * side
    return replace(
        fields,
        position=lambda query: _turned(fields.position(inward(query)), frame.rotation),
        species=lambda query: fields.species(inward(query)),
        lattice=cube.repeat(len(frame.cell), 1, 1),
        subset=lambda index: outward(fields.select(index), frame.select(index), side),
    )


def find_frames(clusters: CrystalBatch) -> Frame:
    """The frame of each cluster, which turns and moves with its atoms.

    Where several frames are equally good, as those that a symmetry of the cluster carries into one
    another, one of them is taken; a single atom, or atoms on one line, have any that fits.

    Args:
        clusters: B clusters; images of their atoms do not count.
    """
    with full_precision(clusters.device):
        atoms, mask = clusters.cart_coords.double(), clusters.mask
        # elements decide only what places leave open
        weight = (1 + clusters.atomic_numbers.double() / 1000) * mask
        normals, shared = shared_planes(atoms, mask, weight)  # (B, T, 3, 3), (B, T)
        along = torch.einsum("btkc,bnc->btnk", normals, atoms)  # Å
        low, high = _reach(along, mask)
        extent, middle = (high - low).clamp_min(SHORTEST), (low + high) / 2  # (B, T, 3)
        placed = 2 * (along - middle.unsqueeze(2)) / extent.unsqueeze(2)  # from -1 to 1
        value, pose = best_poses(placed, weight)
        best = (shared + POSE_WEIGHT * value).argmax(-1)
        rows = torch.arange(len(best), device=best.device)
        normals, extent, middle, pose = (x[rows, best] for x in (normals, extent, middle, pose))
        # fractions are pose @ (normals @ x - middle) / extent * (LAST - FIRST) + 1/2
        scaled = normals * ((LAST - FIRST) / extent).unsqueeze(-1)
        axes = torch.linalg.inv(pose @ scaled).mT  # rows: one cell length along each axis
        origin = torch.linalg.solve(normals, middle)
        cell = standard_orientation(axes)
        rotation = torch.linalg.solve(cell, axes)
    like = clusters.lattice.dtype
    return Frame(cell.to(like), rotation.to(like), origin.to(like))


def _reach(along: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest (B, T, 3) of the atoms' coordinates (B, T, N, 3)."""
    padding = ~mask[:, None, :, None]
    low = along.masked_fill(padding, torch.inf).amin(2)
    high = along.masked_fill(padding, -torch.inf).amax(2)
    some = mask.any(-1).view(-1, 1, 1)  # a box without atoms has a cell, too
    return torch.where(some, low, 0.0), torch.where(some, high, 0.0)
