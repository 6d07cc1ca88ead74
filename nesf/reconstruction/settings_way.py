"""Crystals there and back as given, in their primitive cells, or in whichever gives them back best.

What comes back is compared with what was given, as the refinement of latents does: the crystals
are known here, and the cell in which one is written is a part of the answer, like its latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nesf.crystal import CrystalBatch, standardised
from nesf.errors import InputError
from nesf.reconstruction.reconstruct import Reconstruction, join_reconstructions
from nesf.reconstruction.settings import primitive_cells
from nesf.refinement.refine import Judge

Setting = Literal["given", "primitive"]
Choice = Literal["given", "primitive", "best"]
# positions (K,) of crystals, and what came back of them
Part = tuple[Int[Tensor, " k"], Reconstruction]
KnownPart = tuple[Int[Tensor, " k"], "KnownReconstruction"]
# takes crystals there and back, with what tells how near to the given ones they have come, and
# gives each of them once, as they are done
Back = Callable[[CrystalBatch, Judge], Iterator[Part]]
FaultsOf = Callable[[CrystalBatch, CrystalBatch], Tensor]  # of found and true crystals, (B,)

# a cell of more atoms takes long as it is, and a smaller one with the same crystal does not
PRIMITIVE_FIRST = 12


@dataclass(frozen=True)
class KnownReconstruction(Reconstruction):
    """Crystals that came back, and how they compare with those that were given.

    Attributes:
        faults: (B,) what is wrong with each, see `nesf.scoring.count_faults`; 0 where it is the
            crystal itself.
        settings: for each, whether it went through the model in the cell given or in its
            primitive one.
    """

    faults: Int[Tensor, " b"]
    settings: tuple[Setting, ...]

    @staticmethod
    def of(
        found: Reconstruction,
        ids: Sequence[str],
        faults: Int[Tensor, " b"],
        settings: Sequence[Setting],
    ) -> KnownReconstruction:
        """What was found of B crystals with these ids, and how it compares with them."""
        return KnownReconstruction(
            found.crystals.replace(ids=tuple(ids)),
            found.site_spread,
            found.site_size,
            found.count_agrees,
            found.confidence,
            faults,
            tuple(settings),
        )

    def select(self, index: Int[Tensor, " k"]) -> KnownReconstruction:
        """Those at the positions `index`, in that order."""
        some = vars(super().select(index))
        settings = tuple(self.settings[i] for i in index.tolist())
        return KnownReconstruction(**some, faults=self.faults[index], settings=settings)


def reconstruct_in(
    choice: Choice,
    crystals: CrystalBatch,
    back: Back,
    faults_of: FaultsOf,
    max_atoms: int | None = None,
    retry: bool = True,
) -> Iterator[KnownPart]:
    """Give crystals back through whatever gives back what is written well.

    Args:
        choice: `given`: in the cells given; `primitive`: in the primitive cell wherever there is
            one (`nesf.reconstruction.settings`); `best`: in the cells given, and then those with
            faults in their primitive cells, of which that with fewer faults is kept; the other way
            round where a cell of more than `PRIMITIVE_FIRST` atoms has a smaller primitive one.
        crystals: B crystals, none of them larger than `back` can take in the cells chosen.
        back: takes crystals there and back. What it is to judge its results by counts their faults
            in the cells given: errors of a small cell add up in a large one.
        faults_of: counts what is wrong with crystals that came back.
        max_atoms: `best` takes larger cells to their primitive ones at once.
        retry: `best` tries those with faults again; otherwise only those that are too large go
            through their primitive cells.

    Yields:
        Positions (K,) of crystals that nothing more is done with, and the best that came back of
        them, ids kept. Each crystal comes once, those that keep faults last.
    """
    tried = _Tried(crystals, back, faults_of)
    everything = torch.arange(len(crystals), device=crystals.device)
    if choice == "primitive":
        yield from tried.primitive(everything)
        yield from tried.given((tried.place < 0).nonzero().squeeze(-1))
    elif choice == "given":
        yield from tried.given(everything)
    else:
        large = _larger(crystals, max_atoms)
        first = large | _reducible(crystals) if retry else large
        yield from tried.primitive(first.nonzero().squeeze(-1))
        yield from tried.given((~large & (tried.faults > 0)).nonzero().squeeze(-1))
        if retry:
            yield from tried.primitive((~first & (tried.faults > 0)).nonzero().squeeze(-1))
    yield from tried.rest()


def join_known(parts: Iterable[KnownPart]) -> KnownReconstruction:
    """What came back of all crystals, in their order.

    Args:
        parts: of a `reconstruct_in` that has at least one crystal.
    """
    rows, known = zip(*parts, strict=True)
    order = torch.cat(rows).argsort()
    found = join_reconstructions(known)
    ids = [name for one in known for name in one.crystals.ids]
    faults = torch.cat([one.faults for one in known])
    settings = [setting for one in known for setting in one.settings]
    return KnownReconstruction.of(found, ids, faults, settings).select(order)


def settings_of(found: Reconstruction) -> tuple[Setting, ...]:
    """The cells through which crystals came back; given ones where nobody chose."""
    if isinstance(found, KnownReconstruction):
        return found.settings
    return tuple[Setting, ...]("given" for _ in found.crystals.ids)


def too_large(choice: Choice, crystals: CrystalBatch, max_atoms: int | None) -> list[str | None]:
    """For each crystal, why a model for up to `max_atoms` atoms cannot take it; None where it can.

    Args:
        choice: the cells in which it may be taken, as of `reconstruct_in`.
        crystals: B crystals.
        max_atoms: of the model; None if it sets no limit.
    """
    reasons: list[str | None] = [None] * len(crystals)
    large = _larger(crystals, max_atoms).nonzero().squeeze(-1)
    if not len(large):
        return reasons
    atoms, told = crystals.num_atoms.tolist(), ""
    smaller: dict[int, int] = {}  # atoms of primitive cells
    if choice != "given":
        cells = primitive_cells(crystals.select(large))
        smaller = dict(
            zip(large[cells.index].tolist(), cells.crystals.num_atoms.tolist(), strict=True)
        )
    for i in large.tolist():
        least = smaller.get(i, atoms[i])
        if least > max_atoms:  # type: ignore[operator]
            told = f", and {least} in its primitive cell," if least < atoms[i] else ""
            reasons[i] = (
                f"{atoms[i]} atoms in the cell{told} are more than the {max_atoms} that this model "
                "can give back; take a smaller cell of the crystal, or a model for larger ones"
            )
    return reasons


def refuse_large(choice: Choice, crystals: CrystalBatch, max_atoms: int | None) -> None:
    """Refuse crystals of which one is `too_large`.

    Raises:
        InputError: with the first of them and the reason.
    """
    for name, reason in zip(crystals.ids, too_large(choice, crystals, max_atoms), strict=True):
        if reason is not None:
            raise InputError(f"crystal {name}: {reason}")


def choice_for(setting: str, walls: bool) -> Choice:
    """What is chosen for a model; one of boxes, whose faces are walls, takes them as given.

    Raises:
        InputError: there is no such choice, or not for boxes.
    """
    if setting not in get_args(Choice):
        raise InputError(f"setting is {setting!r}; choose given, primitive or best")
    if walls and setting == "primitive":
        raise InputError("a box has no primitive cell; leave setting out")
    return "given" if walls else cast(Choice, setting)


def _larger(crystals: CrystalBatch, max_atoms: int | None) -> Bool[Tensor, " b"]:
    atoms = crystals.num_atoms
    return atoms > max_atoms if max_atoms is not None else torch.zeros_like(atoms, dtype=torch.bool)


def _reducible(crystals: CrystalBatch) -> Bool[Tensor, " b"]:
    """Whether a cell of more than `PRIMITIVE_FIRST` atoms has a smaller primitive one."""
    reducible = crystals.num_atoms > PRIMITIVE_FIRST
    index = reducible.nonzero().squeeze(-1)
    if len(index):
        cells = primitive_cells(crystals.select(index))
        index = index[cells.index]
        reducible = torch.zeros_like(reducible)
        reducible[index] = cells.crystals.num_atoms < crystals.num_atoms[index]
    return reducible


class _Tried:
    """What has come of B crystals so far: all that was found, and which of it is the best.

    Attributes:
        faults: (B,) of the best of each.
        place: (B,) of that in all that was found; -1 where nothing was tried.
    """

    def __init__(self, crystals: CrystalBatch, back: Back, faults_of: FaultsOf) -> None:
        self.crystals, self.back, self.faults_of = crystals, back, faults_of
        self.true = standardised(crystals)
        count, device = len(crystals), crystals.device
        most = torch.iinfo(torch.long).max
        self.faults = torch.full((count,), most, device=device)
        self.place = torch.full((count,), -1, device=device)
        self._settings: list[Setting] = ["given"] * count
        self._found: list[Reconstruction] = []

    def given(self, index: Int[Tensor, " k"]) -> Iterator[KnownPart]:
        """Take some of the crystals there and back as they are; those without faults are done."""
        if not len(index):
            return

        def judge(found: Reconstruction, rows: Tensor) -> Tensor:
            return self._faults(found, index[rows])

        for rows, found in self.back(self.crystals.select(index), judge):
            yield from self._keep(index[rows], found, "given")

    def primitive(self, index: Int[Tensor, " k"]) -> Iterator[KnownPart]:
        """Likewise those of some crystals that have a primitive cell of their own, through that."""
        if not len(index):
            return
        cells = primitive_cells(self.crystals.select(index))
        index = index[cells.index]
        if not len(index):
            return

        def judge(found: Reconstruction, rows: Tensor) -> Tensor:
            return self._faults(cells.select(rows).back(found), index[rows])

        for rows, found in self.back(cells.crystals, judge):
            yield from self._keep(index[rows], cells.select(rows).back(found), "primitive")

    def rest(self) -> Iterator[KnownPart]:
        """The best of those that are left."""
        index = (self.faults > 0).nonzero().squeeze(-1)
        if len(index):
            found = join_reconstructions(self._found).select(self.place[index])
            yield index, self._known(index, found)

    def _faults(self, found: Reconstruction, index: Int[Tensor, " k"]) -> Int[Tensor, " k"]:
        return self.faults_of(found.crystals, self.true.select(index))

    def _keep(
        self, index: Int[Tensor, " k"], new: Reconstruction, setting: Setting
    ) -> Iterator[KnownPart]:
        wrong = self._faults(new, index)
        better = wrong < self.faults[index]
        before = sum(len(one.crystals) for one in self._found)
        self.place[index[better]] = before + better.nonzero().squeeze(-1)
        self.faults[index[better]] = wrong[better]
        for i in index[better].tolist():
            self._settings[i] = setting
        self._found.append(new)
        done = (wrong == 0).nonzero().squeeze(-1)
        if len(done):
            yield index[done], self._known(index[done], new.select(done))

    def _known(self, index: Int[Tensor, " k"], found: Reconstruction) -> KnownReconstruction:
        rows = index.tolist()
        ids = [self.crystals.ids[i] for i in rows]
        settings = [self._settings[i] for i in rows]
        return KnownReconstruction.of(found, ids, self.faults[index], settings)
