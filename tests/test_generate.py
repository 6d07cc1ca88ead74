"""Generation: perturb, interpolate and sample, through files, for models of every kind."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from stand_in_model import StandIn
from torch import Tensor

from nesf import generate
from nesf.api import Model
from nesf.cli import main
from nesf.cli_parser import FunctionParser
from nesf.crystal import CrystalBatch
from nesf.data.parsing import parse
from nesf.data.readers import read_crystals
from nesf.data.workers import Failure
from nesf.errors import InputError
from nesf.latent_paths import (
    LatentGaussian,
    condition_dims,
    linear,
    prior_spread,
    spherical,
)

LATENTS = st.tuples(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 12))


class Conditional(StandIn):
    """Its latent is a stand-in's and the one-hot of a property bin; its prior is of known kind."""

    condition_property = "gap"
    condition_edges = (0.5, 1.25)
    prior_scale = 0.01

    def encode(self, crystals: CrystalBatch) -> Tensor:
        plain = super().encode(crystals)
        told = plain.new_zeros(len(plain), 3)
        told[:, 1] = 1.0
        return torch.cat([plain, told], dim=-1)

    def fields(self, latent: Tensor) -> Any:
        return super().fields(latent[:, :-3])

    def set_condition(self, latent: Tensor, bin: int) -> Tensor:
        told = torch.zeros_like(latent[:, -3:])
        if bin >= 0:
            told[:, bin] = 1.0
        return torch.cat([latent[:, :-3], told], dim=-1)

    def sample_latents(
        self, count: int, generator: torch.Generator, condition: int | None = None
    ) -> Tensor:
        base = self.encode(CrystalBatch.from_structures([salt()]))
        moved = base + self.prior_scale * torch.randn(count, base.shape[-1], generator=generator)
        # what may not vary: how many atoms there are, and of which elements
        moved[:, 9] = base[:, 9]
        moved[:, -11:] = base[:, -11:]
        return self.set_condition(moved, -1 if condition is None else condition)


def salt(length: float = 5.6, metal: str = "Na") -> Structure:
    return Structure(
        Lattice.from_parameters(length, length + 0.1, length + 0.2, 90, 91, 92),
        [metal, "Cl"],
        [[0.1, 0.1, 0.1], [0.6, 0.6, 0.6]],
    )


