"""Prototype crystals: real structure types, plausible, unique, and the same on every machine."""

import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Composition, Element
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from nesf.data import prototypes
from nesf.data.decorate import build, decorations, radius
from nesf.data.packed import PackedSet
from nesf.data.prototype_library import prototype_library
from nesf.data.prototypes import make_prototypes, prototype_splits, write_prototypes
from nesf.data.readers import ReadOptions, check_structure
from nesf.data.recipes import RECIPES
from nesf.data.records import Row
from nesf.errors import InputError


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder that holds the library, as every run but the first finds it."""
    folder = tmp_path_factory.mktemp("cache") / "nesf"
    prototype_library(folder)
    return folder


@pytest.fixture(autouse=True)
def _use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))


@pytest.fixture(scope="session")
def rows(cache: Path) -> list[Row]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache.parent))
        return make_prototypes(120, seed=0, workers=1)


def test_library_is_cached_and_survives_damage(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = cache.glob("prototypes-*.nesf")
    good = prototype_library(cache)
    assert list(good.ids) == [recipe.name for recipe in RECIPES]

    monkeypatch.setattr("nesf.data.prototype_library._build_library", lambda: good.select([0]))
    assert len(prototype_library(cache)) == len(good)  # not built again
    damaged = tmp_path / path.name
    damaged.write_bytes(path.read_bytes()[:-1])
    assert len(prototype_library(tmp_path)) == 1
    assert len(PackedSet.load(damaged)) == 1  # mended
    (tmp_path / "file").write_text("")
    assert len(prototype_library(tmp_path / "file")) == 1  # not writable


def test_library_has_the_labelled_symmetry(cache: Path) -> None:
    """spglib, which took no part in making the cells, finds the group that the label names."""
    library = prototype_library(cache)
    for i, structure in enumerate(library.batch(range(len(library))).to_structures()):
        label = str(library.properties["aflow"][i])
        found = SpacegroupAnalyzer(structure, symprec=0.01)
        assert found.get_space_group_number() == int(label.split("_")[2]), library.ids[i]
        conventional = found.get_conventional_standard_structure()
        assert len(conventional) == len(structure), library.ids[i]
        counts = sorted(structure.composition.reduced_composition.values())
        expected = sorted(int(n or 1) for n in re.findall(r"[A-Z](\d*)", label.split("_")[0]))
        assert counts == expected, library.ids[i]


def test_crystals_pass_the_checks_and_are_unique(rows: list[Row]) -> None:
    assert len(rows) == 120
    options = ReadOptions(max_atoms=20, min_distance=1.0)
    for row in rows:
        check_structure(row.structure, options)
        assert row.structure.frac_coords.min() >= 0
        assert row.structure.frac_coords.max() < 1
        assert row.id.endswith(f"-{row.properties['prototype']}-{row.properties['formula']}")
        assert (
            Composition(str(row.properties["formula"]))
            == row.structure.composition.reduced_composition
        )
        assert 3 < row.structure.volume / len(row.structure) < 90
    assert len({row.id for row in rows}) == 120
    sites = [(r.properties["prototype"], tuple(r.structure.atomic_numbers)) for r in rows]
    assert len(set(sites)) == 120
    per_prototype = Counter(str(row.properties["prototype"]) for row in rows)
    assert len(per_prototype) == len(RECIPES)
    assert max(per_prototype.values()) <= 3


def test_cells_are_in_pymatgens_orientation(rows: list[Row]) -> None:
    for row in rows:
        lattice = row.structure.lattice
        standard = lattice.from_parameters(*lattice.parameters)
        np.testing.assert_allclose(lattice.matrix, standard.matrix, atol=1e-9)


def test_symmetry_is_the_prototypes(rows: list[Row]) -> None:
    """Cell lengths were changed only where the symmetry leaves them free."""
    for row in rows[::5]:
        group = SpacegroupAnalyzer(row.structure, symprec=0.01).get_space_group_number()
        assert group == row.properties["space_group"], row.id


def test_lattice_constants_are_near_measured_ones(cache: Path) -> None:
    """Measured at room temperature (CRC Handbook), Å; data-mined scaling is good to some 10 %."""
    library = prototype_library(cache)
    recipes = {recipe.name: recipe for recipe in RECIPES}
    for name, elements, measured in [
        ("rocksalt", "Na Cl", 5.64),
        ("rocksalt", "Mg O", 4.21),
        ("zincblende", "Ga As", 5.65),
        ("fluorite", "Ca F", 5.46),
        ("rutile", "Ti O", 4.59),
        ("perovskite", "Sr Ti O", 3.905),
        ("diamond", "Si", 5.43),
        ("fcc", "Cu", 3.61),
        ("cab6", "La B", 4.15),
    ]:
        answer = build(
            {
                "prototype": name,
                "numbers": [Element(symbol).Z for symbol in elements.split()],
                "seed": [0, 0],
                "variant": 0,
            },
            {"prototypes": {name: prototypes._plain(library, recipes[name])}, "strain": 0.0},
        )
        assert answer["lengths"][0] == pytest.approx(measured, rel=0.1), elements


def test_decorations_balance_charges_and_hold_the_known_compounds() -> None:
    recipes = {recipe.name: recipe for recipe in RECIPES}
    for name, counts, members, strangers in [
        ("rocksalt", (1, 1), ["Na Cl", "Mg O", "Sc N"], ["Na O", "Cl Na", "Mg Mg"]),
        ("perovskite", (1, 1, 3), ["Sr Ti O", "Cs Pb I", "K Mg F"], ["Ti Sr O", "Na Ti O"]),
        ("fluorite", (1, 2), ["Ca F", "Ce O"], ["Na F", "Ca O"]),
        ("chalcopyrite", (1, 1, 2), ["Cu Ga Se", "Cu In S"], ["Na Zn S"]),
        ("heusler", (1, 2, 1), ["Al Cu Mn", "Ga Ni Mn"], ["Al Cu O"]),
    ]:
        chosen = {tuple(row) for row in decorations(recipes[name], counts).tolist()}

        def has(elements: str, chosen: set[tuple[int, ...]] = chosen) -> bool:
            return tuple(Element(symbol).Z for symbol in elements.split()) in chosen

        assert all(map(has, members)), (name, members)
        assert not any(map(has, strangers)), (name, strangers)


def test_exchanging_equivalent_sites_gives_no_second_crystal(cache: Path) -> None:
    library = prototype_library(cache)
    structures = library.batch(range(len(library))).to_structures()
    for recipe, structure in zip(RECIPES, structures, strict=True):
        if len(recipe.roles) == 1:
            continue
        first, second, *_ = recipe.formula.split()
        exchanged = structure.copy()
        exchanged.replace_species({first: second, second: first})
        same = structure.matches(exchanged, ltol=0.05, stol=0.05, angle_tol=1)
        assert same or not recipe.interchangeable, recipe.name
        counts = [structure.composition[symbol] for symbol in recipe.formula.split()]
        chosen = {tuple(row) for row in decorations(recipe, tuple(map(int, counts))).tolist()}
        twice = [row for row in chosen if (row[1], row[0], *row[2:]) in chosen]
        assert not (same and twice), (recipe.name, len(twice))


def test_radii_are_shannons() -> None:
    """Crystal radii in Å for coordination number 6 (Shannon, Acta Cryst. A32, 751, 1976)."""
    table = {("O", -2): 1.26, ("Na", 1): 1.16, ("Ti", 4): 0.745, ("Ni", 2): 0.83, ("Mn", 3): 0.785}
    for (symbol, charge), expected in table.items():
        assert radius(symbol, charge) == pytest.approx(expected, abs=1e-6)


def test_bytes_do_not_depend_on_the_workers(tmp_path: Path) -> None:
    for workers in (1, 2):  # more crystals than one worker takes at once
        path = tmp_path / f"{workers}.nesf"
        write_prototypes(path, 70, seed=3, max_atoms=4, workers=workers, progress=False)
    assert (tmp_path / "1.nesf").read_bytes() == (tmp_path / "2.nesf").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["1.nesf", "2.nesf"]
    packed = PackedSet.load(tmp_path / "1.nesf")
    assert packed.num_atoms.max() <= 4
    assert packed.provenance["seed"] == 3


def plan(cache: Path, kinds: set[str], count: int, seed: int) -> tuple[list[dict], dict]:
    """What the workers are told, and their configuration."""
    recipes = [recipe for recipe in RECIPES if recipe.name in kinds]
    library = prototype_library(cache)
    plain = {recipe.name: prototypes._plain(library, recipe) for recipe in recipes}
    return list(prototypes._plan(recipes, plain, count, seed)), {
        "prototypes": plain,
        "strain": 0.05,
    }


def test_the_seed_chooses_and_fewer_are_the_first_of_more(cache: Path) -> None:
    kinds = {"rocksalt", "wurtzite", "diamond"}
    many, _ = plan(cache, kinds, 50, seed=3)
    assert plan(cache, kinds, 20, seed=3)[0] == many[:20]
    other = plan(cache, kinds, 50, seed=4)[0]
    assert [task["numbers"] for task in other] != [task["numbers"] for task in many]


def test_used_up_choices_come_again_with_another_volume(cache: Path) -> None:
    tasks, config = plan(cache, {"diamond"}, 10, seed=0)
    answers = [build(task, config) for task in tasks]
    lengths: dict[str, list[float]] = {}
    for answer in answers:
        lengths.setdefault(answer["formula"], []).append(answer["lengths"][0])
    assert sorted(lengths) == ["C", "Ge", "Si", "Sn"]
    for same in lengths.values():
        assert len(set(same)) == len(same)
        assert max(same) / min(same) < 1.07


def test_kinds_and_limits_are_checked() -> None:
    with pytest.raises(InputError, match="unknown prototype 'rock'; known are fcc"):
        make_prototypes(1, kinds=["rock"])
    with pytest.raises(InputError, match="no chosen prototype has at most 4 atoms"):
        make_prototypes(1, kinds=["rocksalt"], max_atoms=4)
    for count, seed in [(0, 0), (1, -1)]:
        with pytest.raises(InputError, match="give a count above 0"):
            make_prototypes(count, seed)


def test_splits_share_no_formula(rows: list[Row]) -> None:
    packed = PackedSet.from_rows(rows)
    parts = prototype_splits(packed, {"train": 0.8, "val": 0.1, "test": 0.1}, seed=1)
    formula = dict(zip(packed.ids, packed.properties["formula"], strict=True))
    formulas = {part: {formula[name] for name in ids} for part, ids in parts.items()}
    assert not formulas["train"] & formulas["test"]
    assert not formulas["train"] & formulas["val"]
    assert sum(map(len, parts.values())) == 120
    assert len(parts["test"]) == pytest.approx(12, abs=3)
    kinds = {name.split("-")[2] for name in parts["train"]}
    assert len(kinds & {name.split("-")[2] for name in parts["test"]}) > 10
    plain = PackedSet.from_rows([Row("a", rows[0].structure, {}, "")])
    with pytest.raises(InputError, match="no `formula` property"):
        prototype_splits(plain, {"train": 1.0})
