"""The crystals of a comparison for a property: read once, and refused where they cannot serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nesf.data.packed import PackedSet, load_or_pack
from nesf.errors import InputError


@dataclass(frozen=True)
class PropertySets:
    """Crystals with a property: all test crystals have it, some of the others.

    Attributes:
        target: name of the property.
        train: crystals to learn from.
        val: crystals on which penalties are chosen.
        test: crystals that errors are measured on.
    """

    target: str
    train: PackedSet
    val: PackedSet
    test: PackedSet

    @staticmethod
    def read(
        target: str, train: Sequence[str], val: Sequence[str], test: Sequence[str]
    ) -> PropertySets:
        """Read the files.

        Args:
            target: name of the property.
            train: files in any format of the readers.
            val: likewise.
            test: likewise.

        Raises:
            InputError: a set lacks the property, a test crystal has no value of it, or is a
                training crystal, too.
        """
        sets = []
        for files in (train, val, test):
            crystals = PackedSet.load(load_or_pack(list(files), progress=False))
            try:
                known = np.isfinite(crystals.numbers(target))
            except InputError as error:
                raise InputError(f"{', '.join(files)}: {error}") from error
            if not known.any():
                raise InputError(f"no crystal of {', '.join(files)} has a value of {target}")
            sets.append(crystals)
        unknown = np.flatnonzero(~np.isfinite(sets[2].numbers(target)))
        if len(unknown):
            raise InputError(
                f"{len(unknown)} of the {len(sets[2])} crystals of {', '.join(test)} have no value "
                f"of {target}, the first is {sets[2].ids[int(unknown[0])]}; leave them out"
            )
        if seen := set(sets[0].ids) & set(sets[2].ids):
            raise InputError(
                f"{len(seen)} ids of {', '.join(test)} are in {', '.join(train)}, too; give other "
                "test crystals"
            )
        return PropertySets(target, *sets)

    @property
    def truth(self) -> Float[np.ndarray, " m"]:
        """(M,) true values of the test crystals."""
        return np.asarray(self.test.numbers(self.target))

    @property
    def mean(self) -> float:
        """Of the training crystals that have a value: what a missing prediction is scored as."""
        return float(np.nanmean(self.train.numbers(self.target)))
