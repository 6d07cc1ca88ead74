"""`nesf properties`: what a trained predictor says of crystals, in files, and how good it is.

What does the work, `property_predictions`, is imported by the function, so that asking for help
stays quick.
"""

from __future__ import annotations

import json as json_format
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from nesf.commands.arguments import Files, check_arguments, listed
from nesf.data.records import ReadOptions
from nesf.errors import InputError

SCHEMA_VERSION = 1


def predict_files(
    inputs: Sequence[str],
    model: str,
    output: str,
    train: Files = None,
    json: str | None = None,
    bootstrap: int = 1000,
    batch_size: int = 256,
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
    read: ReadOptions = ReadOptions(),  # noqa: B008 (frozen)
) -> int:
    """Predict properties of crystals and, where the inputs carry them, tell how good that is.

    Args:
        inputs: CIF or POSCAR files, folders, globs or zips of them, tables with a cif column
            (.csv, .csv.gz, .parquet), .extxyz, .json, .jsonl or packed .nesf files.
        model: a run folder or a checkpoint (.ckpt, .safetensors) of a property predictor.
        output: a .csv file with the id and the predicted properties of each crystal.
        train: the predictor's training files, one or as in [a.csv,b.csv]: compare with the mean,
            the median and a ridge regression on composition, fitted to them.
        json: where to write the comparison, a JSON file.
        bootstrap: resamples for the 95 % intervals.
        batch_size: crystals at once.
        device: cpu, cuda, cuda:0, ... or auto.
        seed: of the resamples.
        progress: show a progress bar.
        read: reading
    """
    started = time.monotonic()
    check_arguments(inputs, output, batch_size)
    if Path(output).suffix != ".csv":
        raise InputError(f"the output is {output}; give a .csv file")
    from baselines.voxel_icsg3d.property_predictions import (
        circumstances,
        load_predictor,
        predict_rows,
    )
    from baselines.voxel_icsg3d.property_scores import format_comparison
    from nesf.checkpoint import find_model, read_model
    from nesf.data.container import writing

    network = load_predictor(model, device)
    asked, tally = predict_rows(network, inputs, read, batch_size, progress)
    with writing(Path(output)) as file:
        file.write(asked.as_csv().encode("utf-8", errors="backslashreplace"))
    code = tally.finish(output)
    if not asked.has_truth:
        if (train or json) and asked.ids:
            raise InputError(
                f"the inputs have no column of numbers {' or '.join(network.properties)} to "
                f"compare with; what was predicted is in {output}"
            )
        return code
    files = listed(train) or None
    result = {
        "schema_version": SCHEMA_VERSION,
        "command": _command(inputs, model, output, files, json, seed),
        "data": {"inputs": list(inputs), "train": files},
        "counts": {"predicted": tally.done, "rejected": len(tally.rejected)},
        **asked.scores(network, files, bootstrap, seed),
        "seed": seed,
        "bootstrap": bootstrap,
        "wall_s": round(time.monotonic() - started, 2),
        **circumstances(network),
        "training": read_model(find_model(model)).metadata,
    }
    print(format_comparison(result["properties"]))
    if json:
        with writing(Path(json)) as file:
            file.write(json_format.dumps(result, indent=1).encode())
    return code


def _command(
    inputs: Sequence[str],
    model: str,
    output: str,
    train: Sequence[str] | None,
    json: str | None,
    seed: int,
) -> str:
    words = ["nesf", "properties", *inputs, "--model", model, "--output", output]
    if train:
        words += ["--train", train[0] if len(train) == 1 else f"[{','.join(train)}]"]
    return shlex.join([*words, *(["--json", json] if json else []), "--seed", str(seed)])
