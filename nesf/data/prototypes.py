"""Crystals without a network: prototypes decorated with plausible elements.

The prototypes are pymatgen's copy of the AFLOW Library of Crystallographic Prototypes (Mehl et
al., Comput. Mater. Sci. 136, S1, 2017), in their conventional cells. What stands where is decided
in `nesf.data.recipes`, the volume by pymatgen's data-mined lattice scaling (Chu et al., Comput.
Mater. Sci. 146, 184, 2018).
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from nesf.data.decorate import decorations
from nesf.data.packed import PackedSet, PackReport, write_rows
from nesf.data.prototype_library import prototype_library
from nesf.data.recipe import Recipe
from nesf.data.recipes import RECIPES
from nesf.data.records import ReadOptions, Row
from nesf.data.splits import split_groups
from nesf.data.workers import Failure, Limits, map_in_workers
from nesf.errors import InputError, NesfError

MAX_ATOMS = 20
STRAIN = 0.05  # largest change of the logarithm of a free ratio of cell lengths


def make_prototypes(
    count: int,
    seed: int = 0,
    max_atoms: int = MAX_ATOMS,
    kinds: Sequence[str] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> list[Row]:
    """Decorated prototype crystals in memory; the arguments are those of `iter_prototypes`."""
    return list(iter_prototypes(count, seed, max_atoms, kinds, workers, progress))


def write_prototypes(
    output: str | Path,
    count: int,
    seed: int = 0,
    max_atoms: int = MAX_ATOMS,
    kinds: Sequence[str] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> PackReport:
    """Write decorated prototype crystals as a packed set, in constant memory.

    The same arguments give the same bytes, however many workers there are.

    Args:
        output: the packed set; by custom with the suffix `.nesf`.
        count: as for `iter_prototypes`, like all that follows.
        seed: of the choice.
        max_atoms: in the conventional cell.
        kinds: names of prototypes; all by default.
        workers: processes.
        progress: show a progress bar.

    Raises:
        InputError: an argument is out of range, or the output cannot be written.
    """
    provenance = {
        "source": "decorated AFLOW prototypes",
        "pymatgen": version("pymatgen"),
        "count": count,
        "seed": seed,
        "max_atoms": max_atoms,
        "kinds": list(kinds) if kinds is not None else None,
    }
    rows = iter_prototypes(count, seed, max_atoms, kinds, workers, progress)
    return write_rows(output, provenance, rows)


def iter_prototypes(
    count: int,
    seed: int = 0,
    max_atoms: int = MAX_ATOMS,
    kinds: Sequence[str] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Generator[Row, None, None]:
    """Decorated prototype crystals, dealt out evenly over the prototypes.

    No prototype gets the same elements twice until all choices (some 30,000) are used up; after
    that they come again with other cell lengths. Fewer crystals of the same seed are the first of
    more.

    Args:
        count: how many.
        seed: of the choice of elements and of the free ratios of cell lengths.
        max_atoms: in the conventional cell.
        kinds: names of prototypes (`prototype_names`); all by default.
        workers: processes; by default one a core.
        progress: show a progress bar.

    Yields:
        Rows with ids like `proto-000123-rocksalt-MgO` and the properties prototype, aflow,
        strukturbericht, space_group and formula.

    Raises:
        InputError: an argument is out of range (at the call).
    """
    if count < 1 or seed < 0:
        raise InputError(f"count is {count} and seed is {seed}; give a count above 0, seed from 0")
    library = prototype_library()
    recipes = _chosen(library, max_atoms, kinds)
    return _iterate(library, recipes, count, seed, workers, progress)


def prototype_names() -> tuple[str, ...]:
    """The names that `kinds` may hold."""
    return tuple(recipe.name for recipe in RECIPES)


def prototype_splits(
    packed: PackedSet, fractions: Mapping[str, float], seed: int = 0
) -> dict[str, list[str]]:
    """Split prototype crystals by formula: no part holds a composition of another.

    Args:
        packed: a set that `write_prototypes` wrote.
        fractions: of each part, by name; they sum to 1.
        seed: of the rule.

    Returns:
        The ids of each part, for a split file.

    Raises:
        InputError: the set has no formulas, or the fractions do not sum to 1.
    """
    if "formula" not in packed.properties:
        raise InputError("the crystals have no `formula` property; make them with prototypes")
    formulas = [str(formula) for formula in packed.properties["formula"]]
    return split_groups(list(packed.ids), formulas, fractions, seed)


def _chosen(library: PackedSet, max_atoms: int, kinds: Sequence[str] | None) -> list[Recipe]:
    """The recipes of these kinds that fit.

    Raises:
        InputError: a name is unknown, or nothing fits.
    """
    unknown = sorted(set(kinds or ()) - set(prototype_names()))
    if unknown:
        known = ", ".join(prototype_names())
        raise InputError(f"unknown prototype {unknown[0]!r}; known are {known}")
    size = dict(zip(library.ids, library.num_atoms.tolist(), strict=True))
    chosen = [
        r for r in RECIPES if (kinds is None or r.name in kinds) and size[r.name] <= max_atoms
    ]
    if not chosen:
        raise InputError(f"no chosen prototype has at most {max_atoms} atoms; raise max_atoms")
    return chosen


def _iterate(
    library: PackedSet,
    recipes: list[Recipe],
    count: int,
    seed: int,
    workers: int | None,
    progress: bool,
) -> Generator[Row, None, None]:
    from pymatgen.core import Element, Lattice, Structure
    from tqdm import tqdm

    prototypes = {recipe.name: _plain(library, recipe) for recipe in recipes}
    properties = {name: prototype.pop("properties") for name, prototype in prototypes.items()}
    answers = map_in_workers(
        "nesf.data.decorate:build",
        ((task, task) for task in _plan(recipes, prototypes, count, seed)),
        config={"prototypes": prototypes, "strain": STRAIN},
        preload=["pymatgen.core.structure_prediction.volume_predictor"],
        limits=Limits(timeout_s=600.0),  # against a hang; our own items take milliseconds
        workers=workers or ReadOptions().num_workers,
        chunk_items=64,
    )
    bar = tqdm(
        desc="decorating", unit=" crystals", total=count, disable=not progress, file=sys.stderr
    )
    with bar, closing(answers):  # type: ignore[type-var]
        for task, answer in answers:
            name, index = task["prototype"], task["seed"][1]
            if isinstance(answer, Failure):
                raise NesfError(f"prototype crystal {index} ({name}): {answer.reason}")
            prototype = prototypes[name]
            structure = Structure(
                Lattice.from_parameters(*answer["lengths"], *prototype["angles"]),
                [Element.from_Z(task["numbers"][role]) for role in prototype["roles"]],
                prototype["frac_coords"],
            )
            bar.update()
            yield Row(
                id=f"proto-{index:06d}-{name}-{answer['formula']}",
                structure=structure,
                properties={"prototype": name, "formula": answer["formula"], **properties[name]},
                source="prototypes",
                row=index + 1,
            )


def _plain(library: PackedSet, recipe: Recipe) -> dict[str, Any]:
    """One prototype as plain lists, and its properties."""
    from pymatgen.core import Element, Lattice
    from pymatgen.symmetry.groups import SpaceGroup

    index = list(library.ids).index(recipe.name)
    atoms = slice(*library.offsets[index : index + 2])
    lattice = Lattice(library.lattice[index])
    roles = [Element(symbol).Z for symbol in recipe.formula.split()]
    number = int(library.properties["space_group"][index])
    return {
        "lengths": list(lattice.lengths),
        "angles": list(lattice.angles),
        "system": SpaceGroup.from_int_number(number).crystal_system,
        "frac_coords": library.frac_coords[atoms].tolist(),
        "roles": [roles.index(z) for z in library.atomic_numbers[atoms].tolist()],
        "properties": {name: column[index] for name, column in library.properties.items()},
    }


def _plan(
    recipes: list[Recipe], prototypes: Mapping[str, dict[str, Any]], count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """What each worker's call is given, in order.

    Every recipe's choices are shuffled by the seed and its name; then all recipes are dealt their
    first choice, their second, ..., until they run out.
    """
    shuffled = []
    used: dict[tuple[str, str], set[tuple[int, ...]]] = {}
    for recipe in recipes:
        roles = prototypes[recipe.name]["roles"]
        choices = decorations(recipe, tuple(np.bincount(roles).tolist()))
        # recipes of one structure (B1 of salts and of carbides) don't repeat each other
        taken = used.setdefault((recipe.aflow, recipe.formula), set())
        kept = [choice for choice in choices.tolist() if tuple(choice) not in taken]
        taken.update(map(tuple, kept))
        key = np.random.SeedSequence(seed, spawn_key=tuple(recipe.name.encode()))
        order = np.random.default_rng(key).permutation(len(kept))
        shuffled.append([kept[i] for i in order])
    owner = np.repeat(np.arange(len(recipes)), [len(choices) for choices in shuffled])
    round_ = np.concatenate([np.arange(len(choices)) for choices in shuffled])
    deal = np.lexsort((owner, round_))
    for index in range(count):
        variant, position = divmod(index, len(deal))
        chosen = deal[position]
        mine = int(owner[chosen])
        yield {
            "prototype": recipes[mine].name,
            "numbers": shuffled[mine][int(round_[chosen])],
            "seed": [seed, index],
            "variant": variant,
        }
