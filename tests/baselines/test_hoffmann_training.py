"""Training of the voxel model of boxes: losses, draws, runs and resumed runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from crystals import random_crystals
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from baselines.voxel_icsg3d.box_losses import BoxLosses
from baselines.voxel_icsg3d.hoffmann import VoxelHoffmann
from baselines.voxel_icsg3d.hoffmann_measure import reading
from baselines.voxel_icsg3d.hoffmann_training import HoffmannTraining
from nesf.api import load
from nesf.boxes.cut import BoxOptions, random_boxes
from nesf.checkpoint import save_model
from nesf.cli import main
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet
from nesf.errors import InputError

SIDE = 6.0
MODEL = {"resolution": 10, "vae_widths": [4, 4], "unet_widths": [4, 8], "latent_dim": 6}


def made(count: int = 6, seed: int = 0) -> CrystalBatch:
    return random_crystals(seed, count, max_atoms=4, dtype=torch.float32)


def training(**losses: Any) -> HoffmannTraining:
    torch.manual_seed(0)
    kind = losses.get("kind", "sigmoid")
    model = VoxelHoffmann(BoxOptions(side=SIDE), class_probability=kind, **MODEL)
    return HoffmannTraining(model, BoxLosses(**losses))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_same_draw_gives_the_same_loss_and_another_draw_another():
    module = training()
    module.eval()
    values = []
    for seed in (0, 0, 1):
        generator = seeded(seed)
        boxes = module.training_boxes(made(), generator)
        values.append(module.losses.total(module.loss_parts(boxes, generator)).detach())
    assert values[0] == values[1] != values[2]


def test_the_classes_reach_the_vae():
    module = training(density=0.0, kl=0.0)
    boxes = module.training_boxes(made(), seeded())
    module.losses.total(module.loss_parts(boxes, seeded())).backward()
    for part in (module.model.vae.mean, module.model.vae.expand, module.model.unet.head):
        assert part.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_a_sample_of_the_background_estimates_the_whole_loss(kind):
    whole, part = training(kind=kind), training(kind=kind, background=0.25)
    part.model.load_state_dict(whole.model.state_dict())
    for module in (whole, part):
        module.eval()
        module.model.vae.log_variance.bias.data.fill_(-30.0)  # the same latent whatever is drawn
    boxes = whole.training_boxes(made(), seeded())
    with torch.no_grad():
        wanted = whole.loss_parts(boxes, seeded())["classes"]
        drawn = [part.loss_parts(boxes, seeded(i))["classes"] for i in range(20)]
        torch.testing.assert_close(part.loss_parts(boxes)["classes"], wanted)
    assert torch.stack(drawn).std() > 0
    torch.testing.assert_close(torch.stack(drawn).mean(), wanted, rtol=0.01, atol=0)


def test_the_kl_divergence_is_that_of_torch_over_the_voxels():
    module = training()
    module.eval()
    torch.nn.init.normal_(module.model.vae.log_variance.weight, std=0.01)
    boxes = module.training_boxes(made(), seeded())
    mean, log_variance = module.model.vae.encode(module.model.density(boxes))
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    wanted = divergence.sum(-1).mean() / 10**3
    torch.testing.assert_close(module.loss_parts(boxes)["kl"], wanted)


def test_boxes_are_trained_as_they_are():
    module = training()
    boxes = random_boxes(made(), BoxOptions(side=SIDE), seeded())
    boxes = boxes.select(boxes.num_atoms > 0)
    again = module.training_boxes(boxes, seeded(1))
    assert torch.equal(again.frac_coords, boxes.frac_coords)


def test_crystals_without_a_box_are_left_out_and_a_batch_of_them_is_refused():
    module = training()
    small = made(3).replace(lattice=torch.eye(3).repeat(3, 1, 1) * 0.5)
    module.model.boxes = BoxOptions(side=SIDE, capacity=50)
    with pytest.raises(InputError, match="none of 3 crystals"):
        module.training_boxes(small, seeded())


def test_a_loss_of_another_kind_than_the_model_is_refused():
    model = VoxelHoffmann(BoxOptions(side=SIDE), class_probability="softmax", **MODEL)
    with pytest.raises(ValueError, match="give both the same"):
        HoffmannTraining(model)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training crystals, and validation boxes."""
    folder = tmp_path_factory.mktemp("data")
    PackedSet.from_batch(made(18)).save(folder / "train.nesf")
    boxes = random_boxes(made(4, 1), BoxOptions(side=SIDE), seeded())
    PackedSet.from_batch(boxes.select(boxes.num_atoms > 0)).save(folder / "val.nesf")
    return folder


