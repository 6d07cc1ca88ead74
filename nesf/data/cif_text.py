"""Crystals as CIF text: P1, eight decimals, the form in which data sets of crystals are shared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nesf.data.elements import symbols_by_number

if TYPE_CHECKING:
    from pymatgen.core import Structure

_HEAD = """\
# written by nesf
data_{formula}
_symmetry_space_group_name_H-M   'P 1'
_cell_length_a   {0:.8f}
_cell_length_b   {1:.8f}
_cell_length_c   {2:.8f}
_cell_angle_alpha   {3:.8f}
_cell_angle_beta   {4:.8f}
_cell_angle_gamma   {5:.8f}
_symmetry_Int_Tables_number   1
_chemical_formula_sum   '{formula_sum}'
_cell_volume   {volume:.8f}
loop_
 _symmetry_equiv_pos_site_id
 _symmetry_equiv_pos_as_xyz
  1  'x, y, z'
loop_
 _atom_site_type_symbol
 _atom_site_label
 _atom_site_symmetry_multiplicity
 _atom_site_fract_x
 _atom_site_fract_y
 _atom_site_fract_z
 _atom_site_occupancy
"""


def cif_text(structure: Structure) -> str:
    """One CIF data block in P1, with the sites in their order.

    A CIF knows lengths and angles only, of right-handed axes. A left-handed cell is written with
    its three vectors turned round, which negates the fractional coordinates and keeps the crystal.
    Values that are not finite are written as they are: readers refuse them, with the value named.

    Args:
        structure: an ordered structure; charges and site properties are left out.
    """
    lattice = np.asarray(structure.lattice.matrix, dtype=float)
    frac_coords = np.asarray(structure.frac_coords, dtype=float).reshape(-1, 3)
    if np.linalg.det(lattice) < 0:
        frac_coords = -frac_coords
    # -0.0 and what rounds to it; + 0.0 turns it into 0.0
    frac_coords = np.round(frac_coords, 8) + 0.0
    symbols = [symbols_by_number()[number] for number in structure.atomic_numbers]
    counts = {symbol: symbols.count(symbol) for symbol in dict.fromkeys(symbols)}
    head = _HEAD.format(
        *cell_parameters(lattice),
        formula="".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in counts.items())
        or "empty",
        formula_sum=" ".join(f"{symbol}{count}" for symbol, count in counts.items()),
        volume=abs(np.linalg.det(lattice)),
    )
    sites = [
        f"  {symbol}  {symbol}{i}  1  {x:.8f}  {y:.8f}  {z:.8f}  1\n"
        for i, (symbol, (x, y, z)) in enumerate(zip(symbols, frac_coords.tolist(), strict=True))
    ]
    return head + "".join(sites)


def cell_parameters(lattice: np.ndarray) -> list[float]:
    """Lengths a, b, c (Å) and angles alpha, beta, gamma (degrees); NaN where there is no angle."""
    gram = lattice @ lattice.T
    lengths = np.sqrt(np.diag(gram))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines = gram / np.outer(lengths, lengths)
    angles = np.degrees(np.arccos(np.clip([cosines[1, 2], cosines[0, 2], cosines[0, 1]], -1, 1)))
    return [*lengths.tolist(), *angles.tolist()]
