"""`PropertyData`: crystals with their properties, in batches of the form that the model takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from baselines.voxel_icsg3d.property_network import PropertyNetwork
from nesf.data.module import CrystalData
from nesf.data.packed import PackedTensors
from nesf.errors import InputError


class PropertyData(CrystalData):
    """Training and validation crystals with their properties, for a `PropertyNetwork`.

    In which form crystals come (with the neighbours of their atoms, say) and, unless told here,
    which properties are wanted is the model's to say.

    Args:
        train: files, folders or globs in any format of the readers, or packed sets; one, or a
            list of them.
        val: likewise; empty holds out a part of `train`.
        batch_size: crystals a step and rank.
        val_batch_size: crystals a validation step.
        val_fraction: share of `train` held out where `val` is empty.
        seed: of the order and of the held-out part.
        cache_dir: folder of the cache; the user's cache folder by default.
        properties: columns of numbers that batches carry; by default those that the model
            predicts.
    """

    def __init__(
        self,
        train: Sequence[str] | str,
        val: Sequence[str] | str = (),
        batch_size: int = 64,
        val_batch_size: int = 256,
        val_fraction: float = 0.05,
        seed: int = 0,
        cache_dir: str | None = None,
        properties: Sequence[str] | str = (),
    ) -> None:
        super().__init__(
            train,
            val,
            batch_size,
            val_batch_size,
            val_fraction,
            seed=seed,
            cache_dir=cache_dir,
            properties=properties,
        )
        self._model: PropertyNetwork | None = None

    def setup(self, stage: str | None = None) -> None:
        """Open the sets, and refuse at once what they lack.

        Raises:
            InputError: a set has no such column of numbers, or no training crystal has a value.
        """
        if self.trainer is not None:
            model: Any = self.trainer.lightning_module.model
            self._model = model
            self.properties = self.properties or model.properties
        if not self.properties:
            raise InputError("name the properties to learn: model.properties, as in [heat_ref]")
        super().setup(stage)
        self.statistics(self.properties)
        for name in self.properties:
            self.set_named("val").numbers(name)

    def statistics(self, properties: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of properties over the training crystals that have them.

        Args:
            properties: P columns.

        Returns:
            (P,) means and (P,) deviations, 1 where all values are equal.

        Raises:
            InputError: there is no such column of numbers, or it has no finite value.
        """
        found = []
        for name in properties:
            column = np.asarray(self.set_named("train").numbers(name))
            known = column[np.isfinite(column)]
            if not len(known):
                raise InputError(
                    f"no training crystal has a value of {name}; name another property"
                )
            found.append((known.mean(), known.std() or 1.0))
        mean, deviation = np.array(found).T
        return mean, deviation

    def load_tensors(self, name: str, device: torch.device) -> PackedTensors:
        """The `train` or `val` set as the model takes it, on the training device.

        Raises:
            InputError: there is a crystal that the model cannot predict.
        """
        assert self._model is not None
        crystals = self.set_named(name)
        tensors, refused = self._model.tensors(
            crystals, device, properties=self.properties, progress=sys.stderr.isatty()
        )
        for position, reason in refused.items():
            raise InputError(
                f"crystal {crystals.ids[position]} of data.{name} cannot be used ({reason}); "
                "remove it"
            )
        return tensors
