"""Boxes there and back: find what each repeats, take that there and back, and cut the box again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float

from nesf.boxes.placement import Placements, boxes_at, fit_placement
from nesf.boxes.repeats import RepeatOptions, Repeats, find_repeats
from nesf.boxes.setting import Setting
from nesf.crystal import CrystalBatch
from nesf.reconstruction.reconstruct import Reconstruction, join_reconstructions
from nesf.scoring import count_faults

Back = Callable[[CrystalBatch], Reconstruction]
Refusals = Callable[[CrystalBatch], list[str | None]]


@dataclass(frozen=True)
class BoxWayOptions:
    """How boxes go through a model of crystals.

    Attributes:
        settings: cells in which a crystal is tried, in this order: the next one where the model
            cannot represent it, or where the box that came back has faults (`fit` only).
        fit: the placement is fitted once more to what came back.
        reach: how far an atom that came back may be from that of the box, to be fitted to it, Å.
        nudge: how far that may shift the crystal for the sake of atoms near the walls, Å.
        tolerance: a latent is refined until its atoms are no farther off than this, Å: less than
            for crystals, since it decides on which side of a wall an atom is.
        lattice_tolerance: and its cell vectors, of which errors add up over the box, Å.
        repeats: how the repeat is found; its `setting` is not asked.
    """

    settings: Sequence[Setting] = ("conventional", "primitive", "reduced")
    fit: bool = True
    reach: float = 0.4
    nudge: float = 0.03
    tolerance: float = 0.015
    lattice_tolerance: float = 0.01
    repeats: RepeatOptions = RepeatOptions()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if not self.settings:
            raise ValueError("settings must name at least one cell")
        for name in ("reach", "nudge", "tolerance", "lattice_tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0 Å, not {getattr(self, name)}")


@torch.no_grad()
def reconstruct_boxes(
    boxes: CrystalBatch,
    back: Back,
    options: BoxWayOptions | None = None,
    refusals: Refusals | None = None,
) -> Reconstruction:
    """Give boxes back through whatever gives their crystals back.

    Args:
        boxes: B boxes.
        back: takes crystals there and back, ids and order kept.
        options: how; the defaults if None.
        refusals: of each crystal, why `back` cannot represent it, or None.

    Returns:
        The boxes that came back. One without a repeat, or with a crystal that is refused in every
        setting, has no atoms.
    """
    options = options or BoxWayOptions()
    best = _nothing(boxes)
    faults = torch.full((len(boxes),), torch.iinfo(torch.long).max)
    for setting in options.settings:
        todo = (faults > 0 if options.fit else ~best.crystals.mask.any(-1)).nonzero().squeeze(-1)
        if not len(todo):
            break
        asked = boxes.select(todo)
        repeats = usable_repeats(asked, setting, options, refusals)[0]
        if not len(repeats.index):
            continue
        found = back(repeats.crystals)
        places = repeats.places
        if options.fit:
            places = fitted_places(found.crystals, places, asked.select(repeats.index), options)
        new = in_boxes(found, places)
        index = todo[repeats.index]
        wrong = count_faults(new.crystals, boxes.select(index).to("cpu"), walls=True)
        better = wrong < faults[index]
        faults[index[better]] = wrong[better]
        rows = torch.arange(len(boxes))
        rows[index[better]] = len(boxes) + better.nonzero().squeeze(-1)
        best = join_reconstructions([best, new]).select(rows)
    return _named(best, boxes)


def usable_repeats(
    boxes: CrystalBatch, setting: Setting, options: BoxWayOptions, refusals: Refusals | None
) -> tuple[Repeats, list[str | None]]:
    """The repeats of boxes in a setting, but for those that are refused.

    Args:
        boxes: B boxes.
        setting: of the crystals.
        options: how repeats are found.
        refusals: of each crystal, why it cannot be represented, or None.

    Returns:
        The repeats, on the boxes' device and in their precision, and for each of the B boxes why
        it has none, or None.
    """
    repeats = find_repeats(boxes, replace(options.repeats, setting=setting))
    crystals = repeats.crystals.to(boxes.device, boxes.lattice.dtype)
    reasons = list(repeats.reasons)
    if refusals is None or not len(repeats.index):
        return replace(repeats, crystals=crystals), reasons
    told = refusals(crystals)
    for i, reason in zip(repeats.index.tolist(), told, strict=True):
        reasons[i] = reason and f"what this box repeats: {reason}"
    kept = torch.tensor([reason is None for reason in told])
    return replace(
        repeats,
        crystals=crystals.select(kept),
        places=repeats.places.select(kept),
        index=repeats.index[kept],
    ), reasons


def fitted_places(
    crystals: CrystalBatch, places: Placements, boxes: CrystalBatch, options: BoxWayOptions
) -> Placements:
    """Placements fitted to boxes by what came back of their crystals.

    Args:
        crystals: K crystals as they came back.
        places: of the crystals as they were.
        boxes: the K boxes.
        options: how far an atom may be off.
    """
    crystals, boxes = crystals.to("cpu"), boxes.to("cpu", torch.float64)
    sound = crystals.lattice.isfinite().flatten(1).all(-1) & crystals.mask.any(-1)
    numbers = places.numbers()
    for i in sound.nonzero().squeeze(-1).tolist():
        one = torch.tensor([i])
        box = boxes.cart_coords[i][boxes.mask[i]].numpy()
        fitted = fit_placement(
            crystals.select(one), places.select(one), box, options.reach, options.nudge
        )
        numbers[i] = fitted.numbers()[0]
    return Placements.of_numbers(numbers)


def in_boxes(found: Reconstruction, places: Placements) -> Reconstruction:
    """Boxes cut from reconstructed crystals, on the CPU; each atom is trusted as its site is.

    Args:
        found: K crystals.
        places: how they lie in their boxes.
    """
    crystals, site = boxes_at(found.crystals, places)

    def of_sites(values: Float[Tensor, "k n"]) -> Float[Tensor, "k m"]:
        return values.cpu().gather(1, site) * crystals.mask

    agrees = found.count_agrees
    return Reconstruction(
        crystals,
        of_sites(found.site_spread),
        of_sites(found.site_size),
        None if agrees is None else agrees.cpu(),
        found.confidence.cpu() * crystals.mask.any(-1),
    )


def _nothing(boxes: CrystalBatch) -> Reconstruction:
    empty = CrystalBatch.from_flat(
        torch.zeros(0, 3),
        torch.zeros(0, dtype=torch.long),
        torch.zeros(len(boxes), dtype=torch.long),
        boxes.lattice.cpu().float(),
        boxes.ids,
    )
    none = torch.zeros(len(boxes), 1)
    agrees = torch.zeros(len(boxes), dtype=torch.bool)
    return Reconstruction(empty, none, none, agrees, torch.zeros(len(boxes)))


def _named(found: Reconstruction, boxes: CrystalBatch) -> Reconstruction:
    return replace(found, crystals=found.crystals.replace(ids=boxes.ids))
