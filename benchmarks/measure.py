"""What the benchmarks share: clocks, fresh processes, made crystals, slopes and JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nesf.crystal import CrystalBatch

VOLUME_PER_ATOM = 16.0  # Å³, as in oxides
MIN_DISTANCE = 1.8  # Å


def parser(text: str | None, threads: int = 1) -> argparse.ArgumentParser:
    """The options that all benchmarks take; `text` is the script's docstring."""
    options = argparse.ArgumentParser(description=text.splitlines()[0] if text else None)
    options.add_argument("--json", type=Path, help="where to write the figures")
    options.add_argument("--threads", type=int, default=threads, help="CPU threads of torch")
    options.add_argument("--device", default="cpu")
    return options


def read_set(
    path: Path, device: str | torch.device = "cpu", limit: int | None = None
) -> CrystalBatch:
    """The crystals of a file as one batch, the first `limit` of them."""
    from nesf.data.readers import read_crystals

    rows, _ = read_crystals([path])
    rows = rows[:limit]
    structures = [row.structure for row in rows]
    return CrystalBatch.from_structures(structures, [row.id for row in rows]).to(device)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(
    run: Callable[[], object], device: torch.device, repeats: int, warm_ups: int = 1, calls: int = 1
) -> float:
    """The median time of a call, where `calls` follow each other without a wait."""
    for _ in range(warm_ups):
        run()
    taken = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        synchronize(device)
        taken.append((time.perf_counter() - start) / calls)
    return statistics.median(taken)


class Laps:
    """A stopwatch that takes the time of one part after another, round after round."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.taken: dict[str, list[float]] = {}
        self._since = 0.0

    def start(self) -> None:
        """Begin with a part."""
        synchronize(self.device)
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        """End a part, and begin with the next."""
        synchronize(self.device)
        now = time.perf_counter()
        self.taken.setdefault(name, []).append(now - self._since)
        self._since = now

    def medians(self) -> dict[str, float]:
        """The median time of each part, s."""
        return {name: statistics.median(taken) for name, taken in self.taken.items()}


def setup(device: torch.device, **more: Any) -> dict[str, Any]:
    """What the figures were measured on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": gpu or "cpu",
        "processor": _processor(),
        **more,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def write(path: Path | None, setup: Mapping[str, Any], results: Mapping[str, Any]) -> None:
    """Write setup and results as JSON where a file is named."""
    if path is not None:
        text = json.dumps({"setup": setup, "results": results}, indent=2)
        path.write_text(text + "\n", encoding="utf-8")


def tell(name: str, result: Mapping[str, Any]) -> None:
    """Print one result as it comes."""
    print(name, json.dumps(_rounded(result)), flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def in_fresh_process(script: str | Path, point: Mapping[str, Any]) -> dict[str, Any]:
    """What a script's `--point` prints for one point, in a process whose peak memory is its own.

    Raises:
        RuntimeError: the process failed; with the last lines that it wrote.
    """
    done = subprocess.run(
        [sys.executable, str(script), "--point", json.dumps(point)], capture_output=True, text=True
    )
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise RuntimeError(f"{Path(script).name} failed at {json.dumps(point)}:\n{last}")
    return json.loads(done.stdout.splitlines()[-1])


def slope(x: Sequence[float], y: Sequence[float], powers: bool = False) -> float | None:
    """The slope of a straight line through the points; of their logarithms with `powers`.

    None with fewer than two points, or where a logarithm does not exist.
    """
    if len(set(x)) < 2 or (powers and min(*x, *y) <= 0):
        return None
    a, b = (np.log(x), np.log(y)) if powers else (np.asarray(x), np.asarray(y))
    return float(np.polyfit(a, b, 1)[0])


def packings(counts: Sequence[int], seed: int = 0) -> CrystalBatch:
    """Random packings of one density: cubic cells, distances of at least 1.8 Å, any elements.

    Args:
        counts: atoms in each cell.
        seed: of places and elements.
    """
    rng = np.random.default_rng(seed)
    lengths = [(VOLUME_PER_ATOM * count) ** (1 / 3) for count in counts]
    frac = [_packing(count, length, rng) for count, length in zip(counts, lengths, strict=True)]
    return CrystalBatch.from_flat(
        torch.from_numpy(np.concatenate(frac)).float(),
        torch.from_numpy(rng.integers(1, 95, sum(counts))),
        torch.tensor(list(counts)),
        torch.stack([torch.eye(3) * length for length in lengths]),
        [f"packing-{i}" for i in range(len(counts))],
    )


def _packing(count: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """(count, 3) fractions, by random sequential addition: its limit is twice this density."""
    placed = np.empty((count, 3))
    done = 0
    while done < count:
        point = rng.random(3)
        delta = placed[:done] - point
        delta -= np.round(delta)
        if ((delta**2).sum(-1) * length**2 >= MIN_DISTANCE**2).all():
            placed[done] = point
            done += 1
    return placed
