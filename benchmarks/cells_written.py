"""How often crystals come back when they are written in other cells.

python benchmarks/cells_written.py ../shared/data/lcs6/test.csv.gz --model general --json out.json

Each crystal is written as given, with a random origin, in its primitive Niggli cell, and as a
supercell of two; and given back by the encoder alone, refined in the cell as written, and refined
in whichever cell serves best (`--setting` of nesf reconstruct). Counted are the crystals that come
back with a fault: an atom missed, in addition, of another element or more than 0.03 Å off, or a
cell vector more than 0.1 Å off. Seconds are of processor time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import measure
import numpy as np
import torch

import nesf
from nesf.crystal import CrystalBatch
from nesf.data.readers import read_crystals

if TYPE_CHECKING:
    from pymatgen.core import Structure

HOW = {
    "encoder": {"refine": 0, "setting": "given"},
    "refined, given": {"setting": "given"},
    "refined, best": {"setting": "best"},
}


def ways(seed: int) -> dict[str, Callable[[Structure], Structure]]:
    """Ways of writing a crystal."""
    draw = np.random.default_rng(seed)

    def elsewhere(one: Structure) -> Structure:
        moved = one.copy()
        moved.translate_sites(range(len(one)), draw.random(3))
        return moved

    return {
        "as given": lambda one: one,
        "random origin": elsewhere,
        "primitive Niggli cell": lambda one: one.get_primitive_structure().get_reduced_structure(),
        "2x1x1": lambda one: one * (2, 1, 1),
    }


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("crystals", type=Path)
    parser.add_argument("--model", default="general")
    parser.add_argument("--limit", type=int, default=60, help="the first so many crystals")
    parser.add_argument("--seed", type=int, default=0, help="of the origins")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = nesf.load(arguments.model, arguments.device)
    rows = read_crystals([arguments.crystals], progress=False)[0][: arguments.limit]
    results = {}
    for name, write in ways(arguments.seed).items():
        written = [write(row.structure) for row in rows]
        crystals = CrystalBatch.from_structures(written, [row.id for row in rows])
        result = {"crystals": len(written), "atoms_mean": float(crystals.num_atoms.float().mean())}
        for how, options in HOW.items():
            start = time.process_time()
            found = model.reconstruct(crystals, **options)
            taken = time.process_time() - start
            result[how] = {"with_faults": int((found.faults > 0).sum()), "seconds": taken}
        results[name] = result
        measure.tell(name, result)
    setup = measure.setup(torch.device(arguments.device), model=arguments.model)
    measure.write(arguments.json, setup, results)


if __name__ == "__main__":
    main()
