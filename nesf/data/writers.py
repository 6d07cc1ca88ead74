"""Crystals to files as they come: a folder of CIFs, CSV, extended XYZ or JSON lines.

Every crystal reaches the operating system before `write` returns, so that a run that is killed
loses nothing but the crystal it was writing; opening the output again with `resume` cuts off what
is torn and tells which ids are there.
"""

from __future__ import annotations

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nesf.data.append_file import AppendFile, one_sentence, write_all
from nesf.data.cif_text import cif_text
from nesf.data.made_by import MadeBy, keep_made_by, made_by_path, refuse_other
from nesf.data.output_lock import OutputLock
from nesf.data.outputs import holds_crystals, is_folder, listed_cifs, refuse_earlier, table_format
from nesf.data.writer_formats import CsvFormat, RowFormat
from nesf.errors import InputError

if TYPE_CHECKING:
    from pymatgen.core import Structure

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Windows keeps these for devices, whatever their suffix
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d|index)(\..*)?", re.IGNORECASE)


def open_writer(
    output: str | Path,
    resume: bool = False,
    columns: Sequence[str] | None = None,
    overwrite: bool = False,
    made_by: MadeBy | None = None,
    becomes: str | Path | None = None,
) -> CrystalWriter:
    """Open an output for crystals; its suffix decides the format.

    Until the writer is closed, no other can be opened on the output.

    Args:
        output: a file that ends in .csv, .csv.gz, .extxyz or .jsonl, or else a folder. Folders
            above it are made.
        resume: go on after what is there.
        columns: names of the info columns of a CSV or index.csv; by default the first row's.
        overwrite: replace a file, or remove the CIFs that an earlier run listed in the folder's
            index.csv.
        made_by: what makes the crystals, kept with the output; a run that is resumed must agree.
        becomes: the output that this one takes the place of in the end; it is kept for this run.

    Raises:
        InputError: the output cannot be written, is of no known kind, is somebody else's or made
            by something else (when resuming), holds crystals of an earlier run (when neither
            resuming nor overwriting), is a folder that holds other crystals, or another run is
            writing into it.
    """
    path, folder = Path(output), is_folder(output)
    with one_sentence(path):
        (path if folder else path.parent).mkdir(parents=True, exist_ok=True)
        lock = OutputLock(becomes or path)
    try:
        if not (resume or overwrite):
            refuse_earlier(output)
        goes_on = resume and holds_crystals(output)
        if goes_on and made_by is not None:
            refuse_other(output, made_by)
        writer: CrystalWriter = (
            FolderWriter(path, resume, columns)
            if folder
            else StreamWriter(path, table_format(path, columns), resume)
        )
        if not goes_on and becomes is None:
            with one_sentence(made_by_path(path)):
                keep_made_by(path, made_by)
    except BaseException:
        lock.release()
        raise
    writer.lock = lock
    return writer


class CrystalWriter(ABC):
    """Writes crystals; a context manager.

    Attributes:
        done: ids that were in the output when it was opened to resume.
        lock: keeps other runs from the output until the writer is closed.
    """

    done: frozenset[str] = frozenset()
    lock: OutputLock | None = None

    @abstractmethod
    def write(self, id: str, structure: Structure, info: dict[str, Any] | None = None) -> None:
        """Write one crystal.

        Args:
            id: as the input names it, kept exactly.
            structure: an ordered structure.
            info: more columns, numbers and strings.

        Raises:
            InputError: the disk is full, or the output has become unwritable.
            ValueError: `info` has a name that a table's header lacks.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish the output and flush it to the disk."""

    def __enter__(self) -> CrystalWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self.close()
        except InputError:
            if error is None:  # else the first error tells more
                raise
        finally:
            self.release()

    def release(self) -> None:
        """Let other runs come to the output; `close` does, too."""
        if self.lock is not None:
            self.lock.release()


class StreamWriter(CrystalWriter):
    """Crystals one after another in one file.

    Args:
        path: the file.
        row_format: how a crystal becomes text.
        resume: as in `open_writer`.
    """

    def __init__(self, path: Path, row_format: RowFormat, resume: bool) -> None:
        self.format = row_format
        self._file = AppendFile(path, row_format, resume)
        self.done = frozenset(fields[0] for fields in self._file.found)

    def write(self, id: str, structure: Structure, info: dict[str, Any] | None = None) -> None:
        """Write one crystal; see `CrystalWriter.write`."""
        info = info or {}
        head = self.format.begin(list(info)) if self._file.is_empty else ""
        self._file.append(head + self.format.row(id, structure, info))

    def close(self) -> None:
        """Finish the file and flush it to the disk."""
        if self._file.is_empty:
            self._file.append(self.format.begin([]))
        self._file.close()
        self.release()


class FolderWriter(CrystalWriter):
    """One CIF a crystal, and an index.csv with id, file and info columns.

    Files are named by the id where it is a plain file name, and otherwise by what is plain in it
    and a hash; names that differ in case only count as equal.

    Args:
        path: the folder.
        resume: as in `open_writer`.
        columns: info columns.
    """

    def __init__(self, path: Path, resume: bool, columns: Sequence[str] | None) -> None:
        self.path = path
        index = path / "index.csv"
        self._format = CsvFormat(("id", "file"), columns)
        if not resume:
            with one_sentence(path):
                _clear(path)
        self._index = AppendFile(index, self._format, resume)
        self._names = {name.lower() for _, name in self._index.found}
        self.done = frozenset(id for id, name in self._index.found if (path / name).is_file())

    def write(self, id: str, structure: Structure, info: dict[str, Any] | None = None) -> None:
        """Write one CIF, then list it; see `CrystalWriter.write`."""
        info = info or {}
        name = self._file_name(id)
        target, temporary = self.path / name, self.path / f".{name}.tmp"
        with one_sentence(target):
            try:
                with FileIO(temporary, "wb") as file:
                    write_all(file, cif_text(structure).encode())
                    os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        head = self._format.begin(list(info)) if self._index.is_empty else ""
        self._index.append(head + self._format.fields([id, name], info))

    def close(self) -> None:
        """Finish index.csv."""
        if self._index.is_empty:
            self._index.append(self._format.begin([]))
        self._index.close()
        self.release()

    def _file_name(self, id: str) -> str:
        stem = safe_stem(id)
        unique, count = stem, 1
        while f"{unique}.cif".lower() in self._names:
            count += 1
            unique = f"{stem}-{count}"
        self._names.add(f"{unique}.cif".lower())
        return f"{unique}.cif"


def safe_stem(id: str) -> str:
    """A file name's stem for any id: the id itself if it is plain, else plain text and a hash."""
    if _PLAIN_NAME.fullmatch(id) and not _RESERVED.fullmatch(id) and not id.endswith("."):
        return id
    digest = hashlib.sha256(id.encode("utf-8", errors="surrogatepass")).hexdigest()[:8]
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", id)[:60].strip("_-")
    return f"{plain}-{digest}" if plain else digest


def _clear(folder: Path) -> None:
    """Remove the CIFs that an earlier run wrote and listed."""
    for name in listed_cifs(folder):
        if Path(name).name == name and name.endswith(".cif"):
            (folder / name).unlink(missing_ok=True)
    if any(folder.glob("*.cif")):
        raise InputError(f"the folder {folder} holds other CIF files; give a new one")
