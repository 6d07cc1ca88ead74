"""Three steps of a tiny training, plain and compiled; in a process without type checks.

python compiled_run.py FOLDER: prints how far the weights of the two are apart.
"""

from __future__ import annotations

import json
import sys
from functools import partialmethod
from pathlib import Path

import lightning
import torch
from crystals import random_crystals
from torch._dynamo.utils import counters

from nesf.autoencoder import NeSF
from nesf.data.module import CrystalData
from nesf.data.packed import PackedSet
from nesf.queries import CellQueries
from nesf.training import FieldTraining


def trained(folder: Path, compiled: bool) -> tuple[FieldTraining, float]:
    """Trained on batches of 8, 8 and 4, validated on batches of 5 after each."""
    torch.manual_seed(0)
    PackedSet.from_batch(random_crystals(3, count=20)).save(folder / "all.nesf")
    model = NeSF(
        latent_dim=8, max_atoms=8, encoder_width=16, position_widths=[16], species_widths=[16]
    )
    task = FieldTraining(
        model,
        queries=CellQueries(uniform=8, near=8, species=8),
        reconstruct_every=0,
        compiled=compiled,
    )
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=1,
        val_check_interval=1,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    path = str(folder / "all.nesf")
    trainer.fit(task, CrystalData([path], [path], batch_size=8, val_batch_size=5))
    return task, float(trainer.callback_metrics["val/loss"])


if __name__ == "__main__":
    # all but the C++ compiler, whose work would take most of a minute
    torch.nn.Module.compile = partialmethod(torch.nn.Module.compile, backend="aot_eager")  # type: ignore[method-assign, assignment]
    plain, plain_loss = trained(Path(sys.argv[1]), compiled=False)
    assert not counters["stats"]["unique_graphs"]
    compiled, compiled_loss = trained(Path(sys.argv[1]), compiled=True)
    pairs = zip(plain.model.parameters(), compiled.model.parameters(), strict=True)
    said = {
        "graphs": counters["stats"]["unique_graphs"],
        "apart": max(float((a - b).abs().max()) for a, b in pairs),
        "losses": [plain_loss, compiled_loss],
    }
    print(json.dumps(said))
