"""The README's Python, run as it stands."""

import re
from pathlib import Path

import pytest
import torch
from pymatgen.core import Lattice, Structure

from nesf.autoencoder import NeSF
from nesf.checkpoint import save_model

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = NeSF(latent_dim=16, encoder_width=64, position_widths=[32], species_widths=[32])
    entry = {"class_path": "nesf.autoencoder.NeSF", "init_args": model.init_args}
    folder = tmp_path / "runs" / "lcs6"
    folder.mkdir(parents=True)
    save_model(folder / "model.safetensors", entry, model.state_dict())
    return tmp_path


def test_python_examples(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_folder)
    structure = Structure(Lattice.cubic(4.2), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    names: dict[str, object] = {"structure": structure, "query": torch.rand(1, 7, 3) * 4}
    code = blocks("python")
    assert len(code) >= 3
    for block in code:
        exec(block, names)
    assert names["latent"].shape == (1, 16)
    assert names["offset"].shape == (1, 7, 3)
    assert names["logits"].shape == (1, 7, 94)
    assert isinstance(names["structures"][0], Structure)
    assert names["offsets"].shape == (1, 100, 3)


def test_commands_exist() -> None:
    from nesf.cli import VERBS

    called = re.findall(r"^(?:srun )?nesf ((?:data )?[a-z-]+)", "\n".join(blocks("sh")), re.M)
    assert len(called) >= 10
    assert set(called) <= set(VERBS)
