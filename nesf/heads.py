"""What a latent says of the crystal as a whole, beside its fields."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from nesf.encoder import cell_of_features


@dataclass(frozen=True)
class Heads:
    """What the latent says of the crystal as a whole.

    Attributes:
        cell: (B, 6) lengths / 5 Å - 1, and angles - 90° in radians.
        count: (B, M + 1) logits of the number of atoms, 0 to M.
        elements: (B, S) log-odds that an element occurs.
    """

    cell: Float[Tensor, "b 6"]
    count: Float[Tensor, "b m"]
    elements: Float[Tensor, "b s"]

    @property
    def lattice(self) -> Float[Tensor, "b 3 3"]:
        """Cell vectors, Å, brought back to a valid cell where the heads err."""
        return cell_of_features(self.cell)

    @property
    def num_atoms(self) -> Int[Tensor, " b"]:
        """The most likely number of atoms."""
        return self.count.argmax(-1)

    def select(self, index: Tensor) -> Heads:
        """Those of some of the latents."""
        return Heads(self.cell[index], self.count[index], self.elements[index])
