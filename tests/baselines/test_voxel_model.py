"""The voxel pipeline as a model: latents, conditions, read-out, and what it cannot hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from crystals import random_crystals, site_errors

from baselines.voxel_icsg3d.grid import VoxelOptions
from baselines.voxel_icsg3d.model import VoxelICSG3D
from baselines.voxel_icsg3d.read_out import FoundSites, pack, usable
from baselines.voxel_icsg3d.voxelize import voxelize
from nesf.api import Model
from nesf.checkpoint import load_model, model_entry, save_model
from nesf.crystal import CrystalBatch

CLASS = "baselines.voxel_icsg3d.model.VoxelICSG3D"
TINY = {
    "unet_widths": (4, 4, 8),
    "vae_widths": (4, 8),
    "latent_dim": 6,
    "num_conditions": 4,
}


def model(seed: int = 0, resolution: int = 8, frame: str = "cell", **changes) -> VoxelICSG3D:
    torch.manual_seed(seed)
    voxels = VoxelOptions(resolution=resolution, frame=frame)
    return VoxelICSG3D(voxels, **{**TINY, **changes}).eval()


def crystals(count: int = 5) -> CrystalBatch:
    return random_crystals(0, count, dtype=torch.float32)


def boxes() -> CrystalBatch:
    """One crystal with right angles, one without."""
    lattice = torch.tensor([[[4.0, 0, 0], [0, 5, 0], [0, 0, 6]], [[4, 0, 0], [2, 4, 0], [0, 0, 5]]])
    ones = torch.ones(2, 1, dtype=torch.long)
    return CrystalBatch(torch.full((2, 1, 3), 0.5), 8 * ones, ones.bool(), lattice, ("box", "skew"))


@pytest.mark.parametrize("readout", ["fit", "head", "released"])
@pytest.mark.parametrize("frame", ["cell", "box"])
def test_untrained_networks_never_crash(readout, frame):
    made = model(frame=frame, lattice_readout=readout)
    latent = made.encode(crystals())
    assert latent.shape == (5, 10)
    for z in (latent, 10 * torch.randn(5, 10), torch.zeros(0, 10)):
        found = made.decode(z)
        assert len(found.crystals) == len(z)
        assert found.crystals.lattice.isfinite().all()
        assert ((found.confidence >= 0) & (found.confidence <= 1)).all()
        assert (found.confidence[~found.crystals.mask.any(-1)] == 0).all()
        assert found.crystals.atomic_numbers[found.crystals.mask].ge(1).all()
        assert found.count_agrees is None


def test_everything_occupied_never_crashes():
    made = model(lattice_readout="head")
    torch.nn.init.constant_(made.unet.occupancy_head.bias, 100.0)
    found = made.decode(made.encode(crystals()))
    assert (found.crystals.num_atoms == 1).all()
    torch.testing.assert_close(found.site_size[:, 0], torch.ones(5))


def test_a_latent_of_nan_is_a_crystal_without_atoms():
    made = model(lattice_readout="head")
    torch.nn.init.constant_(made.unet.occupancy_head.bias, 100.0)
    latent = made.encode(crystals())
    latent[1] = torch.nan
    latent[3, 2] = torch.inf
    found = made.decode(latent)
    assert found.crystals.num_atoms.tolist() == [1, 0, 1, 0, 1]
    assert len(found.crystals.to_structures()) == 5


def test_what_the_frame_cannot_hold_has_no_latent_and_a_reason():
    made = model(frame="box")
    latent = made.encode(boxes())
    assert latent[0].isfinite().all()
    assert latent[1].isnan().all()
    first, second = made.refusals(boxes())
    assert first is None
    assert "skew" in second
    assert "right angles" in second
    assert made.decode(latent).crystals.num_atoms[1] == 0
    assert model(frame="cell").encode(boxes()).isfinite().all()
    nothing = made.encode(boxes().select([1]))
    assert nothing.isnan().all()


def test_a_latent_is_the_same_in_any_batch():
    made = model()
    whole = made.encode(crystals())
    single = torch.cat([made.encode(crystals().select([i])) for i in range(5)])
    torch.testing.assert_close(whole, single, rtol=0.02, atol=1e-3)  # bfloat16 where it is fast
    assert [len(s) for s in Model(made).decode(whole)] == [
        len(made.decode(z[None]).crystals.to_structures()[0]) for z in whole
    ]


def test_saved_and_loaded_it_is_the_same(tmp_path: Path):
    made = model(3, lattice_readout="head", condition_property="gap")
    made.set_condition_edges(torch.linspace(0, 1, 21))
    made.lattice_head[-1].bias.data.fill_(0.3)
    config = {"class_path": CLASS, "init_args": made.init_args}
    assert model_entry(**config)["model"] == config  # plain JSON
    save_model(tmp_path / "model.safetensors", config, made.state_dict())
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.init_args == made.init_args
    assert loaded.condition_edges == made.condition_edges == pytest.approx([0.25, 0.5, 0.75])
    assert loaded.condition_property == "gap"
    latent = made.encode(crystals())
    torch.testing.assert_close(loaded.encode(crystals()), latent)
    ours, theirs = made.decode(latent), loaded.decode(latent)
    torch.testing.assert_close(theirs.crystals.frac_coords, ours.crystals.frac_coords)
    torch.testing.assert_close(theirs.crystals.lattice, ours.crystals.lattice)


def test_a_property_falls_into_its_quantile():
    made = model(condition_property="gap")
    with_gap = crystals().replace(properties={"gap": torch.tensor([0.1, 0.9, torch.nan, 0.6, -3])})
    assert made.condition_edges == []
    assert made.condition(with_gap).sum() == 0  # nothing is known before training
    values = torch.cat([torch.linspace(0, 1, 1000), torch.full((10,), torch.nan)])
    made.set_condition_edges(values)
    one_hot = made.condition(with_gap)
    assert one_hot.sum(-1).tolist() == [1, 1, 0, 1, 1]
    assert one_hot.argmax(-1)[[0, 1, 3, 4]].tolist() == [0, 3, 2, 0]
    inner = np.quantile(np.linspace(0, 1, 1000), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(made.condition_edges, inner, rtol=1e-5)
    torch.testing.assert_close(made.encode(with_gap)[:, 6:], one_hot)
    assert made.condition(crystals()).sum() == 0
    with pytest.raises(ValueError, match="no crystal has a value of gap"):
        made.set_condition_edges(torch.full((3,), torch.nan))


def test_bins_are_filled_evenly():
    made = model(condition_property="gap", num_conditions=10)
    values = torch.randn(500, generator=torch.Generator().manual_seed(0))
    made.set_condition_edges(values)
    many = CrystalBatch(
        torch.zeros(500, 1, 3),
        torch.ones(500, 1, dtype=torch.long),
        torch.ones(500, 1, dtype=torch.bool),
        torch.eye(3).repeat(500, 1, 1),
        ("",) * 500,
        {"gap": values},
    )
    assert made.condition(many).sum(0).tolist() == [50.0] * 10


def test_conditions_can_be_set_and_sampled():
    made = model(condition_property="gap")
    draw = made.sample_latents(200, torch.Generator().manual_seed(0))
    again = made.sample_latents(200, torch.Generator().manual_seed(0), condition=2)
    assert draw.shape == (200, 10)
    torch.testing.assert_close(draw[:, :6], again[:, :6])
    assert draw[:, :6].mean().abs() < 0.1
    assert draw[:, :6].std() == pytest.approx(1.0, abs=0.1)
    assert (draw[:, 6:] == 0).all()
    assert (again[:, 6:] == torch.tensor([0.0, 0, 1, 0])).all()
    back = made.set_condition(again, -1)
    assert (back == draw).all()
    assert again[:, 8].all()  # not changed in place
    with pytest.raises(ValueError, match="bins 0 to 3, not 4"):
        made.set_condition(draw, 4)


@pytest.mark.parametrize("frame", ["cell", "box"])
def test_released_lattices_are_short_by_one_voxel(frame):
    made = model(resolution=16, frame=frame)
    batch = boxes().select([0])
    channels = voxelize(batch, made.voxels).channels
    latent = torch.zeros(1, 6)
    fit = made.lattice(latent, channels)
    made.lattice_readout = "released"
    released = made.lattice(latent, channels)
    torch.testing.assert_close(fit.norm(dim=-1), torch.tensor([[4.0, 5.0, 6.0]]))
    torch.testing.assert_close(released.norm(dim=-1), fit.norm(dim=-1) * (1 - 1 / 16))


def test_a_perfect_u_net_gives_the_crystal_back():
    """Reading true voxels with a network that tells the truth, site by site."""
    made = model(resolution=32)
    batch = CrystalBatch(
        torch.tensor([[[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]]]),
        torch.tensor([[8, 26]]),
        torch.ones(1, 2, dtype=torch.bool),
        5 * torch.eye(3)[None] + 0.3 * torch.tensor([[[0.0, 0, 0], [0, 0, 1], [0, 0, 0]]]),
        ("a",),
    )
    voxels = voxelize(batch, made.voxels)
    truth = torch.nn.functional.one_hot(voxels.species, 95).movedim(-1, 1).float()

    class Truth(torch.nn.Module):
        trunk = staticmethod(lambda channels: truth)
        occupancy_head = staticmethod(lambda trunk: 20.0 * (0.5 - trunk[:, :1]))
        species_at = staticmethod(lambda some: some)

    made.unet = Truth()
    lattice = made.lattice(torch.zeros(1, 6), voxels.channels)
    found = pack(list(made.read(voxels.channels)), lattice)
    error, wrong = site_errors(batch, found.crystals)
    assert error.max() < 0.5 * 7.5 / 32
    assert wrong.sum() == 0
    assert found.confidence[0] > 0.99
    assert found.site_size.sum() == pytest.approx(1.0)


def test_packing_sites_of_several_crystals():
    some = FoundSites(np.array([[-0.1, 0.5, 1.1]]), np.array([3]), np.array([1.0]), 0.7)
    found = pack([None, some, None], torch.eye(3).repeat(3, 1, 1))
    assert found.crystals.num_atoms.tolist() == [0, 1, 0]
    torch.testing.assert_close(found.crystals.frac_coords[1, 0], torch.tensor([0.9, 0.5, 0.1]))
    assert found.confidence.tolist() == pytest.approx([0.0, 0.7, 0.0])


def test_cells_without_a_volume_hold_no_atoms():
    cells = torch.eye(3).repeat(4, 1, 1)
    cells[1, 0] = torch.nan
    cells[2, 0, 0] = 1e-3
    cells[3, 0, 0] = 1e6
    assert usable(cells).tolist() == [True, False, False, False]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_conditions": 1}, "num_conditions"),
        ({"resolution": 10}, "cannot be halved|does not fit"),
    ],
)
def test_options_that_cannot_be_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        model(**changes)


def test_true_voxels_are_rotated_as_crystals_are():
    """A turned crystal has the turned voxels: the same density, its axes exchanged."""
    from baselines.voxel_icsg3d.rotations import axis_rotations, rotate

    options = VoxelOptions(resolution=8, frame="box")
    batch = boxes().select([0])
    moved = batch.replace(frac_coords=torch.tensor([[[0.1, 0.25, 0.4]]]))
    density = voxelize(moved, options).density
    orders, signs = axis_rotations("box")
    assert len(orders) == 24
    assert len(axis_rotations("cell")[0]) == 6
    matched = set()
    for seed in range(60):
        turned = rotate(moved, options, torch.Generator().manual_seed(seed))
        found = voxelize(turned, options).density[0]
        for k, (order, sign) in enumerate(zip(orders.tolist(), signs.tolist(), strict=True)):
            image = density[0].permute(order)
            image = image.flip([i for i in range(3) if sign[i] < 0])
            same = torch.allclose(image, found, atol=1e-4 * float(density.max()))
            lengths = turned.lattice.norm(dim=-1)[0].tolist()
            if same and lengths == pytest.approx([[4.0, 5.0, 6.0][i] for i in order]):
                matched.add(k)
                break
        else:
            pytest.fail(f"no rotation of the voxels gives {found}")
    assert len(matched) > 12
