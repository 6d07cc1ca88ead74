"""Extended XYZ: frames of a line with the atom count, a line of key=value pairs, and the atoms."""

from __future__ import annotations

import json
import re

import numpy as np

from nesf.data.checks import check_lattice
from nesf.data.parsed import Sites, atomic_numbers
from nesf.errors import InputError

# each start is tried once and each value read once, so that no line takes quadratic time
_PAIR = re.compile(
    r"""(?<![\w.\-/])([A-Za-z_][\w.\-/]*+)\s*+=\s*+"""
    r"""("(?:\\.|[^"\\])*"|'[^']*'|\{[^{}]*\}|[^\s"'{]\S*)"""
)
_COLUMN_TYPES = "SRIL"  # string, real, integer, logical
_TRUE = {"T", "t", "true", "True", "TRUE", "1"}


def comment_pairs(line: str) -> dict[str, str]:
    """The key=value pairs of a frame's second line; values may be quoted or in braces."""
    return {key: _bare(value) for key, value in _PAIR.findall(line)}


def parse_frame(text: str) -> Sites:
    """Read one frame.

    The comment line must give `Lattice` (nine numbers, cell vector after cell vector, Å) and may
    give `Properties` (by default species and positions) and `pbc`.

    Raises:
        InputError: it cannot be read, or is not periodic in three directions.
    """
    lines = text.split("\n")
    pairs = {key.lower(): value for key, value in comment_pairs(lines[1]).items()}
    if "lattice" not in pairs:
        raise InputError('no Lattice="..." in the second line: not a crystal')
    lattice = _lattice(pairs["lattice"])
    if not set(pairs.get("pbc", "T T T").split()) <= _TRUE:
        raise InputError(f"not periodic in all three directions (pbc is {pairs['pbc'][:20]})")
    columns = _columns(pairs.get("properties", "species:S:1:pos:R:3"))
    named = [columns[name] for name in ("species", "z", "numbers") if name in columns]
    if "pos" not in columns or not named:
        raise InputError("Properties name no species or no pos")
    species: list[str | int] = []
    cart_coords = []
    first, species_column = columns["pos"], named[0]
    for number, line in enumerate(lines[2:], start=1):
        words = line.split()
        try:
            word = words[species_column]
            species.append(int(word) if word.isdecimal() else word)
            cart_coords.append([float(words[first + axis]) for axis in range(3)])
        except (IndexError, ValueError) as error:
            raise InputError(f"the line of atom {number} is not readable") from error
    notes: list[str] = []
    numbers = atomic_numbers(species, notes)
    cart = np.array(cart_coords, dtype=float).reshape(-1, 3)
    return Sites(lattice, numbers, np.linalg.solve(lattice.T, cart.T).T, notes)


def _lattice(text: str) -> np.ndarray:
    try:
        lattice = np.array([float(word) for word in text.replace(",", " ").split()]).reshape(3, 3)
    except ValueError as error:
        raise InputError(f"Lattice is not nine numbers ({text[:60]})") from error
    check_lattice(lattice)
    return lattice


def _columns(text: str) -> dict[str, int]:
    """The first column of each property, by lower-case name."""
    words = text.split(":")
    first, columns = 0, {}
    for name, kind, width in zip(words[0::3], words[1::3], words[2::3], strict=False):
        if kind not in _COLUMN_TYPES or not width.isdecimal():
            raise InputError(f"Properties are not readable ({text[:60]})")
        columns[name.lower()] = first
        first += int(width)
    return columns


def _bare(value: str) -> str:
    if value[0] == '"':
        try:
            return str(json.loads(value))  # as our writer quotes
        except ValueError:
            return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value[1:-1] if value[0] in "'{" else value
