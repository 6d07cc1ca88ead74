"""Planes through the exact and the learned fields of crystals, for reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from eval.charts import FieldSlice
from nesf import api
from nesf.crystal import CrystalBatch, standardised
from nesf.exact import exact_fields
from nesf.slices import cell_extent, slice_fields

if TYPE_CHECKING:
    from pymatgen.core import Structure

ATOM_REACH = 0.3  # Å; atoms so near to a plane are drawn in it


def field_slices(run: str, crystals: Mapping[str, Structure], device: str) -> list[FieldSlice]:
    """A plane through the first atom of each crystal.

    Args:
        run: a run folder, a checkpoint or a shipped name.
        crystals: by id.
        device: cpu, cuda, cuda:0, ... or auto.

    Returns:
        The planes; none where the model has no fields.
    """
    model = api.load(run, device)
    if not hasattr(model.module, "fields"):
        return []
    pictures = []
    for name, structure in tqdm(crystals.items(), desc="slices", delay=2):
        batch = standardised(CrystalBatch.from_structures([structure], [name])).to(model.device)
        # in the true cell, so that only the fields differ
        with torch.inference_mode():
            learned = model.module.fields(model.module.encode(batch), batch.lattice)
        exact = exact_fields(batch, learned.periodic, margin=learned.margin)
        extent = cell_extent(batch.lattice[0])
        height = float(batch.cart_coords[0, 0, 2])
        planes = [slice_fields(fields, height, extent) for fields in (exact, learned)]
        near = (batch.cart_coords[0, :, 2] - height).abs() < ATOM_REACH
        pictures.append(
            FieldSlice(
                name=name,
                title=f"z = {height:.2f} Å",
                distance_exact=planes[0].known_distance,
                distance_learned=planes[1].known_distance,
                species_exact=planes[0].known_numbers,
                species_learned=planes[1].known_numbers,
                extent=extent,
                atoms=[
                    (float(x), float(y), int(z))
                    for (x, y, _), z in zip(
                        batch.cart_coords[0, near].tolist(),
                        batch.atomic_numbers[0, near].tolist(),
                        strict=True,
                    )
                ],
            )
        )
    return pictures
