"""Text or plain lists of one crystal to checked arrays: what the worker processes run.

Formats other than CIF and POSCAR are read here without pymatgen's `from_dict`, which imports and
calls whatever class a file names.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from nesf.data.checks import check_lattice, check_sites
from nesf.data.parsed import Sites, atomic_numbers, describe, sites_of, warning_notes
from nesf.data.records import ReadOptions
from nesf.errors import InputError

SYMPREC = 0.01  # Å, pymatgen's usual tolerance for computed cells
_MINUS_SIGNS = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d", "-"))


def parse(payload: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Parse and check one crystal.

    Args:
        payload: {"cif" | "poscar" | "extxyz": text}, {"structure": pymatgen's dict, or its JSON
            text} or {"lattice", "species", and "cart" or "frac"} with plain lists, or their JSON;
            "periodic" beside it is false for a box (`nesf.boxes`).
        config: the fields of `ReadOptions`.

    Returns:
        {"lattice", "numbers", "frac", "notes"} as lists.

    Raises:
        InputError: the crystal is unreadable or refused, with the reason.
    """
    options = ReadOptions(**config)
    sites = _read(payload, options)
    periodic = payload.get("periodic", True)
    if options.cell != "as-given":
        if not periodic:
            raise InputError(f"a box has no {options.cell} cell; read it with the cell as-given")
        anything = replace(options, max_atoms=sys.maxsize)
        check_sites(sites.lattice, sites.atomic_numbers, sites.frac_coords, anything)
        sites = standard_cell(sites, options)
    check_sites(sites.lattice, sites.atomic_numbers, sites.frac_coords, options, periodic)
    # axes (a, b, c) that are left-handed are read as (-a, -b, -c): the crystal stays where it is
    hand = -1.0 if periodic and np.linalg.det(sites.lattice) < 0 else 1.0
    return {
        "lattice": (hand * sites.lattice).tolist(),
        "numbers": sites.atomic_numbers.tolist(),
        "frac": (hand * sites.frac_coords).tolist(),
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
