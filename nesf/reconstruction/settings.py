"""Crystals in their primitive cells, and back in the cells in which they were given.

A model gives back best what is written as its training crystals were. `primitive_cells` writes
crystals in their standardised primitive cells, those of the readers' `cell="primitive"`, and keeps
what leads back: with the cell vectors of both as rows, given = whole @ primitive, `whole` being
integers. A primitive crystal that a model has made is then repeated |det whole| times in the cell
whole @ its own lattice. Turning needs no care: fractions of a cell do not change with it, and
crystals come back in standard orientation anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nesf.boxes.search import Cell
from nesf.boxes.setting import in_setting
from nesf.crystal import CrystalBatch, standardised
from nesf.geometry import reduce_lattice, standard_orientation, wrap_frac
from nesf.reconstruction.reconstruct import Reconstruction
from nesf.scoring import count_faults

# Å: more than what files round away, less than what a refined crystal may be off
SYMPREC, EQUAL = 0.01, 0.02
_SAME_ORIGIN = 0.01  # Å; the primitive cell is the given one
_WHOLE = 1e-3  # how far a whole number may be off
_ROUNDING = 1e-6  # a fraction of so much below 0 is 0
_MIN_VOLUME = 1e-3  # Å³, of a cell that is looked at


@dataclass(frozen=True)
class PrimitiveCells:
    """Crystals in their primitive cells, and how the given cells are made of them.

    Attributes:
        crystals: K crystals in standard orientation, with ids and properties of those given.
        index: (K,) which of the given crystals they are: those that have such a cell other than
            the given one, and of which `back` makes what was given.
        whole: (K, 3, 3) the given cell vectors as rows of whole multiples of the primitive ones.
        origin: (K, 3) of the primitive cells, in fractions of the given ones.
    """

    crystals: CrystalBatch
    index: Int[Tensor, " k"]
    whole: Int[Tensor, "k 3 3"]
    origin: Float[Tensor, "k 3"]

    def select(self, index: Int[Tensor, " j"]) -> PrimitiveCells:
        """Those at the positions `index`, in that order."""
        return PrimitiveCells(
            self.crystals.select(index), self.index[index], self.whole[index], self.origin[index]
        )

    def back(self, found: Reconstruction) -> Reconstruction:
        """Crystals that were made in the primitive cells, in the cells that were given.

        Args:
            found: of the K crystals; lattices and atoms may be others than theirs. Each copy of an
                atom has its spread, and an even share of the particles that arrived at it.
        """
        made, device = found.crystals, found.crystals.device
        if not len(made):
            return found
        whole = self.whole.to(device, torch.float64)
        lattice = standard_orientation(whole @ made.lattice.double())
        places = (
            made.frac_coords.double() @ torch.linalg.inv(whole) + self.origin.to(whole)[:, None]
        )
        # one atom after another, each in all copies: crystal, column and shift of each copy
        steps = [_cosets(one).to(places) for one in self.whole]
        copies = torch.tensor([len(one) for one in steps], device=device)
        crystal, column = (
            made.mask.nonzero()
            .repeat_interleave(copies.repeat_interleave(made.num_atoms), dim=0)
            .unbind(-1)
        )
        atoms = made.num_atoms.tolist()
        shift = torch.cat([one.repeat(n, 1) for one, n in zip(steps, atoms, strict=True)])
        frac = wrap_frac(places[crystal, column] + shift).to(made.frac_coords.dtype)
        crystals = CrystalBatch.from_flat(
            wrap_frac(frac),  # 1 - 1e-9 has become 1
            made.atomic_numbers[crystal, column],
            made.num_atoms * copies,
            lattice.to(made.lattice.dtype),
            made.ids,
        )

        def of_sites(values: Float[Tensor, "k n"]) -> Float[Tensor, "k m"]:
            out = values.new_zeros(crystals.mask.shape)
            out[crystals.mask] = values[crystal, column]
            return out

        share = of_sites(found.site_size) / copies[:, None]
        return replace(
            found, crystals=crystals, site_spread=of_sites(found.site_spread), site_size=share
        )


def primitive_cells(
    crystals: CrystalBatch, symprec: float = SYMPREC, equal: float = EQUAL
) -> PrimitiveCells:
    """The standardised primitive cells of crystals, wherever they lead back to what was given.

    Only the choice of cell and origin is taken from the symmetry, found by moyo: lattice and atoms
    stay where they are. A crystal without symmetry is written in its reduced cell.

    Args:
        crystals: B crystals.
        symprec: how far an operation may miss an atom, Å.
        equal: how far apart the copies of an atom may be, of which the first is kept, Å.

    Returns:
        The K of them that have such a cell, in the precision and on the device of the crystals.
    """
    given = standardised(crystals.to("cpu", torch.float64))
    index, cells = [], []
    for i in range(len(given)):
        cell = _primitive(given, i, symprec, equal)
        if cell is not None:
            index.append(i)
            cells.append(cell)
    asked = given.select(index)
    found = _written(asked, torch.tensor(index, dtype=torch.long), cells)
    if not index:
        return found
    again = found.back(_certain(found.crystals)).crystals
    proved = (count_faults(again, asked) == 0).nonzero().squeeze(-1)
    return _moved(found.select(proved), crystals)


def _primitive(given: CrystalBatch, i: int, symprec: float, equal: float) -> Cell | None:
    """The cell of one crystal, its vectors and origin in Å of the given one; None if the same."""
    lattice, mask = given.lattice[i], given.mask[i]
    volume = torch.linalg.det(lattice)
    if not mask.any() or not (volume > _MIN_VOLUME) or not lattice.isfinite().all():
        return None
    reduced = reduce_lattice(lattice[None])[0]
    reduced = reduced if torch.linalg.det(reduced) > 0 else -reduced
    cell = Cell(
        reduced.numpy(), given.cart_coords[i][mask].numpy(), given.atomic_numbers[i][mask].numpy()
    )
    found = in_setting(cell, "primitive", symprec, equal)
    whole = lattice.numpy() @ np.linalg.inv(found.lattice)
    if np.abs(whole - whole.round()).max() > _WHOLE:
        return None
    away = found.origin @ np.linalg.inv(lattice.numpy())
    apart = np.linalg.norm((away - away.round()) @ lattice.numpy())
    same = np.array_equal(whole.round(), np.eye(3)) and apart < _SAME_ORIGIN
    return None if same else found


def _written(asked: CrystalBatch, index: Int[Tensor, " k"], cells: list[Cell]) -> PrimitiveCells:
    """Cells as one batch, on the CPU in double precision."""
    lattice = torch.from_numpy(np.array([cell.lattice for cell in cells]).reshape(-1, 3, 3))
    origin = torch.from_numpy(np.array([cell.origin for cell in cells]).reshape(-1, 3))
    frac = [cell.frac_coords for cell in cells]
    numbers = [cell.atomic_numbers for cell in cells]
    batch = CrystalBatch.from_flat(
        wrap_frac(torch.from_numpy(np.concatenate([*frac, np.zeros((0, 3))])), _ROUNDING),
        torch.from_numpy(np.concatenate([*numbers, np.zeros(0, dtype=int)])),
        torch.tensor([len(one) for one in numbers], dtype=torch.long),
        standard_orientation(lattice),
        asked.ids,
    )
    return PrimitiveCells(
        batch.replace(properties=asked.properties),
        index,
        (asked.lattice @ torch.linalg.inv(lattice)).round().long(),
        (origin.unsqueeze(1) @ torch.linalg.inv(asked.lattice)).squeeze(1),
    )


def _moved(cells: PrimitiveCells, like: CrystalBatch) -> PrimitiveCells:
    """Cells in the precision and on the device of the crystals that were given."""
    return PrimitiveCells(
        cells.crystals.to(like.device, like.lattice.dtype),
        cells.index.to(like.device),
        cells.whole.to(like.device),
        cells.origin.to(like.device),
    )


def _certain(crystals: CrystalBatch) -> Reconstruction:
    """Crystals as if they had been read out of fields without a doubt."""
    mask = crystals.mask.to(crystals.lattice)
    share = mask / mask.sum(-1, keepdim=True).clamp_min(1)
    return Reconstruction(crystals, 0 * mask, share, None, mask.amax(-1))


def _cosets(whole: Int[Tensor, "3 3"]) -> Float[Tensor, "d 3"]:
    """The d = |det whole| points of the primitive lattice in the given cell, in its fractions.

    The fractions of the three primitive vectors are whole multiples of 1 / d, and all points are
    the sums of their multiples.
    """
    inverse = np.linalg.inv(whole.cpu().numpy().astype(float))
    count = round(1 / abs(np.linalg.det(inverse)))
    points = np.zeros((1, 3), dtype=int)
    for step in np.rint(inverse * count).astype(int):
        sums = points[:, None] + np.arange(count)[None, :, None] * step
        points = np.unique(sums.reshape(-1, 3) % count, axis=0)  # (points * d, 3) before
    return torch.from_numpy(points / count)
