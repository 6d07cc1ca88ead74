"""`PropertyNetwork`: what every network that predicts properties of crystals has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nesf.crystal import MAX_ATOMIC_NUMBER
from nesf.data.packed import PackedSet, PackedTensors


class PropertyNetwork(nn.Module):
    """Predicts properties of crystals, in standardised units or in their own.

    Args:
        properties: names of what is predicted, P of them.
        init_args: all arguments of the network, plain JSON: what a checkpoint needs to build it
            again.

    Attributes:
        name: of the method, in tables.
        target_mean: (P,) what the network's zero stands for, in the properties' units.
        target_scale: (P,) what its one stands for.
    """

    name: ClassVar[str]
    num_species = MAX_ATOMIC_NUMBER
    target_mean: Tensor
    target_scale: Tensor

    def __init__(self, properties: Sequence[str], init_args: Mapping[str, Any]) -> None:
        super().__init__()
        if isinstance(properties, str) or not properties or len(set(properties)) < len(properties):
            raise ValueError(f"properties must be a list of different names, not {properties!r}")
        self.properties = tuple(properties)
        self.init_args: dict[str, Any] = {**init_args, "properties": list(properties)}
        self.register_buffer("target_mean", torch.zeros(len(properties)))
        self.register_buffer("target_scale", torch.ones(len(properties)))

    def forward(self, crystals: Any) -> Float[Tensor, "b p"]:
        """The properties of each crystal, in their units."""
        return self.standardised(crystals) * self.target_scale + self.target_mean

    def standardised(self, crystals: Any) -> Float[Tensor, "b p"]:
        """The properties as the network tells them: from `target_mean`, in `target_scale`.

        Args:
            crystals: a batch of what `tensors` gives.
        """
        raise NotImplementedError

    def tensors(
        self,
        crystals: PackedSet,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        properties: Sequence[str] = (),
        progress: bool = False,
    ) -> tuple[PackedTensors, dict[int, str]]:
        """A set of crystals in the form that the network takes, to draw batches from.

        Args:
            crystals: the set.
            device: where the tensors go.
            dtype: of everything that is no integer.
            properties: columns of numbers to take along.
            progress: show a progress bar where it takes long.

        Returns:
            The set, and by position the crystals that cannot be predicted, with the reason.

        Raises:
            InputError: there is no such column of numbers.
        """
        raise NotImplementedError

    @torch.no_grad()
    def set_targets(self, mean: Float[Tensor, " p"], scale: Float[Tensor, " p"]) -> None:
        """Say what the network's zero and one stand for.

        Args:
            mean: (P,) of the training set, in the properties' units.
            scale: (P,) above 0, of the training set.
        """
        self.target_mean.copy_(mean)
        self.target_scale.copy_(scale)

    @property
    def weight(self) -> Tensor:
        """One of the weights, which tells device and precision."""
        return next(self.parameters())
