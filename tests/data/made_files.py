"""Made crystals, and their CIFs."""

from in_process import random_structures
from pymatgen.core import Structure
from pymatgen.io.cif import CifWriter

STRUCTURES = random_structures(seed=0, count=5)


def cif(structure: Structure) -> str:
    return str(CifWriter(structure))
