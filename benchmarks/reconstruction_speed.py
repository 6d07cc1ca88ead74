"""Crystals through a model and back, encode to sites: speed against batch size, and where it goes.

python benchmarks/reconstruction_speed.py ../shared/data/lcs6/test.csv.gz --model lcs6 --threads 2

Each batch size is measured in a process of its own, so that its peak memory is its own: all of
the process, and what reconstruction takes beyond the interpreter, model and crystals. Reading files
and writing results are not counted. The parts are timed, and field evaluations counted, in a pass
of their own; those for the steps of refinement are not among them. Scores stand beside
the speed, since they are bought with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import measure
import torch
from torch import Tensor

import nesf.reconstruction.reconstruct
import nesf.refinement.refine
from nesf import api
from nesf.crystal import CrystalBatch, standardised
from nesf.data.packed import PackedSet, load_or_pack
from nesf.fields import CrystalFields
from nesf.memory import PeakMemory, keep_freed_memory
from nesf.reconstruction.reconstruct import Reconstruction
from nesf.scoring import quick_scores

# functions of nesf.reconstruction.reconstruct by the part of the work that they do
PARTS = {
    "particles": ("grid_particles", "move_particles", "merge_particles"),
    "clustering": ("sites_of_clusters",),
    "scoring": ("score_sites", "drop_neighbours", "choose_sites", "_refine"),
    "species": ("vote_species",),
}


class Watch:
    """Times the parts of a reconstruction, and counts what each asks the fields."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.part = "other"
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.queries: Counter[str] = Counter()

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            measure.synchronize(self.device)
            start, self.part = time.perf_counter(), part
            try:
                return function(*args, **kwargs)
            finally:
                measure.synchronize(self.device)
                self.part = "other"
                self.seconds[part] += time.perf_counter() - start

        return run

    def counted(self, fields: CrystalFields) -> CrystalFields:
        """The same fields, whose query points are counted, padding included."""

        def watch(field: Callable[[Tensor], Tensor], name: str) -> Callable[[Tensor], Tensor]:
            def ask(query: Tensor) -> Tensor:
                self.queries[f"{self.part} ({name})"] += query.shape[0] * query.shape[1]
                return field(query)

            return ask

        return dataclasses.replace(
            fields,
            position=watch(fields.position, "position"),
            species=watch(fields.species, "species"),
            subset=lambda index: self.counted(fields.subset(index)),
        )

    @contextmanager
    def on(self, module: Any) -> Iterator[None]:
        """Watch a model while the block runs."""
        encode, fields = module.encode, module.fields
        with ExitStack() as stack:
            for part, names in PARTS.items():
                for name in names:
                    function = self.timed(getattr(nesf.reconstruction.reconstruct, name), part)
                    stack.enter_context(
                        patch.object(nesf.reconstruction.reconstruct, name, function)
                    )
            stack.enter_context(patch.object(module, "encode", self.timed(encode, "encode")))
            fit = nesf.refinement.refine.LatentFit
            step = self.timed(fit.advance, "refinement")
            stack.enter_context(patch.object(fit, "advance", step))
            counted = patch.object(
                module, "fields", lambda *args, **kwargs: self.counted(fields(*args, **kwargs))
            )
            stack.enter_context(counted)
            yield


def measured(point: dict[str, Any]) -> dict[str, Any]:
    """The figures of one batch size, with and without refinement."""
    torch.set_num_threads(point["threads"])
    model = api.load(point["model"], point["device"], point["batch"])
    packed = PackedSet.load(point["packed"])
    crystals = packed.batch(range(min(len(packed), point["limit"] or len(packed))))
    crystals = standardised(crystals.to(model.device))
    two = crystals.select(list(range(min(2, len(crystals)))))

    def run(some: CrystalBatch) -> Reconstruction:
        return model.reconstruct(some, refine=point["refine"], setting="given")

    run(two)  # warms up
    memory = PeakMemory(model.device)
    memory.start()
    taken = measure.seconds(lambda: run(crystals), model.device, point["repeats"], warm_ups=0)
    peak, beyond = memory.read()
    watch = Watch(model.device)
    start = time.perf_counter()
    with watch.on(model.module):
        found = run(crystals)
    whole = time.perf_counter() - start
    watch.seconds["other"] = max(0.0, whole - sum(watch.seconds.values()))
    count = len(crystals)
    return {
        "crystals": count,
        "crystals_per_second": count / taken,
        "ms_per_crystal": {k: 1e3 * v / count for k, v in watch.seconds.items()},
        "field_evaluations_per_crystal": sum(watch.queries.values()) / count,
        "field_evaluations_by_part": {k: v / count for k, v in watch.queries.items()},
        "peak_memory_bytes": peak,
        "taken_memory_bytes": beyond,
        **scores(found.crystals, crystals),
    }


def scores(found: CrystalBatch, true: CrystalBatch) -> dict[str, float]:
    """How good what came out so fast is; `nesf evaluate` tells more."""
    result = quick_scores(found, true)
    return {
        "wrong_counts_percent": 100 * float(1 - result.right_counts / result.crystals),
        "position_actual": float(result.distance / result.atoms),
        "species_actual_percent": 100 * float(result.wrong_species / result.atoms),
    }


def main() -> None:
    if sys.argv[1:2] == ["--point"]:
        print(json.dumps(measured(json.loads(sys.argv[2]))))
        return
    parser = measure.parser(__doc__)
    parser.add_argument("inputs", nargs="+", type=Path)
    parser.add_argument("--model", default="lcs6")
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32, 128, 512])
    parser.add_argument(
        "--refine", nargs="+", type=int, default=[0], help="steps of latent refinement, at most"
    )
    parser.add_argument("--limit", type=int, default=0, help="crystals of each set; 0: all")
    parser.add_argument("--repeats", type=int, default=3, help="times through the whole set")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in arguments.inputs:
            packed = load_or_pack([path], cache_dir=folder, progress=False)
            for refine, batch in product(arguments.refine, arguments.batch):
                name = f"{path.parent.name}/{path.name} batch {batch} refine {refine}"
                results[name] = point_of(arguments, packed, batch, refine)
                measure.tell(name, results[name])
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the commands do
    found = measure.setup(torch.device(arguments.device), model=arguments.model)
    measure.write(arguments.json, found, results)


def point_of(
    arguments: argparse.Namespace, packed: Path, batch: int, refine: int
) -> dict[str, Any]:
    names = ("model", "threads", "device", "limit", "repeats")
    point = {name: getattr(arguments, name) for name in names}
    point |= {"packed": str(packed), "batch": batch, "refine": refine}
    return measure.in_fresh_process(__file__, point)


if __name__ == "__main__":
    main()
