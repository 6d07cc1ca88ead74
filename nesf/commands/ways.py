"""How crystals are taken from themselves back to themselves: through a model, or exact fields."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from nesf import api
from nesf.boxes.repeats import find_repeats
from nesf.boxes.way import reconstruct_boxes
from nesf.commands.identity import identity, made_by
from nesf.commands.parts import changed_options, options_with
from nesf.crystal import CrystalBatch
from nesf.data.made_by import MadeBy
from nesf.data.records import CellChoice
from nesf.device import resolve_device
from nesf.errors import InputError
from nesf.exact import exact_fields
from nesf.memory import keep_freed_memory
from nesf.ranks.environment import Ranks
from nesf.reconstruction.reconstruct import Reconstruction, ReconstructOptions, reconstruct
from nesf.reconstruction.settings_way import Choice, Part, choice_for


@dataclass(frozen=True)
class Run:
    """What every one of these commands is told.

    Attributes:
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of PyTorch's generator and of what is drawn.
        progress: show a progress bar.
    """

    batch_size: int
    device: str
    seed: int
    progress: bool

    def on(self, ranks: Ranks) -> Run:
        """The run of one rank: on a device of its own, and with a bar only where it speaks."""
        return replace(
            self, device=ranks.device(self.device), progress=self.progress and ranks.speaks
        )

    def load(self, model: str, boxes: bool = False) -> api.Model:
        """The model, seeded; with `boxes` in use on boxes of repeating crystals."""
        torch.manual_seed(self.seed)
        keep_freed_memory()
        loaded = api.load(model, self.device, self.batch_size)
        return loaded.of_boxes() if boxes else loaded


@dataclass(frozen=True)
class Way:
    """How crystals are taken from themselves back to themselves.

    Attributes:
        back: what becomes of a batch: positions of crystals in it, and what came back of them, as
            they are done. Each crystal comes once.
        model: which takes them there; None for exact fields.
        walls: they are boxes, without periodic images.
        why: without a model, tells for each crystal why it cannot be given back, or None.
        setting: the cells in which the model is given crystals.
        refines: it fits latents, which may take long.
        made_by: what crystals are that have gone it, for `nesf.data.made_by`.
    """

    back: Callable[[CrystalBatch], Iterator[Part]]
    model: api.Model | None = None
    walls: bool = False
    why: Callable[[CrystalBatch], list[str | None]] | None = None
    setting: Choice = "given"
    refines: bool = False
    made_by: MadeBy = field(default_factory=dict)

    def too_large(self, crystals: CrystalBatch) -> list[str | None]:
        """For each crystal, why it is too large for the model; None where it is not."""
        if self.model is None:
            return [None] * len(crystals)
        return self.model.too_large(crystals, self.setting)

    def refusals(self, crystals: CrystalBatch, asked: Sequence[bool]) -> list[str | None]:
        """For the crystals asked about, why they cannot be represented; None if nothing hinders."""
        why = self.model.refusals if self.model else self.why
        index = [i for i, one in enumerate(asked) if one]
        reasons: list[str | None] = [None] * len(crystals)
        if why is not None and index:
            for i, reason in zip(index, why(crystals.select(index)), strict=True):
                reasons[i] = reason
        return reasons


def model_way(
    run: Run,
    model: str,
    refine: int | None,
    changes: Mapping[str, Any],
    boxes: bool = False,
    setting: Choice = "best",
    cell: CellChoice = "as-given",
) -> Way:
    """Through a model's latents.

    Args:
        run: where and how.
        model: a run folder, a checkpoint or a shipped name.
        refine: steps of fitting a latent to its crystal, at most; None as the model can.
        changes: of the model's reconstruction options.
        boxes: the crystals are boxes; a model without walls is given what they repeat.
        setting: the cells in which the model is given crystals, as of `Model.reconstruct`.
        cell: in which crystals are read.

    Raises:
        InputError: the model cannot be refined, has no such options, or takes boxes as they are.
    """
    loaded = run.load(model, boxes)
    known = identity(model, loaded)
    steps = loaded.refinement(refine).steps  # refuses what cannot be refined
    options = changed_options(loaded, changes)
    walls = boxes or getattr(loaded.module, "walls", False)
    choice = choice_for(setting, walls)

    def back(crystals: CrystalBatch) -> Iterator[Part]:
        if walls:
            return loaded.iter_reconstruct(crystals, options, refine)
        return loaded.iter_reconstruct(crystals, options, refine, choice)

    told = {"refine": steps, "setting": choice, "cell": cell, "boxes": boxes or None}
    made = {**made_by("reconstruct", run.seed, changes, told), **known}
    return Way(back, loaded, walls, setting=choice, refines=steps > 0, made_by=made)


def exact_way(
    run: Run,
    periodic: bool,
    changes: Mapping[str, Any],
    boxes: bool = False,
    cell: CellChoice = "as-given",
) -> Way:
    """Through the crystals' own exact fields.

    Args:
        run: where and how.
        periodic: the fields point to nearest periodic images, not to atoms of the cell.
        changes: of the default reconstruction options.
        boxes: the crystals are boxes, and the fields those of what they repeat.
        cell: in which crystals are read.

    Raises:
        InputError: there is no such device, or a change is out of its range.
    """
    device = resolve_device(run.device)
    options = options_with(ReconstructOptions(), changes)
    if boxes and options.walls:
        raise InputError("what boxes repeat has no walls; give either --boxes or --walls true")

    def back(crystals: CrystalBatch) -> Reconstruction:
        fields = exact_fields(crystals.to(device), periodic)
        generator = torch.Generator().manual_seed(run.seed)
        return reconstruct(fields, options, crystals.ids, generator)

    told = {"field": "exact", "periodic": periodic, "cell": cell, "boxes": boxes or None}
    made = made_by("reconstruct", run.seed, changes, told)
    if boxes:
        return Way(
            at_once(lambda given: reconstruct_boxes(given, back)),
            walls=True,
            why=lambda given: list(find_repeats(given).reasons),
            made_by=made,
        )
    return Way(at_once(back), walls=options.walls, made_by=made)


def at_once(
    back: Callable[[CrystalBatch], Reconstruction],
) -> Callable[[CrystalBatch], Iterator[Part]]:
    """What takes a whole batch there and back, for `Way`."""
    return lambda crystals: iter([(torch.arange(len(crystals)), back(crystals))])
