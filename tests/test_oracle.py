"""The oracle: exact fields of real crystals, reconstructed, are the same crystals."""

import pytest
import torch
from crystals import site_errors
from pymatgen.core.structure_matcher import StructureMatcher

from nesf.crystal import CrystalBatch
from nesf.data.readers import ReadOptions, read_crystals
from nesf.exact import exact_fields
from nesf.reconstruction.reconstruct import reconstruct

SETS = ["lcs6/test", "icsg3d_part/test", "ybco13/all", "perov5/test", "carbon24/test"]
BATCH = 128


@pytest.fixture(scope="module")
def real_crystals(shared_data) -> dict[str, CrystalBatch]:
    """Every crystal of the five sets."""
    files = {name: shared_data / f"{name}.csv.gz" for name in SETS}
    rows, rejected = read_crystals(list(files.values()), ReadOptions(workers=2), progress=False)
    assert not rejected
    batches = {}
    for name, file in files.items():
        mine = [row for row in rows if row.source == str(file)]
        batches[name] = CrystalBatch.from_structures(
            [row.structure for row in mine], [row.id for row in mine]
        )
    return batches


@pytest.mark.parametrize(
    ("name", "periodic"), [*((name, True) for name in SETS), ("lcs6/test", False)]
)
def test_every_real_crystal_comes_back(real_crystals, name, periodic):
    crystals = real_crystals[name]
    assert len(crystals) >= 100
    for begin in range(0, len(crystals), BATCH):
        batch = crystals.select(list(range(begin, min(begin + BATCH, len(crystals)))))
        found = reconstruct(exact_fields(batch, periodic), ids=batch.ids)
        error, wrong = site_errors(batch, found.crystals)
        assert torch.equal(found.crystals.num_atoms, batch.num_atoms)
        assert wrong.sum() == 0
        assert error.max() <= 1e-3
        assert found.count_agrees.all()


def test_structure_matcher_agrees(real_crystals):
    matcher = StructureMatcher()  # primitive cells, ltol 0.2, stol 0.3, angle_tol 5
    for crystals in real_crystals.values():
        batch = crystals.select(list(range(0, len(crystals), 15)))
        found = reconstruct(exact_fields(batch)).crystals.to_structures()
        for before, after in zip(batch.to_structures(), found, strict=True):
            rms, _ = matcher.get_rms_dist(before, after)
            assert rms < 1e-3
