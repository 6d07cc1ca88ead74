"""Perturb, interpolate and sample, through files, for models of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from generating import Conditional, crystals_of, rows_of, run, salt, same
from pymatgen.core import Lattice, Structure
from stand_in_model import StandIn
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.errors import InputError


def test_without_noise_a_crystal_comes_back(tmp_path, inputs, use, capsys):
    out = tmp_path / "out"
    assert run("perturb", [str(inputs)], output=str(out), count=2, scale=0.0) == 0
    found, true = crystals_of(out), crystals_of(inputs)
    assert set(found) == {f"a{i}_s0_00{k}" for i in range(4) for k in range(2)}
    assert all(same(found[f"{name}_s0_001"], true[name]) for name in true)
    told = capsys.readouterr().out
    assert told.startswith("of 8: has atoms 8, sound cell 8, ")
    assert "8 generated, 0 rejected" in told
    rows = rows_of(out / "validity.csv")
    assert [row["id"] for row in rows] == list(found)
    assert {row["formula"] for row in rows} == {"NaCl", "KCl", "LiCl", "RbCl"}
    assert {row["valid_all"] for row in rows} == {"true"}
    assert {row["known_formula"] for row in rows} == {""}


def test_noise_depends_on_seed_and_id_alone(tmp_path, inputs, use):
    use(Conditional())
    common = {"count": 3, "scale": 1.0}
    run("perturb", [str(inputs)], output=str(tmp_path / "a"), batch_size=128, **common)
    run("perturb", [str(inputs)], output=str(tmp_path / "b"), batch_size=2, **common)
    alone = [str(inputs / "a2.cif")]
    run("perturb", alone, output=str(tmp_path / "c"), count=2, scale=1.0)
    run("perturb", [str(inputs)], output=str(tmp_path / "d"), seed=1, **common)
    a, b, c, d = (crystals_of(tmp_path / name) for name in "abcd")
    assert set(a) == set(b)
    assert all(same(a[name], b[name], 1e-3) for name in a)
    assert set(c) == {"a2_s0_000", "a2_s0_001"}
    assert all(same(a[name], c[name], 1e-3) for name in c)
    assert not any(same(a[name], d[name.replace("_s0_", "_s1_")], 1e-3) for name in a)
    assert not same(a["a2_s0_000"], a["a2_s0_001"], 1e-3)


def test_scale_is_in_units_of_the_prior(tmp_path, inputs, use):
    use(Conditional())
    out = tmp_path / "out.csv"
    run("perturb", [str(inputs / "a0.cif")], output=str(out), count=100, scale=2.0)
    moves = [s.lattice.matrix[0, 0] for s in crystals_of(out).values()]
    assert np.std(moves) == pytest.approx(2.0 * Conditional.prior_scale, rel=0.25)


def test_scale_of_a_model_without_a_prior(tmp_path, inputs, use):
    """The unit is the spread over the inputs, over the crystals of --like, or one latent's size."""
    one, all_of_them = [str(inputs / "a0.cif")], [str(inputs)]
    with pytest.raises(InputError, match="--like has one crystal"):
        run("perturb", one, output=str(tmp_path / "x"), like=one[0])
    assert not (tmp_path / "x").exists()
    # the elements differ too, and take steps of whole numbers: tell the cells alone
    spreads = {}
    for name, given_, like in (("own", all_of_them, None), ("like", one, str(inputs))):
        out = tmp_path / f"{name}.csv"
        run("perturb", given_, output=str(out), like=like, count=40, scale=0.05)
        around = [s for n, s in crystals_of(out).items() if n.startswith("a0_")]
        assert len(around) > 30
        spreads[name] = np.std([s.lattice.matrix[1, 1] for s in around])
    unit = np.std([s.lattice.matrix[1, 1] for s in crystals_of(inputs).values()], ddof=1)
    assert spreads["own"] == pytest.approx(spreads["like"])
    assert spreads["own"] == pytest.approx(0.05 * unit, rel=0.3)
    run("perturb", one, output=str(tmp_path / "single.csv"), count=60, scale=1e-3)
    moves = [s.lattice.matrix[1, 1] for s in crystals_of(tmp_path / "single.csv").values()]
    (given_one,) = crystals_of(inputs / "a0.cif").values()
    latent = StandIn().encode(CrystalBatch.from_structures([given_one]))
    size = latent.square().mean().sqrt().item()
    assert len(moves) > 20
    assert np.std(moves) == pytest.approx(1e-3 * size, rel=0.3)


