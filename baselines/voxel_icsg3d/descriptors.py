"""What is known of the elements: the position in the periodic table, and three tables of facts.

Known to the property predictor and to the linear models that it is compared with alike, and
stored here so that neither needs pymatgen.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from nesf.crystal import MAX_ATOMIC_NUMBER

NAMES = ("group", "period", "electronegativity", "radius", "mendeleev")
BLOCKS = "spdf"

# fmt: off
# Pauling's, 0 where he has none (He, Ne, Ar); `Element.X` of pymatgen
ELECTRONEGATIVITY: tuple[float, ...] = (
    2.2, 0.0, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, 0.0, 0.93, 1.31, 1.61, 1.9, 2.19, 2.58,
    3.16, 0.0, 0.82, 1.0, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.9, 1.65, 1.81, 2.01,
    2.18, 2.55, 2.96, 3.0, 0.82, 0.95, 1.22, 1.33, 1.6, 2.16, 1.9, 2.2, 2.28, 2.2, 1.93, 1.69, 1.78,
    1.96, 2.05, 2.1, 2.66, 2.6, 0.79, 0.89, 1.1, 1.12, 1.13, 1.14, 1.13, 1.17, 1.2, 1.2, 1.1, 1.22,
    1.23, 1.24, 1.25, 1.1, 1.27, 1.3, 1.5, 2.36, 1.9, 2.2, 2.2, 2.28, 2.54, 2.0, 1.62, 2.33, 2.02,
    2.0, 2.2, 2.2, 0.7, 0.9, 1.1, 1.3, 1.5, 1.38, 1.36, 1.28,
)
# Å; `Element.atomic_radius` of pymatgen (Slater), where missing `atomic_radius_calculated`
# (Clementi), 0 where both are (At, Fr)
ATOMIC_RADIUS: tuple[float, ...] = (
    0.25, 0.31, 1.45, 1.05, 0.85, 0.7, 0.65, 0.6, 0.5, 0.38, 1.8, 1.5, 1.25, 1.1, 1.0, 1.0, 1.0,
    0.71, 2.2, 1.8, 1.6, 1.4, 1.35, 1.4, 1.4, 1.4, 1.35, 1.35, 1.35, 1.35, 1.3, 1.25, 1.15, 1.15,
    1.15, 0.88, 2.35, 2.0, 1.8, 1.55, 1.45, 1.45, 1.35, 1.3, 1.35, 1.4, 1.6, 1.55, 1.55, 1.45, 1.45,
    1.4, 1.4, 1.08, 2.6, 2.15, 1.95, 1.85, 1.85, 1.85, 1.85, 1.85, 1.85, 1.8, 1.75, 1.75, 1.75,
    1.75, 1.75, 1.75, 1.75, 1.55, 1.45, 1.35, 1.35, 1.3, 1.35, 1.35, 1.35, 1.5, 1.9, 1.8, 1.6, 1.9,
    0.0, 1.2, 0.0, 2.15, 1.95, 1.8, 1.8, 1.75, 1.75, 1.75,
)
# The order of elements by likeness; `Element.mendeleev_no` of pymatgen
MENDELEEV_NUMBER: tuple[int, ...] = (
    103, 1, 12, 77, 86, 95, 100, 101, 102, 2, 11, 73, 80, 85, 90, 94, 99, 3, 10, 16, 19, 51, 54, 57,
    60, 61, 64, 67, 72, 76, 81, 84, 89, 93, 98, 4, 9, 15, 25, 49, 53, 56, 59, 62, 65, 69, 71, 75,
    79, 83, 88, 92, 97, 5, 8, 14, 33, 32, 31, 30, 29, 28, 18, 27, 26, 24, 23, 22, 21, 17, 20, 50,
    52, 55, 58, 63, 66, 68, 70, 74, 78, 82, 87, 91, 96, 6, 7, 13, 48, 47, 46, 45, 44, 43,
)
# fmt: on

# where each period ends
_NOBLE_GASES = (2, 10, 18, 36, 54, 86, 118)


def period_group_block(atomic_number: int) -> tuple[int, int, str]:
    """Period, group (3 for the f-block) and block of an element, from the table's layout.

    Args:
        atomic_number: Z, 1 to 118.
    """
    period = next(i for i, last in enumerate(_NOBLE_GASES) if atomic_number <= last)
    column = atomic_number - (_NOBLE_GASES[period - 1] if period else 0)  # 1, 2, ... of the row
    group = 18 - (_NOBLE_GASES[period] - atomic_number)  # counted from the row's end
    if column <= 2:
        return period + 1, 18 if atomic_number == 2 else column, "s"
    if group >= 13:
        return period + 1, group, "p"
    # left of group 3 stand the fourteen elements of the f-block
    return period + 1, max(group, 3), "d" if group >= 3 else "f"


def element_properties() -> Float[Tensor, "94 5"]:
    """The numbers named in `NAMES`, a row an element, from Z = 1."""
    places = [period_group_block(z) for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    columns = (
        [group for _, group, _ in places],
        [period for period, _, _ in places],
        ELECTRONEGATIVITY,
        ATOMIC_RADIUS,
        MENDELEEV_NUMBER,
    )
    return torch.tensor(columns, dtype=torch.float64).T.contiguous()


def element_features() -> Float[Tensor, "94 f"]:
    """`element_properties`, standardised over the elements, and one-hot group, period and block."""
    numbers = element_properties()
    numbers = (numbers - numbers.mean(0)) / numbers.std(0)
    places = [period_group_block(z) for z in range(1, MAX_ATOMIC_NUMBER + 1)]
    kinds = (
        torch.eye(18)[[group - 1 for _, group, _ in places]],
        torch.eye(7)[[period - 1 for period, _, _ in places]],
        torch.eye(len(BLOCKS))[[BLOCKS.index(block) for _, _, block in places]],
    )
    return torch.cat([numbers, *(kind.double() for kind in kinds)], dim=1)
