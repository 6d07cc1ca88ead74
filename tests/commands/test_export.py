"""A trained model as one file."""

from __future__ import annotations

import torch
from command_line import complaint, nesf

from nesf.autoencoder import NeSF
from nesf.checkpoint import load_model, read_model, save_model, sidecar_path


def test_whole_and_half(tmp_path, capsys):
    torch.manual_seed(0)
    model = NeSF(latent_dim=6, encoder_width=8, position_widths=[8], species_widths=[8])
    config = {"class_path": "nesf.autoencoder.NeSF", "init_args": model.init_args}
    run, whole, half = (tmp_path / name for name in ("run", "a.safetensors", "new/b.safetensors"))
    run.mkdir()
    save_model(run / "model.safetensors", config, model.state_dict(), {"seed": 3})
    assert nesf("export", "--model", run, "--output", whole) == 0
    assert nesf("export", "--model", run, "--output", half, "--half") == 0
    numbers = sum(value.numel() for value in model.state_dict().values())
    assert f"{numbers:,} numbers" in capsys.readouterr().out
    assert half.stat().st_size < 0.8 * whole.stat().st_size
    for path, (relative, absolute) in ((whole, (0, 0)), (half, (2**-11, 2**-25))):
        assert sidecar_path(path).is_file()
        assert read_model(path).metadata == {"seed": 3}
        again = load_model(path).state_dict()
        for name, value in model.state_dict().items():
            assert again[name].dtype == value.dtype
            torch.testing.assert_close(again[name], value, rtol=relative, atol=absolute)


def test_another_suffix_is_refused(tmp_path, capsys):
    assert nesf("export", "--model", "lcs6", "--output", tmp_path / "a.pt") == 2
    assert "give a file with the suffix .safetensors" in complaint(capsys)
    assert not list(tmp_path.iterdir())
