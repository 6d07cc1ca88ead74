"""The command line: files in, files out, one sentence and an exit code for what goes wrong."""

from __future__ import annotations

import csv
import inspect
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ordinary_user import read_only_folder
from pymatgen.core import Lattice, Structure
from stand_in_model import StandIn

from eval import evaluate as eval_module
from nesf import model_config
from nesf.checkpoint import save_model
from nesf.cli import VERBS, main, option_value
from nesf.data import prototypes
from nesf.data.packed import PackReport
from nesf.data.parsing import parse
from nesf.data.readers import read_crystals
from nesf.data.workers import Failure
from nesf.latents import Latents

HELPED = [name for name, verb in VERBS.items() if not verb.raw]


def crystal(i: int) -> Structure:
    """Crystals that differ from each other: rock salt of its own cell length, slightly sheared."""
    lattice = Lattice.from_parameters(4 + 0.01 * i, 4.1, 4.2, 90, 90 - 0.1 * i, 90)
    return Structure(lattice, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5 + 0.001 * i]])


def table(path: Path, count: int, bad: tuple[int, ...] = ()) -> Path:
    """A CSV of crystals c0, c1, ...; the rows `bad` are no crystals."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["material_id", "cif"])
        for i in range(count):
            text = "data_nothing\n_cell_length_a ?" if i in bad else crystal(i).to(fmt="cif")
            writer.writerow([f"c{i}", text])
    return path


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row.get("material_id") or row["id"]: row for row in csv.DictReader(file)}


def is_crystal(i: int, cif: str | Structure) -> bool:
    found = Structure.from_str(cif, fmt="cif") if isinstance(cif, str) else cif
    true = crystal(i)
    if len(found) != 2 or not np.allclose(
        found.lattice.parameters, true.lattice.parameters, atol=1e-3
    ):
        return False
    distances = true.lattice.get_all_distances(true.frac_coords, found.frac_coords)
    order = distances.argmin(1)
    return distances.min(1).max() < 1e-3 and [found[j].specie for j in order] == true.species


@pytest.fixture(autouse=True)
def parsed_here(monkeypatch) -> None:
    """Crystals are parsed in this process, which saves the start of a worker a command."""

    def answers(function, items, *, config, **_) -> Iterator[tuple[Any, Any]]:
        for item, payload in items:
            try:
                yield item, None if payload is None else parse(payload, config)
            except Exception as error:
                yield item, Failure(str(error))

    monkeypatch.setattr("nesf.data.readers.map_in_workers", answers)


@pytest.fixture
def model_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(model_config, "TRUSTED_PREFIXES", ("nesf.", "stand_in_model."))
    path = tmp_path / "model.safetensors"
    config = {"class_path": "stand_in_model.StandIn", "init_args": {}}
    save_model(path, config, StandIn().state_dict())
    return path


def nesf(*words: object) -> int:
    """Run one command in this process."""
    return main([str(word) for word in words])


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failed command printed."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nesf: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


# -- help and usage


@pytest.mark.parametrize("name", HELPED)
def test_every_command_has_help(name, capsys):
    try:
        VERBS[name].load()
    except ModuleNotFoundError as error:
        pytest.fail(str(error))
    with pytest.raises(SystemExit) as done:
        main([*name.split(), "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for word in ("--device", "--seed", "--debug", "type: ", f"usage: nesf {name}", "Exit codes"):
        assert word in text


def test_top_level_help(capsys):
    assert main(["--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"  {name} " in out for name in VERBS)
    assert main([]) == 2
    assert "usage: nesf" in capsys.readouterr().err
    assert main(["data", "--help"]) == 0
    listed = capsys.readouterr().out
    assert "data pack" in listed
    assert "reconstruct " not in listed
    assert main(["data"]) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nothing"], "no command nothing"),
        (["data", "nothing"], "no command data nothing"),
        (["--nothing"], "no option --nothing"),
        (["reconstruct"], "missing: INPUT, --output"),
        (["reconstruct", "a.cif", "--output", "o"], "either --model NAME|PATH or --field exact"),
        (
            ["reconstruct", "a.cif", "--output", "o", "--field", "true"],
            "--field takes exact and not",
        ),
        (["reconstruct", "a.cif", "--output", "o", "--nothing", "1"], "--nothing"),
        (["reconstruct", "a.cif", "--field", "exact"], "output"),
        (["reconstruct", "a.cif", "--field=exact", "--output=o", "--max-atoms=x"], "takes a whole"),
        (
            ["reconstruct", "a.cif", "--field=exact", "--output=o", "--max-atoms=0"],
            "max_atoms is 0",
        ),
        (["reconstruct", "a.cif", "--field=exact", "--output=o", "--moves=0"], "moves must be"),
        (["reconstruct", "a.cif", "--field=exact", "--output=o", "--batch-size=0"], "batch size"),
        (["reconstruct", "a.cif", "--field=exact", "--output=o", "--device=gpu"], "no device gpu"),
        (["reconstruct", "no.cif", "--field=exact", "--output=o"], "no.cif"),
        (["reconstruct", "no.cif", "--model=lcs7", "--output=o"], "no model lcs7"),
        (["encode", "no.cif", "--model=lcs7", "--output=z.csv"], ".npz"),
        (["decode", "no.npz", "--model=lcs7", "--output=o"], "no.npz does not exist"),
        (["data", "pack", "no.cif", "--output=o.nesf", "--shard=5/4"], "I/N"),
        (["data", "join", "no.nesf", "--output=o.nesf"], "no.nesf"),
        (["evaluate", "--predicted=no.csv", "--reference=no.csv"], "no.csv"),
    ],
)
def test_usage_errors(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert told in complaint(capsys)


def test_debug_shows_the_traceback_too(capsys):
    assert main(["--debug", "nothing"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("nesf: there is no command nothing")


def test_options_from_a_file(tmp_path, capsys):
    source = table(tmp_path / "in.csv", 2)
    config = tmp_path / "run.yaml"
    config.write_text(f"field: exact\noutput: {tmp_path / 'out.csv'}\nmax_atoms: 5\n")
    assert nesf("reconstruct", "--config", config, source) == 0
    assert set(rows_of(tmp_path / "out.csv")) == {"c0", "c1"}


# -- crystals through


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
    listed = rows_of(tmp_path / "sub" / "rejected.csv")
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
    assert nesf("reconstruct", table(source, 2), "--field", "exact", "--output", out) == 0
    assert rows_of(tmp_path / "sub" / "rejected.csv") == {}


def test_crystals_without_atoms_are_failures(tmp_path, capsys):
    source = table(tmp_path / "in.csv", 2)
    words = ("--field", "exact", "--min-cluster-size", "1e6", "--output", tmp_path / "out.csv")
    assert nesf("reconstruct", source, *words) == 1
    assert rows_of(tmp_path / "out.csv") == {}
    assert "no atom" in rows_of(tmp_path / "rejected.csv")["c1"]["reason"]


def test_a_model_in_three_commands(tmp_path, model_file, capsys):
    source = table(tmp_path / "in.csv", 6, bad=(4,))
    model = ("--model", model_file, "--batch-size", 2)
    assert nesf("reconstruct", source, *model, "--output", tmp_path / "straight.csv") == 1
    assert nesf("encode", source, *model, "--output", tmp_path / "z.npz") == 1
    assert nesf("decode", tmp_path / "z.npz", *model, "--output", tmp_path / "round.csv") == 0
    straight, round_ = rows_of(tmp_path / "straight.csv"), rows_of(tmp_path / "round.csv")
    assert set(straight) == {"c0", "c1", "c2", "c3", "c5"}
    assert straight == round_
    assert all(is_crystal(int(name[1:]), row["cif"]) for name, row in straight.items())
    with np.load(tmp_path / "z.npz", allow_pickle=False) as content:
        assert content["ids"].tolist() == list(straight)
        assert content["latents"].dtype == np.float32


def test_what_the_model_cannot_hold_is_rejected(tmp_path, model_file, monkeypatch):
    heavy = Structure(Lattice.cubic(3), ["Fe"], [[0, 0, 0]])
    large = crystal(0) * (1, 1, 5)
    for name, structure in (("heavy", heavy), ("large", large), ("c1", crystal(1))):
        structure.to(str(tmp_path / f"{name}.cif"))
    files = sorted(tmp_path.glob("*.cif"))
    monkeypatch.setattr(StandIn, "num_species", 20)
    encode = StandIn.encode
    for verb, output in (("reconstruct", "out.csv"), ("encode", "z.npz")):
        assert nesf(verb, *files, "--model", model_file, "--output", tmp_path / output) == 1
        listed = rows_of(tmp_path / "rejected.csv")
        assert "first 20" in listed["heavy"]["reason"]
        assert "10 atoms" in listed["large"]["reason"]
        assert set(listed) == {"heavy", "large"}
    monkeypatch.setattr(StandIn, "encode", lambda self, crystals: encode(self, crystals) / 0)
    assert nesf("encode", files[0], "--model", model_file, "--output", tmp_path / "z.npz") == 1
    assert "not finite" in rows_of(tmp_path / "rejected.csv")["c1"]["reason"]
    assert Latents.load(tmp_path / "z.npz").ids == ()


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


def test_evaluate_hands_its_options_on(monkeypatch):
    given: dict[str, object] = {}

    def evaluate(predicted: str, reference: str, **options: object) -> int:
        given.update(options, predicted=predicted, reference=reference)
        return 1

    real = inspect.signature(eval_module.evaluate_files).parameters
    monkeypatch.setattr(eval_module, "evaluate_files", evaluate)
    words = ("--predicted", "p", "--reference", "r", "--refine-symmetry", "--json", "m.json")
    assert nesf("evaluate", *words, "--seed", 3, "--timeout-s", "1.5") == 1
    assert set(given) <= set(real)
    assert (given["predicted"], given["json_file"], given["seed"]) == ("p", "m.json", 3)
    assert (given["refine"], given["timeout_s"]) == (True, 1.5)


def test_fetching_needs_a_key_and_a_query(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("PMG_MAPI_KEY", raising=False)
    monkeypatch.delenv("MP_API_KEY", raising=False)
    out = ("--output", tmp_path / "x.nesf")
    assert nesf("data", "fetch-mp", "--formula", "Fe2O3", *out) == 2
    assert "MP_API_KEY" in complaint(capsys)
    assert nesf("data", "fetch-mp", *out) == 2
    assert "formula" in complaint(capsys)
    assert nesf("data", "fetch-mp", "--preset", "lcs6", "--formula", "Fe2O3", *out) == 2
    assert "preset" in complaint(capsys)


def test_prototypes_hand_their_options_on(monkeypatch, tmp_path, capsys):
    given: dict[str, object] = {}

    def write(*values: object) -> PackReport:
        given.update(real.bind(*values).arguments)
        return PackReport(tmp_path / "p.nesf", 5, 0, None)

    real = inspect.signature(prototypes.write_prototypes)
    monkeypatch.setattr(prototypes, "write_prototypes", write)
    words = ("--count", 5, "--kinds", "[rocksalt,fcc]", "--seed", 3, "--progress", "false")
    assert nesf("data", "prototypes", "--output", tmp_path / "p.nesf", *words) == 0
    assert "5 made" in capsys.readouterr().out
    assert given["kinds"] == ["rocksalt", "fcc"]
    assert (given["count"], given["seed"], given["progress"]) == (5, 3, False)


# -- going on


def test_resume_skips_what_is_done(tmp_path, monkeypatch, capsys):
    source = table(tmp_path / "in.csv", 10, bad=(1,))
    straight, broken = tmp_path / "a" / "out.csv", tmp_path / "b" / "out.csv"
    assert nesf("reconstruct", source, "--field", "exact", "--output", straight) == 1

    from nesf import commands

    exact, calls = commands.exact_fields, []

    def fails_in_the_third_batch(*arguments):
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return exact(*arguments)

    words = ("reconstruct", source, "--field=exact", "--batch-size=3", "--output", broken)
    monkeypatch.setattr(commands, "exact_fields", fails_in_the_third_batch)
    assert nesf(*words) == 130
    assert "nesf: interrupted; go on with --resume\n" in capsys.readouterr().err
    assert len(rows_of(broken)) == 6
    with broken.open("a") as file:
        file.write('"c7","data_torn')  # as a killed run leaves it
    monkeypatch.setattr(commands, "exact_fields", exact)
    assert nesf(*words, "--resume") == 1
    assert "3 reconstructed (6 were there already), 1 rejected" in capsys.readouterr().out
    assert broken.read_bytes() == straight.read_bytes()
    assert rows_of(broken.with_name("rejected.csv")).keys() == {"c1"}


def child(*words: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nesf", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_ctrl_c_is_one_line(tmp_path):
    source = table(tmp_path / "in.csv", 40)
    out = tmp_path / "out.jsonl"
    words = ("reconstruct", source, "--field=exact", "--output", out, "--workers=1")
    running = child(*words, "--batch-size=1", "--progress=false")
    deadline = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)  # a terminal sends it to the workers, too
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err == "nesf: interrupted; go on with --resume\n"
    written = out.read_text().splitlines()
    assert 0 < len(written) < 40
    assert nesf(*words[:-1], "--resume") == 0
    lines = out.read_text().splitlines()
    assert lines[: len(written)] == written
    assert len(lines) == 40


def test_a_reader_that_goes_away(tmp_path):
    running = child("data", "pack", "--help")
    running.stdout.close()
    err = running.stderr.read()
    assert running.wait(timeout=30) in (141, 0)
    assert err == ""


# -- what the machine refuses


def test_read_only_output(tmp_path, capsys):
    source = table(tmp_path / "in.csv", 1)
    with read_only_folder(source) as folder:
        for out in (folder / "out.csv", folder / "out", folder / "x" / "out.csv"):
            words = ("--field", "exact", "--output", out)
            assert main(["reconstruct", str(folder / "no*.csv"), *map(str, words)]) == 2
            assert str(folder) in complaint(capsys)


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: the kernel says no, as when full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("verb", ["reconstruct", "encode", "pack"])
def test_full_disk(tmp_path, verb, model_file, capsys):
    source = table(tmp_path / "in.csv", 40)
    words = {
        "reconstruct": ["reconstruct", source, "--field=exact", "--output", tmp_path / "o.csv"],
        "encode": ["encode", source, "--model", model_file, "--output", tmp_path / "o.npz"],
        "pack": ["data", "pack", source, "--output", tmp_path / "o.nesf"],
    }[verb]
    with small_files(4096):
        assert nesf(*words, "--progress=false") == 2
    assert str(words[-1]) in complaint(capsys)
    assert verb == "reconstruct" or not words[-1].exists()


def test_damaged_model(tmp_path, model_file, capsys):
    data = bytearray(model_file.read_bytes())
    data[-3] ^= 4
    model_file.write_bytes(data)
    source = table(tmp_path / "in.csv", 1)
    words = ("--model", model_file, "--output", tmp_path / "out.csv")
    assert nesf("reconstruct", source, *words) == 2
    assert "damaged" in complaint(capsys)
    assert not (tmp_path / "out.csv").exists()


def test_inputs_without_crystals(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    columns = tmp_path / "columns.csv"
    columns.write_text("material_id,formula\na,NaCl\n")
    for source, told in ((tmp_path / "empty", "holds no crystal"), (columns, "no cif column")):
        words = ("--field", "exact", "--output", tmp_path / "out.csv")
        assert nesf("reconstruct", source, *words) == 2
        assert told in complaint(capsys)


def test_faults_of_ours_show(monkeypatch):
    def fault(inputs: list[str], output: str) -> int:
        raise RuntimeError("a fault")

    monkeypatch.setattr("nesf.verbs.join_files", fault)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["data", "join", "a", "--output", "b"])


def test_option_value():
    assert option_value(["--output", "a"], "output") == "a"
    assert option_value(["x", "--output=b"], "output") == "b"
    assert option_value(["--output"], "output") is None


# -- files of latents


class Trap:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_latents_that_are_refused(tmp_path, model_file, capsys):
    good = np.zeros((2, StandIn().max_atoms * 4 + 10), dtype=np.float32)
    nan = good.copy()
    nan[1, 3] = np.nan
    mark = tmp_path / "code_ran"
    cases = {
        "code": ({"ids": np.array([Trap(mark)], dtype=object), "latents": good[:1]}, "damaged"),
        "no_ids": ({"latents": good}, "no array"),
        "counts": ({"ids": np.array(["a"]), "latents": good}, "shape"),
        "types": ({"ids": np.array(["a", "b"]), "latents": good.astype(int)}, "type"),
        "twice": ({"ids": np.array(["a", "a"]), "latents": good}, "twice"),
        "nan": ({"ids": np.array(["a", "b"]), "latents": nan}, "the latent b"),
        "length": ({"ids": np.array(["a", "b"]), "latents": good[:, :5]}, "have the length 5"),
    }
    for name, (arrays, told) in cases.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        assert main(["decode", str(path), "--model", str(model_file), "--output", "x.csv"]) == 2
        message = complaint(capsys)
        assert told in message
        assert str(path) in message
    cut = tmp_path / "cut.npz"
    Latents(("a",), good[:1]).save(cut)
    cut.write_bytes(cut.read_bytes()[:-40])
    plain = tmp_path / "plain.npz"
    plain.write_bytes(pickle.dumps(Trap(mark)))
    for path in (cut, plain):
        assert main(["decode", str(path), "--model", str(model_file), "--output", "x.csv"]) == 2
        assert "damaged" in complaint(capsys)
    assert not mark.exists()
