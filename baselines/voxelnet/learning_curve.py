"""Learning curves of property predictors: test error against the number of training crystals.

    python -m baselines.voxelnet.learning_curve OUTPUT [--sizes 100 200 400 778] [--seeds 3]
        [--seconds 60] [--method NAME=CONFIG ...] [-- FIT OPTIONS]

Each method is trained on each size and seed by `nesf fit`, in a process of its own, for the same
time; a smaller part gets a smaller share of it, but at least a third. Results are appended to
OUTPUT/results.jsonl as they come; what is in there is not done again. From it the table (table.md)
and the picture (learning_curve.svg) are made.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from baselines.voxelnet.curve_trainings import SIMPLE, CurveData, simple_errors, train_one
from nesf.atomic import atomic_write
from nesf.errors import InputError, NesfError
from nesf.json_lines import read_json_lines

DATA = "../shared/data/aflow_perovskite_oxides"
METHODS = (
    "voxelnet-cartesian=configs/voxelnet/cartesian_cpu.yaml",
    "voxelnet-spherical=configs/voxelnet/spherical_cpu.yaml",
    "cgcnn=configs/voxel_icsg3d/cgcnn_aflow.yaml",
)
RESULTS, TABLE, PICTURE = "results.jsonl", "table.md", "learning_curve.svg"

Line = Mapping[str, Any]


class Results:
    """Lines of `results.jsonl`: one a method, size and seed.

    Args:
        path: the file; lines that are there are kept.

    Raises:
        InputError: a line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines, torn = read_json_lines(path)
        if torn:
            with atomic_write(path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in self.lines).encode())

    def has(self, method: str, size: int, seed: int, seconds: float | None) -> bool:
        """Whether it is done.

        Raises:
            InputError: it is, but with another time limit.
        """
        for line in self.lines:
            if (line["method"], line["size"], line["seed"]) == (method, size, seed):
                if line["limit_s"] != seconds:
                    raise InputError(
                        f"{self.path} has {method} on {size} crystals with a limit of "
                        f"{line['limit_s']} s, not {seconds}; give another output folder"
                    )
                return True
        return False

    def add(self, line: Line) -> None:
        """Append a line, and see that it is on the disk."""
        self.lines.append(dict(line))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())


