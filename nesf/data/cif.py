"""CIF text to sites: pymatgen parses it, and the raw loops tell what pymatgen hides.

pymatgen drops sites with an occupancy of 0 or less, reads a length of -4 as 4 and a coordinate of
1e300 as 0, sorts sites by electronegativity and reads only the last of two blocks with one name.
Here each block is parsed alone, raw values are checked first, and sites are brought back into the
file's order. Coordinates come wrapped into [0, 1), as pymatgen gives them.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nesf.data.checks import MAX_FRAC_COORD, check_angle, check_lattice, check_length, nearest_pair
from nesf.data.cif_blocks import BLOCK, defuse_text_fields
from nesf.data.elements import numbers_by_symbol
from nesf.data.parsed import Sites, describe, sites_of, warning_notes
from nesf.data.records import ReadOptions
from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

_COORDINATES = ("_atom_site_fract_x", "_atom_site_fract_y", "_atom_site_fract_z")
_CELL = (
    *(f"_cell_length_{axis}" for axis in "abc"),
    *(f"_cell_angle_{name}" for name in ("alpha", "beta", "gamma")),
)
_CRYSTAL_SYSTEMS = ("_symmetry_cell_setting", "_space_group_crystal_system")
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_FORMULA_PART = re.compile(r"([A-Z][a-z]?)(\d*\.?\d*)")
# for files whose special positions are given to four digits
_ROUNDED_SITE_TOLERANCE, _ROUNDED_FRAC_TOLERANCE = 1e-3, 1e-4
# what a note says instead of pymatgen's words; None where there is nothing to say
_PLAIN_NOTES = {
    "No _symmetry_equiv_pos_as_xyz type key found. Defaulting to P1.": (
        "no usable symmetry operations: read as P1"
    ),
    "A 1-line symmetry op P1 CIF is detected!": None,
    "Cannot determine chemical composition from CIF! 'NoneType' object is not iterable": None,
}


def parse_cif(text: str, options: ReadOptions) -> Sites:
    """Read one data block.

    Args:
        text: the block, cleaned by `plain_text`.
        options: `max_atoms` and `min_distance` save pymatgen's slow path from hopeless cells.

    Raises:
        InputError: it cannot be read, or a value that pymatgen lets pass is wrong.
    """
    from pymatgen.io.cif import CifFile

    if not BLOCK.search(text):
        raise InputError("no data_ block: not a CIF")
    text = defuse_text_fields(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            blocks = list(CifFile.from_str(text).data.values())
        except Exception as error:
            raise InputError(f"not a readable CIF ({_reason(error)})") from error
        if not blocks:
            raise InputError("the data block holds no crystal")
        data = blocks[0].data
        raw = _check_raw(data, options)
        if (sites := _read_p1(data, raw, options)) is not None:
            return sites
        structure, rounded = _parse(text, raw, options)
    notes = [_PLAIN_NOTES.get(note, note) for note in warning_notes(caught)]
    if rounded:
        notes.append("rounded special positions were brought together")
    order = _check_complete(structure, raw.labels)
    sites = sites_of(structure, [*_symbol_notes(data), *filter(None, notes)])
    sites.atomic_numbers, sites.frac_coords = sites.atomic_numbers[order], sites.frac_coords[order]
    return sites


@dataclass(frozen=True)
class _Raw:
    """The atom loop as it stands in the file, checked.

    Attributes:
        labels: one a row.
        frac_coords: (rows, 3) as written.
        is_full: no site is partly occupied.
        lattice: (3, 3) Å; None if the file leaves lengths or angles to its crystal system.
    """

    labels: list[str]
    frac_coords: np.ndarray
    is_full: bool
    lattice: np.ndarray | None


def _check_raw(data: dict[str, Any], options: ReadOptions) -> _Raw:
    """Refuse raw values that pymatgen accepts, mends or drops."""
    parameters = [_number(data, key) for key in _CELL]
    for key, value in zip(_CELL, parameters, strict=True):
        name = key.rsplit("_", 1)[1]
        if value is not None:
            (check_length if len(name) == 1 else check_angle)(name, value)
        elif not any(system in data for system in _CRYSTAL_SYSTEMS):
            raise InputError(f"{key} is missing")
    for key in ("_atom_site_label", *_COORDINATES):
        if key not in data:
            raise InputError(f"{key} is missing")
        if not isinstance(data[key], list):
            raise InputError(f"{key} is not in a loop_")
    labels = data["_atom_site_label"]
    if options.cell != "primitive" and len(labels) > options.max_atoms:
        raise InputError(
            f"{len(labels)} atoms in the cell, more than the {options.max_atoms} allowed"
        )
    coordinates = [_coordinates(data, key, labels) for key in _COORDINATES]
    is_full = _check_occupancies(data, labels)
    lattice = None if None in parameters else _lattice(parameters)
    return _Raw(labels, np.array(coordinates).T.reshape(-1, 3), is_full, lattice)


def _lattice(parameters: list[float | None]) -> np.ndarray:
    from pymatgen.core import Lattice

    try:
        lattice = Lattice.from_parameters(*parameters).matrix  # type: ignore[arg-type]
    except (ValueError, ZeroDivisionError) as error:
        raise InputError("the cell angles close no cell") from error
    check_lattice(lattice)
    return np.array(lattice)


def _coordinates(data: dict[str, Any], key: str, labels: list[str]) -> list[float]:
    values = []
    for label, text in zip(labels, data[key], strict=True):
        value = _float(text)
        if value is None or not abs(value) <= MAX_FRAC_COORD:
            raise InputError(f"fractional coordinate {text[:40]} of {label[:20]}")
        values.append(value)
    return values


def _check_occupancies(data: dict[str, Any], labels: list[str]) -> bool:
    """Whether every site is fully occupied."""
    column = data.get("_atom_site_occupancy")
    if not isinstance(column, list):
        return True
    full = True
    for i, (label, text) in enumerate(zip(labels, column, strict=True)):
        if text in (".", "?"):  # not given, which means 1; pymatgen would drop the site at "."
            column[i] = "1"
            continue
        value = _float(text)
        if value is None or not 0 < value <= 1:
            raise InputError(f"occupancy {text[:20]} of site {label[:20]}")
        full &= value == 1
    return full


def _read_p1(data: dict[str, Any], raw: _Raw, options: ReadOptions) -> Sites | None:
    """The sites of a plain P1 block, straight from its loop; None if pymatgen should judge.

    Plain are the identity as the only operation, given lengths and angles, full sites of named
    elements, and a formula that agrees with them: the form in which crystals are passed around as
    text. It takes a fifth of pymatgen's time.
    """
    operations = next((data[key] for key in _OPERATIONS if data.get(key)), None)
    if isinstance(operations, str):
        operations = [operations]
    if operations is None or len(operations) != 1 or raw.lattice is None or not raw.is_full:
        return None
    if re.sub(r"[\s+]", "", operations[0]).lower() != "x,y,z" or not raw.labels:
        return None
    symbols = data.get("_atom_site_type_symbol")
    if not isinstance(symbols, list) or not _agrees(data.get("_chemical_formula_sum"), symbols):
        return None
    if any("magn" in key or "moment" in key or "hydrogen" in key for key in data):
        return None
    try:
        numbers = [numbers_by_symbol()[symbol] for symbol in symbols]
    except KeyError:
        return None
    frac_coords = raw.frac_coords - np.floor(raw.frac_coords)
    return Sites(raw.lattice, np.array(numbers, dtype=int), frac_coords)


def _agrees(formula: Any, symbols: list[str]) -> bool:
    """Whether the elements stand in the ratio of a formula like 'Be4 V4 Co8'."""
    if not isinstance(formula, str):
        return False
    parts = {name: float(count or 1) for name, count in _FORMULA_PART.findall(formula)}
    total = sum(parts.values())
    counts = Counter(symbols)
    return set(parts) == set(counts) and all(
        abs(parts[name] / total - count / len(symbols)) < 1e-6 for name, count in counts.items()
    )


def _parse(text: str, raw: _Raw, options: ReadOptions) -> tuple[Structure, bool]:
    """Pymatgen's structure, and whether rounded coordinates had to be brought together."""
    structure = _parse_at(text, raw, options, site_tolerance=1e-4, frac_tolerance=0.0)
    if len(structure) <= len(raw.labels) or not structure.is_ordered:
        return structure, False
    distance, i, j = nearest_pair(
        structure.lattice.matrix, structure.frac_coords, options.min_distance
    )
    if not distance < options.min_distance or structure[i].label != structure[j].label:
        return structure, False
    # images of one atom a hair apart: a special position that is given to a few digits
    rounded = _parse_at(
        text,
        raw,
        options,
        site_tolerance=_ROUNDED_SITE_TOLERANCE,
        frac_tolerance=_ROUNDED_FRAC_TOLERANCE,
    )
    return (rounded, True) if len(rounded) < len(structure) else (structure, False)


