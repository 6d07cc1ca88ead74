"""Generated crystals into files: decoded, checked, listed and drawn."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nesf import api
from nesf.atomic import atomic_write
from nesf.commands.identity import identity, made_by
from nesf.commands.parts import COLUMNS, NO_ATOMS, changed_options, progress_bar, structures_of
from nesf.commands.tally import Tally
from nesf.data.beside import beside
from nesf.data.made_by import MadeBy
from nesf.data.outputs import refuse_earlier
from nesf.data.records import Rejected
from nesf.data.writer_formats import CsvFormat
from nesf.data.writers import CrystalWriter, open_writer
from nesf.errors import InputError
from nesf.generation.wanted import Order, Picture, Wanted
from nesf.reconstruction.reconstruct import ReconstructOptions

if TYPE_CHECKING:
    from pymatgen.core import Structure

VALIDITY, STRIP = "validity.csv", "strip.png"


def generate(
    order: Callable[[api.Model], Order],
    model: str,
    output: str,
    resume: bool,
    overwrite: bool,
    picture: bool,
    batch_size: int,
    device: str,
    seed: int,
    progress: bool,
    changes: Mapping[str, Any],
    verb: str,
    asked: Mapping[str, Any],
) -> int:
    """Load a model, have crystals ordered of it, and make them.

    Args:
        order: says what is wanted of the loaded model.
        model: a run folder, a checkpoint or a shipped name.
        output: a folder or a table, as `open_writer` takes it.
        resume: go on after what is in the output.
        overwrite: replace what the output holds of an earlier run.
        picture: draw what the order wants to be shown.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of PyTorch's generator, where a model draws.
        progress: show a progress bar.
        changes: of the model's reconstruction options.
        verb: of the command.
        asked: its options that decide what the crystals become, for `nesf.data.made_by`; `like`
            counts where latents are drawn like those crystals'.

    Returns:
        The exit code: 0, or 1 if a crystal was rejected.
    """
    if not (resume or overwrite):
        refuse_earlier(output)  # at once, since orders may take long
    torch.manual_seed(seed)
    loaded = api.load(model, device, batch_size)
    made = {**made_by(verb, seed, changes, asked), **identity(model, loaded)}
    options = changed_options(loaded, changes)
    ordered = order(loaded)
    tally = Tally("generated", rejected=list(ordered.rejected))
    if not ordered.drawn_like:
        made.pop("like", None)
    run = Generation(loaded, output, tally, options, ordered.known, batch_size, overwrite, made)
    return run.run(ordered.wanted, ordered.picture if picture else None, resume, progress)


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
        overwrite: replace what the output holds of an earlier run.
        made_by: what makes the crystals.
        rows: of validity.csv, by id.
        shown: the generated crystals that the picture wants, by id.
    """

    model: api.Model
    output: str
    tally: Tally
    options: ReconstructOptions | None = None
    known: Set[str] | None = None
    batch_size: int = 128
    overwrite: bool = False
    made_by: MadeBy | None = None
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
        options = (resume, COLUMNS, self.overwrite, self.made_by)
        with open_writer(self.output, *options) as writer:
            table = beside(self.output, VALIDITY)
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
            self._draw(picture, beside(self.output, STRIP))
        print(validity.summary([self.rows[one.id] for one in wanted]))
        return self.tally.finish(self.output)

    def _generate(self, part: Sequence[Wanted], writer: CrystalWriter, shown: Set[str]) -> None:
        """One batch; those without a latent fail, and count."""
        from eval.cells import Cell
        from eval.validity import check_validity

        latents = [one.latent for one in part if one.latent is not None]
        found = self.model.decode_crystals(torch.stack(latents), self.options) if latents else None
        crystals = iter(()) if found is None else structures_of(found)
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