def same(one: Structure, other: Structure, tolerance: float = 0.02) -> bool:
    if sorted(one.atomic_numbers) != sorted(other.atomic_numbers):
        return False
    away = one.lattice.get_all_distances(one.frac_coords, other.frac_coords)
    return bool(
        np.allclose(one.lattice.parameters, other.lattice.parameters, atol=tolerance)
        and away.min(1).max() < tolerance
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def crystals_of(path: Path) -> dict[str, Structure]:
    rows, rejected = read_crystals([path], progress=False)
    assert not rejected
    return {row.id: row.structure for row in rows}


@pytest.fixture(autouse=True)
def parsed_here(monkeypatch) -> None:
    """Crystals are parsed in this process, which saves the start of a worker a command."""

    def answers(function, items, *, config, **_) -> Iterator[tuple[Any, Any]]:
        for item, payload in items:
            try:
                yield item, None if payload is None else parse(payload, config)
            except InputError as error:
                yield item, Failure(str(error))

    monkeypatch.setattr("nesf.data.readers.map_in_workers", answers)


@pytest.fixture
def inputs(tmp_path) -> Path:
    """Four salts, a0 to a3."""
    folder = tmp_path / "in"
    folder.mkdir()
    for i, metal in enumerate(("Na", "K", "Li", "Rb")):
        salt(5 + 0.2 * i, metal).to(filename=str(folder / f"a{i}.cif"))
    return folder


@pytest.fixture
def use(monkeypatch):
    """Let a module stand for every model."""

    def put(module: torch.nn.Module, **_) -> torch.nn.Module:
        monkeypatch.setattr(
            "nesf.api.load", lambda name, device, batch_size: Model(module, device, batch_size)
        )
        return module

    put(StandIn())
    return put


def run(verb: str, *arguments: Any, **options: Any) -> int:
    """One command, on the CPU, quietly, without a picture unless asked."""
    quiet = {"model": "any", "device": "cpu", "progress": False, "picture": False}
    return getattr(generate, f"{verb}_files")(*arguments, **{**quiet, **options})


# -- around a crystal


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
    """The unit is the spread over the inputs, or over the crystals of --like."""
    one, all_of_them = [str(inputs / "a0.cif")], [str(inputs)]
    with pytest.raises(InputError, match=r"a StandIn has no prior.*--like"):
        run("perturb", one, output=str(tmp_path / "x"))
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


# -- between two crystals


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


# -- at random


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
    rows, rejected = rows_of(tmp_path / "validity.csv"), rows_of(tmp_path / "rejected.csv")
    empty = [row["id"] for row in rows if row["has_atoms"] == "false"]
    assert 0 < len(empty) < 12
    assert [row["id"] for row in rejected] == empty
    assert len(rows) == 12
    assert set(crystals_of(out)) == {row["id"] for row in rows} - set(empty)
    assert f"of 12: has atoms {12 - len(empty)}, " in capsys.readouterr().out
    assert (tmp_path / "strip.png").read_bytes().startswith(b"\x89PNG")


# -- files


@pytest.mark.parametrize("name", ["folder", "table.csv.gz", "t.extxyz"])
def test_an_interrupted_run_goes_on(tmp_path, use, monkeypatch, name):
    """What is there stays; what was written after the last row of validity.csv is checked again."""
    use(Conditional())
    whole, broken = tmp_path / "whole" / name, tmp_path / "broken" / name
    run("sample", output=str(whole), count=6)
    decode = Model.decode_crystals
    calls: list[int] = []

    def limited(self, latent, options=None):
        calls.append(len(latent))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return decode(self, latent, options)

    monkeypatch.setattr(Model, "decode_crystals", limited)
    with pytest.raises(KeyboardInterrupt):
        run("sample", output=str(broken), count=6, batch_size=2)
    monkeypatch.setattr(Model, "decode_crystals", decode)
    table = (broken if broken.is_dir() else broken.parent) / "validity.csv"
    lines = table.read_text().splitlines(keepends=True)
    assert len(lines) == 5
    table.write_text("".join(lines[:-1]))  # the last row is lost
    assert run("sample", output=str(broken), count=6, batch_size=2, resume=True) == 0
    one, other = crystals_of(whole), crystals_of(broken)
    assert list(one) == list(other)
    assert all(same(one[k], other[k], 1e-3) for k in one)
    full = (whole if whole.is_dir() else whole.parent) / "validity.csv"
    expected = {row["id"]: row for row in rows_of(full)}
    assert {row["id"]: row for row in rows_of(table)} == expected


def test_nothing_is_decoded_twice_without_need(tmp_path, use, monkeypatch):
    use(Conditional())
    run("sample", output=str(tmp_path / "out"), count=3)
    monkeypatch.setattr(Model, "decode_crystals", None)
    assert run("sample", output=str(tmp_path / "out"), count=3, resume=True) == 0


def test_a_strange_validity_table_is_left_alone(tmp_path, use):
    use(Conditional())
    (tmp_path / "validity.csv").write_text("mine\n1\n")
    with pytest.raises(InputError, match=r"validity\.csv is not from this command"):
        run("sample", output=str(tmp_path / "o.csv"), count=1, resume=True)
    assert (tmp_path / "validity.csv").read_text() == "mine\n1\n"


def test_pictures_by_default(tmp_path, inputs, use):
    defaults = [
        inspect.signature(getattr(generate, f"{verb}_files")).parameters["picture"].default
        for verb in ("perturb", "interpolate", "sample")
    ]
    assert defaults == [True, True, True]
    out = tmp_path / "p"
    run("perturb", [str(inputs)], output=str(out), count=2, scale=0.0, picture=True)
    assert (out / "strip.png").read_bytes().startswith(b"\x89PNG")
    run("perturb", [str(inputs)], output=str(tmp_path / "q"), count=1, scale=0.0)
    assert not (tmp_path / "q" / "strip.png").exists()


# -- what cannot be


@pytest.mark.parametrize(
    ("verb", "changes", "reason"),
    [
        ("perturb", {"count": 0}, "the count is 0; give at least 1"),
        ("perturb", {"scale": -0.1}, "the scale is -0.1; give 0 or more"),
        ("perturb", {"scale": float("nan")}, "the scale is nan"),
        ("perturb", {"inputs": ["EMPTY"]}, "empty"),
        ("perturb", {"inputs": ["IN/none.cif"]}, "none.cif"),
        ("perturb", {"output": "IN/out"}, "lies in the input"),
        ("perturb", {"batch_size": 0}, "batch size"),
        ("interpolate", {"steps": 1}, "the steps are 1; give at least 2"),
        ("interpolate", {"inputs": ["IN/a0.cif"]}, "1 crystals were given"),
        ("interpolate", {"inputs": ["IN", "IN/a0.cif"]}, "holds several.*'.*in#a0'"),
        (
            "interpolate",
            {"inputs": ["IN#zz", "IN/a0.cif"]},
            "no crystal zz; its ids are a0, a1",
        ),
        ("interpolate", {"inputs": ["IN/bad.txt#a", "IN/a0.cif"]}, "bad.txt"),
        ("interpolate", {"inputs": ["#a", "IN/a0.cif"]}, "#a"),
        ("interpolate", {"inputs": ["EMPTY#a", "IN/a0.cif"]}, "empty"),
        ("sample", {"count": 0}, "the count is 0"),
    ],
)
def test_what_cannot_be_is_told_in_one_sentence(tmp_path, inputs, use, verb, changes, reason):
    (tmp_path / "empty").mkdir()

    def placed(text: str) -> str:
        return text.replace("IN", str(inputs)).replace("EMPTY", str(tmp_path / "empty"))

    given_: dict[str, Any] = {"output": str(tmp_path / "out")}
    if verb == "perturb":
        given_["inputs"] = [str(inputs)]
    if verb == "interpolate":
        given_["inputs"] = [str(inputs / "a0.cif"), str(inputs / "a1.cif")]
    for name, value in changes.items():
        if isinstance(value, list):
            given_[name] = [placed(text) for text in value]
        else:
            given_[name] = placed(value) if isinstance(value, str) else value
    with pytest.raises(InputError, match=reason) as told:
        run(verb, **given_)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


def test_an_end_that_cannot_be_read_says_why(tmp_path, inputs, use):
    crowded = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.01, 0, 0]])
    crowded.to(filename=str(inputs / "crowded.cif"))
    for end in (f"{inputs}/crowded.cif", f"{inputs}#crowded"):
        with pytest.raises(InputError, match=r"crowded\.cif: .*apart"):
            run("interpolate", [end, str(inputs / "a0.cif")], output=str(tmp_path / "out"))