def _parse_at(
    text: str, raw: _Raw, options: ReadOptions, site_tolerance: float, frac_tolerance: float
) -> Structure:
    from pymatgen.io.cif import CifParser

    try:
        parser = CifParser.from_str(
            text, site_tolerance=site_tolerance, frac_tolerance=frac_tolerance
        )
        return parser.parse_structures(primitive=False, on_error="raise")[0]
    except Exception as error:
        reason = _reason(error)
        if match := re.search(r"Occupancy ([\d.]+) exceeded", reason):
            reason = f"{_names_of_nearest(raw, options)} share one point: occupancy {match[1]}"
            raise InputError(reason) from error
        raise InputError(f"not a readable CIF ({reason})") from error


def _reason(error: Exception) -> str:
    reason = describe(error).removeprefix("No structure parsed for section 1 in CIF. ")
    if reason.startswith("zip()") or "is not a multiple of" in reason:
        return "a loop_ ends in the middle of a row"
    return reason


def _names_of_nearest(raw: _Raw, options: ReadOptions) -> str:
    if raw.lattice is not None:
        distance, i, j = nearest_pair(raw.lattice, raw.frac_coords, options.min_distance)
        if i != j:
            return f"{raw.labels[i][:20]} and {raw.labels[j][:20]}, {distance:.2g} Å apart,"
    return "two atoms"


