"""Cross-validation: train, reconstruct and score once a fold, and take the mean.

    python -m eval.folds CONFIG DATA FOLDS OUTPUT [--json FILE] [--threads N] [-- FIT OPTIONS]

FOLDS is a JSON list of {"train": [id, ...], "val": [...], "test": [...]}. Folds that are done are
not repeated; an interrupted training goes on.

Exit codes: 0 success; 2 usage or input error; 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.compare.children import run_child
from nesf.atomic import atomic_write
from nesf.cli import INTERRUPTED, USAGE
from nesf.commands.verbs import AGAIN
from nesf.data.outputs import make_ready
from nesf.data.packed import PackedSet, load_or_pack
from nesf.errors import InputError, NesfError
from nesf.run_folder import METRICS, TRAINING

PARTS = ("train", "val", "test")


def read_folds(path: str | Path) -> list[dict[str, list[str]]]:
    """The folds of a file.

    Raises:
        InputError: it is missing, no such JSON, or an id of a fold is in two of its parts.
    """
    try:
        folds = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(folds, list) or not folds:
        raise InputError(f"{path} is no list of folds; give [{{train: [...], val, test}}, ...]")
    for number, fold in enumerate(folds):
        if not isinstance(fold, dict) or any(not fold.get(part) for part in PARTS):
            raise InputError(f"fold {number} of {path} needs ids for each of train, val and test")
        ids = [id_ for part in PARTS for id_ in fold[part]]
        if len(set(ids)) < len(ids):
            raise InputError(f"an id of fold {number} of {path} is in two of its parts")
    return folds


def cut_out(whole: PackedSet, fold: Mapping[str, Sequence[str]], folder: Path) -> dict[str, Path]:
    """Write the parts of a fold as packed sets.

    Raises:
        InputError: an id is not in the set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {part: folder / f"{part}.nesf" for part in PARTS}
    for part, path in files.items():
        whole.select(whole.positions(fold[part])).save(path)
    return files


def run_fold(
    config: str, files: Mapping[str, Path], folder: Path, threads: int, options: Sequence[str]
) -> dict[str, Any]:
    """Train on a fold's training crystals and score its test crystals; nothing is done twice.

    Raises:
        InputError: the training failed.
    """
    from eval.evaluate import evaluate
    from nesf.commands.models import reconstruct_files

    scored = folder / METRICS
    if scored.is_file():
        told = json.loads(scored.read_text())
        if "metrics" in told:  # not the figures of a report on this run
            return told
    if not (folder / TRAINING).is_file():
        command = [
            *(sys.executable, "-m", "nesf", "fit", f"--config={config}", *options),
            f"--trainer.default_root_dir={folder}",
            f"--data.train=[{files['train']}]",
            f"--data.val=[{files['val']}]",
            f"--threads={threads}",
            "--restart=auto",
        ]
        ending = run_child(command, folder / "train.log")
        if ending.code:
            raise InputError(f"the training in {folder} failed: {ending.reason}")
    found = folder / "found.jsonl"
    reconstruct_files(
        [str(files["test"])],
        str(found),
        model=str(folder),
        setting="given",
        resume=True,
        progress=False,
    )
    nothing = not found.is_file() or not found.stat().st_size  # every crystal failed
    ids = PackedSet.load(files["test"]).ids
    predicted = [(id_, None) for id_ in ids] if nothing else str(found)
    metrics = evaluate(predicted, str(files["test"]), workers=1)
    with atomic_write(scored) as file:
        file.write(json.dumps(metrics, indent=1).encode())
    return metrics


def over_folds(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of each metric over the folds that have it.

    Args:
        results: what `evaluate` returns, one a fold.
    """
    together = {}
    for name in results[0]["metrics"]:
        values = [one["metrics"][name]["value"] for one in results]
        known = [value for value in values if value is not None]
        if known:
            together[name] = {
                "mean": statistics.fmean(known),
                "std": statistics.stdev(known) if len(known) > 1 else 0.0,
                "folds": len(known),
            }
    return together


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    words, options = words[:end], words[end + 1 :]
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m eval.folds", description=__doc__, formatter_class=kind
    )
    parser.add_argument("config", help="of the training, as for nesf fit")
    parser.add_argument("data", help="all crystals, in any format of the readers")
    parser.add_argument("folds", help="a JSON file")
    parser.add_argument("output", help="a folder with one run a fold")
    parser.add_argument("--json", help="where to write the means, a JSON file")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a training")
    given = parser.parse_args(words)
    make_ready(given.json)
    folds, began = read_folds(given.folds), time.perf_counter()
    whole = PackedSet.load(load_or_pack([given.data]))
    results = []
    with tqdm(folds, "folds", file=sys.stderr) as bar:  # closed before an error is told
        for number, fold in enumerate(bar):
            folder = Path(given.output) / f"fold{number:02d}"
            files = cut_out(whole, fold, folder)
            results.append(run_fold(given.config, files, folder, given.threads, options))
    together = {
        "data": given.data,
        "folds": len(folds),
        "config": given.config,
        "seconds": round(time.perf_counter() - began, 1),
        "metrics": over_folds(results),
    }
    if given.json:
        with atomic_write(given.json) as file:
            file.write(json.dumps(together, indent=1).encode())
    for name, value in together["metrics"].items():
        print(f"{name:40s} {value['mean']:10.4f} ± {value['std']:.4f} ({value['folds']} folds)")
    return 0


def command(argv: Sequence[str] | None = None) -> int:
    """`main`, with one line for what goes wrong."""
    try:
        return main(argv)
    except KeyboardInterrupt:
        print(f"eval.folds: interrupted; {AGAIN}", file=sys.stderr)
        return INTERRUPTED
    except NesfError as error:
        print(f"eval.folds: {error}", file=sys.stderr)
        return USAGE


if __name__ == "__main__":
    sys.exit(command())
