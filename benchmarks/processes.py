"""Crystals there and back by `nesf reconstruct --processes N`, from a cold start to the last row.

python benchmarks/processes.py SET... --model general --processes 1 2 --json out.json

Start-up, reading and joining are part of the time, so that the rate grows with the number of
crystals. Threads are divided among the processes. The median of the repeats counts.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import torch


def run(words: list[str], output: Path) -> float:
    """Seconds of one fresh command.

    Raises:
        RuntimeError: it failed altogether; with what it said.
    """
    words = [*words, "--output", str(output), "--overwrite", "--progress", "false"]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "nesf", *words], capture_output=True, text=True)
    taken = time.perf_counter() - start
    if done.returncode not in (0, 1):  # 1: some rows were rejected
        raise RuntimeError(f"nesf {' '.join(words)} ended with {done.returncode}: {done.stderr}")
    return taken


def faults(output: Path) -> tuple[int, int]:
    """Crystals in a table, and how many of them have faults."""
    with output.open(newline="") as file:
        rows = [row["faults"] != "0" for row in csv.DictReader(file)]
    return len(rows), sum(rows)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("inputs", nargs="+", help="files of crystals")
    parser.add_argument("--model", default="general")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--refine", type=int, help="steps, at most; by default as the model can")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    words = ["reconstruct", *arguments.inputs, "--model", arguments.model]
    words += ["--device", arguments.device]
    if arguments.refine is not None:
        words += ["--refine", str(arguments.refine)]
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.csv"
        for count in arguments.processes:
            asked = [*words, "--processes", str(count)]
            taken = [run(asked, output) for _ in range(arguments.repeats)]
            crystals, wrong = faults(output)
            seconds = statistics.median(taken)
            results[f"{count} processes"] = {
                "crystals": crystals,
                "with_faults": wrong,
                "seconds": seconds,
                "crystals_per_second": crystals / seconds,
            }
            measure.tell(f"{count} processes", results[f"{count} processes"])
    found = measure.setup(torch.device(arguments.device), model=arguments.model)
    measure.write(arguments.json, found, results)


if __name__ == "__main__":
    main()
