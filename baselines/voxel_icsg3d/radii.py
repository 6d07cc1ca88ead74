"""How wide an element's Gaussian is: mean ionic radii."""

# The mean over an element's oxidation states of its ionic radii (Å), rounded to four decimals, as
# in pymatgen's element data (`Element.average_ionic_radius`, from Shannon, Acta Cryst. A 32, 751,
# 1976, and textbook tables); 1.2 Å where no radius is known or none is positive.
UNKNOWN_RADIUS = 1.2

# fmt: off
IONIC_RADII: tuple[float, ...] = (
    1.2, 1.2, 0.9, 0.59, 0.41, 0.3, 0.63, 1.26,  # H He Li Be B C N O
    0.705, 1.2, 1.16, 0.86, 0.675, 0.54, 0.55, 0.88,  # F Ne Na Mg Al Si P S
    0.78, 1.2, 1.52, 1.14, 0.885, 0.8517, 0.7775, 0.94,  # Cl Ar K Ca Sc Ti V Cr
    0.8775, 0.8525, 0.7683, 0.74, 0.82, 0.88, 0.76, 0.77,  # Mn Fe Co Ni Cu Zn Ga Ge
    0.66, 1.0133, 0.8825, 1.2, 1.66, 1.32, 1.04, 0.86,  # As Se Br Kr Rb Sr Y Zr
    0.82, 0.775, 0.7417, 0.661, 0.745, 0.8462, 1.0867, 1.09,  # Nb Mo Tc Ru Rh Pd Ag Cd
    0.94, 0.83, 0.83, 1.2933, 1.2733, 0.62, 1.81, 1.49,  # In Sn Sb Te I Xe Cs Ba
    1.172, 1.08, 1.06, 1.2765, 1.11, 1.229, 1.1985, 1.075,  # La Ce Pr Nd Pm Sm Eu Gd
    0.9815, 1.131, 1.041, 1.03, 1.095, 1.084, 1.001, 0.85,  # Tb Dy Ho Er Tm Yb Lu Hf
    0.82, 0.7667, 0.7125, 0.673, 0.765, 0.805, 1.07, 1.245,  # Ta W Re Os Ir Pt Au Hg
    1.3325, 1.1225, 1.035, 0.945, 0.76, 1.2, 1.94, 1.62,  # Tl Pb Bi Po At Rn Fr Ra
    1.26, 1.08, 1.04, 0.9913, 1, 0.9675,  # Ac Th Pa U Np Pu
)
# fmt: on
"""Mean ionic radius by atomic number, Å: the entry at Z - 1, Z from 1 to 94."""
