"""What generating commands write, go on with, draw and refuse."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from generating import Conditional, crystals_of, rows_of, run, same
from pymatgen.core import Lattice, Structure

from nesf.api import Model
from nesf.cli import main
from nesf.commands.parser import FunctionParser
from nesf.data.beside import beside
from nesf.errors import InputError
from nesf.generation import commands as generate


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
    table = beside(broken, "validity.csv")
    lines = table.read_text().splitlines(keepends=True)
    assert len(lines) == 5
    table.write_text("".join(lines[:-1]))  # the last row is lost
    assert run("sample", output=str(broken), count=6, batch_size=2, resume=True) == 0
    one, other = crystals_of(whole), crystals_of(broken)
    assert list(one) == list(other)
    assert all(same(one[k], other[k], 1e-3) for k in one)
    expected = {row["id"]: row for row in rows_of(beside(whole, "validity.csv"))}
    assert {row["id"]: row for row in rows_of(table)} == expected


def test_nothing_is_decoded_twice_without_need(tmp_path, use, monkeypatch):
    use(Conditional())
    run("sample", output=str(tmp_path / "out"), count=3)
    monkeypatch.setattr(Model, "decode_crystals", None)
    assert run("sample", output=str(tmp_path / "out"), count=3, resume=True) == 0


def test_a_strange_validity_table_is_left_alone(tmp_path, use):
    use(Conditional())
    (tmp_path / "o.validity.csv").write_text("mine\n1\n")
    with pytest.raises(InputError, match=r"validity\.csv is not from this command"):
        run("sample", output=str(tmp_path / "o.csv"), count=1, resume=True)
    assert (tmp_path / "o.validity.csv").read_text() == "mine\n1\n"


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


@pytest.mark.parametrize("verb", ["perturb", "interpolate", "sample"])
def test_a_network_of_another_kind_makes_no_crystals(tmp_path, inputs, use, verb):
    use(torch.nn.Linear(2, 2))
    ends = [[str(inputs / "a0.cif"), str(inputs / "a1.cif")]]
    with pytest.raises(InputError, match="a Linear makes no crystals; give a model that has"):
        run(verb, *([] if verb == "sample" else ends), output=str(tmp_path / "out"))


def test_bad_files_among_good_ones_are_listed(tmp_path, inputs, use, capsys):
    (inputs / "a.cif").write_text("data_x\n_cell_length_a ?\n")
    (inputs / "b.cif").write_bytes(bytes(range(256)))
    out = tmp_path / "out.csv"
    words = ["perturb", str(inputs), "--model", "m", "--count", "2", "--scale", "0"]
    assert main([*words, "--output", str(out), "--picture", "false"]) == 1
    assert set(crystals_of(out)) == {f"a{i}_s0_00{k}" for i in range(4) for k in range(2)}
    assert {row["id"] for row in rows_of(tmp_path / "out.rejected.csv")} == {"a", "b"}
    told = capsys.readouterr()
    assert "8 generated, 2 rejected" in told.out
    assert "Traceback" not in told.err


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
