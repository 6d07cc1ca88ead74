"""Models of crystals in use on boxes: find what repeats, take it there and back, cut the box again.

What identifies a box is the latent of its crystal, and its placement: 12 numbers for rotation and
origin, and the side. `BoxModel` writes them side by side as the latent of the box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from nesf.api import Model
from nesf.boxes.placement import Placements
from nesf.boxes.way import (
    BoxWayOptions,
    fitted_places,
    in_boxes,
    reconstruct_boxes,
    usable_repeats,
)
from nesf.crystal import CrystalBatch
from nesf.errors import InputError
from nesf.fields import CrystalFields
from nesf.given import Latents, latents_given
from nesf.reconstruction.reconstruct import Reconstruction, ReconstructOptions
from nesf.reconstruction.settings_way import (
    Choice,
    KnownPart,
    KnownReconstruction,
    choice_for,
    settings_of,
)
from nesf.refinement.refine import RefineOptions
from nesf.scoring import count_faults

if TYPE_CHECKING:
    from pymatgen.core import Structure

_PLACEMENT = 13  # numbers


class BoxModel(Model):
    """A model of crystals in use on boxes of repeating ones.

    A latent (B, L + 13) is the crystal's latent, rotation, origin and side; decoding cuts the box
    from the decoded crystal. A box without a repeat has a latent of NaN, and `refusals` says why.

    Args:
        crystals: the model of crystals.
        options: how boxes go through it.
    """

    def __init__(self, crystals: Model, options: BoxWayOptions | None = None) -> None:
        super().__init__(crystals.module, crystals.device, crystals.batch_size, crystals.precision)
        self.crystals = crystals
        self.options = options or BoxWayOptions()

    @property
    def max_atoms(self) -> int | None:
        """None: the limit of the model is that of what a box repeats."""
        return None

    @property
    def latent_dim(self) -> int:  # type: ignore[override]
        """Length of a latent."""
        return self.crystals.latent_dim + _PLACEMENT

    def refusals(self, crystals: CrystalBatch) -> list[str | None]:
        """For each box, why it cannot be given back; None where it can."""
        reasons: list[str | None] = []
        for i, setting in enumerate(self.options.settings):
            told = usable_repeats(crystals, setting, self.options, self._refusals)[1]
            reasons = told if not i else [a and b for a, b in zip(reasons, told, strict=True)]
            if not any(reasons):
                break
        return reasons

    @torch.no_grad()
    def encode(
        self, structures: Sequence[Structure] | CrystalBatch, refine: int | RefineOptions = 0
    ) -> Float[Tensor, "b l"]:
        """Latents (B, L + 13) of boxes.

        Args:
            structures: B boxes.
            refine: as of `Model.encode`; placements are fitted to what comes back, too.
        """
        boxes = self._crystals(structures)
        latent = torch.full((len(boxes), self.latent_dim), torch.nan, device=self.device)
        for setting in self.options.settings:
            todo = latent.isnan().any(-1).cpu().nonzero().squeeze(-1)
            if not len(todo):
                break
            asked = boxes.select(todo)
            repeats = usable_repeats(asked, setting, self.options, self._refusals)[0]
            if not len(repeats.index):
                continue
            code = self.crystals.encode(repeats.crystals, self._refinement(refine))
            places = repeats.places
            if refine and self.options.fit:
                found = self.crystals.decode_crystals(code).crystals
                places = fitted_places(found, places, asked.select(repeats.index), self.options)
            numbers = places.numbers().to(code)
            latent[todo[repeats.index].to(self.device)] = torch.cat([code, numbers], -1)
        return latent

    def decode_crystals(
        self, latent: Latents, options: ReconstructOptions | None = None
    ) -> Reconstruction:
        """Boxes, and how far to trust them; one without a repeat, of NaN, comes without atoms."""
        latent = latents_given(latent, self.latent_dim, self.device, all_finite=False)
        code, numbers = latent.split([self.crystals.latent_dim, _PLACEMENT], -1)
        found = self.crystals._decoded(code, options)
        return in_boxes(found, Placements.of_numbers(numbers.cpu().double()))

    def iter_reconstruct(
        self,
        structures: Sequence[Structure] | CrystalBatch,
        options: ReconstructOptions | None = None,
        refine: int | RefineOptions | None = None,
        setting: Choice = "best",
    ) -> Iterator[KnownPart]:
        """Boxes there and back, all at once: they are tried again together.

        Args:
            structures: B boxes.
            options: of the reconstruction of crystals, instead of the model's own.
            refine: as of `Model.reconstruct`; with 0 placements are not fitted again, either, and
                no second setting is tried.
            setting: `primitive` is refused. Boxes are taken as they are, and what they repeat in
                several cells (`BoxWayOptions`).
        """
        choice_for(setting, walls=True)
        fit = self.options.fit and refine != 0
        refinement = self._refinement(refine)
        boxes = self._crystals(structures).to("cpu")
        found = reconstruct_boxes(
            boxes,
            lambda crystals: self.crystals.reconstruct(crystals, options, refinement, "given"),
            replace(self.options, fit=fit),
            self._refusals,
        )
        faults = count_faults(found.crystals, boxes, walls=True)
        known = KnownReconstruction.of(found, boxes.ids, faults, settings_of(found))
        return iter([(torch.arange(len(boxes)), known)])

    def fields(self, latent: Latents) -> CrystalFields:
        """Those of the crystals: ask `crystals`, the model behind this one.

        Raises:
            InputError: always.
        """
        raise InputError("a box has no fields of its own here; ask those of its crystal")

    def _refinement(self, refine: int | RefineOptions | None) -> RefineOptions:
        if isinstance(refine, RefineOptions):
            return refine
        limits = (self.options.tolerance, self.options.lattice_tolerance)
        return replace(self.refinement(refine), tolerance=limits[0], lattice_tolerance=limits[1])

    def _refusals(self, crystals: CrystalBatch) -> list[str | None]:
        """Of crystals, with those that are larger than the model's."""
        most = self.crystals.max_atoms
        large = [
            f"{atoms} atoms in the cell, and the model holds up to {most}"
            if most is not None and atoms > most
            else None
            for atoms in crystals.num_atoms.tolist()
        ]
        fine = torch.tensor([reason is None for reason in large])
        if fine.any():
            told = iter(self.crystals.refusals(crystals.select(fine)))
            large = [reason or next(told) for reason in large]
        return large
