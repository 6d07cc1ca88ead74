"""The Python interface: a loaded model between pymatgen Structures, latents and fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nesf.autoencoder import NeSF
from nesf.checkpoint import load_model
from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch
from nesf.device import resolve_device
from nesf.errors import InputError
from nesf.fields import CrystalFields
from nesf.reconstruct import Reconstruction, ReconstructOptions, join_reconstructions
from nesf.refine import Refined, RefineOptions, refine_latents

if TYPE_CHECKING:
    from pymatgen.core import Structure

Field = Callable[[Tensor], Tensor]


def load(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
    trusted_prefixes: Sequence[str] = (),
) -> Model:
    """Load a model to use it.

    Args:
        name_or_path: a run folder, a `.safetensors` or `.ckpt` file, or a shipped name.
        device: `cpu`, `cuda`, `cuda:0`, ..., or `auto` for a GPU where there is one.
        batch_size: crystals that are encoded or decoded at once.
        trusted_prefixes: packages, besides this one's, whose classes the file may name, e.g.
            `("mypackage.",)`.

    Raises:
        CheckpointError: there is no such model, or its file is damaged or foreign.
        InputError: there is no such device.
    """
    target = resolve_device(device)
    return Model(load_model(name_or_path, target, trusted_prefixes), target, batch_size)


class Model:
    """A model in use: Structures to latents, latents to Structures and fields.

    Its weights are frozen. Latents and queries may still require gradients where a field is
    differentiated.

    Attributes:
        module: the `nn.Module` itself.
        device: where it computes.
        batch_size: crystals at once.
    """

    def __init__(
        self, module: nn.Module, device: str | torch.device = "cpu", batch_size: int = 256
    ) -> None:
        if batch_size < 1:
            raise InputError(f"the batch size is {batch_size}; give at least 1")
        if not (hasattr(module, "encode") and hasattr(module, "decode")):
            raise InputError(
                f"a {type(module).__name__} makes no crystals; give a model that has encode and "
                "decode"
            )
        self.device = resolve_device(device)
        self.module: Any = module.to(self.device).eval().requires_grad_(False)
        self.batch_size = batch_size

    def __repr__(self) -> str:
        kind = type(self.module)
        return f"Model({kind.__module__}.{kind.__qualname__}, device={str(self.device)!r})"

    @property
    def max_atomic_number(self) -> int:
        """Largest atomic number Z that the model knows."""
        return getattr(self.module, "num_species", MAX_ATOMIC_NUMBER)

    @property
    def max_atoms(self) -> int | None:
        """Atoms of the largest cell that the model can give back; None if it sets no limit."""
        return getattr(self.module, "max_atoms", None)

    @property
    def condition_property(self) -> str | None:
        """Name of the property that the model's latents are conditioned on; None if on none."""
        return getattr(self.module, "condition_property", None)

    def refusals(self, crystals: CrystalBatch) -> list[str | None]:
        """For each crystal, why the model cannot represent it; None where it can."""
        if not hasattr(self.module, "refusals"):
            return [None] * len(crystals)
        return self.module.refusals(crystals.to(self.device))

    @cached_property
    def latent_dim(self) -> int:
        """Length L of a latent."""
        one = torch.ones(1, 1, dtype=torch.long)
        hydrogen = CrystalBatch(
            torch.zeros(1, 1, 3), one, one.bool(), 3 * torch.eye(3)[None], ("",)
        )
        return self.encode(hydrogen).shape[-1]

    def refinement(self, steps: int | RefineOptions | None = None) -> RefineOptions:
        """How latents are fitted to their crystals.

        Args:
            steps: at most so many, or all options; by default as many as `RefineOptions` says for
                a NeSF, and none for other models.

        Raises:
            InputError: the model has no fields to fit a latent by, or there are fewer than none.
        """
        able = isinstance(self.module, NeSF)
        if not isinstance(steps, RefineOptions):
            if steps is None:
                steps = RefineOptions().steps if able else 0
            if steps < 0:
                raise InputError(f"refine is {steps}; give a number of steps, or 0 for none")
            steps = RefineOptions(steps=steps)
        if steps.steps and not able:
            kind = type(self.module).__name__
            raise InputError(f"latents of a {kind} cannot be refined; leave refine out, or give 0")
        return steps

    @torch.no_grad()
    def encode(
        self, structures: Sequence[Structure] | CrystalBatch, refine: int | RefineOptions = 0
    ) -> Float[Tensor, "b l"]:
        """Latents (B, L) of ordered Structures, on the model's device.

        Args:
            structures: B crystals.
            refine: steps of refinement, at most, of latents that do not decode to their crystals
                (see `nesf.refine`), or all its options; 0 takes what the encoder says.

        Raises:
            InputError: there are none, a site is disordered, or an element is unknown.
        """
        crystals = self._crystals(structures)
        options = self.refinement(refine)
        parts = [crystals.select(part) for part in self._parts(len(crystals))]
        if not options.steps:
            return torch.cat([self.module.encode(part) for part in parts])
        return torch.cat([self._refined(part, None, options).latent for part in parts])

    def decode(
        self, latent: Float[Tensor, "b l"], options: ReconstructOptions | None = None
    ) -> list[Structure]:
        """The Structures behind latents; one without sites means that none was found.

        Args:
            latent: (B, L) latents.
            options: of the reconstruction, instead of the model's own.
        """
        return self.decode_crystals(latent, options).crystals.to_structures()

    @torch.no_grad()
    def decode_crystals(
        self, latent: Float[Tensor, "b l"], options: ReconstructOptions | None = None
    ) -> Reconstruction:
        """`decode`, as tensors and with how far to trust them."""
        latent = self._checked(latent)
        arguments = {} if options is None else {"options": options}
        parts = [self.module.decode(latent[part], **arguments) for part in self._parts(len(latent))]
        return join_reconstructions(parts)

    def reconstruct(
        self,
        structures: Sequence[Structure] | CrystalBatch,
        options: ReconstructOptions | None = None,
        refine: int | RefineOptions | None = None,
    ) -> Reconstruction:
        """Encode and decode: what the model makes of known crystals, ids kept.

        Args:
            structures: B crystals.
            options: of the reconstruction, instead of the model's own.
            refine: as in `encode`, but by default see `refinement`: a crystal comes back as well
                as it can.
        """
        crystals = self._crystals(structures)
        refinement = self.refinement(refine)
        if refinement.steps:
            parts = [crystals.select(part) for part in self._parts(len(crystals))]
            found = join_reconstructions(
                [self._refined(part, options, refinement).found for part in parts]
            )
        else:
            found = self.decode_crystals(self.encode(crystals), options)
        named = found.crystals.replace(ids=crystals.ids)
        return Reconstruction(
            named, found.site_spread, found.site_size, found.count_agrees, found.confidence
        )

    def of_boxes(self) -> Model:
        """This model in use on boxes of repeating crystals (`nesf.boxes`).

        A model of crystals is given what each box repeats (`nesf.repeats_model.BoxModel`). One
        that has walls takes boxes as they are, and comes back itself.
        """
        if getattr(self.module, "walls", False):
            return self
        from nesf.repeats_model import BoxModel

        return BoxModel(self)

    def reconstruct_boxes(
        self,
        boxes: Sequence[Structure] | CrystalBatch,
        options: ReconstructOptions | None = None,
        refine: int | None = None,
    ) -> Reconstruction:
        """`reconstruct`, of boxes; one without a repeat comes back without atoms.

        Args:
            boxes: B boxes cut from repeating crystals, in any rotation and at any offset: cubic
                cells with faces that are walls, see `nesf.boxes`.
            options: of the reconstruction, instead of the model's own.
            refine: as in `reconstruct`.
        """
        return self.of_boxes().reconstruct(boxes, options, refine)

    def fields(self, latent: Float[Tensor, "b l"]) -> CrystalFields:
        """Both fields behind latents, with lattice, atom counts and elements.

        Raises:
            InputError: the model has no fields, or the latents are not its own.
        """
        if not hasattr(self.module, "fields"):
            raise InputError(f"a {type(self.module).__name__} has no position and species fields")
        return self.module.fields(self._checked(latent))

    def position_field(self, latent: Float[Tensor, "b l"]) -> Field:
        """Query (B, Q, 3) Å to displacements (B, Q, 3) Å to the nearest atom, both Cartesian."""
        return self._on_device(self.fields(latent).position)

    def species_field(self, latent: Float[Tensor, "b l"]) -> Field:
        """Query (B, Q, 3) Å to logits (B, Q, S) of the nearest atom's class Z - 1."""
        return self._on_device(self.fields(latent).species)

    def _refined(
        self, crystals: CrystalBatch, options: ReconstructOptions | None, refinement: RefineOptions
    ) -> Refined:
        def decode(latent: Tensor) -> Reconstruction:
            return self.module.decode(latent, options)

        with torch.no_grad():
            latent = self.module.encode(crystals)
            return refine_latents(self.module, crystals, latent, decode, refinement)

    def _on_device(self, field: Field) -> Field:
        return lambda query: field(query.to(self.device))

    def _crystals(self, structures: Sequence[Structure] | CrystalBatch) -> CrystalBatch:
        if not isinstance(structures, CrystalBatch):
            structures = CrystalBatch.from_structures(structures)
        highest = int(structures.atomic_numbers.max())
        if highest > self.max_atomic_number:
            raise InputError(
                f"an atom has the atomic number {highest}, and this model knows elements up to "
                f"{self.max_atomic_number}"
            )
        return structures.to(self.device)

    def _checked(self, latent: Tensor) -> Tensor:
        if not len(latent):
            raise InputError("no latents were given")
        if latent.ndim != 2 or latent.shape[-1] != self.latent_dim:
            raise InputError(
                f"latents of this model have the shape (B, {self.latent_dim}), not "
                f"{tuple(latent.shape)}"
            )
        return latent.to(self.device)

    def _parts(self, count: int) -> Iterator[Tensor]:
        yield from torch.arange(count, device=self.device).split(self.batch_size)
