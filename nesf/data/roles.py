"""Elements by the role they play in a crystal, and their usual charges."""

from __future__ import annotations

from collections.abc import Mapping

# elements by role; radioactive ones without common crystals are left out
ALKALI = "Li Na K Rb Cs"
ALKALINE = "Be Mg Ca Sr Ba"
RARE_EARTH = "Sc Y La Ce Pr Nd Sm Eu Gd Tb Dy Ho Er Tm Yb Lu"
EARLY = "Ti V Zr Nb Hf Ta Th U"
LATE = "Cr Mn Fe Co Ni Cu Mo Ru Rh Pd Ag W Re Os Ir Pt Au"
ZINC = "Zn Cd Hg"
TRANSITION = f"{EARLY} {LATE}"
P_METAL = "Al Ga In Tl Sn Pb Bi"
METALLOID = "B Si Ge As Sb"
PNICTIDE = "P As Sb Bi"
CHALCOGENIDE = "S Se Te"
ELECTROPOSITIVE = f"Mg Ca Sr Ba {RARE_EARTH} Th U"
METAL = f"Li Mg Ca {RARE_EARTH} {TRANSITION} {ZINC} {P_METAL}"

# charges that are common in solids
CATIONS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(ALKALI.split(), (1,)),
    **dict.fromkeys(ALKALINE.split(), (2,)),
    **dict.fromkeys(RARE_EARTH.split(), (3,)),
    **{"Ce": (3, 4), "Eu": (2, 3), "Yb": (2, 3), "Sm": (2, 3)},
    **{"Ti": (2, 3, 4), "V": (2, 3, 4, 5), "Cr": (2, 3), "Mn": (2, 3, 4), "Fe": (2, 3)},
    **{"Co": (2, 3), "Ni": (2, 3), "Cu": (1, 2), "Zn": (2,), "Zr": (4,), "Nb": (4, 5)},
    **{"Mo": (4, 6), "Ru": (3, 4), "Rh": (3,), "Pd": (2, 4), "Ag": (1,), "Cd": (2,)},
    **{"Hf": (4,), "Ta": (5,), "W": (4, 6), "Re": (4, 6), "Os": (4,), "Ir": (3, 4)},
    **{"Pt": (2, 4), "Au": (1, 3), "Hg": (2,), "Al": (3,), "Ga": (3,), "In": (3,)},
    **{"Tl": (1, 3), "Si": (4,), "Ge": (2, 4), "Sn": (4,), "Pb": (2, 4), "Sb": (3, 5)},
    **{"Bi": (3,), "B": (3,), "Th": (4,), "U": (4, 6)},
}
ANIONS: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(["F", "Cl", "Br", "I"], (-1,)),
    **dict.fromkeys(["O", "S", "Se", "Te"], (-2,)),
    "N": (-3,),
}
FAMILIES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "cation": CATIONS,
    "cation+1": {symbol: (1,) for symbol, charges in CATIONS.items() if 1 in charges},
    "anion": ANIONS,
    "anion or pnictide": {**ANIONS, **dict.fromkeys(["P", "As", "Sb"], (-3,))},
}
# Å, crystal radii that Shannon's table lacks: Pauling (The Nature of the Chemical Bond, 1960),
# less the 0.14 Å between the two scales
PNICTIDE_RADII: Mapping[str, float] = {"P": 1.98, "As": 2.08, "Sb": 2.31}
