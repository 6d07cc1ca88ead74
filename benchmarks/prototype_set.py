"""Packed sets of generated crystals: time, memory and bytes of building them and training on them.

python benchmarks/prototype_set.py --counts 1000 10000 100000 --workers 2 --json out.json
python benchmarks/prototype_set.py --counts 10000 100000 400000 --repeat-of prototypes.nesf

Each set is built in a process of its own by `nesf.data.prototypes.write_prototypes`, whose worker
processes are watched from within; or it is a smaller set, over and over under new ids, which says
the same about training. On each, `nesf fit` trains a small network for a few steps, in processes of
their own: with other crystals for validation, holding some of its own out, and drawing crystals at
different rates. Their memory is told in two parts: what is theirs alone (anonymous), and the pages
of files that are mapped, which the system takes back when it needs them. Slopes are those of
straight lines through the points; figures at 1,000,000 crystals are extrapolated along them, and
say so.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch

from nesf.memory import peak_memory

CONFIG = Path(__file__).parents[1] / "configs" / "nesf" / "demo.yaml"
FAR = 1_000_000  # crystals
TRAINING = ("peak_bytes", "peak_anonymous_bytes", "peak_file_bytes", "seconds", "processor_seconds")
SMALL = {
    "model.init_args.model.init_args.latent_dim": "32",
    "model.init_args.model.init_args.encoder_width": "64",
    "model.init_args.model.init_args.position_widths": "[64, 64]",
    "model.init_args.model.init_args.species_widths": "[64]",
    "trainer.callbacks": "[]",
    "trainer.limit_val_batches": "1",
    "trainer.enable_progress_bar": "false",
}


class Watch:
    """Looks at some numbers again and again while a block runs.

    Args:
        look: gives the numbers by name.
        every_s: seconds between two looks.

    Attributes:
        most: the largest of each so far.
    """

    def __init__(self, look: Callable[[], dict[str, int]], every_s: float = 0.05) -> None:
        self.look, self.every_s = look, every_s
        self.most: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self.every_s)
            for name, value in self.look().items():
                self.most[name] = max(self.most.get(name, 0), value)


def of_children() -> dict[str, int]:
    """How many processes this one has begun, and the bytes that they hold together."""
    held = [resident(child) for child in children()]
    return {"bytes": sum(held), "count": len(held)}


def of_this_process() -> dict[str, int]:
    """Bytes of memory of its own and of mapped files, by Linux's account; else empty."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return {}
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return {
        "anonymous_bytes": 1024 * int(lines["RssAnon"].split()[0]),
        "file_bytes": 1024 * int(lines["RssFile"].split()[0]),
    }


def children() -> list[int]:
    """Ids of this process's children, by Linux's account."""
    lists = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [int(pid) for path in lists for pid in path.read_text().split()]


