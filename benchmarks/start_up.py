"""How long a user waits: the import, the help, and one CIF from a cold start.

python benchmarks/start_up.py --json out.json

Each is run several times in fresh processes, after one run that brings the files into memory; the
median counts. The slowest imports are those of the CIF's reconstruction, as `python -X importtime`
tells them.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import torch

TARGETS = {"import nesf": 0.5, "nesf --help": 1.0, "nesf reconstruct --help": 1.0, "one CIF": 5.0}
IMPORT_LINE = re.compile(r"import time: +(\d+) \| +(\d+) \| *(\S+)")


def commands(cif: Path, output: Path, model: str) -> dict[str, list[str]]:
    """What is timed: arguments of the interpreter."""
    return {
        "import nesf": ["-c", "import nesf"],
        "nesf --help": ["-m", "nesf", "--help"],
        "nesf reconstruct --help": ["-m", "nesf", "reconstruct", "--help"],
        "one CIF": [
            *("-m", "nesf", "reconstruct", str(cif)),
            *("--model", model, "--output", str(output), "--device", "cpu"),
        ],
    }


def write_rocksalt(path: Path) -> None:
    """MgO, its conventional cell of 8 atoms."""
    from pymatgen.core import Lattice, Structure

    structure = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(4.21), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    structure.to(str(path))


def run(arguments: Sequence[str], threads: int, output: Path) -> subprocess.CompletedProcess[str]:
    """One fresh process, whose output folder is a fresh one, too.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    for file in output.glob("*"):
        file.unlink()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done


def wall_times(
    arguments: Sequence[str], threads: int, output: Path, repeats: int, warm_ups: int
) -> dict[str, float]:
    """The median and the least time of fresh processes, s."""
    for _ in range(warm_ups):
        run(arguments, threads, output)
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        run(arguments, threads, output)
        taken.append(time.perf_counter() - start)
    return {"median_seconds": statistics.median(taken), "least_seconds": min(taken)}


def slowest_imports(log: str, count: int) -> dict[str, dict[str, float]]:
    """The slowest imports (s) out of what `-X importtime` wrote.

    Returns:
        By module, what it brings along itself included; and by package, each module's own time.
    """
    modules: dict[str, float] = {}
    packages: dict[str, float] = {}
    for own, whole, name in IMPORT_LINE.findall(log):
        modules[name] = int(whole) / 1e6
        package = name.partition(".")[0]
        packages[package] = packages.get(package, 0.0) + int(own) / 1e6

    def slowest(times: dict[str, float]) -> dict[str, float]:
        return dict(sorted(times.items(), key=lambda one: -one[1])[:count])

    return {"module": slowest(modules), "package": slowest(packages)}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--model", default="lcs6", help="that reconstructs the CIF")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes of each")
    parser.add_argument("--warm-ups", type=int, default=1, help="runs before these, not counted")
    parser.add_argument("--imports", type=int, default=10, help="slowest ones to list; 0: none")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        cif, output = Path(folder) / "rocksalt.cif", Path(folder) / "out"
        write_rocksalt(cif)
        for name, words in commands(cif, output, arguments.model).items():
            taken = wall_times(
                words, arguments.threads, output, arguments.repeats, arguments.warm_ups
            )
            target = TARGETS[name]
            met = taken["median_seconds"] < target
            results[name] = {**taken, "target_seconds": target, "target_met": met}
            measure.tell(name, results[name])
        if not list(output.glob("*.cif")):
            raise RuntimeError(f"{arguments.model} reconstructed no crystal of {cif.name}")
        if arguments.imports:
            log = run(["-X", "importtime", *words], arguments.threads, output).stderr
            results["slowest imports"] = slowest_imports(log, arguments.imports)
            measure.tell("slowest imports", results["slowest imports"])
    torch.set_num_threads(arguments.threads)
    found = measure.setup(torch.device("cpu"), python=sys.version.split()[0], model=arguments.model)
    measure.write(arguments.json, found, results)


if __name__ == "__main__":
    main()
