"""The Python interface: a loaded model between pymatgen Structures, latents and fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nesf.checkpoint import load_model
from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch
from nesf.decoders import FieldDecoder
from nesf.device import resolve_device
from nesf.errors import InputError
from nesf.fields import CrystalFields
from nesf.given import Latents, crystals_given, latents_given
from nesf.precision import each_within, full_precision, undisturbed
from nesf.reconstruction.reconstruct import Reconstruction, ReconstructOptions, join_reconstructions
from nesf.reconstruction.settings_way import (
    Choice,
    KnownPart,
    KnownReconstruction,
    Part,
    choice_for,
    join_known,
    reconstruct_in,
    refuse_large,
    too_large,
)
from nesf.refinement.refine import (
    Judge,
    Refined,
    RefineOptions,
    join_refined,
    refine_parts,
    refinement_for,
)
from nesf.scoring import count_faults

if TYPE_CHECKING:
    from pymatgen.core import Structure

Field = Callable[[Tensor], Tensor]
Precision = Literal["auto", "float32"]


def load(
    name_or_path: str | Path,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
    trusted_prefixes: Sequence[str] = (),
    precision: Precision = "auto",
) -> Model:
    """Load a model to use it.

    Args:
        name_or_path: a run folder, a `.safetensors` or `.ckpt` file, or a shipped name.
        device: `cpu`, `cuda`, `cuda:0`, ..., or `auto` for a GPU where there is one.
        batch_size: crystals that are encoded or decoded at once.
        trusted_prefixes: packages, besides this one's, whose classes the file may name, e.g.
            `("mypackage.",)`.
        precision: of the fields, see `Model`.

    Raises:
        CheckpointError: there is no such model, or its file is damaged or foreign.
        InputError: there is no such device or precision.
    """
    target = resolve_device(device)
    module = load_model(name_or_path, target, trusted_prefixes)
    return Model(module, target, batch_size, precision)


class Model:
    """A model in use: Structures to latents, latents to Structures and fields.

    Its weights are frozen. Latents and queries may still require gradients where a field is
    differentiated.

    Attributes:
        module: the `nn.Module` itself.
        device: where it computes.
        batch_size: crystals at once.
        precision: of the fields.

    Args:
        module: the network; a NeSF, or any with `encode` and `decode`.
        device: where it goes.
        batch_size: see above.
        precision: `auto` asks the fields in bfloat16 where the hardware has units for it, which
            changes an offset by some 0.01 Å; `float32` never does, and is several times as slow.
    """

    def __init__(
        self,
        module: nn.Module,
        device: str | torch.device = "cpu",
        batch_size: int = 256,
        precision: Precision = "auto",
    ) -> None:
        if batch_size < 1:
            raise InputError(f"the batch size is {batch_size}; give at least 1")
        if precision not in get_args(Precision):
            raise InputError(f"the precision is auto or float32, not {precision!r}")
        if not (hasattr(module, "encode") and hasattr(module, "decode")):
            raise InputError(
                f"a {type(module).__name__} makes no crystals; give a model that has encode and "
                "decode"
            )
        self.device = resolve_device(device)
        self.module: Any = module.to(self.device).eval().requires_grad_(False)
        self.batch_size, self.precision = batch_size, precision
        for decoder in self.module.modules():
            if isinstance(decoder, FieldDecoder):
                decoder.may_round = precision == "auto"

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

    def too_large(self, crystals: CrystalBatch, setting: Choice = "given") -> list[str | None]:
        """For each crystal, why it is too large for the model; None where it is not.

        Args:
            crystals: B crystals.
            setting: the cells in which they may be taken, as of `reconstruct`.
        """
        return too_large(setting, crystals, self.max_atoms)

    @cached_property
    def latent_dim(self) -> int:
        """Length L of a latent."""
        one = torch.ones(1, 1, dtype=torch.long)
        hydrogen = CrystalBatch(
            torch.zeros(1, 1, 3), one, one.bool(), 3 * torch.eye(3)[None], ("",)
        ).to(dtype=torch.float32)
        return self.encode(hydrogen).shape[-1]

    def refinement(self, steps: int | RefineOptions | None = None) -> RefineOptions:
        """How latents are fitted to their crystals.

        Args:
            steps: at most so many, or all options; by default as many as `RefineOptions` says for
                a NeSF, and none for other models.

        Raises:
            InputError: the model has no fields to fit a latent by, or there are fewer than none.
        """
        return refinement_for(self.module, steps)

    @torch.no_grad()
    def encode(
        self, structures: Sequence[Structure] | CrystalBatch, refine: int | RefineOptions = 0
    ) -> Float[Tensor, "b l"]:
        """Latents (B, L) of ordered Structures, on the model's device.

        Args:
            structures: B crystals.
            refine: steps of refinement, at most, of latents that do not decode to their crystals
                (see `nesf.refinement.refine`), or all its options; 0 takes what the encoder says.

        Raises:
            InputError: there are none, a site is disordered, an element is unknown, or a crystal
                has more atoms than the model can give back.
        """
        crystals = self._crystals(structures)
        refuse_large("given", crystals, self.max_atoms)
        options = self.refinement(refine)
        if options.steps:
            return join_refined(self._refined(crystals, options)).latent
        parts = self._parts(crystals)
        with full_precision(self.device):  # whatever the caller's autocast is
            return torch.cat([self.module.encode(crystals.select(part)) for part in parts])

    def decode(self, latent: Latents, options: ReconstructOptions | None = None) -> list[Structure]:
        """The Structures behind latents; one without sites means that none was found.

        Args:
            latent: (B, L) latents.
            options: of the reconstruction, instead of the model's own.
        """
        return self.decode_crystals(latent, options).crystals.to_structures()

    @torch.no_grad()
    def decode_crystals(
        self, latent: Latents, options: ReconstructOptions | None = None
    ) -> Reconstruction:
        """`decode`, as tensors and with how far to trust them."""
        return self._decoded(latents_given(latent, self.latent_dim, self.device), options)

    def _decoded(self, latent: Tensor, options: ReconstructOptions | None) -> Reconstruction:
        arguments = {} if options is None else {"options": options}
        parts = [self.module.decode(latent[part], **arguments) for part in self._parts(latent)]
        return join_reconstructions(parts)

    def reconstruct(
        self,
        structures: Sequence[Structure] | CrystalBatch,
        options: ReconstructOptions | None = None,
        refine: int | RefineOptions | None = None,
        setting: Choice = "best",
    ) -> KnownReconstruction:
        """Encode and decode: what the model makes of known crystals, ids kept.

        Args:
            structures: B crystals.
            options: of the reconstruction, instead of the model's own.
            refine: as in `encode`, but by default see `refinement`: a crystal comes back as well
                as it can.
            setting: the cell in which a crystal is given to the model; it comes back in its own.
                `given`; `primitive`, its standardised primitive cell
                (`nesf.reconstruction.settings`); or `best`: as given, and then, if it has come back
                with faults, through its primitive cell, of which that with fewer faults is kept
                (of more than 12 atoms, a smaller primitive cell first).
                That compares with the crystal given, as refinement does, and is not done without
                refinement. A crystal with more atoms than the model can give back goes through its
                primitive cell at once. A model of boxes takes them as they are.

        Returns:
            The crystals, with the faults of each crystal and its setting.

        Raises:
            InputError: as of `encode`; a crystal is too large if its primitive cell is too, or was
                not asked for.
        """
        return join_known(self.iter_reconstruct(structures, options, refine, setting))

    def iter_reconstruct(
        self,
        structures: Sequence[Structure] | CrystalBatch,
        options: ReconstructOptions | None = None,
        refine: int | RefineOptions | None = None,
        setting: Choice = "best",
    ) -> Iterator[KnownPart]:
        """`reconstruct`, as the crystals are done: those that take long hold up no others.

        Args:
            structures: as of `reconstruct`, like all that follows.
            options: of the reconstruction.
            refine: steps, or options.
            setting: the cell.

        Returns:
            An iterator over positions (K,) among the B crystals, and what came back of them. Each
            crystal comes once.

        Raises:
            InputError: as of `reconstruct`, at the call.
        """
        crystals = self._crystals(structures)
        refinement = self.refinement(refine)
        walls = getattr(self.module, "walls", False)
        choice = choice_for(setting, walls)
        refuse_large(choice, crystals, self.max_atoms)

        def back(some: CrystalBatch, judge: Judge) -> Iterator[Part]:
            if not refinement.steps:
                yield self._every(some), self.decode_crystals(self.encode(some), options)
                return
            for rows, refined in self._refined(some, refinement, options, judge):
                yield rows, refined.found

        def faults_of(found: CrystalBatch, true: CrystalBatch) -> Tensor:
            limits = (refinement.tolerance, refinement.lattice_tolerance)
            return count_faults(found, true, *limits, walls=walls)

        retry = refinement.steps > 0
        found = reconstruct_in(choice, crystals, back, faults_of, self.max_atoms, retry)
        return each_within(partial(undisturbed, self.device), found)

    def of_boxes(self) -> Model:
        """This model in use on boxes of repeating crystals (`nesf.boxes`).

        A model of crystals is given what each box repeats (`nesf.boxes.model.BoxModel`). One
        that has walls takes boxes as they are, and comes back itself.
        """
        if getattr(self.module, "walls", False):
            return self
        from nesf.boxes.model import BoxModel

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

    def fields(self, latent: Latents) -> CrystalFields:
        """Both fields behind latents, with lattice, atom counts and elements.

        Raises:
            InputError: the model has no fields, or the latents are not its own.
        """
        if not hasattr(self.module, "fields"):
            raise InputError(f"a {type(self.module).__name__} has no position and species fields")
        return self.module.fields(latents_given(latent, self.latent_dim, self.device))

    def position_field(self, latent: Latents) -> Field:
        """Query (B, Q, 3) Å to displacements (B, Q, 3) Å to the nearest atom, both Cartesian."""
        return self._on_device(self.fields(latent).position)

    def species_field(self, latent: Latents) -> Field:
        """Query (B, Q, 3) Å to logits (B, Q, S) of the nearest atom's class Z - 1."""
        return self._on_device(self.fields(latent).species)

    def _refined(
        self,
        crystals: CrystalBatch,
        refinement: RefineOptions,
        options: ReconstructOptions | None = None,
        judge: Judge | None = None,
    ) -> Iterator[tuple[Int[Tensor, " k"], Refined]]:
        parts = self._parts(crystals)
        found = refine_parts(self.module, crystals, parts, refinement, options, judge)
        return each_within(partial(undisturbed, self.device), found)

    def _on_device(self, field: Field) -> Field:
        def ask(query: Tensor | np.ndarray) -> Tensor:
            return field(torch.as_tensor(query, dtype=torch.float32, device=self.device))

        return ask

    def _crystals(self, structures: Sequence[Structure] | CrystalBatch) -> CrystalBatch:
        return crystals_given(structures, self.max_atomic_number, self.device)

    def _every(self, some: Sized) -> Int[Tensor, " b"]:
        return torch.arange(len(some), device=self.device)

    def _parts(self, some: Sized) -> Iterator[Int[Tensor, " k"]]:
        yield from self._every(some).split(self.batch_size)
