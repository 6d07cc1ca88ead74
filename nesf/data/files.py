"""Which files an input means, and their bytes within a cap on the expanded size."""

from __future__ import annotations

import csv
import glob
import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nesf.errors import InputError

STRUCTURE_SUFFIXES = {".cif": "cif", ".mcif": "cif", ".vasp": "poscar", ".poscar": "poscar"}
TABLE_SUFFIXES = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".extxyz": "extxyz",
    ".xyz": "extxyz",
    ".json": "json",
    ".jsonl": "jsonl",
    ".nesf": "packed",
    ".zip": "zip",
}
# what our own commands leave beside crystals, and the columns that tell it from a user's table
OURS = {
    "index.csv": {"id", "file"},
    "rejected.csv": {"file", "row", "id", "reason"},
    "validity.csv": {"id", "valid", "valid_all"},
    "strip.png": set[str](),
    "made_by.json": set[str](),
}
# these also as NAME.rejected.csv, ...
_OF_FILES = ("rejected.csv", "validity.csv", "strip.png", "made_by.json")
_HEADER_LENGTH = 10_000  # characters
_SHOWN = 5  # of the ignored files
READABLE = ".cif, POSCAR, .csv, .csv.gz, .parquet, .extxyz, .json, .jsonl, .nesf or .zip"
# what damaged or foreign compressed files raise when they are read
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, UnicodeDecodeError)


@dataclass(frozen=True)
class InputFile:
    """One file to read.

    Attributes:
        path: where it is.
        kind: "cif", "poscar" or one of `TABLE_SUFFIXES`' values.
        named: the user named it; otherwise it was found in a folder, and a fault is one rejected
            row instead of an error.
        id: of its crystal, where an index.csv beside it tells; otherwise the file's stem.
        properties: from that index.csv.
    """

    path: Path
    kind: str
    named: bool = True
    id: str | None = None
    properties: tuple[tuple[str, str], ...] = ()


class TooLargeError(Exception):
    """A file expands to more than it may; the message says so."""


@dataclass(frozen=True)
class FoundFiles:
    """What some inputs mean.

    Attributes:
        files: to read.
        ignored: files in folders and among a pattern's matches that are of no known kind.
    """

    files: list[InputFile]
    ignored: list[Path]

    def tell_ignored(self) -> str | None:
        """One line that counts and names the ignored files; None if there are none."""
        if not self.ignored:
            return None
        count, names = len(self.ignored), ", ".join(map(str, self.ignored[:_SHOWN]))
        more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
        return f"ignored {count} file{'s' * (count > 1)} of no known kind: {names}{more}"


def find_files(inputs: Sequence[str | Path]) -> list[InputFile]:
    """The files of `search_files` that are to be read."""
    return search_files(inputs).files


def search_files(inputs: Sequence[str | Path]) -> FoundFiles:
    """Expand files, folders and glob patterns, each in sorted order.

    A folder means all files of a known kind in it and below, but for hidden ones and the lists
    that our own commands leave beside crystals.

    Raises:
        InputError: an input does not exist, is of no known kind, or holds no crystal file.
    """
    if not inputs:
        raise InputError("no input was given; name a file or a folder of crystals")
    files: list[InputFile] = []
    ignored: list[Path] = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            found = _in_folder(path, ignored)
            if not found:
                raise InputError(f"the folder {path} holds no crystal; give {READABLE} files")
            files.extend(found)
        elif path.exists():
            kind = kind_of(path)
            if kind is None:
                raise InputError(f"{path} is of no known kind; give {READABLE}")
            files.append(InputFile(path, kind))
        elif glob.has_magic(str(name)):
            files.extend(_matching(str(name), ignored))
        else:
            raise InputError(f"{path} does not exist")
    return FoundFiles(files, ignored)


def kind_of(path: Path | str) -> str | None:
    """The kind of a file by its name, compressed by gzip or not; None if unknown."""
    path = Path(path)
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    suffix = Path(name).suffix.lower()
    kind = STRUCTURE_SUFFIXES.get(suffix) or TABLE_SUFFIXES.get(suffix)
    if kind is None and name.upper().startswith(("POSCAR", "CONTCAR")):
        return "poscar"
    return kind


