"""The Python interface: a loaded model between pymatgen Structures, latents and fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nesf.checkpoint import load_model
from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch
from nesf.errors import InputError
from nesf.fields import CrystalFields
from nesf.reconstruct import Reconstruction, ReconstructOptions

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

    @torch.no_grad()
    def encode(self, structures: Sequence[Structure] | CrystalBatch) -> Float[Tensor, "b l"]:
        """Latents (B, L) of ordered Structures, on the model's device.

        Raises:
            InputError: there are none, a site is disordered, or an element is unknown.
        """
        crystals = self._crystals(structures)
        parts = self._parts(len(crystals))
        return torch.cat([self.module.encode(crystals.select(part)) for part in parts])

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
    ) -> Reconstruction:
        """Encode and decode: what the model makes of known crystals, ids kept."""
        crystals = self._crystals(structures)
        found = self.decode_crystals(self.encode(crystals), options)
        named = found.crystals.replace(ids=crystals.ids)
        return Reconstruction(
            named, found.site_spread, found.site_size, found.count_agrees, found.confidence
        )

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


def resolve_device(device: str | torch.device) -> torch.device:
    """The device that a name means.

    Args:
        device: `cpu`, `cuda`, `cuda:0`, ..., or `auto` for a GPU where there is one.

    Raises:
        InputError: the name is unknown, or there is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"there is no device {device} here; give cpu, cuda, cuda:0 or auto"
        ) from error
    return resolved


def join_reconstructions(parts: Sequence[Reconstruction]) -> Reconstruction:
    """Put reconstructions of one model together, padded to the largest crystal."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.crystals.mask.shape[1] for part in parts)

    def padded(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([_pad_columns(tensor, width) for tensor in tensors])

    crystals = CrystalBatch(
        frac_coords=padded([part.crystals.frac_coords for part in parts]),
        atomic_numbers=padded([part.crystals.atomic_numbers for part in parts]),
        mask=padded([part.crystals.mask for part in parts]),
        lattice=torch.cat([part.crystals.lattice for part in parts]),
        ids=tuple(str(i) for i in range(sum(len(part.crystals) for part in parts))),
    )
    agrees = [part.count_agrees for part in parts if part.count_agrees is not None]
    return Reconstruction(
        crystals,
        padded([part.site_spread for part in parts]),
        padded([part.site_size for part in parts]),
        torch.cat(agrees) if len(agrees) == len(parts) else None,
        torch.cat([part.confidence for part in parts]),
    )


def _pad_columns(tensor: Tensor, width: int) -> Tensor:
    missing = tensor.new_zeros((tensor.shape[0], width - tensor.shape[1], *tensor.shape[2:]))
    return torch.cat([tensor, missing], dim=1)