class Stop(Callback):
    """Ends a run after some steps; never where there are none."""

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.steps


def fit(root: Path, data: Path, *options: str, stop: int = 0) -> int:
    """Run `nesf fit`, three epochs of three steps."""
    callbacks = [
        {"class_path": "nesf.curve.LearningCurve"},
        {"class_path": "nesf.callbacks.LastCheckpoint", "init_args": {"every_steps": 1}},
        {"class_path": "nesf.callbacks.FinishedModel"},
        {"class_path": f"{__name__}.Stop", "init_args": {"steps": stop}},
    ]
    module = {
        "model": {
            "class_path": "baselines.voxel_icsg3d.hoffmann.VoxelHoffmann",
            "init_args": {**MODEL, "boxes": {"side": SIDE}, "class_probability": "softmax"},
        },
        "losses": {"kind": "softmax", "balance": 0.5, "background": 0.3, "kl_warmup": 0.2},
        "reconstruct_every": 1,
    }
    config = {
        "seed_everything": 0,
        "trainer": {
            "default_root_dir": str(root),
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 3,
            "gradient_clip_val": 1.0,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "callbacks": callbacks,
        },
        "model": {
            "class_path": "baselines.voxel_icsg3d.hoffmann_training.HoffmannTraining",
            "init_args": module,
        },
        "data": {
            "class_path": "nesf.data.module.CrystalData",
            "init_args": {
                "train": [str(data / "train.nesf")],
                "val": [str(data / "val.nesf")],
                "batch_size": 6,
            },
        },
    }
    path = root.parent / f"{root.name}.yaml"
    path.write_text(yaml.safe_dump(config))
    return main(["fit", f"--config={path}", *options])


def test_a_run_ends_with_a_model_that_reconstructs_and_a_resumed_run_with_the_same(
    data: Path, tmp_path: Path
):
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert fit(whole, data) == 0
    curve = [json.loads(line) for line in (whole / "curve.jsonl").read_text().splitlines()]
    assert len(curve) == 3
    assert all({"val/loss", "val/wrong_counts_percent"} <= line.keys() for line in curve)
    boxes = PackedSet.load(data / "val.nesf")
    model = load(whole)
    crystals = boxes.batch(range(len(boxes)))
    found = model.reconstruct(crystals).crystals
    torch.testing.assert_close(found.lattice, crystals.lattice)
    assert float(model.module.density_std) > 0
    assert model.module.density_mean != 0
    fit(part, data, stop=4)
    assert fit(part, data, "--restart=auto") == 0
    weights, again = (load_file(root / "model.safetensors") for root in (whole, part))
    assert weights.keys() == again.keys()
    for name, value in weights.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-5)


def test_measuring_says_what_is_lost_where(data: Path, capsys: pytest.CaptureFixture[str]):
    module = training()
    path = data / "model.safetensors"
    entry = {
        "class_path": "baselines.voxel_icsg3d.hoffmann.VoxelHoffmann",
        "init_args": module.model.init_args,
    }
    save_model(path, entry, module.model.state_dict())
    reading(str(path), str(data / "val.nesf"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0 of ")
    assert lines[2].startswith("true labels, refined on the true density: 0.0 % wrong counts")
    assert len(lines) == 6
