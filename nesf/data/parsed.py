"""A crystal as a parser hands it on, and what parsers share: elements, notes, reasons."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from nesf.data.checks import only_species
from nesf.errors import InputError

_SPECIES = re.compile(r"\s*([A-Za-z]{1,3})\s*(?:\d*\.?\d*[+-]|[+-]\d*\.?\d*)?\s*")


@dataclass
class Sites:
    """An ordered crystal as arrays, and what was noted while reading it.

    Attributes:
        lattice: (3, 3) cell vectors as rows, Å.
        atomic_numbers: (N,) atomic numbers.
        frac_coords: (N, 3) fractional coordinates.
        notes: one line each.
    """

    lattice: np.ndarray
    atomic_numbers: np.ndarray
    frac_coords: np.ndarray
    notes: list[str] = field(default_factory=list)


def sites_of(structure: Any, notes: list[str]) -> Sites:
    """Arrays of a pymatgen Structure; charges are stripped with a note.

    Raises:
        InputError: a site is disordered or no element.
    """
    species = [str(only_species(site)) for site in structure]
    return Sites(
        np.array(structure.lattice.matrix, dtype=float),
        atomic_numbers(species, notes),
        np.array(structure.frac_coords, dtype=float).reshape(-1, 3),
        notes,
    )


def atomic_numbers(species: list[Any], notes: list[str]) -> np.ndarray:
    """Atomic numbers of symbols ("Fe", "Fe3+", "D") or of numbers.

    Args:
        species: one a site.
        notes: what was read as something else is added here, once a kind.

    Raises:
        InputError: something is no element.
    """
    numbers = []
    for name in species:
        number, note = _atomic_number(name)
        if note and note not in notes:
            notes.append(note)
        numbers.append(number)
    return np.array(numbers, dtype=int)


@lru_cache(maxsize=1024)
def _atomic_number(name: str | int) -> tuple[int, str | None]:
    from pymatgen.core import Element

    if isinstance(name, int) and not isinstance(name, bool):
        if not 1 <= name <= 118:
            raise InputError(f"no element has the atomic number {name}")
        return name, None
    match = _SPECIES.fullmatch(str(name))
    symbol = match.group(1).capitalize() if match else ""
    if symbol in ("D", "T"):
        return 1, f"{symbol} read as H"
    if not symbol or not Element.is_valid_symbol(symbol):
        raise InputError(f"{str(name)[:40]} is no element")
    note = None if str(name).strip().isalpha() else f"charge of {str(name).strip()} dropped"
    return Element(symbol).Z, note


def warning_notes(caught: list[warnings.WarningMessage]) -> list[str]:
    """What pymatgen warned about, one line each and each once."""
    notes: dict[str, None] = {}
    for warning in caught:
        text = str(warning.message)
        if issubclass(warning.category, (DeprecationWarning, FutureWarning)):
            continue
        if text.startswith("Issues encountered while parsing CIF"):
            continue  # the others once more
        notes.setdefault(" ".join(text.split())[:200])
    return list(notes)


def describe(error: BaseException) -> str:
    """One line about an exception of a library, for a reason in brackets."""
    text = " ".join(str(error).split())
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    if isinstance(error, (ZeroDivisionError, IndexError)) or not text:
        text = "it ends too early" if not isinstance(error, MemoryError) else "out of memory"
    if isinstance(error, MemoryError):
        raise error  # the worker is done for
    return text[:200]