def measure(
    data: CurveData,
    methods: Mapping[str, str],
    sizes: Sequence[int],
    seeds: Sequence[int],
    seconds: float,
    output: Path,
    threads: int = 1,
    options: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Do what is not done yet, a seed at a time, so that all curves are there early.

    Args:
        data: the sets.
        methods: configs by name.
        sizes: training crystals.
        seeds: of parts and trainings.
        seconds: time limit of a training on the largest size.
        output: folder of the results and the runs.
        threads: CPU threads of a training.
        options: for `nesf fit`.

    Returns:
        All lines of the results.

    Raises:
        InputError: a training failed, or a result was made with another limit.
    """
    results = Results(output / RESULTS)
    for seed in seeds:
        for size in sizes:
            wanted = [m for m in SIMPLE if not results.has(m, size, seed, None)]
            errors = simple_errors(data, size, seed) if wanted else {}
            for method in wanted:
                about = {"method": method, "size": size, "seed": seed, "limit_s": None}
                results.add(about | {"mae": errors[method]})
            limit = max(1.0, round(seconds * max(1 / 3, size / max(sizes)), 1))
            for method, config in methods.items():
                if results.has(method, size, seed, limit):
                    continue
                folder = output / "runs" / f"{method}-{size}-{seed}"
                found = train_one(data, config, size, seed, folder, limit, threads, options)
                about = {"method": method, "size": size, "seed": seed, "limit_s": limit}
                results.add(about | found)
                print(json.dumps(results.lines[-1]), flush=True)
    return results.lines


def averages(lines: Sequence[Line]) -> dict[str, dict[int, tuple[float, float, int]]]:
    """Mean, standard deviation and number of the errors over seeds, by method and size."""
    errors: dict[str, dict[int, list[float]]] = {}
    for line in lines:
        errors.setdefault(line["method"], {}).setdefault(line["size"], []).append(line["mae"])
    return {
        method: {
            size: (
                statistics.fmean(some),
                statistics.stdev(some) if len(some) > 1 else 0.0,
                len(some),
            )
            for size, some in sorted(by_size.items())
        }
        for method, by_size in errors.items()
    }


def format_averages(lines: Sequence[Line], name: str, crystals: int) -> str:
    """A Markdown table: a row a method, a column a size."""
    found = averages(lines)
    sizes = sorted({size for by_size in found.values() for size in by_size})
    ordered = [m for m in found if m not in SIMPLE] + [m for m in SIMPLE if m in found]
    text = [
        f"Test MAE of {name}, {crystals} test crystals; mean ± deviation over seeds",
        "",
        f"| training crystals | {' | '.join(map(str, sizes))} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for method in ordered:
        cells = []
        for size in sizes:
            mean, deviation, count = found[method].get(size, (float("nan"), 0.0, 0))
            spread = f" ± {deviation:.3f}" if count > 1 else ""
            cells.append(f"{mean:.3f}{spread}" if count else "–")
        text.append(f"| {method} | {' | '.join(cells)} |")
    seeds = sorted({count for by_size in found.values() for *_, count in by_size.values()})
    span = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return "\n".join([*text, "", f"Seeds: {span}."])


def draw(lines: Sequence[Line], name: str, path: Path) -> None:
    """The learning curves as an SVG picture, written atomically."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "0", "font.size": 9}):
        figure = Figure(figsize=(4.6, 3.2), layout="constrained")
        ax = figure.subplots()
        sizes = set()
        for method, by_size in averages(lines).items():
            x, (mean, deviation, _) = list(by_size), zip(*by_size.values(), strict=True)
            style = {"ls": "--", "lw": 1, "alpha": 0.7} if method in SIMPLE else {"marker": "o"}
            ax.errorbar(x, mean, deviation, label=method, capsize=2, ms=4, **style)
            sizes |= set(x)
        ax.set(xscale="log", yscale="log", xlabel="training crystals", ylabel=f"test MAE, {name}")
        ax.set_xticks(sorted(sizes), [str(size) for size in sorted(sizes)])
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.minorticks_off()
        ax.grid(axis="y", alpha=0.2)
        ax.legend(frameon=False, fontsize=8)
        with atomic_write(path) as file:
            figure.savefig(file, format="svg", metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    given = _parser().parse_args(words[:end])
    methods = dict(one.split("=", 1) for one in given.method or METHODS if "=" in one)
    if len(methods) < len(given.method or METHODS):
        raise InputError("give each --method a name of its own and a config, as in cgcnn=file.yaml")
    data = CurveData.of(given.train, given.val, given.test, given.property)
    if not all(1 < size <= len(data.train) for size in given.sizes):
        raise InputError(f"{given.train} has {len(data.train)} crystals; give sizes from 2 to that")
    if given.seeds < 1 or given.seconds <= 0:
        raise InputError("give at least one seed, and more than no seconds")
    output = Path(given.output)
    sizes, seeds = sorted(set(given.sizes)), range(given.seeds)
    lines = measure(
        data, methods, sizes, seeds, given.seconds, output, given.threads, words[end + 1 :]
    )
    table = format_averages(lines, data.name, len(data.test))
    with atomic_write(output / TABLE) as file:
        file.write((table + "\n").encode())
    draw(lines, data.name, output / PICTURE)
    print(table)
    return 0


def _parser() -> argparse.ArgumentParser:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m baselines.voxelnet.learning_curve", description=__doc__, formatter_class=kind
    )
    parser.add_argument("output", help="folder of results, runs, table and picture")
    for part in ("train", "val", "test"):
        parser.add_argument(f"--{part}", default=f"{DATA}/{part}.csv.gz", help="a file of crystals")
    parser.add_argument("--property", default="formation_enthalpy_per_atom")
    parser.add_argument("--sizes", nargs="+", type=int, default=[100, 200, 400, 778])
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--seconds", type=float, default=60.0, help="limit at the largest size, s")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a training")
    parser.add_argument("--method", action="append", metavar="NAME=CONFIG", help="instead of all")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NesfError as error:
        print(f"learning_curve: {error}", file=sys.stderr)
        sys.exit(2)
