"""The voxel model of boxes: its networks, what it encodes, reads, samples and refuses."""

from pathlib import Path

import pytest
import torch

from baselines.voxel_icsg3d.attention_unet import AttentionGate, AttentionUNet
from baselines.voxel_icsg3d.box_grid import box_labels
from baselines.voxel_icsg3d.box_losses import BoxLosses, class_loss
from baselines.voxel_icsg3d.box_sites import BoxReadOut
from baselines.voxel_icsg3d.box_vae import BoxVAE
from baselines.voxel_icsg3d.hoffmann import VoxelHoffmann
from baselines.voxel_icsg3d.read_out import pack
from nesf.boxes.cut import BoxOptions, random_boxes
from nesf.checkpoint import load_model, save_model
from nesf.crystal import CrystalBatch
from nesf.scoring import quick_scores

CLASS = "baselines.voxel_icsg3d.hoffmann.VoxelHoffmann"


def model(**changes) -> VoxelHoffmann:
    torch.manual_seed(0)
    arguments = {
        "boxes": BoxOptions(side=6.0),
        "resolution": 12,
        "vae_widths": (4, 4, 8),
        "unet_widths": (4, 8),
        "latent_dim": 10,
    }
    return VoxelHoffmann(**{**arguments, **changes}).eval()


