"""Training of the voxel pipeline: its stages, what learns in each, and a run that is resumed."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from crystals import random_crystals
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from baselines.voxel_icsg3d.grid import VoxelOptions
from baselines.voxel_icsg3d.losses import VoxelLosses
from baselines.voxel_icsg3d.model import VoxelICSG3D
from baselines.voxel_icsg3d.stages import STAGES, StageOptions, frozen
from baselines.voxel_icsg3d.training import VoxelTraining
from baselines.voxel_icsg3d.training_set import relabelled_counts, voxel_statistics
from baselines.voxel_icsg3d.voxelize import voxelize
from nesf.api import load
from nesf.cli import main
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet

MODEL = {
    "voxels": {"resolution": 8},
    "unet_widths": [4, 4, 8],
    "vae_widths": [4, 8],
    "latent_dim": 8,
    "num_conditions": 4,
}
ALL_STAGES = StageOptions(finetune=0.2)
EPOCHS, EPOCH_STEPS = 4, 4
STEPS = EPOCHS * EPOCH_STEPS
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
NEAR = {"rtol": 1e-2, "atol": 1e-2}


def made(count: int = 8, seed: int = 0) -> CrystalBatch:
    return random_crystals(seed, count, max_atoms=4, dtype=torch.float32)


def training(losses: VoxelLosses | None = None, **changes: Any) -> VoxelTraining:
    torch.manual_seed(0)
    arguments = {**MODEL, "voxels": VoxelOptions(resolution=8), **changes}
    return VoxelTraining(VoxelICSG3D(**arguments), losses=losses or VoxelLosses())


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


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
    rejected = tmp_path / "rejected.csv"
    listed = rejected.read_text().count("val-") if rejected.exists() else 0
    assert len(written) + listed == 6


def test_every_parameter_of_a_stage_has_a_gradient() -> None:
    module = training(lattice_readout="head")
    parts = {"unet": module.unet_parts, "vae": module.vae_parts, "finetune": module.decoded_parts}
    for stage in STAGES:
        module.zero_grad(set_to_none=True)
        module._set_modes(stage)
        module.losses.total(parts[stage](made(), seeded())).backward()
        with_gradient = {n for n, p in module.model.named_parameters() if p.grad is not None}
        wanted = {
            n
            for n, _ in module.model.named_parameters()
            if n.startswith("unet") == (stage != "vae")
        }
        assert with_gradient == wanted


def test_a_frozen_network_hands_gradients_through() -> None:
    layer, x = torch.nn.Linear(3, 2), torch.ones(1, 3, requires_grad=True)
    with frozen(layer):
        out = layer(x)
    out.sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad[0], layer.weight.detach().sum(0))
    assert layer.weight.requires_grad


def test_the_released_losses_can_be_asked_for() -> None:
    """Switched, the species loss is 95 times the mean over all voxels, and nothing else changes."""
    module = training()
    module._set_modes("unet")
    module.class_weights.copy_(torch.rand(95, generator=seeded()))
    batch = made()
    voxels = voxelize(batch, module.model.voxels)
    said = module.model.unet(voxels.channels)
    log_p = said.species.log_softmax(1).gather(1, voxels.species[:, None])[:, 0]
    meant = module.unet_parts(batch)
    released = training(VoxelLosses(class_weights=False))
    released._set_modes("unet")
    found = released.unet_parts(batch)
    torch.testing.assert_close(found["occupancy"], meant["occupancy"])
    torch.testing.assert_close(found["species"], -95 * log_p.mean())
    weights, kept = module.class_weights[voxels.species], voxels.species > 0
    torch.testing.assert_close(meant["species"], -(weights * log_p)[kept].mean())


def test_stages_cover_the_run_in_order() -> None:
    options = StageOptions(unet=2.0, vae=1.0, finetune=1.0)
    assert [options.at(p)[0] for p in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)] == [
        "unet", "unet", "vae", "vae", "finetune", "finetune",
    ]  # fmt: skip
    assert options.at(0.25)[1] == pytest.approx(0.5)
    assert options.at(0.625)[1] == pytest.approx(0.5)
    assert options.at(1.0)[1] == 1.0
    without = StageOptions(unet=1.0, vae=1.0, finetune=0.0)
    assert {without.at(i / 99)[0] for i in range(100)} == {"unet", "vae"}
    rates = [options.rate(i / 1000) for i in range(1001)]
    assert min(rates) > 0
    assert max(rates[:500]) == pytest.approx(options.unet_lr, rel=0.02)
    assert rates[499] == pytest.approx(options.final_lr * options.unet_lr, rel=0.02)
    assert max(rates[500:750]) == pytest.approx(options.vae_lr, rel=0.02)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"unet": 0.0}, "unet must be a share"),
        ({"finetune": -0.1}, "finetune must not be negative"),
        ({"vae_lr": 0.0}, "vae_lr must be above 0"),
        ({"warmup": 2.0}, "warmup is a share"),
        ({"weight_decay": 0.1}, "needs kind adamw"),
    ],
)
def test_stages_that_cannot_be_are_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        StageOptions(**changes)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run at its beginning."""
    monkeypatch.setattr("baselines.voxel_icsg3d.training.training_progress", lambda trainer: 0.0)