def _check_complete(structure: Structure, labels: list[str]) -> list[int]:
    """Refuse a structure that lost a site of the file; its sites in the file's order."""
    rank: dict[str, int] = {}
    for i, label in enumerate(labels):
        rank.setdefault(label, i)
    found = [site.label for site in structure]
    lost = [label for label in rank if label not in set(found)]
    if structure.is_ordered and (lost or len(structure) < len(labels)):
        name = f" ({lost[0][:20]})" if lost else ""
        raise InputError(f"a site{name} gives no atom of its own: dropped, or merged with another")
    return sorted(range(len(found)), key=lambda k: rank.get(found[k], len(labels)))


def _symbol_notes(data: dict[str, Any]) -> list[str]:
    symbols = data.get("_atom_site_type_symbol") or data["_atom_site_label"]
    names = {re.sub(r"[^A-Za-z].*", "", symbol) for symbol in symbols}
    notes = [f"{name} read as H" for name in ("D", "T") if name in names]
    charged = sorted({symbol for symbol in symbols if re.search(r"[+-]", symbol)})
    return notes + [f"charge of {symbol[:20]} dropped" for symbol in charged[:5]]


def _number(data: dict[str, Any], key: str) -> float | None:
    if key not in data:
        return None
    value = _float(data[key]) if isinstance(data[key], str) else None
    if value is None:
        raise InputError(f"{key} is {str(data[key])[:40]}")
    return value


def _float(text: str) -> float | None:
    """The number before a standard uncertainty in brackets; None if there is none."""
    try:
        return float(re.sub(r"\(.*", "", text).replace("_", "?"))  # no 1_000
    except ValueError:
        return None