def rock_salt(count: int = 2, a: float = 4.2) -> CrystalBatch:
    corners = [[0.0, 0, 0], [0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]
    frac = torch.tensor(corners + [[x + 0.5, y, z] for x, y, z in corners]) % 1
    return CrystalBatch.from_flat(
        frac.repeat(count, 1),
        torch.tensor([12] * 4 + [8] * 4).repeat(count),
        torch.full((count,), 8),
        torch.eye(3).repeat(count, 1, 1) * (a + torch.arange(count)).view(-1, 1, 1),
        [str(i) for i in range(count)],
    )


def random_ones(count: int = 2, seed: int = 0) -> CrystalBatch:
    generator = torch.Generator().manual_seed(seed)
    return random_boxes(rock_salt(count), BoxOptions(side=6.0), generator)


@pytest.mark.parametrize("resolution", [12, 15, 30])
def test_the_vae_gives_back_what_it_takes(resolution):
    vae = BoxVAE(resolution, (2, 2, 4, 4, 4), 7).eval()
    density = torch.randn(2, *(resolution,) * 3)
    mean, log_variance = vae.encode(density)
    assert mean.shape == log_variance.shape == (2, 7)
    assert vae.decode(mean).shape == density.shape
    assert sum(isinstance(m, torch.nn.Conv3d) for m in vae.encoder) == len(vae.convolutions) == 5


def test_the_published_sizes():
    assert BoxVAE().sizes == [30, 15, 8, 4, 4, 4]
    assert BoxVAE().latent_dim == 300
    published = VoxelHoffmann()
    assert published.unet.head.out_channels == 95
    grid = published.grid
    assert (grid.side, grid.resolution, grid.sigma, grid.label_radius) == (10, 30, 1, 0.65)


def test_a_closed_gate_lets_nothing_through_and_an_open_one_everything():
    gate = AttentionGate(3, 5)
    skip, below = torch.randn(2, 3, 7, 7, 7), torch.randn(2, 5, 4, 4, 4)
    for bias, kept in ((-100.0, 0.0), (100.0, 1.0)):
        torch.nn.init.constant_(gate.score.bias, bias)
        torch.testing.assert_close(gate(skip, below), skip * kept)


def test_the_gate_asks_the_level_below():
    gate = AttentionGate(3, 5)
    skip, below = torch.randn(1, 3, 4, 4, 4), torch.randn(1, 5, 2, 2, 2)
    shares = gate(skip, below) / skip
    changed = gate(skip, below + 10 * (torch.arange(2) == 0).view(1, 1, 2, 1, 1)) / skip
    different = (shares - changed).abs().amax((0, 1, 3, 4)) > 1e-4
    assert different.tolist() == [True, True, False, False]


def test_logits_at_voxels_are_those_of_the_whole():
    unet = AttentionUNet((4, 6, 8), 9).eval()
    density = torch.randn(2, 7, 7, 7)
    everywhere = unet(density).movedim(1, -1)
    where = torch.rand(2, 7, 7, 7) < 0.3
    some = unet.classes_at(unet.trunk(density).movedim(1, -1)[where])
    torch.testing.assert_close(some, everywhere[where])


@pytest.mark.parametrize("independent", [False, True])
def test_the_unet_begins_with_the_frequencies(independent):
    unet = AttentionUNet((4, 8), 3).eval()
    torch.nn.init.zeros_(unet.head.weight)
    shares = torch.tensor([0.9, 0.08, 0.02])
    unet.set_frequencies(shares, independent)
    logits = unet(torch.randn(1, 4, 4, 4))[0, :, 0, 0, 0]
    said = logits.sigmoid() if independent else logits.softmax(0)
    torch.testing.assert_close(said, shares)


def test_class_losses_are_the_textbook_ones():
    logits, classes, weights = torch.randn(20, 5), torch.arange(20) % 5, torch.rand(20)
    one_hot = torch.nn.functional.one_hot(classes, 5).float()
    binary = torch.nn.functional.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    wanted = (binary.sum(-1) * weights).sum()
    torch.testing.assert_close(class_loss(logits, classes, weights, "sigmoid"), wanted)
    chosen = -(logits.log_softmax(-1) * one_hot).sum(-1)
    torch.testing.assert_close(
        class_loss(logits, classes, weights, "softmax"), (chosen * weights).sum()
    )


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_class_weights_balance(balance):
    counts = torch.tensor([1000.0, 100.0, 10.0, 0.0])
    weights = BoxLosses(balance=balance).class_weights(counts)
    torch.testing.assert_close((weights * counts).sum(), counts.sum())
    torch.testing.assert_close(weights[1] / weights[0], torch.tensor(10**balance))
    assert weights.isfinite().all()


def test_the_total_is_the_published_sum_and_its_kl_rises():
    parts = {"density": torch.tensor(2.0), "kl": torch.tensor(3.0), "classes": torch.tensor(10.0)}
    assert BoxLosses().total(parts) == pytest.approx(2 + 5 * 3 + 0.1 * 10)
    assert BoxLosses(kl_warmup=0.5).total(parts, 0.25) == pytest.approx(2 + 2.5 * 3 + 1)


def test_a_box_is_encoded_as_it_is_and_other_crystals_are_cut():
    made, crystals = model(), rock_salt()
    cut = random_boxes(
        crystals, BoxOptions(side=6.0, rotate="none", shift=False), torch.Generator()
    )
    close = {"rtol": 2e-2, "atol": 2e-3}  # bfloat16 where it is fast
    torch.testing.assert_close(made.encode(cut), made.encode(crystals), **close)
    again, index = made.boxes_of(cut)
    assert index.tolist() == [0, 1]
    torch.testing.assert_close(again.frac_coords, cut.frac_coords)
    assert again.ids == cut.ids


def test_boxes_and_crystals_together_keep_their_places():
    made = model()
    crystals, ready = rock_salt(1, 5.0), random_ones(1)
    width = max(crystals.mask.shape[1], ready.mask.shape[1])

    def wide(x: torch.Tensor) -> torch.Tensor:
        padding = x.new_zeros(1, width - x.shape[1], *x.shape[2:])
        return torch.cat([x, padding], dim=1)

    both = CrystalBatch(
        *(torch.cat([wide(getattr(one, name)) for one in (crystals, ready)])
          for name in ("frac_coords", "atomic_numbers", "mask")),
        torch.cat([crystals.lattice, ready.lattice]),
        ("crystal", "box"),
    )  # fmt: skip
    boxes, index = made.boxes_of(both)
    assert dict(zip(boxes.ids, index.tolist(), strict=True)) == {"crystal": 0, "box": 1}
    alone = torch.cat([made.encode(crystals), made.encode(ready)])
    torch.testing.assert_close(made.encode(both), alone, rtol=2e-2, atol=2e-3)


def test_a_cell_too_large_for_the_box_has_no_latent_and_a_reason():
    made = model(boxes=BoxOptions(side=6.0, mode="unit"))
    crystals = rock_salt(2, 3.0).replace(
        lattice=torch.eye(3) * torch.tensor([3.0, 30.0]).view(2, 1, 1)
    )
    assert made.encode(crystals).isnan().any(-1).tolist() == [False, True]
    reasons = made.refusals(crystals)
    assert reasons[0] is None
    assert "leaves the box" in str(reasons[1])


def test_exact_labels_and_densities_are_read_exactly():
    made = model(boxes=BoxOptions(side=9.0), resolution=27)
    made.density_mean.fill_(1.5)
    made.density_std.fill_(0.7)
    boxes = random_boxes(rock_salt(), made.boxes, torch.Generator().manual_seed(1))
    labels = box_labels(boxes, made.grid)
    sure = torch.ones(labels.shape)
    lattice = boxes.lattice
    for refine, most in (("none", 0.1), ("density", 1e-4)):
        options = BoxReadOut(refine=refine)
        found = pack(made.atoms_of(labels, sure, made.density(boxes), options), lattice)
        scores = quick_scores(found.crystals, boxes, walls=True)
        assert scores.right_counts == 2
        assert scores.wrong_species == 0
        assert scores.distance / scores.atoms < most
        torch.testing.assert_close(found.site_size.sum(-1), torch.ones(2), rtol=0, atol=1e-5)
        assert (found.confidence == 1).all()


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_a_box_full_of_one_element_or_of_none_has_no_atoms_and_no_confidence(kind):
    made = model(class_probability=kind)
    torch.nn.init.zeros_(made.unet.head.weight)
    torch.nn.init.constant_(made.unet.head.bias, -20.0)
    made.unet.head.bias.data[8] = 0.0
    assert made.read(torch.randn(1, 12, 12, 12))[0].confidence == 0.0  # one component, no atoms
    made.unet.head.bias.data[0] = 1.0
    assert made.read(torch.randn(1, 12, 12, 12))[0].confidence == 0.0  # background alone


def test_samples_are_normal_and_decode():
    made = model()
    latent = made.sample_latents(400, torch.Generator().manual_seed(0))
    assert latent.shape == (400, 10)
    assert abs(float(latent.mean())) < 0.1
    assert float(latent.std()) == pytest.approx(1, abs=0.05)
    assert len(made.decode(latent[:3]).crystals) == 3
    with pytest.raises(ValueError, match="no condition"):
        made.sample_latents(1, torch.Generator(), 3)


def test_a_file_keeps_the_density_scale(tmp_path: Path):
    made = model()
    made.density_mean.fill_(2.0)
    entry = {"class_path": CLASS, "init_args": made.init_args}
    save_model(tmp_path / "model.safetensors", entry, made.state_dict())
    again = load_model(tmp_path / "model.safetensors")
    assert again.boxes == made.boxes
    torch.testing.assert_close(again.encode(random_ones()), made.encode(random_ones()))
