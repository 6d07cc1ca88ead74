"""The crystals to be scored, from files, rows or structures, by id."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.cells import LIMITS, Cell
from nesf.data.checks import check_structure
from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from nesf.data.records import Rejected, Row

    Source = str | Path | Iterable[str | Path | Row | tuple[str, Structure | None]]


def gather(
    source: Source, side: str, workers: int | None, progress: bool
) -> tuple[dict[str, Cell], dict[str, str], list[dict[str, Any]]]:
    """Bring files, rows and structures into one form.

    Args:
        source: see `eval.evaluate.evaluate`.
        side: "predicted" or "reference", for messages.
        workers: reading processes.
        progress: whether to show a progress bar.

    Returns:
        Cells by id; reasons by id where there is no cell; and all that was refused, with file and
        row.

    Raises:
        InputError: an id occurs twice, or a file cannot be read.
    """
    items: list[Any] = [source] if isinstance(source, str | Path) else list(source)
    paths = [item for item in items if isinstance(item, str | Path)]
    rejected: list[Rejected] = []
    if paths:
        from nesf.data.readers import read_crystals

        rows, rejected = read_crystals(paths, replace(LIMITS, workers=workers), progress)
        items = [item for item in items if not isinstance(item, str | Path)] + rows
    cells: dict[str, Cell] = {}
    reasons: dict[str, str] = {}
    for item in items:
        name, structure = item if isinstance(item, tuple) else (item.id, item.structure)
        # the reader gives a second crystal of one id a new name
        if name in cells or name in reasons or _was_renamed(item):
            where = getattr(item, "source", "the list")
            row = f", row {item.row}" if getattr(item, "row", None) else ""
            raise InputError(
                f"{where}{row}: an id that another of the {side} crystals has (here {name!r}); "
                "each id may occur once"
            )
        reason = _refusal(structure)
        if reason is None:
            cells[name] = Cell.from_structure(structure)
        else:
            reasons[name] = reason
    refused = [vars(item).copy() for item in rejected]
    refused += [
        {"source": None, "row": None, "id": name, "reason": why} for name, why in reasons.items()
    ]
    for item in rejected:
        if item.id is not None and item.id not in cells:
            reasons[item.id] = item.reason
    return cells, reasons, refused


def _was_renamed(item: Any) -> bool:
    return getattr(item, "renamed_from", None) is not None


def _refusal(structure: Structure | None) -> str | None:
    if structure is None:
        return "no prediction"
    try:
        check_structure(structure, LIMITS)
    except InputError as error:
        return str(error)
    return None
