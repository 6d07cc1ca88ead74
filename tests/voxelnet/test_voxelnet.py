"""VoxelNet: its convolution, what its answers depend on, and its training by `nesf fit`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from crystals import random_crystals
from pymatgen.core import Lattice, Structure
from recut import recut, shuffled_and_shifted
from torch.nn import functional as F

from baselines.voxel_icsg3d.property_predictions import load_predictor, predict_properties
from baselines.voxelnet.model import VoxelNet
from baselines.voxelnet.network import TYPICAL_VOLUME, ChannelConvolution, VoxelCNN
from baselines.voxelnet.options import VoxelOptions
from baselines.voxelnet.training import VoxelTraining
from baselines.voxelnet.voxels import reciprocal_voxels
from nesf.checkpoint import load_model, save_model
from nesf.cli import main
from nesf.crystal import CrystalBatch
from nesf.data.packed import PackedSet
from nesf.data.records import Row

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "voxelnet").glob("*.yaml"))
TINY = {"resolution": 8, "side": 6.0}


def tiny(kind: str = "cartesian", **voxels) -> VoxelNet:
    torch.manual_seed(0)
    model = VoxelNet(["a"], widths=[4, 4], hidden_width=4, voxels={**TINY, "kind": kind, **voxels})
    return model.double().eval()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_empty_channels_add_nothing_to_a_convolution(device):
    """Against a dense convolution; the grouped way of other devices has the same shape."""
    torch.manual_seed(0)
    voxels = reciprocal_voxels(random_crystals(0, 3, 5), VoxelOptions(resolution=4, side=8.0))
    layer = ChannelConvolution(94, 5).double()
    wanted = F.conv3d(voxels.dense(), layer.weight.transpose(0, 1), layer.bias)
    if device == "cpu":
        torch.testing.assert_close(layer(voxels.values, voxels.channels), wanted)
    else:
        moved = layer.to(device)
        found = moved(voxels.values.to(device), voxels.channels.to(device))
        assert found.shape == wanted.shape


def test_one_half_of_even_voxels_is_convolved_as_the_whole_would_be():
    voxels = reciprocal_voxels(random_crystals(1, 2, 3), VoxelOptions(resolution=8, side=8.0))
    network = VoxelCNN(94, 1, 8, widths=[3, 3], hidden_width=4).double()
    seen = []
    network.first.register_forward_hook(lambda *given: seen.append(given[-1]))
    network(voxels)
    network.first(F.pad(voxels.values * TYPICAL_VOLUME, (1,) * 6), voxels.channels)
    half, whole = seen
    torch.testing.assert_close(half, whole[:, :, :, :4])
    assert half.std() > 0


@pytest.mark.parametrize("kind", ["cartesian", "spherical"])
def test_answers_do_not_depend_on_cell_origin_and_order(kind):
    model, crystals = tiny(kind), random_crystals(2, 3, 3)
    other = shuffled_and_shifted(
        recut(crystals, torch.tensor([[2, 1, 0], [0, 1, 0], [0, 0, 1]])), 0
    )
    with torch.no_grad():
        torch.testing.assert_close(model(crystals), model(other), rtol=0, atol=1e-6)
        alone = torch.cat([model(crystals.select([i])) for i in range(3)])
        torch.testing.assert_close(model(crystals), alone)
        assert model(crystals).std() > 1e-6


def test_a_view_is_a_turn_and_an_answer_their_mean():
    model, crystals = tiny(), random_crystals(3, 2, 3)
    assert torch.linalg.det(model.turns.double()).abs().allclose(torch.ones(4).double())
    with torch.no_grad():
        answers = []
        for turn in model.turns.double():
            turned = crystals.replace(lattice=crystals.lattice @ turn.T)
            answers.append(model.network(reciprocal_voxels(turned, model.voxel_options)))
        torch.testing.assert_close(model(crystals), torch.stack(answers).mean(0))


def test_the_published_size():
    model = VoxelNet(["a"])
    assert sum(p.numel() for p in model.parameters()) == 71_025
    # 94 channels of 16 kernels, two more convolutions, three normalisations, two layers
    kernels = 27 * (94 * 16 + 16 * 16 + 16 * 16) + 3 * 16
    assert kernels + 3 * 32 + (16 * 4 * 4 * 2 + 1) * 32 + 33 == 71_025


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"voxels": {"resolution": 24}}, "multiple of 16"),
        ({"widths": []}, "widths"),
        ({"hidden_width": 0}, "widths"),
        ({"views": -1}, "views"),
        ({"properties": []}, "properties"),
    ],
)
def test_arguments_that_make_no_sense(wrong, said):
    with pytest.raises(ValueError, match=said):
        VoxelNet(**{"properties": ["a"], **wrong})


def test_what_has_no_voxels_is_refused_and_the_rest_is_not():
    crystals = random_crystals(4, 5, 2)
    lattice, mask = crystals.lattice.clone(), crystals.mask.clone()
    lattice[1], lattice[2] = torch.nan, 0.0
    mask[3] = False
    numbers = crystals.atomic_numbers.clone()
    numbers[:] = 8
    numbers[4, 0] = 9
    odd = crystals.replace(lattice=lattice, mask=mask, atomic_numbers=numbers * mask)
    found = predict_properties(tiny(elements=[8]), odd)
    assert [bool(reason) for reason in found.refusals] == [False, True, True, True, True]
    assert np.isfinite(found.values[:, 0]).tolist() == [True, False, False, False, False]


def test_a_saved_model_is_the_same(tmp_path):
    model, crystals = tiny("spherical", elements=list(range(1, 95))), random_crystals(5, 2, 2)
    config = {"class_path": "baselines.voxelnet.model.VoxelNet", "init_args": model.init_args}
    save_model(tmp_path / "m.safetensors", config, model.state_dict())
    again = load_model(tmp_path / "m.safetensors").double()
    with torch.no_grad():
        torch.testing.assert_close(again(crystals), model(crystals), rtol=0, atol=1e-6)


def test_training_turns_crystals_anew_in_each_step():
    crystals = random_crystals(6, 3, 2)
    training = VoxelTraining(tiny())
    training.seed = 1
    first = training.augmented(crystals)
    torch.testing.assert_close(first.lattice, training.augmented(crystals).lattice)
    metric = [c.lattice @ c.lattice.mT for c in (crystals, first)]
    torch.testing.assert_close(*metric, rtol=0, atol=1e-4)
    assert not torch.allclose(first.lattice, crystals.lattice)
    training.seed = 2
    assert not torch.allclose(first.lattice, training.augmented(crystals).lattice)
    assert VoxelTraining(tiny(), turns="none").augmented(crystals) is crystals


def made_rows(seed: int, count: int) -> list[Row]:
    """Cells whose `size` is their length."""
    random = np.random.default_rng(seed)
    lengths = random.uniform(3.0, 5.0, count).tolist()
    return [
        Row(f"{seed}-{i}", Structure(Lattice.cubic(a), ["Na"], [[0, 0, 0]]), {"size": a}, "made")
        for i, a in enumerate(lengths)
    ]


def test_it_learns_by_nesf_fit_and_tells_by_nesf_properties(tmp_path, capsys):
    for seed, (name, count) in enumerate((("train", 64), ("val", 8), ("test", 16))):
        PackedSet.from_rows(made_rows(seed, count)).save(tmp_path / f"{name}.nesf")
    config = yaml.safe_load(CONFIGS[0].read_text())
    config["model"]["init_args"]["model"]["init_args"] |= {
        "properties": ["size"],
        "widths": [4, 4],
        "hidden_width": 8,
        "voxels": {"resolution": 8, "side": 6.0, "elements": [11]},
    }
    config["model"]["init_args"]["optimizer"]["lr"] = 0.02
    config["data"]["init_args"] = {
        "train": [str(tmp_path / "train.nesf")],
        "val": [str(tmp_path / "val.nesf")],
        "batch_size": 16,
    }
    run = tmp_path / "run"
    config["trainer"] |= {
        "default_root_dir": str(run),
        "max_epochs": 25,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "check_val_every_n_epoch": 25,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", f"--config={tmp_path / 'config.yaml'}"]) == 0
    words = [str(tmp_path / "test.nesf"), "--model", str(run)]
    words += ["--output", str(tmp_path / "out.csv"), "--json", str(tmp_path / "out.json")]
    words += ["--train", str(tmp_path / "train.nesf")]
    assert main(["properties", *words]) == 0
    assert "| property | crystals | voxelnet | ridge | median | mean |" in capsys.readouterr().out
    mae = json.loads((tmp_path / "out.json").read_text())["properties"]["size"]["mae"]
    assert mae["voxelnet"]["value"] < 0.5 * mae["mean"]["value"]
    assert load_predictor(str(run)).voxel_options.elements == (11,)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_configs_name_what_exists(path, tmp_path, capsys):
    """Refused for the data that is not there, and for nothing else."""
    options = [f"--data.train=[{tmp_path / 'none.csv'}]", f"--trainer.default_root_dir={tmp_path}"]
    assert main(["fit", f"--config={path}", *options]) == 2
    assert "none.csv" in capsys.readouterr().err


def test_a_batch_is_that_of_its_crystals():
    """Crystals of few and of many points together."""
    crystals = random_crystals(7, 3, 4)
    together = reciprocal_voxels(crystals, VoxelOptions(resolution=8, side=8.0)).dense()
    for i in range(3):
        alone = reciprocal_voxels(crystals.select([i]), VoxelOptions(resolution=8, side=8.0))
        torch.testing.assert_close(alone.dense()[0], together[i])
    assert isinstance(crystals, CrystalBatch)