def stem_of(path: Path | str) -> str:
    """File name without the suffixes that say its kind; a POSCAR keeps its whole name."""
    name = Path(path).name
    name = name[:-3] if name.lower().endswith(".gz") else name
    suffix = Path(name).suffix
    known = suffix.lower() in STRUCTURE_SUFFIXES or suffix.lower() in TABLE_SUFFIXES
    return name[: -len(suffix)] if known and name != suffix else name


@contextmanager
def open_file(path: Path, max_mib: float, whole: bool = False) -> Iterator[IO[bytes]]:
    """Open a file, expanding gzip.

    Args:
        path: the file.
        max_mib: largest expanded size of a gzip file, MiB.
        whole: hold a plain file to that size, too.

    Yields:
        A binary stream, which raises `TooLargeError` beyond the cap.
    """
    with path.open("rb") as raw:
        magic = raw.read(2)
        raw.seek(0)
        if magic == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=raw) as expanded:
                yield io.BufferedReader(_Capped(expanded, max_mib))
        elif whole:
            yield io.BufferedReader(_Capped(raw, max_mib))
        else:
            yield raw


class _Capped(io.RawIOBase):
    """A stream that refuses to give more than so many bytes."""

    def __init__(self, stream: io.BufferedIOBase, max_mib: float):
        self.stream, self.max_mib = stream, max_mib
        self.left = int(max_mib * 2**20)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self.stream.read(len(view))
        self.left -= len(data)
        if self.left < 0:
            raise TooLargeError(f"expands to more than {self.max_mib:g} MiB")
        view[: len(data)] = data
        return len(data)


def decode(data: bytes) -> str:
    """Text of a file; UTF-16 is told by its byte order mark, unreadable bytes are replaced."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def _matching(pattern: str, ignored: list[Path]) -> list[InputFile]:
    """The files that a pattern matches, then those in the folders that it matches."""
    found = [Path(p) for p in sorted(glob.glob(pattern, recursive=True))]
    files: list[InputFile] = []
    for path in (p for p in found if p.is_file() and not _is_ours(p)):
        if kind := kind_of(path):
            files.append(InputFile(path, kind, named=False))
        else:
            ignored.append(path)
    for folder in (p for p in found if p.is_dir()):
        files.extend(_in_folder(folder, ignored))
    if not files:
        raise InputError(f"{pattern} matches no file of crystals; give {READABLE}")
    return files


def _in_folder(folder: Path, ignored: list[Path]) -> list[InputFile]:
    """The files in a folder and below; those of no known kind are added to `ignored`."""
    paths: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths.extend(Path(parent, name) for name in names if not name.startswith("."))
    paths = [path for path in sorted(paths) if not _is_ours(path)]
    ignored.extend(path for path in paths if kind_of(path) is None)
    return _indexed([path for path in paths if kind_of(path) is not None])


def _is_ours(path: Path) -> bool:
    """Whether our own commands wrote this file beside crystals."""
    name = next((name for name in _OF_FILES if path.name.endswith(f".{name}")), path.name)
    columns = OURS.get(name)
    return columns is not None and (not columns or columns <= _header(path))


def _header(path: Path) -> set[str]:
    """The columns of a table of ours; of anything else, whatever stands in its first line."""
    if not path.is_file():
        return set()
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        return set(next(csv.reader([file.readline(_HEADER_LENGTH)]), ()))


def _indexed(paths: list[Path]) -> list[InputFile]:
    """Files with the ids and properties that an index.csv beside them gives, as we write it."""
    known: dict[Path, dict[Path, dict[str, str]]] = {}
    files = []
    for path in paths:
        if path.parent not in known:
            known[path.parent] = _read_index(path.parent / "index.csv")
        entry = dict(known[path.parent].get(path, {}))
        entry.pop("file", None)
        name = entry.pop("id", None)
        kind = kind_of(path)
        assert kind is not None
        files.append(InputFile(path, kind, named=False, id=name, properties=tuple(entry.items())))
    return files


def _read_index(path: Path) -> dict[Path, dict[str, str]]:
    if not path.is_file():
        return {}
    entries: dict[Path, dict[str, str]] = {}
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file)
        try:
            if not {"id", "file"} <= set(reader.fieldnames or ()):
                return {}  # somebody else's table
            for row in reader:
                named = {key: value for key, value in row.items() if key and value}
                if "file" in named:
                    entries[path.parent / named["file"]] = named
        except csv.Error:
            return entries  # ids of the rows before the fault are right, files after it keep stems
    return entries
