"""Latents to a file as they come: what an interrupted run has done is kept beside the output."""

from __future__ import annotations

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Float

from nesf.data.append_file import AppendFile, one_sentence
from nesf.data.made_by import MadeBy, keep_made_by, made_by_path, refuse_other
from nesf.data.output_lock import OutputLock
from nesf.errors import InputError
from nesf.latents import Latents


class LatentWriter(ABC):
    """Takes latents one by one; a context manager.

    Attributes:
        done: ids of latents that were there when it was opened to resume.
    """

    done: frozenset[str] = frozenset()

    @abstractmethod
    def write(self, id: str, latent: Float[np.ndarray, " l"]) -> None:
        """Write one latent (L,).

        Raises:
            InputError: the disk is full, or the output has become unwritable.
        """

    @abstractmethod
    def close(self, whole: bool = True) -> None:
        """Finish.

        Args:
            whole: all that was to be written has been.
        """

    def __enter__(self) -> LatentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self.close(whole=error is None)
        except InputError:
            if error is None:  # else the first error tells more
                raise


class LatentFile(LatentWriter):
    """A `.npz` file of latents, in the order in which they are written.

    Until all are there, they stand in `OUTPUT.npz.part`. Each reaches the operating system before
    `write` returns, so that a run that is killed loses none that it has written.

    Args:
        path: of the `.npz` file.
        latent_dim: length L of a latent.
        resume: go on after what is in the file, and in what an interrupted run has left.
        overwrite: remove both first.
        made_by: what makes the latents, kept with the output; a run that is resumed must agree.

    Raises:
        InputError: the file is there (when neither resuming nor overwriting), is damaged or made by
            something else (when resuming), cannot be written, or another run is writing it.
    """

    def __init__(
        self,
        path: str | Path,
        latent_dim: int,
        resume: bool = False,
        overwrite: bool = False,
        made_by: MadeBy | None = None,
    ) -> None:
        self.path, self.latent_dim, self.made_by = Path(path), latent_dim, made_by
        self._part = part_of(path)
        with one_sentence(self.path):
            self._lock = OutputLock(self.path)
        try:
            self._earlier = Latents((), np.zeros((0, latent_dim), np.float32))
            if resume:
                self._go_on()
            elif overwrite:
                with one_sentence(self.path):
                    remove_latents(path)
            else:
                refuse_earlier_latents(path)
            self._lines = _Lines(latent_dim)
            self._file = AppendFile(self._part, self._lines, resume)
            with one_sentence(made_by_path(self._part)):
                keep_made_by(self._part, made_by)
        except BaseException:
            self._lock.release()
            raise
        self.done = frozenset(self._earlier.ids) | {name for (name,) in self._file.found}

    def _go_on(self) -> None:
        if self.made_by is not None:
            for output in (self.path, self._part):
                if output.exists():
                    refuse_other(output, self.made_by)
        if self.path.exists():
            self._earlier = Latents.load(self.path)
            if self._earlier.values.shape[1] != self.latent_dim:
                raise InputError(
                    f"the latents in {self.path} have the length {self._earlier.values.shape[1]} "
                    f"and not {self.latent_dim}: go on with the model that made them, start anew "
                    "without --resume (--overwrite), or give another output"
                )

    def write(self, id: str, latent: Float[np.ndarray, " l"]) -> None:
        """Write one latent; see `LatentWriter.write`."""
        self._file.append(f"{json.dumps(id)}\t{to_text(latent)}\n")

    def close(self, whole: bool = True) -> None:
        """Put the file in its place, if all latents have been written."""
        try:
            self._file.close()
            if whole:
                save_latents(self.path, self._together(), self.latent_dim, self.made_by)
            if whole or self._file.is_empty:
                self._part.unlink(missing_ok=True)
                keep_made_by(self._part, None)
        finally:
            self._lock.release()

    def _together(self) -> dict[str, Float[np.ndarray, " l"]]:
        found = dict(zip(self._earlier.ids, self._earlier.values, strict=True))
        with self._part.open(encoding="utf-8", newline="\n") as lines:
            # a run that was killed at its very end has left both: the same latents
            found |= map(self._lines.read, lines)
        return found


def save_latents(
    path: str | Path,
    latents: Mapping[str, Float[np.ndarray, " l"]],
    latent_dim: int,
    made_by: MadeBy | None,
) -> None:
    """Put all latents in their place.

    Args:
        path: of the `.npz` file.
        latents: by id, (L,) each.
        latent_dim: L, where there are none.
        made_by: what has made them.

    Raises:
        InputError: the file cannot be written.
    """
    values = np.array(list(latents.values()), np.float32).reshape(-1, latent_dim)  # (M, L)
    with one_sentence(Path(path)):
        Latents(tuple(latents), values).save(path)
        keep_made_by(path, made_by)


def remove_latents(path: str | Path) -> None:
    """Remove a file of latents, and what an interrupted run has left of it.

    Raises:
        OSError: it cannot be removed.
    """
    for one in (Path(path), part_of(path)):
        one.unlink(missing_ok=True)
        keep_made_by(one, None)


def part_of(path: str | Path) -> Path:
    """Where the latents of a file stand until all are there."""
    return Path(path).with_name(f"{Path(path).name}.part")


def refuse_earlier_latents(path: str | Path) -> None:
    """Refuse a file that is there, or of which an interrupted run has left a part.

    Raises:
        InputError: it is.
    """
    flags = "go on with --resume, replace it with --overwrite, or give another output"
    if Path(path).exists():
        raise InputError(f"the file {path} is there already: {flags}")
    if part_of(path).exists():
        raise InputError(f"{part_of(path)} holds what an interrupted run has done: {flags}")


def to_text(latent: Float[np.ndarray, " l"]) -> str:
    """A latent, exactly, as text without tabs and line ends."""
    return base64.b64encode(np.ascontiguousarray(latent, dtype="<f4").tobytes()).decode()


def from_text(text: str) -> Float[np.ndarray, " l"]:
    """What `to_text` was given.

    Raises:
        ValueError: it is no such text.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")


class _Lines:
    """A line a latent: id and numbers.

    Args:
        latent_dim: length L of a latent.
    """

    def __init__(self, latent_dim: int) -> None:
        self.latent_dim = latent_dim

    def read(self, line: str) -> tuple[str, Float[np.ndarray, " l"]]:
        """Id and latent of a whole line."""
        try:
            name, text = line.split("\t")
            latent = from_text(text.removesuffix("\n"))
            if len(latent) != self.latent_dim:
                raise ValueError(f"{len(latent)} numbers")
            return json.loads(name), latent
        except ValueError as error:
            raise InputError("it holds no latents of this model, or is damaged") from error

    def scan(self, lines: Iterable[str]) -> Iterator[tuple[int, tuple[str, ...] | None]]:
        """The id of each whole line."""
        for line in lines:
            if line.endswith("\n"):
                yield 1, (self.read(line)[0],)
