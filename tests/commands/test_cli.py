"""Help, usage errors, and options that reach the function they are for."""

from __future__ import annotations

import inspect

import pytest
from command_line import complaint, nesf, rows_of, table

from eval import evaluate as eval_module
from nesf.cli import main, option_value
from nesf.commands.verbs import VERBS
from nesf.data import prototypes
from nesf.data.packed import PackReport

HELPED = [name for name, verb in VERBS.items() if not verb.raw]


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
        (["reconstruct", "a.cif", "--refin=3"], "--refin=3; the nearest option is --refine"),
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


def test_faults_of_ours_show(monkeypatch):
    def fault(inputs: list[str], output: str) -> int:
        raise RuntimeError("a fault")

    monkeypatch.setattr("nesf.commands.files.join_files", fault)
    with pytest.raises(RuntimeError, match="a fault"):
        main(["data", "join", "a", "--output", "b"])


def test_option_value():
    assert option_value(["--output", "a"], "output") == "a"
    assert option_value(["x", "--output=b"], "output") == "b"
    assert option_value(["--output"], "output") is None
