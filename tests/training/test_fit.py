"""`nesf fit`: what it writes, what it says, and how it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import probes
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import Fit, start, tiny_config

import nesf
from nesf.cli import main
from nesf.errors import CheckpointError, InputError
from nesf.fit import find_checkpoint, fit_command, remove_run
from nesf.fit_parser import how_made

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "nesf").glob("*.yaml"))
RUN_FILES = (
    "checkpoints/best.ckpt",
    "checkpoints/last.ckpt",
    "config.yaml",
    "model.safetensors",
    "model.safetensors.sha256",
    "training.json",
)


@pytest.fixture
def config(tiny_data: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny_config(tiny_data, tmp_path / "run")))
    return path


def test_a_run_writes_its_folder_and_says_little(fit: Fit, tmp_path: Path) -> None:
    root = tmp_path / "run"
    outcome = fit(root, "--trainer.max_epochs=2")
    assert outcome.code == 0, outcome.said
    *epochs, end = outcome.said.splitlines()
    assert len(epochs) == 2
    for epoch, line in enumerate(epochs, 1):
        found = re.fullmatch(
            rf"epoch {epoch}/2, step {6 * epoch}, 0\.\d min: train/loss (\S+), val/loss (\S+)", line
        )
        assert found, outcome.said
        assert all(0 < float(loss) < 10 for loss in found.groups())
    assert end == f"model: {root / 'model.safetensors'}"

    assert all((root / name).is_file() for name in RUN_FILES)
    told = json.loads((root / "training.json").read_text())
    assert (told["epochs"], told["steps"], told["processes"], told["seed"]) == (2, 12, 1, 0)
    events = EventAccumulator(str(root / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(12))
    assert len(events.Scalars("val/loss")) == 2
    assert nesf.load(root).module.init_args["latent_dim"] == 16

    # the saved configuration is one, and running it again does not overwrite what is there
    outcome = fit(root)
    assert (outcome.code, outcome.said.count("\n")) == (2, 1)
    assert "holds a run already" in outcome.said
    written = yaml.safe_load((root / "config.yaml").read_text())
    assert written["restart"] == "no"
    assert written["model"]["init_args"]["model"]["init_args"]["latent_dim"] == 16


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_take_two_steps(
    path: Path, forkserver: Any, tiny_data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    options = [
        f"--config={path}",
        f"--data.train=[{tiny_data / 'train.nesf'}]",
        f"--data.val=[{tiny_data / 'val.nesf'}]",
        "--data.batch_size=4",
        "--data.val_batch_size=2",
        f"--trainer.default_root_dir={root}",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
        "--trainer.check_val_every_n_epoch=1",
        "--trainer.val_check_interval=1.0",
        "--trainer.limit_train_batches=2",
        "--trainer.limit_val_batches=1",
        "--trainer.callbacks+=probes.AllTrained",
        "--threads=1",
    ]
    written = yaml.safe_load(path.read_text())
    if "shares" in written["data"]["init_args"]:
        options.append("--data.shares=[1.0]")  # there is one input here
    if str(written["model"]["init_args"].get("initial")).startswith("runs/"):
        options.append("--model.init_args.initial=general")  # for a run that comes before
    outcome = start(forkserver, ["fit", *options], tmp_path)
    assert outcome.code == 0, outcome.said
    assert json.loads((root / "training.json").read_text())["steps"] == 2
    for hint in ("srun", "log_every_n_steps"):  # warnings that nobody can use
        assert hint not in outcome.said
    assert (root / "checkpoints" / "best.ckpt").is_file()


def test_float32_where_bfloat16_is_slow(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("nesf.fit.has_fast_bfloat16", lambda kind: False)
    fit_command([f"--config={config}", "--trainer.precision=bf16-mixed", "--trainer.max_epochs=0"])
    said = capsys.readouterr().out
    assert said.startswith("this hardware has no fast bfloat16: training in float32\n")
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trainer"][
        "precision"
    ] == ("32-true")


def test_the_help_tells_types_in_words(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    told = capsys.readouterr().out
    assert "--restart {auto,fresh,no}" in told
    assert "lambda" not in told


def test_print_config_is_a_config(config: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", f"--config={config}", "--trainer.max_epochs=7", "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["trainer"]["max_epochs"] == 7
    assert printed["model"]["init_args"]["losses"]["position_kind"] == "scaled"


def test_a_query_sampler_of_ones_own(config: Path, tmp_path: Path) -> None:
    """Named by its class, wherever it is defined."""
    words = ["--config", str(config), "--model.init_args.queries=probes.FewQueries"]
    assert main(["fit", *words, "--trainer.max_epochs=1"]) == 0
    assert probes.FewQueries.margins == {0.02}  # it was asked, as the model is built
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    sampler = {"class_path": "probes.FewQueries", "init_args": {"count": 4}}
    assert written["model"]["init_args"]["queries"] == sampler


@pytest.mark.parametrize(
    ("options", "telling"),
    [
        ([], "--config FILE"),
        (["--config=absent.yaml"], "absent.yaml"),
        (["--trainer.max_epochs=three"], "trainer.max_epochs: Expected a int, not three"),
        (
            ["--model.init_args.queries.uniformm=3"],
            "Option 'uniformm' is not accepted; the nearest option is --model.queries.uniform",
        ),
        (["--model.init_args.optimizer.kind=sgd"], "optimizer.kind"),
        (["--model=nesf.training.Absent"], "module 'nesf.training' has no attribute 'Absent'"),
        (["--data.train=[absent.nesf]"], "there is no absent.nesf"),
        (["--data.train=absent.nesf"], "name yours as --data.train"),
        (["--data.train=[absent.nesf,b.nesf]"], "there is no absent.nesf"),
        (["--optim.lr=1"], "the nearest option is --model.optimizer.lr"),
        (["--model.lrr", "3"], "the nearest option is --model.optimizer.lr"),
        (["--data.batchsize=3"], "the nearest option is --data.batch_size"),
        (["--restar=auto"], "the nearest option is --restart"),
        (["--restart=maybe"], "restart: give one of auto, fresh, no, not maybe"),
        (["--xyzzy=3"], "unrecognized arguments: --xyzzy=3; see nesf fit --help"),
        (["--trainer.max_epochs=-1"], "give trainer.max_epochs"),
        (["--ckpt_path=last"], "there is no checkpoint"),
        (["--trainer.default_root_dir=null"], "trainer.default_root_dir"),
        (["--model.init_args.model.init_args.harmonics=-3"], "the configuration does not work"),
        (["--trainer.devices=0"], "the configuration does not work"),
    ],
    ids=lambda value: (value[0] if value else "nothing") if isinstance(value, list) else "",
)
def test_a_wrong_configuration_is_one_sentence(
    config: Path, options: list[str], telling: str, capsys: Any
) -> None:
    whole = options and not options[0].startswith("--config")
    code = main(["fit", *([f"--config={config}"] if whole else []), *options])
    said = capsys.readouterr().err
    assert code == 2
    assert telling in said
    assert said.startswith("nesf: ")
    assert said.count("\n") == 1
    assert len(said) < 400


@pytest.mark.parametrize("content", [b"trainer: [1,\n b: {", b"- 1\n", b"\xcf\x00\xff", b"a: 1"])
def test_a_file_that_is_no_configuration_is_one_sentence(
    content: bytes, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    assert main(["fit", f"--config={path}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_configuration_tells_what_makes_its_data(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text(
        "# words about runs/a/data/train.nesf\n#   make data runs/a/data   (an hour)\n"
        "#   make val --output runs/a/val.nesf\n#   export --model runs/a\nx: runs/b/c.nesf\n"
    )
    made = {
        "runs/a/data/train.nesf": "make data runs/a/data",
        "runs/a/val.nesf": "make val --output runs/a/val.nesf",
        "runs/a/other.nesf": "export --model runs/a",
        "runs/b/c.nesf": None,
    }
    for missing, command in made.items():
        assert how_made(Path(missing), [config]) == command
        assert how_made(Path(missing), []) is None
    demo = next(path for path in CONFIGS if path.stem == "demo")
    assert how_made(Path("runs/demo/data/train.nesf"), [demo]) == "nesf demo --output runs/demo"


def test_what_becomes_of_an_earlier_run(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, "no", None) is None
    assert find_checkpoint(tmp_path, "auto", None) is None
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "notes.txt").touch()
    assert find_checkpoint(tmp_path, "auto", None) == last
    assert find_checkpoint(tmp_path, "no", "last") == last
    with pytest.raises(InputError, match="holds a run already"):
        find_checkpoint(tmp_path, "no", None)
    with pytest.raises(CheckpointError, match=r"no checkpoint .*best\.ckpt"):
        find_checkpoint(tmp_path, "no", str(tmp_path / "checkpoints" / "best.ckpt"))
    assert find_checkpoint(tmp_path, "fresh", None) is None
    assert [p.name for p in sorted(tmp_path.rglob("*"))] == ["checkpoints", "notes.txt"]
    remove_run(tmp_path)
