"""Reconstruct every crystal of data sets from its exact fields: errors, speed, field evaluations.

python benchmarks/reconstruct_exact.py ../shared/data/lcs6/test.csv.gz --json out.json
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import measure
import torch
from torch import Tensor

from nesf.crystal import CrystalBatch
from nesf.exact import exact_fields
from nesf.fields import CrystalFields
from nesf.geometry import NearestImage
from nesf.reconstruction.reconstruct import reconstruct


class Counter:
    """Counts the query points that a position field is asked, padding included."""

    def __init__(self) -> None:
        self.queries = 0

    def watch(self, fields: CrystalFields) -> CrystalFields:
        def position(query: Tensor) -> Tensor:
            self.queries += query.shape[0] * query.shape[1]
            return fields.position(query)

        return dataclasses.replace(
            fields, position=position, subset=lambda index: self.watch(fields.subset(index))
        )


def errors(true: CrystalBatch, found: CrystalBatch) -> tuple[int, int, float]:
    """Crystals of a wrong count; atoms of a wrong species and the largest error (Å) elsewhere."""
    right = true.num_atoms == found.num_atoms
    b, n = true.mask.shape
    delta = found.cart_coords.unsqueeze(1) - true.cart_coords.unsqueeze(2)  # (B, N, M, 3)
    distance = NearestImage.of(true.lattice)(delta.flatten(1, 2)).norm(dim=-1).view(b, n, -1)
    nearest, index = distance.masked_fill(~found.mask.unsqueeze(1), torch.inf).min(-1)
    counted = true.mask & right.unsqueeze(-1)
    wrong = (found.atomic_numbers.gather(1, index) != true.atomic_numbers) & counted
    largest = float(nearest[counted].max()) if bool(counted.any()) else 0.0
    return int((~right).sum()), int(wrong.sum()), largest


def from_exact_fields(crystals: CrystalBatch, periodic: bool, batch: int) -> dict[str, Any]:
    counter, seconds = Counter(), 0.0
    wrong_count = wrong_species = 0
    largest = 0.0
    for begin in range(0, len(crystals), batch):
        part = crystals.select(list(range(begin, min(begin + batch, len(crystals)))))
        start = time.perf_counter()
        found = reconstruct(counter.watch(exact_fields(part, periodic))).crystals
        if part.device.type == "cuda":
            torch.cuda.synchronize()
        seconds += time.perf_counter() - start
        counts, species, error = errors(part, found)
        wrong_count, wrong_species = wrong_count + counts, wrong_species + species
        largest = max(largest, error)
    return {
        "crystals": len(crystals),
        "periodic": periodic,
        "wrong_counts": wrong_count,
        "wrong_species": wrong_species,
        "largest_position_error_angstrom": largest,
        "crystals_per_second": len(crystals) / seconds,
        "field_evaluations_per_crystal": counter.queries / len(crystals),
    }


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, default=64, help="crystals at once")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = {}
    for path in arguments.inputs:
        crystals = measure.read_set(path, arguments.device)
        for periodic in (True, False):
            name = f"{path.parent.name}/{path.name} {'periodic' if periodic else 'in-cell'}"
            results[name] = from_exact_fields(crystals, periodic, arguments.batch)
            measure.tell(name, results[name])
    measure.write(arguments.json, measure.setup(torch.device(arguments.device)), results)


if __name__ == "__main__":
    main()
