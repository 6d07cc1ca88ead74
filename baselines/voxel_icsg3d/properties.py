"""`nesf properties`: what a trained predictor says of crystals, in files, and how good it is."""

from __future__ import annotations

import csv
import dataclasses
import io
import json as json_format
import platform
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from baselines.voxel_icsg3d.cgcnn import CGCNN
from baselines.voxel_icsg3d.graphs import graph_tensors
from baselines.voxel_icsg3d.property_baselines import composition_features
from baselines.voxel_icsg3d.property_scores import compare, format_comparison
from nesf.api import resolve_device
from nesf.checkpoint import find_model, load_model, read_model
from nesf.command_parts import batches_of_rows, check_arguments, progress_bar
from nesf.crystal import CrystalBatch
from nesf.data.columns import offsets_of
from nesf.data.container import writing
from nesf.data.packed import PackedSet, load_or_pack
from nesf.data.readers import iter_crystals
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.errors import InputError
from nesf.tally import Tally

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Predictions:
    """Predicted properties of M crystals.

    Attributes:
        values: (M, P) in the properties' units, NaN where refused.
        refusals: one sentence for each crystal that could not be predicted, None for the others.
    """

    values: Float[np.ndarray, "m p"]
    refusals: list[str | None]


@torch.no_grad()
def predict_properties(
    model: CGCNN, crystals: CrystalBatch | PackedSet, batch_size: int = 256
) -> Predictions:
    """The properties of any crystals: of files, reconstructed, or sampled.

    Args:
        model: in evaluation mode; it computes where its weights are.
        crystals: M of them.
        batch_size: crystals at once.
    """
    packed = crystals if isinstance(crystals, PackedSet) else PackedSet.from_batch(crystals)
    weight = model.output.weight
    values = np.full((len(packed), len(model.properties)), np.nan)
    graphs, refused = graph_tensors(
        packed, model.graph_options, weight.device, weight.dtype, progress=False
    )
    for crystal in _unknown_elements(packed, model.num_species):
        refused.setdefault(crystal, f"an element is beyond Z = {model.num_species}")
    usable = torch.tensor([i for i in range(len(packed)) if i not in refused], dtype=torch.long)
    for part in usable.split(batch_size):
        predicted = model(graphs.batch(part)).double().cpu().numpy() if len(part) else 0.0
        values[part.numpy()] = predicted
    finite = np.isfinite(values).all(1)
    values[~finite] = np.nan
    for crystal in np.flatnonzero(~finite).tolist():
        refused.setdefault(crystal, "what is predicted for it is not finite")
    return Predictions(values, [refused.get(i) for i in range(len(packed))])


def _unknown_elements(packed: PackedSet, highest: int) -> list[int]:
    beyond = np.flatnonzero(np.asarray(packed.atomic_numbers) > highest)
    return np.unique(np.searchsorted(packed.offsets, beyond, side="right") - 1).tolist()


def predict_files(
    inputs: Sequence[str],
    model: str,
    output: str,
    train: list[str] | str | None = None,
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
    network = load_predictor(model, device)
    read = dataclasses.replace(
        read, max_atomic_number=min(read.max_atomic_number, network.num_species)
    )
    tally, asked = Tally("predicted"), _Asked(network.properties)
    found = iter_crystals(inputs, read, progress=False)
    with progress_bar("predicting", progress) as bar:
        for rows in batches_of_rows(found, batch_size, tally):
            packed = PackedSet.from_rows(rows)
            asked.add(rows, packed, predict_properties(network, packed, batch_size), tally)
            bar.update(len(rows))
    tally.done = len(asked.ids) - sum(map(bool, asked.refusals))
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
    files = [train] if isinstance(train, str) else train
    result = {
        "schema_version": SCHEMA_VERSION,
        "command": _command(inputs, model, output, files, json, seed),
        "data": {"inputs": list(inputs), "train": files},
        "counts": {"predicted": tally.done, "rejected": len(tally.rejected)},
        **_scores(network, asked, files, bootstrap, seed),
        "seed": seed,
        "bootstrap": bootstrap,
        "wall_s": round(time.monotonic() - started, 2),
        **_circumstances(network),
        "training": read_model(find_model(model)).metadata,
    }
    print(format_comparison(result["properties"]))
    if json:
        with writing(Path(json)) as file:
            file.write(json_format.dumps(result, indent=1).encode())
    return code


def load_predictor(name_or_path: str, device: str = "cpu") -> CGCNN:
    """A trained property predictor.

    Raises:
        CheckpointError: there is no such model, or its file is damaged.
        InputError: it predicts no properties, or there is no such device.
    """
    model = load_model(name_or_path, resolve_device(device))
    if not isinstance(model, CGCNN):
        raise InputError(
            f"{name_or_path} is a {type(model).__name__}, which predicts no properties; train a "
            "predictor: nesf fit --config configs/voxel_icsg3d/cgcnn_perov5.yaml"
        )
    return model


@dataclass
class _Asked:
    """The crystals that could be read, what was predicted for them and what is true."""

    properties: tuple[str, ...]
    ids: list[str] = field(default_factory=list)
    refusals: list[str | None] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    truth: list[list[float]] = field(default_factory=list)
    atomic_numbers: list[np.ndarray] = field(default_factory=list)
    num_atoms: list[int] = field(default_factory=list)

    def add(self, rows: Sequence[Row], packed: PackedSet, found: Predictions, tally: Tally) -> None:
        self.ids += [row.id for row in rows]
        self.refusals += found.refusals
        self.values += list(found.values)
        self.truth += [[_number(row.properties.get(k)) for k in self.properties] for row in rows]
        self.atomic_numbers.append(np.asarray(packed.atomic_numbers))
        self.num_atoms += packed.num_atoms.tolist()
        for row, reason in zip(rows, found.refusals, strict=True):
            if reason:
                tally.rejected.append(Rejected(row.source, row.row, row.id, reason))

    @property
    def has_truth(self) -> bool:
        return bool(np.isfinite(self.truth).any()) if self.truth else False

    @property
    def features(self) -> np.ndarray:
        offsets = offsets_of(np.array(self.num_atoms, np.int64))
        return composition_features(np.concatenate(self.atomic_numbers).astype(np.int64), offsets)

    def as_csv(self) -> str:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", *self.properties])
        for name, values, refused in zip(self.ids, self.values, self.refusals, strict=True):
            if not refused:
                writer.writerow([name, *(f"{value:.7g}" for value in values)])
        return text.getvalue()


def _scores(
    network: CGCNN, asked: _Asked, train: Sequence[str] | None, bootstrap: int, seed: int
) -> dict[str, Any]:
    """The comparison, and how many of the crystals the simple models have learned from."""
    training = PackedSet.load(load_or_pack(train)) if train else None
    seen = len(set(asked.ids) & set(training.ids)) if training else None
    if seen:
        print(f"{seen} of these crystals have ids of the training set: no fair test")
    scores = compare(
        network.properties,
        np.array(asked.values),
        np.array(asked.truth),
        network.target_mean.double().cpu().numpy(),
        asked.features,
        training,
        bootstrap,
        seed,
    )
    return {"ids_in_training": seen, "properties": scores}


def _circumstances(network: CGCNN) -> dict[str, Any]:
    return {
        "device": str(network.output.weight.device),
        "processor": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("nesf", "torch", "pymatgen", "scikit-learn")},
    }


def _number(value: float | str | None) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


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
