"""The models in the box."""

from pathlib import Path

import pytest
import yaml
from pymatgen.core import Lattice, Structure

import nesf
from nesf.autoencoder import NeSF
from nesf.checkpoint import WEIGHTS_FOLDER, find_model, read_model, sidecar_path

SHIPPED = sorted(path.stem for path in WEIGHTS_FOLDER.glob("*.safetensors"))


def test_there_is_one() -> None:
    assert "lcs6" in SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_has_its_checksum(name: str) -> None:
    assert sidecar_path(WEIGHTS_FOLDER / f"{name}.safetensors").is_file()


@pytest.mark.parametrize("name", SHIPPED)
def test_recovers_textbook_crystals(name: str) -> None:
    cscl = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    rocksalt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    model = nesf.load(name)
    found = model.reconstruct([cscl, rocksalt]).crystals.to_structures()
    for true, structure in zip([cscl, rocksalt], found, strict=True):
        assert structure.composition == true.composition
        assert structure.lattice.abc == pytest.approx(true.lattice.abc, abs=0.15)
        away = true.lattice.get_all_distances(true.frac_coords, structure.frac_coords)
        assert away.min(axis=1).max() < 0.05


CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "nesf"


@pytest.mark.skipif("general" not in SHIPPED, reason="the general model is not in this checkout")
@pytest.mark.parametrize(
    "name", ["general", "general_displaced", "general_random", "general_larger", "finetune"]
)
def test_configs_have_the_shape_of_the_general_model(name: str) -> None:
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    shape = config["model"]["init_args"]["model"]["init_args"]
    shipped = read_model(find_model("general")).model
    assert shipped["class_path"] == config["model"]["init_args"]["model"]["class_path"]
    # a file says nothing of options that are younger than it
    assert NeSF(**shipped["init_args"]).init_args == NeSF(**shape).init_args
