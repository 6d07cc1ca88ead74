"""Packed sets of generated crystals: time, memory and bytes of building them and training on them.

python benchmarks/prototype_set.py --counts 1000 10000 100000 --workers 2 --json out.json

Each set is built in a process of its own by `nesf.data.prototypes.write_prototypes`, whose worker
processes are watched from within, and then trained on for a few steps by `nesf fit` with a small
network, in processes of their own: once with other crystals for validation, and once holding some
of its own out. Slopes are those of straight lines through the points; figures at 1,000,000
crystals are extrapolated along them, and say so.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import measure
import torch

from nesf.memory import peak_memory

CONFIG = Path(__file__).parents[1] / "configs" / "nesf" / "demo.yaml"
FAR = 1_000_000  # crystals
SMALL = {
    "model.init_args.model.init_args.latent_dim": "32",
    "model.init_args.model.init_args.encoder_width": "64",
    "model.init_args.model.init_args.position_widths": "[64, 64]",
    "model.init_args.model.init_args.species_widths": "[64]",
    "trainer.callbacks": "[]",
    "trainer.limit_val_batches": "1",
    "trainer.enable_progress_bar": "false",
}


class Children:
    """Watches the memory of this process's children while a block runs.

    Attributes:
        peak: the most that all of them held together, bytes; 0 where it cannot be told.
        count: the most of them at once.
    """

    def __init__(self, every_s: float = 0.05) -> None:
        self.every_s = every_s
        self.peak = self.count = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Children:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(self.every_s):
            held = [resident(child) for child in children()]
            self.peak = max(self.peak, sum(held))
            self.count = max(self.count, len(held))


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
    with Children() as watched:
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
        "children_peak_bytes": watched.peak,
        "children": watched.count,
    }


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
        "threads": str(point["threads"]),
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    before = peak_memory("cpu")
    start = time.perf_counter()
    fit_command(["--config", str(CONFIG), *words])
    result = {
        "seconds": time.perf_counter() - start,
        "before_bytes": before,
        "peak_bytes": peak_memory("cpu"),
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
        "train": ("peak_bytes", "seconds"),
        "train_held_out": ("peak_bytes", "seconds"),
    }
    return {
        f"{part} {name}": line(counts, [float(point[part][name]) for point in points])
        for part, names in wanted.items()
        if part in points[0]
        for name in names
    }


def main() -> None:
    if sys.argv[1:2] == ["--point"]:
        point = json.loads(sys.argv[2])
        print(json.dumps({"build": built, "train": trained}[point["kind"]](point)))
        return
    parser = measure.parser(__doc__)
    parser.add_argument("--counts", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, default=2, help="processes that build")
    parser.add_argument("--steps", type=int, default=20, help="of training on each set")
    parser.add_argument("--val-count", type=int, default=200, help="to validate with; 0: none")
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

    val = scratch / "val.nesf"
    validations = [("train", str(val)), ("train_held_out", "")]
    if arguments.val_count:  # also fills the cache of the prototypes, which is made but once
        fresh(kind="build", path=str(val), count=arguments.val_count, workers=arguments.workers)
    else:
        del validations[0]
    points = []
    for count in arguments.counts:
        path = folder / f"prototypes-{count}.nesf"
        point: dict[str, Any] = {"count": count}
        point["build"] = fresh(kind="build", path=str(path), count=count, workers=arguments.workers)
        for name, given in validations:
            point[name] = fresh(
                kind="train",
                path=str(path),
                val=given,
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
