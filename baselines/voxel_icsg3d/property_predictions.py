"""What a trained predictor says of crystals, and how it compares with simple models."""

from __future__ import annotations

import csv
import dataclasses
import io
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from baselines.voxel_icsg3d.property_baselines import composition_features
from baselines.voxel_icsg3d.property_network import PropertyNetwork
from baselines.voxel_icsg3d.property_scores import compare
from nesf.checkpoint import load_model
from nesf.commands.parts import batches_of_rows, progress_bar
from nesf.commands.tally import Tally
from nesf.crystal import CrystalBatch
from nesf.data.columns import offsets_of
from nesf.data.packed import PackedSet, load_or_pack
from nesf.data.readers import iter_crystals
from nesf.data.records import ReadOptions, Rejected, Row
from nesf.device import resolve_device
from nesf.errors import InputError


def load_predictor(name_or_path: str, device: str = "cpu") -> PropertyNetwork:
    """A trained property predictor.

    Raises:
        CheckpointError: there is no such model, or its file is damaged.
        InputError: it predicts no properties, or there is no such device.
    """
    model = load_model(name_or_path, resolve_device(device))
    if not isinstance(model, PropertyNetwork):
        raise InputError(
            f"{name_or_path} is a {type(model).__name__}, which predicts no properties; train a "
            "predictor: nesf fit --config configs/voxel_icsg3d/cgcnn_perov5.yaml"
        )
    return model


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
    model: PropertyNetwork, crystals: CrystalBatch | PackedSet, batch_size: int = 256
) -> Predictions:
    """The properties of any crystals: of files, reconstructed, or sampled.

    Args:
        model: in evaluation mode; it computes where its weights are.
        crystals: M of them.
        batch_size: crystals at once.
    """
    packed = crystals if isinstance(crystals, PackedSet) else PackedSet.from_batch(crystals)
    weight = model.weight
    values = np.full((len(packed), len(model.properties)), np.nan)
    tensors, refused = model.tensors(packed, weight.device, weight.dtype)
    for crystal in _unknown_elements(packed, model.num_species):
        refused.setdefault(crystal, f"an element is beyond Z = {model.num_species}")
    usable = torch.tensor([i for i in range(len(packed)) if i not in refused], dtype=torch.long)
    for part in usable.split(batch_size):
        predicted = model(tensors.batch(part)).double().cpu().numpy() if len(part) else 0.0
        values[part.numpy()] = predicted
    finite = np.isfinite(values).all(1)
    values[~finite] = np.nan
    for crystal in np.flatnonzero(~finite).tolist():
        refused.setdefault(crystal, "what is predicted for it is not finite")
    return Predictions(values, [refused.get(i) for i in range(len(packed))])


def _unknown_elements(packed: PackedSet, highest: int) -> list[int]:
    beyond = np.flatnonzero(np.asarray(packed.atomic_numbers) > highest)
    return np.unique(np.searchsorted(packed.offsets, beyond, side="right") - 1).tolist()


@dataclass
class Asked:
    """The crystals that could be read, what was predicted for them and what is true.

    Attributes:
        properties: P names.
        ids: of M crystals.
        refusals: as in `Predictions`.
        values: M times (P,), as in `Predictions`.
        truth: M times P numbers, NaN where unknown.
        atomic_numbers: of the atoms of all crystals, batch by batch.
        num_atoms: of each crystal.
    """

    properties: tuple[str, ...]
    ids: list[str] = field(default_factory=list)
    refusals: list[str | None] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    truth: list[list[float]] = field(default_factory=list)
    atomic_numbers: list[np.ndarray] = field(default_factory=list)
    num_atoms: list[int] = field(default_factory=list)

    def add(self, rows: Sequence[Row], packed: PackedSet, found: Predictions, tally: Tally) -> None:
        """Take in a batch; what was refused goes to the tally, too."""
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
        """Whether anything is known to compare with."""
        return bool(np.isfinite(self.truth).any()) if self.truth else False

    @property
    def features(self) -> np.ndarray:
        """What the simple models look at, a row for each crystal."""
        offsets = offsets_of(np.array(self.num_atoms, np.int64))
        return composition_features(np.concatenate(self.atomic_numbers).astype(np.int64), offsets)

    def as_csv(self) -> str:
        """Ids and predicted properties, but for what was refused."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", *self.properties])
        for name, values, refused in zip(self.ids, self.values, self.refusals, strict=True):
            if not refused:
                writer.writerow([name, *(f"{value:.7g}" for value in values)])
        return text.getvalue()

    def scores(
        self, network: PropertyNetwork, train: Sequence[str] | None, bootstrap: int, seed: int
    ) -> dict[str, Any]:
        """The comparison, and how many of the crystals the simple models have learned from."""
        training = PackedSet.load(load_or_pack(train)) if train else None
        seen = len(set(self.ids) & set(training.ids)) if training else None
        if seen:
            print(f"{seen} of these crystals have ids of the training set: no fair test")
        scores = compare(
            network.name,
            network.properties,
            np.array(self.values),
            np.array(self.truth),
            network.target_mean.double().cpu().numpy(),
            self.features,
            training,
            bootstrap,
            seed,
        )
        return {"ids_in_training": seen, "properties": scores}


def predict_rows(
    network: PropertyNetwork,
    inputs: Sequence[str],
    read: ReadOptions,
    batch_size: int,
    progress: bool,
) -> tuple[Asked, Tally]:
    """Predict the properties of the crystals of some files.

    Args:
        network: in evaluation mode.
        inputs: files of crystals.
        read: how they are read; the network's elements narrow it.
        batch_size: crystals at once.
        progress: show a progress bar.

    Returns:
        What was predicted and what is true, and what became of the crystals.
    """
    highest = min(read.max_atomic_number, network.num_species)
    found = iter_crystals(
        inputs, dataclasses.replace(read, max_atomic_number=highest), progress=False
    )
    tally, asked = Tally("predicted"), Asked(network.properties)
    with progress_bar("predicting", progress) as bar:
        for rows in batches_of_rows(found, batch_size, tally):
            packed = PackedSet.from_rows(rows)
            asked.add(rows, packed, predict_properties(network, packed, batch_size), tally)
            bar.update(len(rows))
    tally.done = len(asked.ids) - sum(map(bool, asked.refusals))
    return asked, tally


def circumstances(network: PropertyNetwork) -> dict[str, Any]:
    """Where it was computed, and by which versions."""
    return {
        "device": str(network.weight.device),
        "processor": platform.processor() or platform.machine(),
        "versions": {name: version(name) for name in ("nesf", "torch", "pymatgen", "scikit-learn")},
    }


def _number(value: float | str | None) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
