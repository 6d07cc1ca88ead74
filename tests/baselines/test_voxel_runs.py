"""Runs of `nesf fit` on the voxel pipeline: what each stage moves, what is written, and resumed."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from small_voxels import MODEL, made, seeded

from baselines.voxel_icsg3d.stages import STAGES, StageOptions
from nesf.api import load
from nesf.cli import main
from nesf.data.packed import PackedSet

ALL_STAGES = StageOptions(finetune=0.2)
EPOCHS, EPOCH_STEPS = 4, 4
STEPS = EPOCHS * EPOCH_STEPS
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Watch(Callback):
    """Writes down stage, rate and weights of every step; stops the run after `stop` steps."""

    def __init__(self, path: str, stop: int = 0) -> None:
        self.path, self.stop = path, stop

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        parts = {
            name: float(sum(p.detach().double().abs().sum() for p in part.parameters()))
            for name, part in module.model.named_children()
        }
        statistics = sum(b.double().abs().sum() for n, b in module.model.named_buffers()
                         if n.startswith("unet") and "running" in n)  # fmt: skip
        line = {
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "modes": [module.model.unet.training, module.model.vae.training],
            "parts": parts,
            "unet_statistics": float(statistics),
        }
        with Path(self.path).open("a") as file:
            file.write(json.dumps(line) + "\n")
        trainer.should_stop = trainer.global_step == self.stop


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed training and validation crystals with a property, some of them unknown."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (name, count) in enumerate((("train", 34), ("val", 6))):
        crystals = made(count, seed).replace(ids=tuple(f"{name}-{i}" for i in range(count)))
        values = torch.randn(count, generator=seeded()).double().numpy()
        values[::5] = float("nan")
        packed = PackedSet.from_batch(crystals)
        PackedSet(**{**vars(packed), "properties": {"gap": values}}).save(folder / f"{name}.nesf")
    return folder


def fit(root: Path, data: Path, *options: str, stop: int = 0) -> int:
    """Run `nesf fit` on the made crystals, 4 epochs of 4 steps."""
    callbacks = [
        ("nesf.curve.LearningCurve", {}),
        ("nesf.callbacks.LastCheckpoint", {"every_steps": 5}),
        ("nesf.callbacks.FinishedModel", {}),
        (f"{__name__}.Watch", {"path": str(root.parent / f"{root.name}.jsonl"), "stop": stop}),
    ]
    config = {
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": EPOCHS,
            "gradient_clip_val": 1.0,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "callbacks": [{"class_path": c, "init_args": a} for c, a in callbacks],
        },
        "model": {
            "class_path": "baselines.voxel_icsg3d.training.VoxelTraining",
            "init_args": {
                "model": {
                    "class_path": "baselines.voxel_icsg3d.model.VoxelICSG3D",
                    "init_args": {**MODEL, "condition_property": "gap", "lattice_readout": "head"},
                },
                "augmentation": {"relabel": 0.5, "scale": 0.03},
                "stages": {"finetune": ALL_STAGES.finetune},
                "reconstruct_every": 1,
            },
        },
        "data": {
            "class_path": "nesf.data.module.CrystalData",
            "init_args": {
                "train": [str(data / "train.nesf")],
                "val": [str(data / "val.nesf")],
                "batch_size": 8,
                "val_batch_size": 4,
                "properties": ["gap"],
            },
        },
    }
    path = root.parent / f"{root.name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return main(["fit", f"--config={path}", *options])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    root = tmp_path_factory.mktemp("runs") / "run"
    assert fit(root, data) == 0
    return root


def test_each_stage_moves_its_own_networks(run: Path) -> None:
    steps = lines(run.with_suffix(".jsonl"))
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    stages = [ALL_STAGES.at(i / STEPS)[0] for i in range(STEPS)]
    assert set(stages) == set(STAGES)
    for before, after, stage in zip(steps, steps[1:], stages[1:], strict=False):
        assert after["modes"] == [stage != "vae", stage == "vae"]
        moved = {name for name in after["parts"] if after["parts"][name] != before["parts"][name]}
        assert moved == ({"vae", "lattice_head"} if stage == "vae" else {"unet"})
        # batch statistics as well: features are those of a network at rest
        assert (after["unet_statistics"] != before["unet_statistics"]) == (stage != "vae")


def test_each_stage_has_a_rate_of_its_own(run: Path) -> None:
    options = ALL_STAGES
    for line in lines(run.with_suffix(".jsonl"))[:-1]:
        # the rate of the next step, which is set at the end of this one
        assert line["lr"] == pytest.approx(options.rate(line["step"] / STEPS))


def test_what_a_run_writes(run: Path) -> None:
    curve = lines(run / "curve.jsonl")
    assert [line["step"] for line in curve] == list(range(EPOCH_STEPS, STEPS + 1, EPOCH_STEPS))
    for line in curve:
        assert {"val/loss", "val/occupancy", "val/voxels", "val/kl", "val/lattice"} <= line.keys()
        assert line["val/left_out"] == 0
    last = curve[-1]
    assert 0 <= last["val/wrong_counts_percent"] <= 100
    assert last["val/position_actual"] > 0
    assert "val/position_actual" not in curve[0]  # the VAE knows nothing yet
    assert last["val/loss"] == pytest.approx(
        30 * last["val/decoded_occupancy"] + last["val/decoded_species"], rel=1e-5
    )
    told = json.loads((run / "training.json").read_text())
    assert told["steps"] == STEPS
    loaded = load(run)
    assert told["parameters"] == sum(p.numel() for p in loaded.module.parameters())
    assert len(loaded.module.condition_edges) == 3


def test_a_resumed_run_is_the_unbroken_one(run: Path, data: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    for stop in (3, 9, 15):  # in the middle of each stage
        assert fit(root, data, "--restart=auto", stop=stop) == 0
        assert json.loads((root / "training.json").read_text())["steps"] == stop
    assert fit(root, data, "--restart=auto") == 0
    ours, theirs = load_file(root / "model.safetensors"), load_file(run / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **CLOSE)


def test_the_command_line_reconstructs(run: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    code = main(
        ["reconstruct", str(data / "val.nesf"), "--model", str(run), "--output", str(output)]
    )
    assert code in (0, 1)
    with output.open() as file:
        written = [row["material_id"] for row in csv.DictReader(file)]
    rejected = output.with_name(f"{output.stem}.rejected.csv")
    listed = rejected.read_text().count("val-") if rejected.exists() else 0
    assert len(written) + listed == 6
