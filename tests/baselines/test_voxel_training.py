"""Training of the voxel pipeline: its losses, stages, conditions and statistics."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_voxels import made, seeded, training

from baselines.voxel_icsg3d.grid import VoxelOptions
from baselines.voxel_icsg3d.losses import VoxelLosses
from baselines.voxel_icsg3d.stages import STAGES, StageOptions, frozen
from baselines.voxel_icsg3d.training import VoxelTraining
from baselines.voxel_icsg3d.training_set import relabelled_counts, voxel_statistics
from baselines.voxel_icsg3d.voxelize import voxelize
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet

NEAR = {"rtol": 1e-2, "atol": 1e-2}


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
