"""The two sets of crystals of an evaluation, joined by id, and the pairs of them to match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.cells import Cell
from eval.matching import random_sites
from eval.sources import gather
from eval.symmetry import refine_symmetry
from nesf.errors import InputError

if TYPE_CHECKING:
    from eval.sources import Source

PairSets = Mapping[str, Sequence[tuple[Cell | None, Cell]]]  # by title: predicted and true

RAW, REFINED, CHANCE = "matching", "refined", "chance level"  # what is matched, as bars call it
CHANCE_CRYSTALS = 1000
EVERY = slice(None)


@dataclass(frozen=True)
class Sides:
    """Predicted and reference crystals.

    Attributes:
        names: ids of the reference crystals that can be scored, sorted.
        truth: those crystals.
        guesses: predicted crystals by id.
        reasons: why there is no predicted crystal, by id.
        reference_reasons: why a reference crystal cannot be scored, by id.
        unreadable: all of the reference that was refused, with file and row.
    """

    names: list[str]
    truth: dict[str, Cell]
    guesses: dict[str, Cell]
    reasons: dict[str, str]
    reference_reasons: dict[str, str]
    unreadable: list[dict[str, Any]]

    @staticmethod
    def read(predicted: Source, reference: Source, workers: int | None, progress: bool) -> Sides:
        """Read both; see `eval.evaluate.evaluate`.

        Raises:
            InputError: duplicate ids, no usable reference, or no id in common.
        """
        truth, reference_reasons, unreadable = gather(reference, "reference", workers, progress)
        guesses, reasons, _ = gather(predicted, "predicted", workers, progress)
        names = sorted(truth)
        if not names:
            raise InputError("no reference crystal can be scored")
        if not (guesses.keys() | reasons.keys()) & truth.keys():
            raise InputError(
                "no predicted id is among the reference ids; the two sets are joined by id "
                f"(a reference id is {names[0]!r})"
            )
        return Sides(names, truth, guesses, reasons, reference_reasons, unreadable)

    def pairs(
        self, refine: bool, chance_crystals: int, seed: int, part: slice = EVERY
    ) -> dict[str, list[tuple[Cell | None, Cell]]]:
        """Pairs to match, by title.

        Args:
            refine: also the predictions after `refine_symmetry`.
            chance_crystals: crystals (a seeded draw) whose positions are replaced by random ones.
            seed: of the draw and the positions.
            part: which pairs of each set to give.
        """
        names = self.names[part]
        raw = {name: self.guesses.get(name) for name in names}
        pairs = {RAW: [(raw[name], self.truth[name]) for name in names]}
        if refine:
            pairs[REFINED] = [
                (None if guess is None else refine_symmetry(guess), self.truth[name])
                for name, guess in raw.items()
            ]
        order = np.random.default_rng(seed).permutation(len(self.names))[:chance_crystals]
        drawn = [self.names[i] for i in sorted(order)][part]
        pairs[CHANCE] = [
            (random_sites(self.truth[name], seed, name), self.truth[name]) for name in drawn
        ]
        return pairs
