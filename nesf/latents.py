"""Latents in a file: a `.npz` with `ids` and `latents`, which numpy alone can read."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from nesf.atomic import atomic_write
from nesf.errors import InputError


@dataclass(frozen=True)
class Latents:
    """M latents and whose they are.

    Attributes:
        ids: M identifiers.
        values: (M, L) latents.
    """

    ids: tuple[str, ...]
    values: Float[np.ndarray, "m l"]

    def save(self, path: str | Path) -> None:
        """Write a `.npz` file in one step.

        Raises:
            InputError: another suffix.
            OSError: the file cannot be written.
        """
        self.check_path(path)
        buffer = io.BytesIO()
        np.savez(buffer, ids=np.array(self.ids, dtype=np.str_), latents=self.values)
        with atomic_write(path) as file:
            file.write(buffer.getbuffer())

    @staticmethod
    def check_path(path: str | Path) -> None:
        """Raise an InputError unless `path` can be an output."""
        if Path(path).suffix != ".npz":
            raise InputError(f"{path}: latents are written to a .npz file")

    @property
    def finite(self) -> Bool[np.ndarray, " m"]:
        """Which of them (M,) are finite numbers throughout."""
        return np.isfinite(self.values).all(-1)

    @staticmethod
    def load(path: str | Path, all_finite: bool = True) -> Latents:
        """Read a file of `save`, or one that numpy wrote with the same two arrays.

        Args:
            path: the file.
            all_finite: refuse it where a latent is not finite; otherwise see `finite`.

        Raises:
            InputError: the file is missing, damaged or holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                if missing := [name for name in ("ids", "latents") if name not in content]:
                    raise InputError(
                        f"{path} has no array {' and no array '.join(missing)}; it is no file of "
                        "latents"
                    )
                ids, values = content["ids"], content["latents"]
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist") from error
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise InputError(f"{path} is no file of latents, or is damaged") from error
        if ids.ndim != 1 or values.ndim != 2 or len(ids) != len(values):
            raise InputError(
                f"{path} has ids of shape {ids.shape} and latents of shape {values.shape}; give "
                "(M,) and (M, L)"
            )
        if ids.dtype.kind not in "Ui" or values.dtype.kind != "f":
            raise InputError(
                f"{path} has ids of type {ids.dtype} and latents of type {values.dtype}; give "
                "text and floating-point numbers"
            )
        names = tuple(str(name) for name in ids.tolist())
        if len(set(names)) != len(names):
            raise InputError(f"{path} has an id twice; ids must be unique")
        with np.errstate(over="ignore"):  # what is too large is not finite
            latents = Latents(names, values.astype(np.float32))
        broken = np.flatnonzero(~latents.finite)
        if all_finite and len(broken):
            raise InputError(f"the latent {names[broken[0]]} in {path} is not finite")
        return latents
