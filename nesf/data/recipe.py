"""What a recipe is: a prototype, and who may stand where in it.

A recipe names an AFLOW prototype and, for each of its elements, a role: who may replace it. What
makes a decoration plausible is charge balance, an electronegativity difference and windows for
ratios of radii; the windows are wide on purpose (Pauling's rules and Goldschmidt's tolerance
factor, with Shannon's crystal radii for coordination number 6 and Slater's atomic radii).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nesf.data.roles import FAMILIES

Window = tuple[float, float]


@dataclass(frozen=True)
class Recipe:
    """A prototype and who may stand where in it.

    Attributes:
        name: short name, used in ids.
        aflow: label of the AFLOW prototype.
        formula: the elements of pymatgen's entry, in the order of the roles; with the label it
            names one entry.
        roles: for each of these elements, one of the `FAMILIES` of ions (charges must balance) or
            the symbols that may replace it.
        ratios: windows for r(role) / r(last role), by the position of the role.
        tolerance: window for Goldschmidt's (r_A + r_X) / sqrt(2) / (r_B + r_X), for roles A, B, X.
        interchangeable: whether the first two roles stand on equivalent sites, so that exchanging
            their elements gives the same crystal.
        min_difference: of electronegativity (Pauling) between every cation and anion.
    """

    name: str
    aflow: str
    formula: str
    roles: tuple[str, ...]
    ratios: Mapping[int, Window] = field(default_factory=dict)
    tolerance: Window | None = None
    interchangeable: bool = False
    min_difference: float = 0.3

    @property
    def is_ionic(self) -> bool:
        """Whether charges must balance."""
        return any(role in FAMILIES for role in self.roles)


def ionic(
    name: str,
    aflow: str,
    formula: str,
    *ratios: Window,
    roles: str = "cation | anion",
    tolerance: Window | None = None,
    interchangeable: bool = False,
) -> Recipe:
    """Ions; `ratios` hold for the first roles against the last."""
    return Recipe(
        name,
        aflow,
        formula,
        tuple(roles.split(" | ")),
        ratios=dict(enumerate(ratios)),
        tolerance=tolerance,
        interchangeable=interchangeable,
    )


def metallic(
    name: str,
    aflow: str,
    formula: str,
    *roles: str,
    ratio: Window = (0.0, 9.0),
    interchangeable: bool = False,
) -> Recipe:
    """Roles by symbols; `ratio` holds for the first against the last."""
    return Recipe(name, aflow, formula, roles, {0: ratio}, interchangeable=interchangeable)
