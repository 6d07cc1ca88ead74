"""The two sets of crystals of an evaluation, joined by id, and the pairs of them to match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.cells import Cell
from eval.matching import random_sites
from eval.sources import gather
from eval.symmetry import refine_symmetry
from nesf.data.entries import ID_COLUMNS
from nesf.data.files import stem_of
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
        predicted_names = guesses.keys() | reasons.keys()
        if not predicted_names & truth.keys():
            sides = ((predicted, "predicted", predicted_names), (reference, "reference", names))
            raise InputError(
                "no predicted id is among the reference ids, by which the two sets are joined: "
                f"{', '.join(_told(*side) for side in sides)}; ids are read from the columns "
                f"{', '.join(ID_COLUMNS)}, or else are the names of files"
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


def _told(source: Source, side: str, names: Iterable[str]) -> str:
    """One id of a side, and whether it is the number of a row that has none."""
    name = min(names, default=None)
    if name is None:
        return f"there is no {side} one"
    items = [source] if isinstance(source, str | Path) else source
    stems = [stem_of(item) for item in items if isinstance(item, str | Path)]
    numbered = any(re.fullmatch(rf"{re.escape(stem)}-\d+", name) for stem in stems)
    return f"a {side} one is {name!r}{', the number of a row without an id' * numbered}"
