"""Generated crystals into files: decoded, checked, listed and drawn."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from nesf import api
from nesf.atomic import atomic_write
from nesf.command_parts import COLUMNS, NO_ATOMS, progress_bar
from nesf.data.records import Rejected
from nesf.data.writer_formats import CsvFormat
from nesf.data.writers import CrystalWriter, open_writer
from nesf.errors import InputError
from nesf.reconstruct import Reconstruction, ReconstructOptions
from nesf.tally import Tally, rejected_path

if TYPE_CHECKING:
    from pymatgen.core import Structure

VALIDITY, STRIP = "validity.csv", "strip.png"


@dataclass(frozen=True)
class Wanted:
    """One crystal to generate.

    Attributes:
        id: of the crystal to be.
        latent: (L,) what it is decoded from; None where there is none.
        source: where the latent is from, for the list of what was rejected.
        row: its row there.
        reason: why there is no latent.
    """

    id: str
    latent: Float[Tensor, " l"] | None
    source: str
    row: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Picture:
    """What the picture strip shows.

    Attributes:
        panels: in reading order, the label of a panel and its crystal: a generated one's id, or
            a given Structure.
        columns: panels in a row.
    """

    panels: Sequence[tuple[str, str | Structure]]
    columns: int

    @property
    def ids(self) -> frozenset[str]:
        """Of the generated crystals in it."""
        return frozenset(crystal for _, crystal in self.panels if isinstance(crystal, str))


@dataclass
class Generation:
    """One run of a generating command: what it was asked for, and what has come of it so far.

    Attributes:
        model: decodes the latents.
        output: a folder or a table, as `open_writer` takes it.
        tally: what became of the crystals.
        options: of the reconstruction, instead of the model's own.
        known: reduced formulas of known crystals, if any were given.
        batch_size: crystals at once.
        rows: of validity.csv, by id.
        shown: the generated crystals that the picture wants, by id.
    """

    model: api.Model
    output: str
    tally: Tally
    options: ReconstructOptions | None = None
    known: Set[str] | None = None
    batch_size: int = 128
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    shown: dict[str, Structure] = field(default_factory=dict)

    def run(
        self,
        wanted: Sequence[Wanted],
        picture: Picture | None = None,
        resume: bool = False,
        progress: bool = True,
    ) -> int:
        """Decode, write and check the wanted crystals, and tell how they are.

        What was written in an earlier run is decoded again only where its row in validity.csv was
        lost with the interrupt, or where the picture needs it.

        Args:
            wanted: crystals with unique ids.
            picture: what to draw, if anything.
            resume: go on after what is in the output.
            progress: show a progress bar.

        Returns:
            The exit code: 0, or 1 if a crystal was rejected.
        """
        from eval import validity

        shown = picture.ids if picture else frozenset()
        with open_writer(self.output, resume, COLUMNS) as writer:
            table = rejected_path(self.output).with_name(VALIDITY)
            self.rows = self._earlier_rows(table) if resume else {}
            done = writer.done
            self.tally.skipped = sum(one.id in done for one in wanted)
            todo = [w for w in wanted if not (w.id in done and w.id in self.rows) or w.id in shown]
            with progress_bar("generating", progress) as bar:
                for part in _parts(todo, self.batch_size):
                    self._generate(part, writer, shown)
                    _write_rows(table, list(self.rows.values()))
                    bar.update(len(part))
        if picture and picture.panels:
            self._draw(picture, table.with_name(STRIP))
        print(validity.summary([self.rows[one.id] for one in wanted]))
        return self.tally.finish(self.output)

    def _generate(self, part: Sequence[Wanted], writer: CrystalWriter, shown: Set[str]) -> None:
        """One batch; those without a latent fail, and count."""
        from eval.cells import Cell
        from eval.validity import check_validity

        latents = [one.latent for one in part if one.latent is not None]
        found = self.model.decode_crystals(torch.stack(latents), self.options) if latents else None
        crystals = _crystals(found)
        for one in part:
            structure, info = (None, {}) if one.latent is None else next(crystals)
            if not structure:
                said = one.reason or NO_ATOMS
                self.tally.rejected.append(Rejected(one.source, one.row, one.id, said))
            elif one.id not in writer.done:
                writer.write(one.id, structure, info)
                self.tally.done += 1
            cell = Cell.from_structure(structure) if structure else None
            self.rows[one.id] = {"id": one.id, **check_validity(cell, self.known).row()}
            if structure and one.id in shown:
                self.shown[one.id] = structure

    def _earlier_rows(self, path: Path) -> dict[str, dict[str, Any]]:
        """Rows of an interrupted run, which may have been asked for other known formulas."""
        rows = _read_rows(path)
        for row in rows.values():
            known = None if self.known is None else row["formula"] in self.known
            row["known_formula"] = None if known is None else str(known).lower()
        return rows

    def _draw(self, picture: Picture, path: Path) -> None:
        from eval.cells import Cell
        from eval.strip import Panel, draw_strip
        from eval.validity import check_validity, faults

        panels = []
        for label, crystal in picture.panels:
            if isinstance(crystal, str):
                structure, row = self.shown.get(crystal), self.rows[crystal]
            else:
                structure, row = crystal, None
            cell = Cell.from_structure(structure) if structure else None
            said = row or check_validity(cell).row()
            panels.append(Panel(cell, label, faults(said), framed=row is None))
        draw_strip(path, panels, picture.columns)


def _crystals(found: Reconstruction | None) -> Iterator[tuple[Structure, dict[str, Any]]]:
    """Structures with what a written crystal says of its reconstruction."""
    if found is None:
        return
    agrees = None if found.count_agrees is None else found.count_agrees.tolist()
    confidence = found.confidence.tolist()
    for i, structure in enumerate(found.crystals.to_structures()):
        said = "" if agrees is None else str(agrees[i]).lower()
        yield structure, dict(zip(COLUMNS, (round(confidence[i], 4), said), strict=True))


def _parts(wanted: Sequence[Wanted], size: int) -> Iterator[Sequence[Wanted]]:
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]


def _read_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of an earlier run by id; none if there was none."""
    from eval.validity import Validity

    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}); give another output") from error
    if any(set(row) != {"id", *Validity.columns()} for row in rows):
        raise InputError(f"{path} is not from this command; give another output")
    return {row["id"]: dict(row) for row in rows}


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    from eval.validity import Validity

    columns = Validity.columns()
    table = CsvFormat(("id",), columns)
    lines = [table.fields([row["id"]], {name: row[name] for name in columns}) for row in rows]
    text = "".join([table.begin([]), *lines])
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", errors="surrogateescape"))
