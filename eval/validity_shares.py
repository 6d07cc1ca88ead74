"""Which share of the crystals in files passes which check: `python -m eval.validity FILES`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from eval.cells import LIMITS, Cell
from eval.validity import CHECKS, Validity, check_validity, nearest_distances, radii_sums
from nesf.data.readers import iter_crystals
from nesf.data.records import Row
from nesf.errors import InputError


def tell_of_files(files: Sequence[str]) -> None:
    """Print the share of the crystals of each file, and of all, that passes each check.

    Rows that cannot be read pass nothing. Told, too: the nearest pair of atoms in units of the sum
    of their covalent radii, and the range of the volumes per atom.

    Args:
        files: in any format of the readers.

    Raises:
        InputError: a file is missing or of no known format.
    """
    found: dict[str, list[tuple[Validity, float]]] = {}
    for file in files:
        rows = iter_crystals(file, LIMITS, progress=False)
        cells = (Cell.from_structure(r.structure) if isinstance(r, Row) else None for r in rows)
        found[file] = [(check_validity(cell), _nearest_in_radii(cell)) for cell in cells]
        print(_shares(file, found[file]), flush=True)
    if len(files) > 1:
        print(_shares("all", [one for part in found.values() for one in part]))


def _shares(title: str, found: Sequence[tuple[Validity, float]]) -> str:
    checks = {**CHECKS, "valid": "valid as published", "valid_all": "all checks"}
    lines = [f"{title}: {len(found)} crystals"]
    for name, words in checks.items():
        share = 100 * sum(getattr(one, name) for one, _ in found) / max(1, len(found))
        lines.append(f"  {words:<26}{share:6.2f} %")
    volumes = [one.volume_per_atom for one, _ in found if one.volume_per_atom is not None]
    if volumes:
        nearest = min(ratio for _, ratio in found)
        lines.append(f"  nearest pair at {nearest:.3f} of the sum of both radii")
        lines.append(f"  {min(volumes):.2f} to {max(volumes):.2f} Å³ an atom")
    return "\n".join(lines)


def _nearest_in_radii(cell: Cell | None) -> float:
    """Smallest distance in units of the sum of both covalent radii; infinite where there is none.

    Args:
        cell: of a file, so that it has a volume; None for a row that could not be read.
    """
    return np.inf if cell is None else float((nearest_distances(cell) / radii_sums(cell)).min())


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.validity",
        description="Tell which share of the crystals in files passes which check.",
    )
    parser.add_argument("files", nargs="+", help="crystals in any format of the readers")
    try:
        tell_of_files(parser.parse_args().files)
    except InputError as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
