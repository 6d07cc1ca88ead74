"""`CrystalBatch`: the frozen, padded tensors that every part of the package hands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.geometry import frac_to_cart, standard_orientation

if TYPE_CHECKING:
    from pymatgen.core import Structure

MAX_ATOMIC_NUMBER = 94  # hydrogen to plutonium, the elements of the Materials Project


@dataclass(frozen=True)
class CrystalBatch:
    """B crystals, padded to the largest of them.

    Attributes:
        frac_coords: (B, N, 3) fractional coordinates, 0 where padded.
        atomic_numbers: (B, N) atomic numbers Z, 0 where padded.
        mask: (B, N) true for real atoms; they come first in every row.
        lattice: (B, 3, 3) cell vectors as rows, Å.
        ids: B identifiers.
        properties: (B,) numbers by name, NaN where unknown.
    """

    frac_coords: Float[Tensor, "b n 3"]
    atomic_numbers: Int[Tensor, "b n"]
    mask: Bool[Tensor, "b n"]
    lattice: Float[Tensor, "b 3 3"]
    ids: tuple[str, ...]
    properties: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.lattice.shape[0]

    @property
    def cart_coords(self) -> Float[Tensor, "b n 3"]:
        """Cartesian coordinates, Å."""
        return frac_to_cart(self.frac_coords, self.lattice)

    @property
    def num_atoms(self) -> Int[Tensor, " b"]:
        """Atoms in each crystal."""
        return self.mask.sum(-1)

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.lattice.device

    @property
    def species(self) -> Int[Tensor, "b n"]:
        """Class index of each atom, Z - 1; 0 where padded (use the mask)."""
        return (self.atomic_numbers - 1).clamp_min(0)

    def replace(self, **changes: object) -> CrystalBatch:
        """A copy with some tensors exchanged."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> CrystalBatch:
        """A copy on `device`, with coordinates and lattice in `dtype`."""
        return self.replace(
            frac_coords=self.frac_coords.to(device=device, dtype=dtype),
            atomic_numbers=self.atomic_numbers.to(device=device),
            mask=self.mask.to(device=device),
            lattice=self.lattice.to(device=device, dtype=dtype),
            properties={k: v.to(device=device, dtype=dtype) for k, v in self.properties.items()},
        )

    def select(self, index: Sequence[int] | Int[Tensor, " k"] | Bool[Tensor, " b"]) -> CrystalBatch:
        """The crystals at `index` (positions or a mask), trimmed to the largest of them."""
        index = torch.as_tensor(index, device=self.device)
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(-1)
        index = index.long()
        mask = self.mask[index]
        width = max(1, int(mask.sum(-1).max())) if len(index) else 1
        return CrystalBatch(
            frac_coords=self.frac_coords[index, :width],
            atomic_numbers=self.atomic_numbers[index, :width],
            mask=mask[:, :width],
            lattice=self.lattice[index],
            ids=tuple(self.ids[i] for i in index.tolist()),
            properties={k: v[index] for k, v in self.properties.items()},
        )

    @staticmethod
    def from_flat(
        frac_coords: Float[Tensor, "total 3"],
        atomic_numbers: Int[Tensor, " total"],
        num_atoms: Int[Tensor, " b"],
        lattice: Float[Tensor, "b 3 3"],
        ids: Sequence[str],
    ) -> CrystalBatch:
        """Pad concatenated atoms (crystal after crystal) into a batch, without a Python loop."""
        width = max(1, int(num_atoms.max())) if len(num_atoms) else 1
        columns = torch.arange(width, device=lattice.device)
        mask = columns < num_atoms.unsqueeze(-1)  # (B, N)
        padded_coords = frac_coords.new_zeros((*mask.shape, 3))
        padded_numbers = atomic_numbers.new_zeros(mask.shape)
        padded_coords[mask] = frac_coords
        padded_numbers[mask] = atomic_numbers
        return CrystalBatch(padded_coords, padded_numbers, mask, lattice, tuple(ids))

    @staticmethod
    def from_structures(
        structures: Sequence[Structure],
        ids: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> CrystalBatch:
        """Batch ordered pymatgen Structures.

        Args:
            structures: ordered structures (one element a site).
            ids: identifiers; by default "0", "1", ...
            dtype: of coordinates and lattice.

        Raises:
            InputError: a site is shared by several elements, or is none of the known elements; or
                there are more or fewer identifiers than structures.
        """
        from nesf.errors import InputError

        if ids is not None and len(ids) != len(structures):
            raise InputError(f"{len(structures)} structures need as many ids, not {len(ids)}")
        frac, numbers, counts, lattices = [], [], [], []
        for i, structure in enumerate(structures):
            name = ids[i] if ids is not None else i
            if not structure.is_ordered:
                raise InputError(f"crystal {name} has disordered sites; give ordered structures")
            for site, z in zip(structure, structure.atomic_numbers, strict=True):
                if not 1 <= z <= MAX_ATOMIC_NUMBER:
                    raise InputError(
                        f"crystal {name} has {site.species_string}, which is not an element with "
                        f"Z of 1 to {MAX_ATOMIC_NUMBER}"
                    )
            frac.append(torch.as_tensor(structure.frac_coords.copy(), dtype=dtype).reshape(-1, 3))
            numbers.append(torch.tensor(structure.atomic_numbers, dtype=torch.long))
            counts.append(len(structure))
            lattices.append(torch.as_tensor(structure.lattice.matrix.copy(), dtype=dtype))
        if not frac:
            raise InputError("no structures were given")
        return CrystalBatch.from_flat(
            torch.cat(frac),
            torch.cat(numbers),
            torch.tensor(counts),
            torch.stack(lattices),
            ids if ids is not None else [str(i) for i in range(len(counts))],
        )

    def to_structures(self) -> list[Structure]:
        """Pymatgen Structures, in order."""
        from pymatgen.core import Lattice, Structure

        lattice = self.lattice.detach().double().cpu().numpy()
        frac = self.frac_coords.detach().double().cpu().numpy()
        numbers = self.atomic_numbers.cpu().numpy()
        counts = self.num_atoms.tolist()
        return [
            Structure(Lattice(lattice[i]), numbers[i, :n].tolist(), frac[i, :n])
            for i, n in enumerate(counts)
        ]


def right_handed(crystals: CrystalBatch) -> CrystalBatch:
    """The same crystals where they are, left-handed cells (a, b, c) described as (-a, -b, -c)."""
    left = (torch.linalg.det(crystals.lattice) < 0).view(-1, 1, 1)
    return crystals.replace(
        frac_coords=torch.where(left, -crystals.frac_coords, crystals.frac_coords),
        lattice=torch.where(left, -crystals.lattice, crystals.lattice),
    )


def standardised(crystals: CrystalBatch) -> CrystalBatch:
    """The same crystals with their lattices turned into the standard orientation.

    Left-handed cells become right-handed ones first: turned as they are, they would hold the
    crystals' mirror images.
    """
    crystals = right_handed(crystals)
    return crystals.replace(lattice=standard_orientation(crystals.lattice))
