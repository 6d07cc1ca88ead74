"""`CrystalFields`: the position and species fields of a batch of crystals, exact or learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nesf.geometry import cart_to_frac, frac_to_cart, wrap_frac

IN_CELL = 0.02  # fractions beyond the cell's faces where an atom found is still one of the cell's
AT_REST = 0.5  # Å: what a field says from farther off is no atom if it moves on by more than this

Field = Callable[[Tensor], Tensor]  # query (B, Q, 3), Å -> one value a query point


@dataclass(frozen=True)
class CrystalFields:
    """The two fields of B crystals, and what else is known of them.

    The exact fields of known crystals (`nesf.exact.exact_fields`) and the learned fields of a
    latent have this one form, so that whatever reads fields runs, and is tested, on both.

    Queries and displacements are Cartesian in the frame of `lattice`. A model's lattice is in the
    standard orientation of `nesf.geometry.standard_orientation`, a along x and b in the xy plane,
    whatever orientation its crystal was given in; `nesf.crystal.standardised` turns crystals
    likewise, fractions as they are.

    In-cell fields (not `periodic`) know the atoms of one cell and none of their images: atoms are
    wrapped into it, to fractions in [-margin, 1 - margin), and the nearest atom is the nearest of
    those, though an image beyond a face may be nearer. Exact ones answer anywhere. Learned ones are
    trained on queries in the cell and around its atoms; farther out, their answers mean nothing.
    `to_periodic` makes fields of the whole crystal of them.

    Attributes:
        position: query (B, Q, 3) to displacements (B, Q, 3), both Cartesian, Å, in the frame of
            `lattice`: from the query point to the nearest atom; of in-cell fields to the nearest
            atom of the cell.
        species: query (B, Q, 3), likewise, to logits (B, Q, S) of the class, Z - 1, of the atom
            that `position` points to. Learned ones are trained around atoms, some 0.3 Å, and are to
            be asked there: at `query + position(query)`, not at `query`.
        lattice: (B, 3, 3) cell vectors as rows, Å.
        periodic: whether the nearest atom is the nearest periodic image, or one of the cell's own.
        subset: index (K,) of positions to the fields of those crystals, in that order.
        margin: atoms of in-cell fields lie at fractions in [-margin, 1 - margin).
        num_atoms: (B,) number of atoms that the fields claim to hold; None claims nothing.
        element_logits: (B, S) log-odds that each element occurs in the crystal; None claims
            nothing.
    """

    position: Field
    species: Field
    lattice: Float[Tensor, "b 3 3"]
    periodic: bool
    subset: Callable[[Int[Tensor, " k"]], CrystalFields]
    margin: float = 0.0
    num_atoms: Int[Tensor, " b"] | None = None
    element_logits: Float[Tensor, "b s"] | None = None

    def __len__(self) -> int:
        return self.lattice.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the lattice lives and queries are expected."""
        return self.lattice.device

    def select(
        self, index: Sequence[int] | Int[Tensor, " k"] | Bool[Tensor, " b"]
    ) -> CrystalFields:
        """The fields of the crystals at `index`, positions or a mask."""
        index = torch.as_tensor(index, device=self.device)
        if index.dtype == torch.bool:
            index = index.nonzero().squeeze(-1)
        return self.subset(index.long())

    def to_periodic(self, images: int = 1) -> CrystalFields:
        """Periodic fields from in-cell ones, by asking for periodic images of each query.

        Queries are wrapped into the cell, q, and q - n A is asked for n in {-1, 0, 1}³: an image of
        an atom at n A from the cell's own is as far from q as that atom is from q - n A. The least
        displacement is the answer, and the species is asked at its end. Since learned in-cell
        fields mean nothing far from the cell, each image's answer is asked again where it ends, and
        what ends outside of the cell, or not at an atom, is dropped; the query's own image stands
        in where nothing is left. Each query costs 54 of the in-cell position field.

        From exact in-cell fields come exact periodic ones if n reaches far enough. Points and atoms
        of one cell differ by fractions in (-1, 1), so 27 images suffice where no vector in the
        lattice's Voronoi cell has a fraction beyond ±1: where the spacing of the lattice planes
        (`nesf.geometry.plane_spacings`) is nowhere below the covering radius, which is at most
        sqrt(a² + b² + c²) / 2. Orthogonal cells always suffice. In reduced ones
        (`nesf.geometry.reduce_lattice`) the fractions are below 1 but for a few flat cells, where
        they exceed it by some hundredths, so that an image is missed hardly ever. Cells that are
        far from reduced need more `images`.

        Boxes (`nesf.boxes`) are not periodic, and have no such fields.

        Args:
            images: cells on each side that are looked into; 1 for 27 images, 2 for 125.

        Returns:
            The fields; themselves where they are periodic.

        Raises:
            ValueError: `images` is below 1.
        """
        if images < 1:
            raise ValueError(f"images must be at least 1, not {images}")
        if self.periodic:
            return self

        def position(query: Float[Tensor, "b q 3"]) -> Float[Tensor, "b q 3"]:
            return self._to_nearest_image(query, images)[0]

        def species(query: Float[Tensor, "b q 3"]) -> Float[Tensor, "b q s"]:
            return self.species(self._to_nearest_image(query, images)[1])

        return replace(
            self,
            position=position,
            species=species,
            periodic=True,
            subset=lambda index: self.subset(index).to_periodic(images),
        )

    def _to_nearest_image(
        self, query: Float[Tensor, "b q 3"], images: int
    ) -> tuple[Float[Tensor, "b q 3"], Float[Tensor, "b q 3"]]:
        """Displacements to the nearest image, and where in the cell its atom is, Å."""
        lattice = self.lattice.to(query.dtype)
        inside = frac_to_cart(wrap_frac(cart_to_frac(query, lattice), self.margin), lattice)
        steps = torch.arange(-images, images + 1, device=query.device, dtype=query.dtype)
        shifts = torch.cartesian_prod(steps, steps, steps) @ lattice  # (B, I, 3)
        count = shifts.shape[1]
        # (B, Q, I, 3) -> (B, QI, 3)
        asked = (inside.unsqueeze(2) - shifts.unsqueeze(1)).flatten(1, 2)
        first = asked + self.position(asked)
        move = self.position(first)
        atom = first + move
        frac = cart_to_frac(atom, lattice) + self.margin
        good = ((frac > -IN_CELL) & (frac < 1 + IN_CELL)).all(-1) & (move.norm(dim=-1) < AT_REST)
        length = (atom - asked).norm(dim=-1).masked_fill(~good, torch.inf)
        least, index = length.unflatten(1, (-1, count)).min(-1)  # (B, QI) -> (B, Q, I) -> (B, Q)
        found = least.isfinite()
        # where nothing is good, the query's own image, n = 0, and what the field says there
        index = torch.where(found, index, count // 2)
        place = index + count * torch.arange(index.shape[1], device=query.device)
        place = place.unsqueeze(-1).expand(-1, -1, 3)  # (B, Q, 3), among QI
        end = torch.where(found.unsqueeze(-1), atom.gather(1, place), first.gather(1, place))
        return end - asked.gather(1, place), end
