"""The README's Python, run as it stands."""

import re
from pathlib import Path

import torch
from pymatgen.core import Lattice, Structure

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_python_examples() -> None:
    structure = Structure(Lattice.cubic(4.2), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    names: dict[str, object] = {"structure": structure, "query": torch.rand(1, 7, 3) * 4}
    code = blocks("python")
    assert len(code) >= 3
    for block in code:
        exec(block, names)
    assert names["latent"].shape == (1, 256)
    assert names["offset"].shape == (1, 7, 3)
    assert names["logits"].shape == (1, 7, 94)
    assert isinstance(names["structures"][0], Structure)
    assert names["found"].crystals.to_structures()[0].composition == structure.composition
    assert names["exact"].shape == (1, 256)
    assert names["offsets"].shape == (1, 100, 3)


def test_commands_exist() -> None:
    from nesf.cli import VERBS

    called = re.findall(r"^(?:srun )?nesf ((?:data )?[a-z-]+)", "\n".join(blocks("sh")), re.M)
    assert len(called) >= 10
    assert set(called) <= set(VERBS)