def attached(module: VoxelTraining, crystals: CrystalBatch, properties: Sequence[str] = ()) -> Any:
    """The module as a trainer holds it, with a training set; what it logs is returned."""
    packed = PackedSet.from_batch(crystals)
    datamodule = SimpleNamespace(set_named=lambda name: packed, properties=tuple(properties))
    logged: dict[str, Any] = {}
    module._fabric = None
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        datamodule=datamodule, global_step=0, world_size=1, global_rank=0, sanity_checking=False,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip
    module.log = lambda name, value, **_: logged.update(
        {name: float(torch.as_tensor(value).detach())}
    )  # type: ignore
    module.log_dict = lambda values, **_: logged.update(values)  # type: ignore
    return logged


def test_crystals_that_the_box_cannot_hold_are_left_out_and_counted(begun: None) -> None:
    module = training(voxels=VoxelOptions(resolution=8, frame="box"))
    skew = made(3)
    cubic = made(1).replace(lattice=4 * torch.eye(3)[None])
    both = CrystalBatch(
        torch.cat([skew.frac_coords, _wide(cubic.frac_coords, skew)]),
        torch.cat([skew.atomic_numbers, _wide(cubic.atomic_numbers, skew)]),
        torch.cat([skew.mask, _wide(cubic.mask, skew)]),
        torch.cat([skew.lattice, cubic.lattice]),
        ("a", "b", "c", "d"),
    )
    logged = attached(module, both)
    module.on_fit_start()
    loss = module.training_step(both, 0)
    assert loss > 0
    assert logged["train/left_out"] == pytest.approx(0.75)
    none = module.training_step(skew, 0)
    assert none == 0
    none.backward()  # other processes wait for the gradients
    assert all(p.grad is not None and not p.grad.any() for p in module.model.unet.parameters())
    module.validation_step(skew, 0)
    assert logged["val/left_out"] == 1
    attached(module, skew)
    with pytest.raises(Exception, match="none of the training crystals can be put on the grid"):
        module.on_fit_start()


def _wide(values: torch.Tensor, like: CrystalBatch) -> torch.Tensor:
    out = values.new_zeros(1, like.mask.shape[1], *values.shape[2:])
    out[:, : values.shape[1]] = values
    return out


def test_a_condition_that_is_not_loaded_is_refused() -> None:
    module = training(condition_property="gap")
    attached(module, made())
    with pytest.raises(Exception, match=r"add it to data\.properties"):
        module.on_fit_start()


def test_hidden_conditions() -> None:
    module = training(condition_property="gap")
    module.model.set_condition_edges(torch.linspace(0, 1, 20))
    batch = made(200).replace(properties={"gap": torch.rand(200, generator=seeded())})
    assert module._condition(batch, None).sum() == 200
    hidden = 200 - module._condition(batch, seeded()).sum()
    assert 5 <= hidden <= 40  # a tenth of them


def test_the_training_set_is_counted_as_it_is() -> None:
    packed = PackedSet.from_batch(made(20))
    options = VoxelOptions(resolution=8)
    found = voxel_statistics(packed, options, 95, seed=0)
    voxels = voxelize(packed.batch(range(20)), options)
    labels = voxels.species.flatten().bincount(minlength=95).float()
    torch.testing.assert_close(found.labels, labels)
    flat = voxels.channels.transpose(0, 1).flatten(1)  # (4, B D³)
    torch.testing.assert_close(found.mean, flat.mean(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.std, flat.std(1, correction=0), rtol=1e-4, atol=1e-4)
    spread = relabelled_counts(labels, 0.5)
    assert spread.sum() == pytest.approx(float(labels.sum()))
    assert spread[1:].min() == pytest.approx(float(labels[1:].sum()) / 94 / 2)
    torch.testing.assert_close(relabelled_counts(labels, 0.0), labels)


def test_the_vae_begins_near_the_voxels() -> None:
    """Its mean and deviation are theirs, so that it begins with a loss of their variance."""
    module, batch = training(), made(40)
    attached(module, batch)
    module.on_fit_start()
    module.on_train_start()
    module._set_modes("vae")
    channels = voxelize(batch, module.model.voxels).channels
    decoded = module.model.vae.decode(torch.randn(40, 8), torch.zeros(40, 4))
    torch.testing.assert_close(decoded.mean((0, 2, 3, 4)), channels.mean((0, 2, 3, 4)), **NEAR)
    torch.testing.assert_close(decoded.std((0, 2, 3, 4)), channels.std((0, 2, 3, 4)), **NEAR)