def test_latents_that_do_not_differ_give_no_unit(tmp_path, use):
    for name in "ab":
        salt().to(filename=str(tmp_path / f"{name}.cif"))
    with pytest.raises(InputError, match="all the same"):
        run("perturb", [str(tmp_path / "[ab].cif")], output=str(tmp_path / "out"))


def test_what_cannot_be_encoded_counts(tmp_path, inputs, use, capsys):
    class Choosy(StandIn):
        def refusals(self, crystals: CrystalBatch) -> list[str | None]:
            return ["too salty" if 19 in z else None for z in crystals.atomic_numbers.tolist()]

    use(Choosy())
    out = tmp_path / "out"
    assert run("perturb", [str(inputs)], output=str(out), count=3, scale=0.0, picture=True) == 1
    assert len(crystals_of(out)) == 9
    rows = rows_of(out / "validity.csv")
    assert [row["id"] for row in rows if row["has_atoms"] == "false"] == [
        f"a1_s0_00{k}" for k in range(3)
    ]
    assert {row["reason"] for row in rows_of(out / "rejected.csv")} == {"too salty"}
    assert "of 12: has atoms 9" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_the_ends_are_the_crystals(tmp_path, use, path, capsys):
    one, two = tmp_path / "one.cif", tmp_path / "two.cif"
    salt(5.0).to(filename=str(one))
    salt(6.0).to(filename=str(two))
    out = tmp_path / "out"
    assert run("interpolate", [str(one), str(two)], output=str(out), steps=5, path=path) == 0
    found = crystals_of(out)
    assert list(found) == [f"one_two_0{i}" for i in range(5)]
    assert same(found["one_two_00"], salt(5.0))
    assert same(found["one_two_04"], salt(6.0))
    lengths = [structure.lattice.a for structure in found.values()]
    assert np.all(np.diff(lengths) > 0.1)
    if path == "linear":
        assert lengths == pytest.approx([5.0, 5.25, 5.5, 5.75, 6.0], abs=0.01)


def test_a_crystal_of_a_table_by_its_id(tmp_path, inputs, use):
    table = tmp_path / "all.csv"
    run("perturb", [str(inputs)], output=str(table), count=1, scale=0.0)
    out = tmp_path / "out"
    ends = [f"{table}#a2_s0_000", f"{inputs}#a0"]
    assert run("interpolate", ends, output=str(out), steps=2) == 0
    found = crystals_of(out)
    assert set(found) == {"a2_s0_000_a0_00", "a2_s0_000_a0_01"}
    assert same(found["a2_s0_000_a0_00"], salt(5.4, "Li"))
    assert same(found["a2_s0_000_a0_01"], salt(5.0, "Na"))


def test_a_file_may_have_a_hash_in_its_name(tmp_path, use):
    salt().to(filename=str(tmp_path / "a#1.cif"))
    ends = [str(tmp_path / "a#1.cif")] * 2
    assert run("interpolate", ends, output=str(tmp_path / "out"), steps=2) == 0


def test_samples_are_the_same_in_any_batch(tmp_path, inputs, use, capsys):
    use(Conditional())
    for name, size, count in (("a", 64, 7), ("b", 2, 4)):
        out = str(tmp_path / name)
        run("sample", output=out, count=count, batch_size=size, seed=3, like=str(inputs))
    a, b = crystals_of(tmp_path / "a"), crystals_of(tmp_path / "b")
    assert list(a) == [f"sample_s3_0000{i}" for i in range(7)]
    assert list(b) == list(a)[:4]
    assert all(same(a[name], b[name], 1e-3) for name in b)
    assert not same(a["sample_s3_00000"], a["sample_s3_00001"], 1e-3)
    assert {row["known_formula"] for row in rows_of(tmp_path / "a" / "validity.csv")} == {"true"}
    assert "known formula 7 (100 %)" in capsys.readouterr().out


def test_samples_of_a_property_bin(tmp_path, use, capsys):
    module = use(Conditional())
    asked: list[int | None] = []
    draw = module.sample_latents

    def watched(count: int, generator: torch.Generator, condition: int | None = None) -> Tensor:
        asked.append(condition)
        return draw(count, generator, condition)

    module.sample_latents = watched
    for bin_, edges in ((0, "gap up to 0.5"), (1, "gap from 0.5 up to 1.25"), (2, "gap from 1.25")):
        out = tmp_path / f"{bin_}"
        assert run("sample", output=str(out), count=2, property_bin=bin_) == 0
        assert f"bin {bin_} of 3: {edges}\n" in capsys.readouterr().out
        assert set(crystals_of(out)) == {f"sample_s0_bin{bin_}_0000{i}" for i in range(2)}
    assert asked == [0, 0, 1, 1, 2, 2]
    with pytest.raises(InputError, match="no property bin 3; the bins of gap are 0 to 2"):
        run("sample", output=str(tmp_path / "x"), property_bin=3)


