"""Options and exact answers for the tests of refinement."""

from __future__ import annotations

from nesf.crystal import CrystalBatch
from nesf.exact import exact_fields
from nesf.reconstruction.reconstruct import Reconstruction, reconstruct
from nesf.refinement.refine import RefineOptions

QUICK = RefineOptions(steps=6, first_steps=3)
AT_THE_END = RefineOptions(steps=10, first_steps=0, check_growth=10.0)


def exactly(crystals: CrystalBatch) -> Reconstruction:
    return reconstruct(exact_fields(crystals))