def test_the_command_line_ends_in_one_sentence_and_code_2(tmp_path, inputs, use, capsys):
    words = ["interpolate", f"{inputs}#a0", f"{inputs}#b", "--model", "m", "--output"]
    assert main([*words, str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"nesf: {inputs} has no crystal b; its ids are a0, a1, a2, ...\n"


def test_the_options_are_told(capsys):
    for verb in ("perturb", "interpolate", "sample"):
        function = getattr(generate, f"{verb}_files")
        parser = FunctionParser(function, f"nesf {verb}")
        needed = [] if verb == "sample" else ["a", "b"]
        both = parser.parse([*needed, "--model", "m", "--output", "o", "--like", "[x,y]"])
        single = parser.parse([*needed, "--model", "m", "--output", "o", "--like", "x"])
        assert (both["like"], single["like"]) == (["x", "y"], "x")
        with pytest.raises(SystemExit):
            parser.parse(["--help"])
        assert "--like" in capsys.readouterr().out


# -- latents


def pair(seed: int, dim: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(2, dim, generator=generator))  # type: ignore[return-value]


@settings(max_examples=30, deadline=None)
@given(LATENTS)
def test_paths_have_exact_ends_and_even_steps(case):
    seed, steps, dim = case
    first, last = pair(seed, dim)
    for path in (linear(first, last, steps), spherical(first, last, steps)):
        assert path.shape == (steps, dim)
        assert torch.equal(path[0], first)
        assert torch.equal(path[-1], last)
    gaps = linear(first, last, steps).diff(dim=0)
    torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps), rtol=1e-3, atol=1e-5)
    path = spherical(first, last, steps)
    lengths = path.norm(dim=-1)
    expected = torch.linspace(float(first.norm()), float(last.norm()), steps)
    torch.testing.assert_close(lengths, expected, rtol=1e-3, atol=1e-4)
    unit = (path / lengths.unsqueeze(-1)).double()
    angles = (unit[1:] * unit[:-1]).sum(-1).clamp(-1, 1).arccos()
    torch.testing.assert_close(angles, angles[:1].expand_as(angles), rtol=1e-2, atol=1e-3)


def test_a_great_circle_that_is_none_is_a_line():
    one = torch.tensor([1.0, 2.0])
    for other in (2 * one, -one, torch.zeros(2)):
        torch.testing.assert_close(spherical(one, other, 5), linear(one, other, 5))


def test_a_fitted_normal_has_their_mean_and_covariance():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.8, 0.3, 0.0], [0.0, 0.0, 2.0]])
    data = torch.randn(4000, 3, generator=generator) @ mixing.T + torch.tensor([1.0, -2.0, 0.5])
    fitted = LatentGaussian.fit(data)
    torch.testing.assert_close(fitted.mean, data.mean(0))
    covariance = fitted.factor @ fitted.factor.T
    torch.testing.assert_close(covariance, mixing @ mixing.T, atol=0.15, rtol=0)
    assert torch.equal(fitted.latent_of(torch.zeros(3)), fitted.mean)
    # fewer latents than dimensions, and latents that are all the same
    for few in (torch.randn(2, 50, generator=generator), torch.ones(3, 5)):
        assert LatentGaussian.fit(few).latent_of(torch.ones(few.shape[1])).isfinite().all()


def test_the_condition_is_no_part_of_the_prior():
    module = Conditional()
    spread = prior_spread(module)
    told = condition_dims(module, torch.zeros(1, len(spread)))
    assert told.tolist() == [False] * (len(spread) - 3) + [True] * 3
    assert spread[:9] == pytest.approx(0.01, rel=0.05)
    assert spread[told].max() == 0
    assert not condition_dims(StandIn(), torch.zeros(1, 7)).any()


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
