"""How many structure types come back that our prototypes do not have.

python benchmarks/structure_types.py --training SET.nesf ... --json out.json

The crystals are those of pymatgen's copy of the AFLOW Library of Crystallographic Prototypes whose
types `nesf data prototypes` does not make, in the cells in which they are there (mostly primitive
ones), up to 64 atoms; or, with --crystals, those of a file. Each is given back by the encoder alone
and refined (`--setting` best, as nesf reconstruct does). With --training, those are also counted by
themselves that are unlike every crystal of these packed sets: in space group, atoms in the
conventional cell, or how many of each element there are. Counted by size are crystals without a
fault: an atom missed, in addition, of another element or more than 0.03 Å off, or a cell vector
more than 0.1 Å off. Seconds are of processor time.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import measure
import torch

import nesf
from nesf.crystal import MAX_ATOMIC_NUMBER, CrystalBatch
from nesf.data.packed import PackedSet, load_or_pack
from nesf.data.recipes import RECIPES

HOW: dict[str, dict[str, Any]] = {
    "encoder": {"refine": 0, "setting": "given"},
    "refined": {},
}
SIZES = 0, 4, 8, 12, 16, 24, 32, 40, 64
SYMPREC = 0.02  # Å
AT_ONCE = 512
Kind = tuple[int, int, tuple[int, ...]]


def unseen_types(max_atoms: int) -> CrystalBatch:
    """The prototypes of no recipe, with their own elements; their ids begin with AFLOW's labels."""
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    made = {recipe.aflow for recipe in RECIPES}
    structures, ids = [], []
    for index, entry in enumerate(AFLOW_PROTOTYPE_LIBRARY):
        structure = getattr(entry["snl"], "structure", entry["snl"])
        label = entry["tags"]["aflow"]
        numbers = structure.atomic_numbers
        if label not in made and len(numbers) <= max_atoms and max(numbers) <= MAX_ATOMIC_NUMBER:
            structures.append(structure)
            ids.append(f"{label}-{structure.composition.reduced_formula}-{index}")
    return CrystalBatch.from_structures(structures, ids)


def kinds_of(crystals: CrystalBatch) -> list[Kind | None]:
    """Space group, atoms in the conventional cell, and numbers of each element, reduced."""
    import moyopy

    kinds: list[Kind | None] = []
    parts = crystals.lattice.double(), crystals.frac_coords.double(), crystals.atomic_numbers
    for lattice, frac, numbers, count in zip(*parts, crystals.num_atoms.tolist(), strict=True):
        cell = moyopy.Cell(lattice.tolist(), frac[:count].tolist(), numbers[:count].tolist())
        try:
            found = moyopy.MoyoDataset(cell, symprec=SYMPREC)
        except ValueError:  # no symmetry at this tolerance
            kinds.append(None)
            continue
        each = Counter(found.std_cell.numbers).values()
        shared = math.gcd(*each)
        reduced = tuple(sorted(one // shared for one in each))
        kinds.append((found.number, len(found.std_cell.numbers), reduced))
    return kinds


def kinds_in(paths: Iterable[Path]) -> set[Kind | None]:
    """The kinds of all crystals of packed sets."""
    kinds: set[Kind | None] = set()
    for path in paths:
        packed = PackedSet.load(path)
        for start in range(0, len(packed), AT_ONCE):
            kinds.update(kinds_of(packed.batch(range(start, min(start + AT_ONCE, len(packed))))))
    return kinds


def by_size(crystals: CrystalBatch, right: torch.Tensor) -> dict[str, dict[str, int]]:
    """Crystals, and those without a fault, in ranges of atoms."""
    counts = {}
    for low, high in pairwise(SIZES):
        those = (crystals.num_atoms.cpu() > low) & (crystals.num_atoms.cpu() <= high)
        if those.any():
            name = f"{low + 1} to {high} atoms"
            counts[name] = {"crystals": int(those.sum()), "right": int(right[those].sum())}
    return counts


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="general")
    parser.add_argument("--crystals", type=Path, help="of any format, instead of the prototypes")
    parser.add_argument("--training", type=Path, nargs="+", default=[], help="packed sets")
    parser.add_argument("--limit", type=int, help="the first so many crystals")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = nesf.load(arguments.model, arguments.device)
    if arguments.crystals:
        packed = PackedSet.load(load_or_pack([arguments.crystals]))
        crystals = packed.batch(range(len(packed)))
    else:
        crystals = unseen_types(max(SIZES))
    crystals = crystals.select(range(len(crystals))[: arguments.limit])
    results: dict[str, Any] = {"crystals": len(crystals)}
    known = kinds_in(arguments.training)
    new = torch.tensor([kind not in known for kind in kinds_of(crystals)])
    for how, options in HOW.items():
        start = time.process_time()
        found = model.reconstruct(crystals, **options)
        taken = time.process_time() - start
        right = found.faults.cpu() == 0
        failed = [name for name, one in zip(crystals.ids, right.tolist(), strict=True) if not one]
        results[how] = {
            "right": int(right.sum()),
            "seconds": taken,
            "by_size": by_size(crystals, right),
            "with_faults": failed,
        }
        told = ["right", "seconds", "by_size"]
        if known:
            results[how]["unlike_training"] = by_size(crystals.select(new), right[new])
            told.append("unlike_training")
        measure.tell(how, {name: results[how][name] for name in told})
    source = str(arguments.crystals or "AFLOW prototypes of pymatgen")
    setup = measure.setup(torch.device(arguments.device), model=arguments.model, source=source)
    measure.write(arguments.json, setup, results)


if __name__ == "__main__":
    main()
