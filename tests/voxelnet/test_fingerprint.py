"""Fingerprints: what does not change them, and what they tell apart."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from crystals import random_crystals
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from recut import recut, shuffled_and_shifted

from eval import fingerprint
from eval.fingerprint import (
    FARTHEST,
    FingerprintOptions,
    fingerprints,
    nearest_training_crystals,
)
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet

FCC = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
BY = pytest.mark.parametrize(
    "options", [FingerprintOptions("elements"), FingerprintOptions("atoms")]
)


def cubic(length: float, sites: dict[str, list[float]]) -> Structure:
    """Each site on a face-centred lattice."""
    frac = [np.add(offset, shift) for offset in sites.values() for shift in FCC]
    return Structure(Lattice.cubic(length), [name for name in sites for _ in FCC], frac)


def salt(length: float = 5.6, cation: str = "Na", anion: str = "Cl") -> Structure:
    return cubic(length, {cation: [0, 0, 0], anion: [0.5, 0.5, 0.5]})


def perovskite(a: str, b: str) -> Structure:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    return Structure(Lattice.cubic(4), [a, b, "O", "O", "O"], sites)


def distance(a: Structure, b: Structure, by: str = "elements") -> float:
    options = FingerprintOptions(by)
    one, other = (fingerprints(CrystalBatch.from_structures([s]), options) for s in (a, b))
    return float(one.distances(other)[0, 0])


@BY
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_cell_turn_origin_and_order_do_not_matter(options, seed):
    crystals = random_crystals(seed, 2, 4)
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    other = recut(crystals, torch.tensor([[2, 1, 0], [0, 1, 0], [3, 0, 1]]))
    other = shuffled_and_shifted(other, seed)
    other = other.replace(lattice=other.lattice @ turn)
    found = fingerprints(crystals, options).distances(fingerprints(other, options))
    assert np.abs(np.diag(found)).max() < 1e-6
    assert found[0, 1] > 1e-3


@BY
def test_spectra_are_those_of_points_one_by_one(options):
    """A plain sum over indices, elements and shells."""
    crystals = random_crystals(3, 2, 3)
    options = FingerprintOptions(options.by, sigma=0.3, reach=4.0, shells=6)
    found = fingerprints(crystals, options).spectra.toarray()
    width = options.reach / options.shells
    for i in range(2):
        lattice = crystals.lattice[i].numpy()
        real = crystals.mask[i].numpy()
        frac = crystals.frac_coords[i].numpy()[real]
        numbers = crystals.atomic_numbers[i].numpy()[real]
        numbers = numbers if options.by == "elements" else np.ones_like(numbers)
        wanted = {}
        steps = np.arange(-12, 13)
        for hkl in np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3):
            g = np.linalg.norm(2 * np.pi * hkl @ np.linalg.inv(lattice).T)
            if g > options.reach:
                continue
            middles = (np.arange(options.shells) + 0.5) * width
            hats = np.clip(1 - abs(max(g, width / 2) - middles) / width, 0, None)
            phases = np.exp(-2j * np.pi * frac @ hkl) * np.exp(-(options.sigma**2) * g * g / 2)
            for a in set(numbers.tolist()):
                for b in set(numbers.tolist()):
                    power = (phases[numbers == a].sum() * phases[numbers == b].sum().conj()).real
                    key = (min(a, b), max(a, b))
                    factor = 1 if a == b else 1 / math.sqrt(2)
                    wanted[key] = wanted.get(key, 0) + factor * power * hats
        whole = np.concatenate([wanted[key] for key in sorted(wanted)])
        whole /= np.linalg.norm(whole)
        mine = found[i][found[i] != 0]
        np.testing.assert_allclose(np.sort(mine), np.sort(whole[whole != 0]), atol=1e-9)


def test_what_is_told_apart():
    zincblende = cubic(5.6, {"Na": [0, 0, 0], "Cl": [0.25, 0.25, 0.25]})
    assert distance(salt(), zincblende) > 0.2  # each element alone is arranged alike
    assert distance(perovskite("Ba", "Ti"), perovskite("Ti", "Ba")) > 0.1
    assert distance(perovskite("Ba", "Ti"), perovskite("Ti", "Ba"), "atoms") < 1e-6
    assert distance(salt(), salt(cation="K", anion="Br"), "atoms") < 1e-6
    assert distance(salt(), salt(cation="K", anion="Br")) == pytest.approx(FARTHEST)
    steps = [distance(salt(), salt(5.6 * (1 + strain))) for strain in (0, 0.003, 0.01, 0.03)]
    assert steps == sorted(steps)
    assert steps[0] < 1e-6 < steps[1] < 0.2


def test_the_nearest_is_that_of_the_table_and_memory_does_not_matter(monkeypatch):
    mine, theirs = random_crystals(0, 5, 3), random_crystals(1, 9, 3)
    whole = fingerprints(mine).distances(fingerprints(theirs))
    assert whole.shape == (5, 9)
    monkeypatch.setattr(fingerprint, "_AT_ONCE", 2)
    monkeypatch.setattr(fingerprint, "_POINTS_AT_ONCE", 100)
    positions, least = fingerprints(mine).nearest(fingerprints(theirs))
    assert positions == whole.argmin(1).tolist()
    np.testing.assert_allclose(least, whole.min(1), atol=1e-9)


def test_a_crystal_without_atoms_or_volume_is_far_from_nothing():
    crystals = random_crystals(0, 3, 2)
    mask, lattice = crystals.mask.clone(), crystals.lattice.clone()
    mask[1] = False
    lattice[2] = 0
    odd = fingerprints(crystals.replace(mask=mask, lattice=lattice))
    fine = fingerprints(crystals)
    positions, least = odd.nearest(fine)
    assert positions == [0, -1, -1]
    assert np.isnan(least).tolist() == [False, True, True]
    assert fine.nearest(odd)[0] == [0, 0, 0]
    assert np.isnan(odd.distances(odd)[1:]).all()
    with pytest.raises(ValueError, match="no fingerprints"):
        fine.nearest(fingerprints(crystals.select([])))
    with pytest.raises(ValueError, match="different options"):
        fine.distances(fingerprints(crystals, FingerprintOptions("atoms")))


def test_nearest_training_crystals_of_structures():
    training = CrystalBatch.from_structures([salt(), perovskite("Ba", "Ti")], ["salt", "cubic"])
    asked = {
        "twice": salt() * (2, 1, 1),
        "stretched": salt(5.62),
        "other": perovskite("Sr", "Ti"),
        "empty": Structure(Lattice.cubic(4), [], []),
    }
    found = nearest_training_crystals(asked, training)
    packed = nearest_training_crystals(asked, PackedSet.from_batch(training))
    assert {k: v and v[0] for k, v in packed.items()} == {k: v and v[0] for k, v in found.items()}
    assert found["empty"] is None
    assert [found[k][0] for k in ("twice", "stretched", "other")] == ["salt", "salt", "cubic"]
    assert found["twice"][1] < 1e-3 < found["stretched"][1] < found["other"][1]


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"reach": -1.0}, {"shells": 1}])
def test_options_refuse_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match="must"):
        FingerprintOptions(**wrong)


def test_a_report_tells_of_novelty(tmp_path):
    from eval.evaluate import evaluate
    from eval.report import CrystalPair, write_report

    crystals = {"a": salt(), "b": perovskite("Sr", "Ti"), "<c>": salt(5.8)}
    training = CrystalBatch.from_structures([salt(5.61), perovskite("Ba", "Ti")], ["<s>", "p"])
    nearest = nearest_training_crystals(crystals, training)
    items = list(crystals.items())
    result = evaluate(items, items, matching=False, bootstrap=10, progress=False)
    pairs = [CrystalPair("a", salt(), salt(), {}, "random", nearest["a"])]
    write_report(tmp_path / "r.html", title="t", metrics=result, pairs=pairs, nearest=nearest)
    text = (tmp_path / "r.html").read_text()
    middle = sorted(distance for _, distance in nearest.values())[1]
    assert f"Median {middle:.3f} over 3 of 3" in text
    assert f"&lt;s&gt;, {nearest['a'][1]:.3f}" in text
    assert text.index("<td>b</td>") < text.index("<td>a</td>")  # the newest first
    write_report(tmp_path / "r.html", title="t", metrics=result)
    assert "Novelty" not in (tmp_path / "r.html").read_text()
