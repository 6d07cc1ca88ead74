"""`CrystalFields`: the position and species fields of a batch of crystals, exact or learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Field = Callable[[Tensor], Tensor]  # query (B, Q, 3), Å -> one value a query point


@dataclass(frozen=True)
class CrystalFields:
    """The two fields of B crystals, and what else is known of them.

    The exact fields of known crystals (`nesf.exact.exact_fields`) and the learned fields of a
    latent have this one form, so that whatever reads fields runs, and is tested, on both.

    Attributes:
        position: query (B, Q, 3) to displacements (B, Q, 3), both Cartesian, Å: from the query
            point to the nearest atom.
        species: query (B, Q, 3) to logits (B, Q, S) of the nearest atom's class, Z - 1.
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
