"""Which elements may stand where in which prototype.

A recipe names an AFLOW prototype and, for each of its elements, a role: who may replace it. What
makes a decoration plausible is charge balance, an electronegativity difference and windows for
ratios of radii; the windows are wide on purpose (Pauling's rules and Goldschmidt's tolerance
factor, with Shannon's crystal radii for coordination number 6 and Slater's atomic radii).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Window = tuple[float, float]

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


# the one structure that is not among pymatgen's entries, which have its relative NaCrS2 instead
DELAFOSSITE = "delafossite"


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


def _ionic(
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


def _metallic(
    name: str,
    aflow: str,
    formula: str,
    *roles: str,
    ratio: Window = (0.0, 9.0),
    interchangeable: bool = False,
) -> Recipe:
    """Roles by symbols; `ratio` holds for the first against the last."""
    return Recipe(name, aflow, formula, roles, {0: ratio}, interchangeable=interchangeable)


RECIPES: tuple[Recipe, ...] = (
    # elements
    _metallic("fcc", "A_cF4_225_a", "Cu", METAL),
    _metallic("bcc", "A_cI2_229_a", "W", METAL),
    _metallic("hcp", "A_hP2_194_c", "Mg", METAL),
    _metallic("diamond", "A_cF8_227_a", "C", "C Si Ge Sn"),
    # AB
    _ionic("rocksalt", "AB_cF8_225_a_b", "Na Cl", (0.40, 1.25), roles="cation | anion or pnictide"),
    _ionic("cscl", "AB_cP2_221_b_a", "Cs Cl", (0.75, 1.60), interchangeable=True),
    _ionic(
        "zincblende", "AB_cF8_216_c_a", "Zn S", (0.20, 0.66), roles="cation | anion or pnictide"
    ),
    _ionic("wurtzite", "AB_hP4_186_b_b", "Zn S", (0.20, 0.72), roles="cation | anion or pnictide"),
    _ionic("litharge", "AB_tP4_129_a_c", "Pb O", (0.50, 1.10)),
    _ionic("cooperite", "AB_tP4_131_c_e", "Pt S", (0.40, 0.80), roles="cation | anion or pnictide"),
    _metallic(
        "b2",
        "AB_cP2_221_b_a",
        "Cs Cl",
        METAL,
        f"{LATE} {ZINC} {P_METAL}",
        ratio=(0.75, 1.4),
        interchangeable=True,
    ),
    _metallic("nias", "AB_hP4_194_c_a", "Ni As", TRANSITION, f"{CHALCOGENIDE} {PNICTIDE} Sn Pb"),
    _metallic("wc", "AB_hP2_187_d_a", "W C", TRANSITION, "C N P As S Se"),
    _metallic(
        "carbide", "AB_cF8_225_a_b", "Na Cl", f"{EARLY} {RARE_EARTH} Cr Mo W", "B C N P As Sb Bi"
    ),
    _metallic(
        "l10",
        "AB_tP2_123_a_d",
        "Cu Au",
        METAL,
        f"{LATE} {ZINC} Al Ga",
        ratio=(0.85, 1.25),
        interchangeable=True,
    ),
    _metallic("fesi", "AB_cP8_198_a_a", "Fe Si", TRANSITION, "Al Ga Si Ge Sn", ratio=(0.9, 1.5)),
    _metallic("mnp", "AB_oP8_62_c_c", "Mn P", TRANSITION, "Si Ge P As Sb", ratio=(0.9, 1.6)),
    _metallic(
        "crb", "AB_oC8_63_c_c", "Cr B", f"{ELECTROPOSITIVE} {TRANSITION}", "B Si Ge Ni Pt Al Ga"
    ),
    # AB2, and A2B with the ions exchanged
    _ionic("fluorite", "AB2_cF12_225_a_c", "Ca F", (0.66, 1.40)),
    _ionic(
        "antifluorite", "AB2_cF12_225_a_c", "Ca F", (0.70, 2.40), roles="anion or pnictide | cation"
    ),
    _ionic("rutile", "A2B_tP6_136_f_a", "Ti O", (0.42, 0.80)),
    _ionic("anatase", "A2B_tI12_141_e_a", "Ti O", (0.42, 0.75)),
    _ionic("marcasite", "AB2_oP6_58_a_g", "Fe S", (0.30, 0.60)),
    _ionic("cdi2", "AB2_hP3_164_a_d", "Cd I", (0.35, 0.70)),
    _ionic("molybdenite", "AB2_hP6_194_c_f", "Mo S", (0.35, 0.60)),
    _ionic("cuprite", "A2B_cP6_224_b_a", "Cu O", (0.50, 1.10)),
    _metallic(
        "pyrite",
        "AB2_cP12_205_a_c",
        "Fe S",
        "Mn Fe Co Ni Cu Zn Ru Rh Pd Cd Os Ir Pt",
        "S Se Te P As Sb",
    ),
    _metallic(
        "alb2", "AB2_hP3_191_a_d", "Al B", f"{ELECTROPOSITIVE} {EARLY} Al Cr Mn Mo", "B Si Ga Ge"
    ),
    _metallic("mosi2", "AB2_tI6_139_a_e", "Mo Si", METAL, "Si Ge Al Ag Au Pd Hg", ratio=(0.9, 1.5)),
    _metallic(
        "laves-c14",
        "AB2_hP12_194_f_ah",
        "Mg Zn",
        f"{ELECTROPOSITIVE} {EARLY}",
        f"{LATE} V Al Zn",
        ratio=(1.08, 1.40),
    ),
    _metallic(
        "khatyrkite",
        "A2B_tI12_140_h_a",
        "Cu Al",
        f"{TRANSITION}",
        "B Al Si Ge In Tl Sn Pb Zr Hf Th Ta",
    ),
    # AB3
    _ionic("reo3", "A3B_cP4_221_d_a", "Re O", (0.35, 0.85)),
    _metallic("l12", "AB3_cP4_221_a_c", "Cu Au", METAL, METAL, ratio=(0.8, 1.35)),
    _metallic(
        "d022", "A3B_tI8_139_bd_a", "Ti Al", METAL, "Al Ga In Ni Pd Pt V", ratio=(0.85, 1.25)
    ),
    _metallic("d019", "A3B_hP8_194_h_c", "Sn Ni", METAL, METAL, ratio=(0.85, 1.25)),
    _metallic(
        "a15",
        "A3B_cP8_223_c_a",
        "Si Cr",
        f"{P_METAL} {METALLOID} {LATE}",
        "Ti V Cr Zr Nb Mo Ta",
        ratio=(0.7, 1.2),
    ),
    _metallic(
        "d03", "AB3_cF16_225_a_bc", "Bi F", f"{P_METAL} Si Ge Sb", f"{LATE} Li Mg {RARE_EARTH}"
    ),
    # other binaries
    _metallic(
        "cacu5",
        "AB5_hP6_191_a_cg",
        "Ca Cu",
        ELECTROPOSITIVE,
        "Cu Co Ni Fe Zn Rh Pd Pt Ag Au",
        ratio=(1.15, 1.75),
    ),
    _metallic(
        "baal4",
        "A4B_tI10_139_de_a",
        "Ba Al",
        ELECTROPOSITIVE,
        "Al Ga In Zn Ag Au",
        ratio=(1.1, 1.7),
    ),
    _metallic("cab6", "A6B_cP7_221_f_a", "Ca B", ELECTROPOSITIVE, "B"),
    _metallic("al3ni2", "A3B2_hP5_164_ad_d", "Al Ni", "Al Ga In", "Ni Pd Pt Cu Ag Rh Ir Co"),
    # ABX2
    _ionic(
        "nacrs2",
        "ABC2_hR4_166_a_b_c",
        "Na Cr S",
        (0.45, 1.40),
        (0.40, 0.75),
        roles="cation+1 | cation | anion",
    ),
    _ionic(
        DELAFOSSITE,
        "ABC2_hR4_166_a_b_c",
        "Cu Fe O",
        (0.60, 1.60),
        (0.42, 0.85),
        roles="cation+1 | cation | anion",
    ),
    _ionic(
        "chalcopyrite",
        "ABC2_tI16_122_a_b_d",
        "Fe Cu S",
        (0.20, 0.70),
        (0.30, 0.85),
        roles="cation | cation | anion or pnictide",
        interchangeable=True,
    ),
    _ionic(
        "cacuo2",
        "ABC2_tP4_123_d_a_f",
        "Ca Cu O",
        (0.85, 1.40),
        (0.45, 0.80),
        roles="cation | cation | anion",
    ),
    # ABX3
    _ionic(
        "perovskite",
        "AB3C_cP5_221_a_c_b",
        "Ca Ti O",
        (0.75, 1.60),
        (0.42, 0.85),
        tolerance=(0.78, 1.05),
        roles="cation | cation | anion",
    ),
    _ionic(
        "perovskite-tetragonal",
        "A3BC_tP5_99_bc_a_b",
        "Pb Zr O",
        (0.85, 1.60),
        (0.42, 0.75),
        tolerance=(0.86, 1.10),
        roles="cation | cation | anion",
    ),
    _ionic(
        "perovskite-orthorhombic",
        "AB3C_oP20_62_c_cd_a",
        "Ca Ti O",
        (0.70, 1.20),
        (0.42, 0.85),
        tolerance=(0.74, 0.95),
        roles="cation | cation | anion",
    ),
    # other ternaries
    _ionic("matlockite", "ABC_tP6_129_c_a_c", "Pb F Cl", roles="cation | anion | anion"),
    _ionic(
        "k2nif4",
        "AB2C4_tI14_139_a_e_ce",
        "La Cu O",
        (0.80, 1.40),
        (0.42, 0.80),
        roles="cation | cation | anion",
    ),
    _ionic(
        "cdal2s4",
        "A2BC4_tI14_82_bc_a_g",
        "Al Cd S",
        (0.25, 0.66),
        (0.40, 0.75),
        roles="cation | cation | anion",
    ),
    _metallic(
        "half-heusler",
        "ABC_cF12_216_b_c_a",
        "Ag As Mg",
        LATE,
        "Al Ga In Si Ge Sn Pb As Sb Bi",
        f"Li Mg {EARLY} {RARE_EARTH}",
    ),
    _metallic(
        "heusler",
        "AB2C_cF16_225_a_c_b",
        "Al Cu Mn",
        "Al Ga In Si Ge Sn Sb",
        LATE,
        f"{EARLY} {RARE_EARTH} Cr Mn Fe Li Mg",
    ),
    _metallic(
        "max-211",
        "ABC2_hP8_194_d_a_f",
        "Al C Cr",
        f"{P_METAL} Zn Cd Si Ge P S As",
        "C N",
        "Sc Ti V Cr Zr Nb Mo Hf Ta",
    ),
    _metallic(
        "basbpt",
        "ABC_hP3_187_a_d_f",
        "Ba Sb Pt",
        ELECTROPOSITIVE,
        "P As Sb Bi Si Ge Sn",
        "Ni Pd Pt Cu Ag Au Zn",
    ),
    _metallic(
        "hocoga5",
        "AB5C_tP7_123_b_ci_a",
        "Co Ga Ho",
        "Co Rh Ir Ni Pd Pt Fe Ru",
        "Al Ga In",
        f"{RARE_EARTH} Th U",
    ),
    _metallic("cenic2", "A2BC_oC8_38_e_a_b", "C Ce Ni", "C", RARE_EARTH, "Fe Co Ni Ru Rh"),
)