def resident(pid: int) -> int:
    """Bytes that a process holds in memory; 0 if it has gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def built(point: dict[str, Any]) -> dict[str, Any]:
    """Build one set."""
    from nesf.data.prototypes import write_prototypes

    before = peak_memory("cpu")
    start = time.perf_counter()
    with Watch(of_children) as watched:
        report = write_prototypes(
            point["path"], point["count"], workers=point["workers"], progress=False
        )
    seconds = time.perf_counter() - start
    return {
        "packed": report.packed,
        "seconds": seconds,
        "crystals_per_second": report.packed / seconds,
        "file_bytes": report.path.stat().st_size,
        "before_bytes": before,
        "parent_peak_bytes": peak_memory("cpu"),
        "children_peak_bytes": watched.most["bytes"],
        "children": watched.most["count"],
    }


def repeated(point: dict[str, Any]) -> dict[str, Any]:
    """Write a set over and over, under new ids."""
    from nesf.data.columns import StringColumn
    from nesf.data.packed import PackedSet, PackedWriter

    origin, count = PackedSet.load(point["repeat_of"]), point["count"]
    with PackedWriter(point["path"]) as writer:
        while len(writer) < count:
            part = origin.select(range(min(len(origin), count - len(writer))))
            names = StringColumn.from_strings(f"{name}#{len(writer)}" for name in part.ids)
            writer.extend(dataclasses.replace(part, ids=names))
    return {"packed": count, "file_bytes": Path(point["path"]).stat().st_size}


def trained(point: dict[str, Any]) -> dict[str, Any]:
    """Train on one set for a few steps."""
    from nesf.fit import fit_command

    val = json.dumps([point["val"]] if point["val"] else [])
    options = {
        **SMALL,
        "trainer.default_root_dir": point["run"],
        "trainer.accelerator": "gpu" if point["device"].startswith("cuda") else "cpu",
        "trainer.devices": "1",
        "trainer.max_steps": str(point["steps"]),
        "data.init_args.train": json.dumps([point["path"]]),
        "data.init_args.val": val,
        "data.init_args.free_weight": str(point["free_weight"]),
        "threads": str(point["threads"]),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    before = peak_memory("cpu")
    start, worked = time.perf_counter(), time.process_time()
    with Watch(of_this_process, every_s=0.01) as watched:
        fit_command(["--config", str(CONFIG), *words])
    result = {
        "seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - worked,
        "before_bytes": before,
        "peak_bytes": peak_memory("cpu"),
        **{f"peak_{name}": value for name, value in watched.most.items()},
    }
    if point["device"].startswith("cuda"):
        result["device_peak_bytes"] = peak_memory(point["device"])
    return result


def line(counts: list[int], values: list[float]) -> dict[str, Any]:
    """Slope of values over counts, and where the line is at 1,000,000."""
    x = [float(count) for count in counts]
    each = measure.slope(x, values)
    if each is None:
        return {"per_crystal": None}
    mean_x, mean_y = sum(x) / len(x), sum(values) / len(values)
    return {"per_crystal": each, f"extrapolated_to_{FAR}": mean_y + each * (FAR - mean_x)}


def lines(points: list[dict[str, Any]]) -> dict[str, Any]:
    """Lines through everything that might grow."""
    counts = [point["count"] for point in points]
    wanted = {
        "build": ("seconds", "file_bytes", "parent_peak_bytes", "children_peak_bytes"),
        "train": TRAINING,
        "train_held_out": TRAINING,
        "train_weighted": TRAINING,
    }
    return {
        f"{part} {name}": line(counts, [float(point[part][name]) for point in points])
        for part, names in wanted.items()
        for name in names
        if name in points[0].get(part, {})
    }


def main() -> None:
    if sys.argv[1:2] == ["--point"]:
        point = json.loads(sys.argv[2])
        kinds = {"build": built, "repeat": repeated, "train": trained}
        print(json.dumps(kinds[point["kind"]](point)))
        return
    parser = measure.parser(__doc__)
    parser.add_argument("--counts", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, default=2, help="processes that build")
    parser.add_argument("--steps", type=int, default=20, help="of training on each set")
    parser.add_argument("--val-count", type=int, default=200, help="to validate with; 0: none")
    parser.add_argument(
        "--repeat-of", type=Path, help="a packed set to repeat in place of building"
    )
    parser.add_argument("--folder", type=Path, help="keep the sets here (else a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder = arguments.folder or Path(scratch)
        points = measured(arguments, folder, Path(scratch))
    fits = lines(points)
    for name, fit in fits.items():
        measure.tell(name, fit)
    torch.set_num_threads(arguments.threads)
    found = measure.setup(
        torch.device(arguments.device), workers=arguments.workers, cores=os.cpu_count()
    )
    measure.write(arguments.json, found, {"points": points, "lines": fits})


def measured(arguments: argparse.Namespace, folder: Path, scratch: Path) -> list[dict[str, Any]]:
    """Build and train for every count, each in a fresh process."""

    def fresh(**point: Any) -> dict[str, Any]:
        return measure.in_fresh_process(__file__, point)

    def made(path: Path, count: int) -> tuple[str, dict[str, Any]]:
        point: dict[str, Any] = {"path": str(path), "count": count}
        if arguments.repeat_of:
            origin = str(arguments.repeat_of)
            return "repeat", fresh(kind="repeat", repeat_of=origin, **point)
        return "build", fresh(kind="build", workers=arguments.workers, **point)

    val = scratch / "val.nesf"
    trainings = {"train_held_out": ("", 0.0), "train_weighted": ("", 1.0)}
    if arguments.val_count:  # also fills the cache of the prototypes, which is made but once
        made(val, arguments.val_count)
        trainings = {"train": (str(val), 0.0), **trainings}
    points = []
    for count in arguments.counts:
        path = folder / f"prototypes-{count}.nesf"
        point: dict[str, Any] = dict([("count", count), made(path, count)])
        for name, (given, weight) in trainings.items():
            point[name] = fresh(
                kind="train",
                path=str(path),
                val=given,
                free_weight=weight,
                run=str(scratch / f"{name}-{count}"),
                steps=arguments.steps,
                threads=arguments.threads,
                device=arguments.device,
            )
        measure.tell(f"{count} crystals", point)
        points.append(point)
    return points


if __name__ == "__main__":
    main()
