"""The exact position and species fields of known crystals."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.fields import CrystalFields
from nesf.geometry import NearestImage, frac_to_cart, wrap_frac
from nesf.neighbors import nearest_atoms
from nesf.pairs import Backend

# logit of the true element over all others: certain, and finite in half precision
CERTAIN = 30.0


def exact_fields(
    crystals: CrystalBatch,
    periodic: bool = True,
    num_species: int = 94,
    margin: float = 0.0,
    backend: Backend = "auto",
) -> CrystalFields:
    """The fields of known crystals: where is the nearest atom, and of which element.

    Args:
        crystals: B crystals.
        periodic: with it the nearest atom is the nearest periodic image, in cells of any shape;
            without, the nearest of the atoms wrapped into the cell.
        num_species: classes S of the species field, Z from 1 to S.
        margin: in-cell atoms are wrapped into fractions [-margin, 1 - margin).
        backend: of the neighbour search, see `nesf.neighbors.nearest_atoms`.

    Returns:
        Fields with the true atom counts. A crystal without atoms has displacements of NaN.
    """
    atoms = frac_to_cart(wrap_frac(crystals.frac_coords, margin), crystals.lattice)
    images = NearestImage.of(crystals.lattice) if periodic else None
    return _fields(crystals, atoms, images, num_species, margin, backend)


def _fields(
    crystals: CrystalBatch,
    atoms: Float[Tensor, "b n 3"],
    images: NearestImage | None,
    num_species: int,
    margin: float,
    backend: Backend,
) -> CrystalFields:
    def position(query: Float[Tensor, "b q 3"]) -> Float[Tensor, "b q 3"]:
        return nearest_atoms(query, atoms, crystals.mask, images, backend)[0]

    def species(query: Float[Tensor, "b q 3"]) -> Float[Tensor, "b q s"]:
        index = nearest_atoms(query, atoms, crystals.mask, images, backend)[1]
        nearest = crystals.species.gather(1, index)  # (B, Q)
        logits = query.new_zeros((*nearest.shape, num_species))
        return logits.scatter_(-1, nearest.unsqueeze(-1), CERTAIN)

    def subset(index: Tensor) -> CrystalFields:
        chosen = crystals.select(index)
        return _fields(
            chosen,
            atoms[index, : chosen.mask.shape[1]],
            None if images is None else images.select(index),
            num_species,
            margin,
            backend,
        )

    return CrystalFields(
        position=position,
        species=species,
        lattice=crystals.lattice,
        periodic=images is not None,
        subset=subset,
        margin=margin,
        num_atoms=crystals.num_atoms,
    )