def test_a_model_without_a_prior_needs_crystals_like_the_wanted(tmp_path, inputs, use):
    with pytest.raises(InputError, match=r"no prior to draw latents from.*--like FILES"):
        run("sample", output=str(tmp_path / "x"))
    with pytest.raises(InputError, match="trained on no property; leave --property-bin out"):
        run("sample", output=str(tmp_path / "x"), property_bin=0, like=str(inputs))
    with pytest.raises(InputError, match="give two or more"):
        run("sample", output=str(tmp_path / "x"), like=str(inputs / "a0.cif"))
    assert not (tmp_path / "x").exists()
    run("sample", output=str(tmp_path / "out"), count=12, like=[str(inputs)])
    rows = rows_of(tmp_path / "out" / "validity.csv")
    assert len(rows) == 12
    lengths = [s.lattice.a for s in crystals_of(tmp_path / "out").values()]
    assert 4.5 < np.mean(lengths) < 6.2


def test_a_prior_may_be_fitted_although_the_model_has_one(tmp_path, inputs, use):
    """The own one lies around one salt, the fitted one around all that are given."""
    use(Conditional())
    lengths = {}
    for prior in ("auto", "own", "fitted"):
        out = tmp_path / f"{prior}.csv"
        run("sample", output=str(out), count=40, prior=prior, like=str(inputs))
        lengths[prior] = [s.lattice.a for s in crystals_of(out).values()]
    assert lengths["auto"] == lengths["own"]
    assert np.std(lengths["fitted"]) > 3 * np.std(lengths["own"])
    with pytest.raises(InputError, match="like the ones wanted with --like FILES"):
        run("sample", output=str(tmp_path / "x"), prior="fitted")
    use(StandIn())
    with pytest.raises(InputError, match="a StandIn has no prior of its own"):
        run("sample", output=str(tmp_path / "x"), prior="own", like=str(inputs))


def test_failures_count_and_are_listed(tmp_path, use, capsys):
    class Void(Conditional):
        """Every other crystal has no atoms."""

        def sample_latents(self, count, generator, condition=None):
            latent = super().sample_latents(count, generator, condition)
            latent[:, 9] = 2.0 * (torch.rand(1, generator=generator) < 0.5)
            return latent

    use(Void())
    out = tmp_path / "out.jsonl"
    assert run("sample", output=str(out), count=12, picture=True) == 1
    rows = rows_of(tmp_path / "out.validity.csv")
    rejected = rows_of(tmp_path / "out.rejected.csv")
    empty = [row["id"] for row in rows if row["has_atoms"] == "false"]
    assert 0 < len(empty) < 12
    assert [row["id"] for row in rejected] == empty
    assert len(rows) == 12
    assert set(crystals_of(out)) == {row["id"] for row in rows} - set(empty)
    assert f"of 12: has atoms {12 - len(empty)}, " in capsys.readouterr().out
    assert (tmp_path / "out.strip.png").read_bytes().startswith(b"\x89PNG")


def test_the_shipped_model_generates(tmp_path):
    """Around, between and at random, from the prior that made crystals give."""
    cscl = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    csbr = Structure(Lattice.cubic(4.3), ["Cs", "Br"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for name, structure in (("cscl", cscl), ("csbr", csbr)):
        structure.to(filename=str(tmp_path / f"{name}.cif"))
    files = [str(tmp_path / "cscl.cif"), str(tmp_path / "csbr.cif")]
    lcs6 = {"model": "lcs6"}
    assert run("interpolate", files, output=str(tmp_path / "i"), steps=3, **lcs6) == 0
    ends = crystals_of(tmp_path / "i")
    assert ends["cscl_csbr_00"].composition == cscl.composition
    assert ends["cscl_csbr_02"].composition == csbr.composition
    assert run("perturb", files, output=str(tmp_path / "p"), count=2, scale=0.1, **lcs6) == 0
    near = crystals_of(tmp_path / "p")
    assert near["cscl_s0_000"].lattice.volume != near["cscl_s0_001"].lattice.volume
    code = run("sample", output=str(tmp_path / "s"), count=2, like=files, batch_size=1, **lcs6)
    assert code in (0, 1)
    assert len(rows_of(tmp_path / "s" / "validity.csv")) == 2
