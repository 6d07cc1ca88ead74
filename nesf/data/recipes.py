"""Which elements may stand where in which prototype: the recipes that crystals are made by."""

from __future__ import annotations

from nesf.data.recipe import Recipe, ionic, metallic
from nesf.data.roles import (
    CHALCOGENIDE,
    EARLY,
    ELECTROPOSITIVE,
    LATE,
    METAL,
    METALLOID,
    P_METAL,
    PNICTIDE,
    RARE_EARTH,
    TRANSITION,
    ZINC,
)

# the one structure that is not among pymatgen's entries, which have its relative NaCrS2 instead
DELAFOSSITE = "delafossite"


RECIPES: tuple[Recipe, ...] = (
    # elements
    metallic("fcc", "A_cF4_225_a", "Cu", METAL),
    metallic("bcc", "A_cI2_229_a", "W", METAL),
    metallic("hcp", "A_hP2_194_c", "Mg", METAL),
    metallic("diamond", "A_cF8_227_a", "C", "C Si Ge Sn"),
    # AB
    ionic("rocksalt", "AB_cF8_225_a_b", "Na Cl", (0.40, 1.25), roles="cation | anion or pnictide"),
    ionic("cscl", "AB_cP2_221_b_a", "Cs Cl", (0.75, 1.60), interchangeable=True),
    ionic("zincblende", "AB_cF8_216_c_a", "Zn S", (0.20, 0.66), roles="cation | anion or pnictide"),
    ionic("wurtzite", "AB_hP4_186_b_b", "Zn S", (0.20, 0.72), roles="cation | anion or pnictide"),
    ionic("litharge", "AB_tP4_129_a_c", "Pb O", (0.50, 1.10)),
    ionic("cooperite", "AB_tP4_131_c_e", "Pt S", (0.40, 0.80), roles="cation | anion or pnictide"),
    metallic(
        "b2",
        "AB_cP2_221_b_a",
        "Cs Cl",
        METAL,
        f"{LATE} {ZINC} {P_METAL}",
        ratio=(0.75, 1.4),
        interchangeable=True,
    ),
    metallic("nias", "AB_hP4_194_c_a", "Ni As", TRANSITION, f"{CHALCOGENIDE} {PNICTIDE} Sn Pb"),
    metallic("wc", "AB_hP2_187_d_a", "W C", TRANSITION, "C N P As S Se"),
    metallic(
        "carbide", "AB_cF8_225_a_b", "Na Cl", f"{EARLY} {RARE_EARTH} Cr Mo W", "B C N P As Sb Bi"
    ),
    metallic(
        "l10",
        "AB_tP2_123_a_d",
        "Cu Au",
        METAL,
        f"{LATE} {ZINC} Al Ga",
        ratio=(0.85, 1.25),
        interchangeable=True,
    ),
    metallic("fesi", "AB_cP8_198_a_a", "Fe Si", TRANSITION, "Al Ga Si Ge Sn", ratio=(0.9, 1.5)),
    metallic("mnp", "AB_oP8_62_c_c", "Mn P", TRANSITION, "Si Ge P As Sb", ratio=(0.9, 1.6)),
    metallic(
        "crb", "AB_oC8_63_c_c", "Cr B", f"{ELECTROPOSITIVE} {TRANSITION}", "B Si Ge Ni Pt Al Ga"
    ),
    # AB2, and A2B with the ions exchanged
    ionic("fluorite", "AB2_cF12_225_a_c", "Ca F", (0.66, 1.40)),
    ionic(
        "antifluorite", "AB2_cF12_225_a_c", "Ca F", (0.70, 2.40), roles="anion or pnictide | cation"
    ),
    ionic("rutile", "A2B_tP6_136_f_a", "Ti O", (0.42, 0.80)),
    ionic("anatase", "A2B_tI12_141_e_a", "Ti O", (0.42, 0.75)),
    ionic("marcasite", "AB2_oP6_58_a_g", "Fe S", (0.30, 0.60)),
    ionic("cdi2", "AB2_hP3_164_a_d", "Cd I", (0.35, 0.70)),
    ionic("molybdenite", "AB2_hP6_194_c_f", "Mo S", (0.35, 0.60)),
    ionic("cuprite", "A2B_cP6_224_b_a", "Cu O", (0.50, 1.10)),
    metallic(
        "pyrite",
        "AB2_cP12_205_a_c",
        "Fe S",
        "Mn Fe Co Ni Cu Zn Ru Rh Pd Cd Os Ir Pt",
        "S Se Te P As Sb",
    ),
    metallic(
        "alb2", "AB2_hP3_191_a_d", "Al B", f"{ELECTROPOSITIVE} {EARLY} Al Cr Mn Mo", "B Si Ga Ge"
    ),
    metallic("mosi2", "AB2_tI6_139_a_e", "Mo Si", METAL, "Si Ge Al Ag Au Pd Hg", ratio=(0.9, 1.5)),
    metallic(
        "laves-c14",
        "AB2_hP12_194_f_ah",
        "Mg Zn",
        f"{ELECTROPOSITIVE} {EARLY}",
        f"{LATE} V Al Zn",
        ratio=(1.08, 1.40),
    ),
    metallic(
        "khatyrkite",
        "A2B_tI12_140_h_a",
        "Cu Al",
        f"{TRANSITION}",
        "B Al Si Ge In Tl Sn Pb Zr Hf Th Ta",
    ),
    # AB3
    ionic("reo3", "A3B_cP4_221_d_a", "Re O", (0.35, 0.85)),
    metallic("l12", "AB3_cP4_221_a_c", "Cu Au", METAL, METAL, ratio=(0.8, 1.35)),
    metallic("d022", "A3B_tI8_139_bd_a", "Ti Al", METAL, "Al Ga In Ni Pd Pt V", ratio=(0.85, 1.25)),
    metallic("d019", "A3B_hP8_194_h_c", "Sn Ni", METAL, METAL, ratio=(0.85, 1.25)),
    metallic(
        "a15",
        "A3B_cP8_223_c_a",
        "Si Cr",
        f"{P_METAL} {METALLOID} {LATE}",
        "Ti V Cr Zr Nb Mo Ta",
        ratio=(0.7, 1.2),
    ),
    metallic(
        "d03", "AB3_cF16_225_a_bc", "Bi F", f"{P_METAL} Si Ge Sb", f"{LATE} Li Mg {RARE_EARTH}"
    ),
    # other binaries
    metallic(
        "cacu5",
        "AB5_hP6_191_a_cg",
        "Ca Cu",
        ELECTROPOSITIVE,
        "Cu Co Ni Fe Zn Rh Pd Pt Ag Au",
        ratio=(1.15, 1.75),
    ),
    metallic(
        "baal4",
        "A4B_tI10_139_de_a",
        "Ba Al",
        ELECTROPOSITIVE,
        "Al Ga In Zn Ag Au",
        ratio=(1.1, 1.7),
    ),
    metallic("cab6", "A6B_cP7_221_f_a", "Ca B", ELECTROPOSITIVE, "B"),
    metallic("al3ni2", "A3B2_hP5_164_ad_d", "Al Ni", "Al Ga In", "Ni Pd Pt Cu Ag Rh Ir Co"),
    # ABX2
    ionic(
        "nacrs2",
        "ABC2_hR4_166_a_b_c",
        "Na Cr S",
        (0.45, 1.40),
        (0.40, 0.75),
        roles="cation+1 | cation | anion",
    ),
    ionic(
        DELAFOSSITE,
        "ABC2_hR4_166_a_b_c",
        "Cu Fe O",
        (0.60, 1.60),
        (0.42, 0.85),
        roles="cation+1 | cation | anion",
    ),
    ionic(
        "chalcopyrite",
        "ABC2_tI16_122_a_b_d",
        "Fe Cu S",
        (0.20, 0.70),
        (0.30, 0.85),
        roles="cation | cation | anion or pnictide",
        interchangeable=True,
    ),
    ionic(
        "cacuo2",
        "ABC2_tP4_123_d_a_f",
        "Ca Cu O",
        (0.85, 1.40),
        (0.45, 0.80),
        roles="cation | cation | anion",
    ),
    # ABX3
    ionic(
        "perovskite",
        "AB3C_cP5_221_a_c_b",
        "Ca Ti O",
        (0.75, 1.60),
        (0.42, 0.85),
        tolerance=(0.78, 1.05),
        roles="cation | cation | anion",
    ),
    ionic(
        "perovskite-tetragonal",
        "A3BC_tP5_99_bc_a_b",
        "Pb Zr O",
        (0.85, 1.60),
        (0.42, 0.75),
        tolerance=(0.86, 1.10),
        roles="cation | cation | anion",
    ),
    ionic(
        "perovskite-orthorhombic",
        "AB3C_oP20_62_c_cd_a",
        "Ca Ti O",
        (0.70, 1.20),
        (0.42, 0.85),
        tolerance=(0.74, 0.95),
        roles="cation | cation | anion",
    ),
    # other ternaries
    ionic("matlockite", "ABC_tP6_129_c_a_c", "Pb F Cl", roles="cation | anion | anion"),
    ionic(
        "k2nif4",
        "AB2C4_tI14_139_a_e_ce",
        "La Cu O",
        (0.80, 1.40),
        (0.42, 0.80),
        roles="cation | cation | anion",
    ),
    ionic(
        "cdal2s4",
        "A2BC4_tI14_82_bc_a_g",
        "Al Cd S",
        (0.25, 0.66),
        (0.40, 0.75),
        roles="cation | cation | anion",
    ),
    metallic(
        "half-heusler",
        "ABC_cF12_216_b_c_a",
        "Ag As Mg",
        LATE,
        "Al Ga In Si Ge Sn Pb As Sb Bi",
        f"Li Mg {EARLY} {RARE_EARTH}",
    ),
    metallic(
        "heusler",
        "AB2C_cF16_225_a_c_b",
        "Al Cu Mn",
        "Al Ga In Si Ge Sn Sb",
        LATE,
        f"{EARLY} {RARE_EARTH} Cr Mn Fe Li Mg",
    ),
    metallic(
        "max-211",
        "ABC2_hP8_194_d_a_f",
        "Al C Cr",
        f"{P_METAL} Zn Cd Si Ge P S As",
        "C N",
        "Sc Ti V Cr Zr Nb Mo Hf Ta",
    ),
    metallic(
        "basbpt",
        "ABC_hP3_187_a_d_f",
        "Ba Sb Pt",
        ELECTROPOSITIVE,
        "P As Sb Bi Si Ge Sn",
        "Ni Pd Pt Cu Ag Au Zn",
    ),
    metallic(
        "hocoga5",
        "AB5C_tP7_123_b_ci_a",
        "Co Ga Ho",
        "Co Rh Ir Ni Pd Pt Fe Ru",
        "Al Ga In",
        f"{RARE_EARTH} Th U",
    ),
    metallic("cenic2", "A2BC_oC8_38_e_a_b", "C Ce Ni", "C", RARE_EARTH, "Fe Co Ni Ru Rh"),
)
