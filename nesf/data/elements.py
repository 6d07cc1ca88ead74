"""Element symbols and atomic numbers, as pymatgen has them."""

from __future__ import annotations

from functools import cache


@cache
def symbols_by_number() -> tuple[str, ...]:
    """Symbols at the position of their atomic number; "X" at 0."""
    from pymatgen.core import Element

    return ("X", *(Element.from_Z(number).symbol for number in range(1, 119)))


@cache
def numbers_by_symbol() -> dict[str, int]:
    """Atomic numbers of the symbols, without the isotopes D and T."""
    return {symbol: number for number, symbol in enumerate(symbols_by_number()) if number}
