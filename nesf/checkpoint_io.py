"""How Lightning writes and reads its checkpoints here: atomically, checked, and without code."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import CheckpointIO

from nesf.atomic import remove_leftovers
from nesf.sealed import load_sealed, save_sealed


class AtomicCheckpointIO(CheckpointIO):
    """Lightning checkpoints that are never half a file and never run code.

    A save goes to a temporary file in the same folder, is flushed to the disk, and takes the old
    file's place by a rename: a run killed in the middle of a save still has the checkpoint before.
    Every error of the disk is raised. Files carry their sha256, which a load checks.

    Give it to the trainer: `Trainer(plugins=[AtomicCheckpointIO()])`.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:
        """Save a checkpoint of tensors and plain values.

        Args:
            checkpoint: what Lightning wants to be kept.
            path: a local file; its folder is created.
            storage_options: none are known.

        Raises:
            TypeError: `storage_options` were given, or the checkpoint holds an object that a safe
                load would refuse.
            OSError: the file cannot be written.
        """
        if storage_options is not None:
            raise TypeError("AtomicCheckpointIO knows no storage options")
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_sealed(checkpoint, target)

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Any | None = None,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Load a checkpoint after checking it; only ever tensors and plain values.

        Args:
            path: a local file.
            map_location: where tensors go; by default the CPU.
            weights_only: `False` is refused, since such a load runs code from the file.

        Raises:
            CheckpointError: the file is missing, damaged, or holds Python objects.
        """
        if weights_only is False:
            raise ValueError("AtomicCheckpointIO loads with weights_only=True only")
        return load_sealed(Path(path), "cpu" if map_location is None else map_location)

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        """Remove a checkpoint, and what killed saves of it left behind."""
        target = Path(path)
        remove_leftovers(target)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
