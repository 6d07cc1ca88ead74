"""Text or plain lists of one crystal to checked arrays: what the worker processes run.

Formats other than CIF and POSCAR are read here without pymatgen's `from_dict`, which imports and
calls whatever class a file names.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from nesf.data.checks import check_lattice, check_sites, only_species
from nesf.data.records import ReadOptions
from nesf.errors import InputError

SYMPREC = 0.01  # Å, pymatgen's usual tolerance for computed cells
_MINUS_SIGNS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"))
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


def parse(payload: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Parse and check one crystal.

    Args:
        payload: {"cif" | "poscar" | "extxyz": text}, {"structure": pymatgen's dict, or its JSON
            text} or {"lattice", "species", and "cart" or "frac"} with plain lists, or their JSON.
        config: the fields of `ReadOptions`.

    Returns:
        {"lattice", "numbers", "frac", "notes"} as lists.

    Raises:
        InputError: the crystal is unreadable or refused, with the reason.
    """
    options = ReadOptions(**config)
    sites = _read(payload, options)
    if options.cell != "as-given":
        anything = replace(options, max_atoms=sys.maxsize)
        check_sites(sites.lattice, sites.atomic_numbers, sites.frac_coords, anything)
        sites = standard_cell(sites, options)
    check_sites(sites.lattice, sites.atomic_numbers, sites.frac_coords, options)
    return {
        "lattice": sites.lattice.tolist(),
        "numbers": sites.atomic_numbers.tolist(),
        "frac": sites.frac_coords.tolist(),
        "notes": sites.notes,
    }


def _read(payload: dict[str, Any], options: ReadOptions) -> Sites:
    if "cif" in payload:
        from nesf.data.cif import parse_cif

        return parse_cif(plain_text(payload["cif"]), options)
    if "poscar" in payload:
        return parse_poscar(plain_text(payload["poscar"]), options)
    if "extxyz" in payload:
        from nesf.data.extxyz import parse_frame

        return parse_frame(plain_text(payload["extxyz"]))
    if "structure" in payload:
        return parse_structure_dict(payload["structure"])
    return parse_lists(payload)


def plain_text(text: str) -> str:
    """Text without byte order mark, carriage returns and typographic minus signs.

    Raises:
        InputError: it is empty, binary or a web page.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise InputError("empty")
    if "\0" in text:
        raise InputError("holds NUL bytes: binary, not text")
    if re.match(r"\s*<(!doctype|html|\?xml|head|body)", text, re.IGNORECASE):
        raise InputError("a web page, not a crystal")
    # pymatgen drops what is not ASCII, and with it the sign of the number
    return text.translate(_MINUS_SIGNS)


def parse_poscar(text: str, options: ReadOptions) -> Sites:
    """Read a POSCAR with pymatgen; a file that names no elements is refused.

    Raises:
        InputError: it cannot be read.
    """
    from pymatgen.io.vasp.inputs import BadPoscarWarning, Poscar

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            structure = Poscar.from_str(text, read_velocities=False).structure
        except Exception as error:
            raise InputError(f"not a readable POSCAR ({describe(error)})") from error
    if any(
        issubclass(w.category, BadPoscarWarning) and "cannot be determined" in str(w.message)
        for w in caught
    ):
        raise InputError("the POSCAR names no elements; add their line above the counts")
    return sites_of(structure, warning_notes(caught))


def parse_structure_dict(data: Any) -> Sites:
    """Read what `pymatgen.core.Structure.as_dict` writes (a dict, or its JSON text).

    Raises:
        InputError: it is something else.
    """
    try:
        if isinstance(data, str):
            data = json.loads(data)
        lattice = _matrix(data["lattice"]["matrix"])
        check_lattice(lattice)
        species, frac, cart = [], [], []
        for site in data["sites"]:
            species.append(_only_species(site["species"]))
            if "abc" in site:
                frac.append(site["abc"])
            else:
                cart.append(site["xyz"])
        if frac and cart:
            raise InputError("some sites have fractional coordinates (abc) and some have not")
        notes: list[str] = []
        return Sites(
            lattice,
            atomic_numbers(species, notes),
            _coords(frac, len(species)) if frac else _fractions(cart, len(species), lattice),
            notes,
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"not a pymatgen Structure ({describe(error)})") from error


def parse_lists(payload: dict[str, Any]) -> Sites:
    """Read plain lists: lattice vectors, species names, and Cartesian or fractional coordinates.

    Raises:
        InputError: a list is missing or of the wrong shape.
    """
    try:
        lattice = _matrix(_unquoted(payload["lattice"]))
        check_lattice(lattice)
        species = _unquoted(payload["species"])
        if not isinstance(species, list):
            raise InputError("the species are no list")
        if "frac" in payload:
            frac = _coords(_unquoted(payload["frac"]), len(species))
        else:
            frac = _fractions(_unquoted(payload["cart"]), len(species), lattice)
        notes: list[str] = []
        return Sites(lattice, atomic_numbers(species, notes), frac, notes)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"lattice vectors, positions and species do not fit together ({describe(error)})"
        ) from error


def standard_cell(sites: Sites, options: ReadOptions) -> Sites:
    """The standardised conventional or primitive cell, by moyopy.

    Raises:
        InputError: no symmetry could be found.
    """
    from moyopy import Cell, MoyoDataset

    cell = Cell(sites.lattice.tolist(), sites.frac_coords.tolist(), sites.atomic_numbers.tolist())
    try:
        dataset = MoyoDataset(cell, symprec=SYMPREC)
    except ValueError as error:
        raise InputError(f"no {options.cell} cell was found ({describe(error)})") from error
    found = dataset.std_cell if options.cell == "conventional" else dataset.prim_std_cell
    return Sites(
        np.asarray(found.basis, dtype=float),
        np.asarray(found.numbers, dtype=int),
        np.asarray(found.positions, dtype=float).reshape(-1, 3),
        [*sites.notes, f"{options.cell} cell of space group {dataset.number}"],
    )


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


def _only_species(shares: list[dict[str, Any]]) -> str:
    names = "/".join(str(share["element"]) for share in shares)
    if len(shares) != 1 or abs(float(shares[0]["occu"]) - 1) > 1e-8:
        occupancies = "/".join(f"{float(share['occu']):g}" for share in shares)
        raise InputError(f"disordered site {names} {occupancies}")
    return names


def _unquoted(value: Any) -> Any:
    """A list that a table holds as its text."""
    return json.loads(value.replace("'", '"')) if isinstance(value, str) else value


def _matrix(value: Any) -> np.ndarray:
    return np.asarray(value, dtype=float).reshape(3, 3)


def _coords(value: Any, count: int) -> np.ndarray:
    return np.asarray(value, dtype=float).reshape(count, 3)


def _fractions(cart_coords: Any, count: int, lattice: np.ndarray) -> np.ndarray:
    return np.linalg.solve(lattice.T, _coords(cart_coords, count).T).T
