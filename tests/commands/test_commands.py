"""Crystals through the commands: files in, files out, an exit code for what goes wrong."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import complaint, crystal, is_crystal, nesf, rows_of, table
from pymatgen.core import Lattice, Structure
from stand_in_model import StandIn

from nesf.commands.parts import batches_of_rows, rows_in
from nesf.commands.tally import Tally
from nesf.data.readers import read_crystals
from nesf.data.records import Row
from nesf.errors import InputError
from nesf.latents import Latents
from nesf.ranks.environment import Ranks


def test_exact_fields_give_the_crystals_back(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(3):
        crystal(i).to(str(folder / f"x{i}.cif"))
    single = tmp_path / "x3.cif"
    crystal(3).to(str(single))
    assert (
        nesf("reconstruct", folder, single, "--field", "exact", "--output", tmp_path / "out") == 0
    )
    rows, rejected = read_crystals([tmp_path / "out"], progress=False)
    assert not rejected
    assert sorted(row.id for row in rows) == ["x0", "x1", "x2", "x3"]
    assert all(is_crystal(int(row.id[1:]), row.structure) for row in rows)
    assert "4 reconstructed, 0 rejected" in capsys.readouterr().out
    index = rows_of(tmp_path / "out" / "index.csv")
    assert index["x0"]["count_agrees"] == "true"
    assert float(index["x0"]["confidence"]) > 0.9


def test_in_cell_fields(tmp_path):
    """Without periodic images, too, the atoms of the cell are found."""
    source = table(tmp_path / "in.csv", 2)
    words = ("--field", "exact", "--periodic", "false", "--output", tmp_path / "out.csv")
    assert nesf("reconstruct", source, *words) == 0
    assert all(is_crystal(int(n[1:]), r["cif"]) for n, r in rows_of(tmp_path / "out.csv").items())


def test_three_bad_rows_among_a_hundred(tmp_path, capsys):
    source = table(tmp_path / "in.csv", 100, bad=(7, 50, 99))
    out = tmp_path / "sub" / "out.csv"
    assert nesf("reconstruct", source, "--field", "exact", "--output", out) == 1
    done = rows_of(out)
    assert set(done) == {f"c{i}" for i in range(100)} - {"c7", "c50", "c99"}
    assert all(is_crystal(int(name[1:]), row["cif"]) for name, row in done.items())
    listed = rows_of(tmp_path / "sub" / "out.rejected.csv")
    assert {name: row["row"] for name, row in listed.items()} == {
        "c7": "8",
        "c50": "51",
        "c99": "100",
    }
    assert all(row["reason"] for row in listed.values())
    printed = capsys.readouterr()
    assert "97 reconstructed, 3 rejected" in printed.out
    assert "row 8:" in printed.err
    # a later run without bad rows does not leave the old list behind
    again = ("--field", "exact", "--output", out, "--overwrite")
    assert nesf("reconstruct", table(source, 2), *again) == 0
    assert not (tmp_path / "sub" / "out.rejected.csv").exists()


def test_crystals_without_atoms_are_failures(tmp_path, capsys):
    source = table(tmp_path / "in.csv", 2)
    words = ("--field", "exact", "--min-cluster-size", "1e6", "--output", tmp_path / "out.csv")
    assert nesf("reconstruct", source, *words) == 1
    assert rows_of(tmp_path / "out.csv") == {}
    assert "no atom" in rows_of(tmp_path / "out.rejected.csv")["c1"]["reason"]


def test_a_model_in_three_commands(tmp_path, model_file, capsys):
    source = table(tmp_path / "in.csv", 6, bad=(4,))
    model = ("--model", model_file, "--batch-size", 2)
    assert nesf("reconstruct", source, *model, "--output", tmp_path / "straight.csv") == 1
    assert nesf("encode", source, *model, "--output", tmp_path / "z.npz") == 1
    assert nesf("decode", tmp_path / "z.npz", *model, "--output", tmp_path / "round.csv") == 0
    straight, round_ = rows_of(tmp_path / "straight.csv"), rows_of(tmp_path / "round.csv")
    assert set(straight) == {"c0", "c1", "c2", "c3", "c5"}
    # only where the original is known can faults be counted
    assert [
        (row.pop("faults"), float(row.pop("residual")) < 1e-3, row.pop("setting"))
        for row in straight.values()
    ] == [("0", True, "given")] * 5
    assert straight == round_
    assert all(is_crystal(int(name[1:]), row["cif"]) for name, row in straight.items())
    with np.load(tmp_path / "z.npz", allow_pickle=False) as content:
        assert content["ids"].tolist() == list(straight)
        assert content["latents"].dtype == np.float32


def test_latents_that_are_not_finite_are_listed_and_the_others_decoded(
    tmp_path, model_file, capsys
):
    source, latents = table(tmp_path / "in.csv", 4), tmp_path / "z.npz"
    assert nesf("encode", source, "--model", model_file, "--output", latents) == 0
    content = Latents.load(latents)
    values = content.values.astype(np.float64)
    values[1, 3], values[2, 5] = np.nan, 1e300  # more than a float32 holds
    np.savez(latents, ids=np.array(content.ids), latents=values)
    with pytest.raises(InputError, match=r"the latent c1 in .* is not finite"):
        Latents.load(latents)
    words = ("decode", latents, "--model", model_file, "--output", tmp_path / "out.csv")
    assert nesf(*words) == 1
    assert "2 decoded, 2 rejected" in capsys.readouterr().out
    done = rows_of(tmp_path / "out.csv")
    assert set(done) == {"c0", "c3"}
    assert all(is_crystal(int(name[1:]), row["cif"]) for name, row in done.items())
    listed = rows_of(tmp_path / "out.rejected.csv")
    assert {name: (row["row"], row["reason"]) for name, row in listed.items()} == {
        name: (row, "its latent is not finite") for name, row in (("c1", "2"), ("c2", "3"))
    }


def test_what_the_model_cannot_hold_is_rejected(tmp_path, model_file, monkeypatch):
    heavy = Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])
    large = crystal(0) * (1, 1, 5)
    for name, structure in (("heavy", heavy), ("large", large), ("c1", crystal(1))):
        structure.to(str(tmp_path / f"{name}.cif"))
    files = sorted(tmp_path.glob("*.cif"))
    monkeypatch.setattr(StandIn, "num_species", 20)
    encode = StandIn.encode
    for stem, verb, *words in (
        ("out", "reconstruct", "--setting", "given", "--output", tmp_path / "out.csv"),
        ("z", "encode", "--output", tmp_path / "z.npz"),
    ):
        assert nesf(verb, *files, "--model", model_file, *words) == 1
        listed = rows_of(tmp_path / f"{stem}.rejected.csv")
        assert "first 20" in listed["heavy"]["reason"]
        assert "10 atoms" in listed["large"]["reason"]
        assert set(listed) == {"heavy", "large"}
    monkeypatch.setattr(StandIn, "encode", lambda self, crystals: encode(self, crystals) / 0)
    words = ("--model", model_file, "--output", tmp_path / "z.npz", "--overwrite")
    assert nesf("encode", files[0], *words) == 1
    assert "not finite" in rows_of(tmp_path / "z.rejected.csv")["c1"]["reason"]
    assert Latents.load(tmp_path / "z.npz").ids == ()


def test_large_cells_go_through_their_primitive_ones(tmp_path, model_file):
    large = crystal(0) * (1, 1, 5)
    shaken = large.copy()
    shaken.perturb(0.2)
    for name, structure in (("large", large), ("shaken", shaken), ("c1", crystal(1))):
        structure.to(str(tmp_path / f"{name}.cif"))
    files = sorted(tmp_path.glob("*.cif"))
    words = ("--model", model_file, "--output", tmp_path / "out.csv", "--overwrite")
    for setting, of_small in (("best", "given"), ("primitive", "primitive")):
        assert nesf("reconstruct", *files, *words, "--setting", setting) == 1
        done = rows_of(tmp_path / "out.csv")
        assert {n: (r["setting"], r["faults"]) for n, r in done.items()} == {
            "large": ("primitive", "0"),
            "c1": (of_small, "0"),
        }
        assert len(Structure.from_str(done["large"]["cif"], fmt="cif")) == 10
        listed = rows_of(tmp_path / "out.rejected.csv")
        assert set(listed) == {"shaken"}
        assert "10 atoms in the cell are more than the 8" in listed["shaken"]["reason"]


def test_crystals_with_faults_are_counted_aloud(tmp_path, model_file, monkeypatch, capsys):
    source = table(tmp_path / "in.csv", 3)
    encode = StandIn.encode

    def stretched(self, crystals):
        latent = encode(self, crystals)
        latent[0, :9] *= 1.1
        return latent

    monkeypatch.setattr(StandIn, "encode", stretched)
    for output, listed in (("out", "out/index.csv"), ("out.csv", "out.csv")):
        words = ("--model", model_file, "--output", tmp_path / output)
        assert nesf("reconstruct", source, *words) == 0
        told = f"1 of them not within 0.03 Å (faults in {tmp_path / listed}), 0 rejected"
        assert f"3 reconstructed, {told}" in capsys.readouterr().out
        faults = {name: row["faults"] for name, row in rows_of(tmp_path / listed).items()}
        assert faults == {"c0": "1", "c1": "0", "c2": "0"}


def test_settings_that_are_refused(tmp_path, capsys):
    source = table(tmp_path / "in.csv", 1)
    words = ("--field", "exact", "--setting", "primitive", "--output", tmp_path / "out.csv")
    assert nesf("reconstruct", source, *words) == 2
    assert "goes with --model" in complaint(capsys)


def test_batches_of_large_crystals_are_small():
    def sizes(cells: list[int], large_alone: bool) -> list[int]:
        found = (Row(str(n), crystal(0) * (1, 1, n), {}, "x") for n in cells)
        return [len(b) for b in batches_of_rows(found, 10, Tally(""), frozenset(), large_alone)]

    # 2 and 30 atoms
    assert sizes([1] * 9 + [15] * 6, False) == [10, 5]
    assert sizes([1] * 9 + [15] * 6, True) == [10, 2, 2, 1]
    assert sizes([1] * 25, True) == [10, 10, 5]


def test_rows_that_are_known_before_they_are_read(tmp_path):
    source = table(tmp_path / "in.csv", 5)
    assert nesf("data", "pack", source, "--output", tmp_path / "in.nesf") == 0
    crystal(1).to(str(tmp_path / "x.cif"))
    inputs = [str(tmp_path / name) for name in ("in.nesf", "x.cif")]
    assert rows_in(inputs, Ranks()) == 6
    assert [rows_in(inputs, Ranks(rank, 4)) for rank in range(4)] == [2, 2, 1, 1]
    assert rows_in([str(source)], Ranks()) is None


def test_reconstruction_options_need_a_model_that_has_them(tmp_path, model_file, capsys):
    source = table(tmp_path / "in.csv", 1)
    words = ("--model", model_file, "--output", tmp_path / "out.csv")
    assert nesf("reconstruct", source, *words, "--min-cluster-size", "1e6") == 1
    assert nesf("reconstruct", source, *words, "--grid-spacing", "0.8") == 0


def test_output_in_an_input_is_refused(tmp_path, capsys):
    source = table(tmp_path / "in.csv", 1)
    before = source.read_bytes()
    for out in (source, tmp_path / "out"):
        assert nesf("reconstruct", tmp_path, source, "--field=exact", "--output", out) == 2
        assert "lies in the input" in complaint(capsys)
    assert source.read_bytes() == before
    assert not (tmp_path / "out").exists()


def test_packing_in_shards(tmp_path, capsys):
    source = table(tmp_path / "in.csv", 7, bad=(2,))
    codes = [
        nesf("data", "pack", source, "--output", tmp_path / f"{i}.nesf", "--shard", f"{i}/2")
        for i in (1, 2)
    ]
    assert codes == [1, 0]
    parts = [tmp_path / "1.nesf", tmp_path / "2.nesf"]
    assert nesf("data", "join", *parts, "--output", tmp_path / "all.nesf") == 0
    assert "6 crystals of 2 files" in capsys.readouterr().out
    rows, _ = read_crystals([tmp_path / "all.nesf"], progress=False)
    assert {row.id for row in rows} == {"c0", "c1", "c3", "c4", "c5", "c6"}
