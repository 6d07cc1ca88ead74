"""Files to tasks: one for each crystal, in the files' order, still unparsed."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Callable
from pathlib import PurePosixPath

from nesf.data import tables
from nesf.data.entries import MAX_CRYSTAL_MIB, Found, scalar_properties, structure_tasks
from nesf.data.files import (
    DAMAGED,
    InputFile,
    TooLargeError,
    decode,
    kind_of,
    open_file,
    stem_of,
)
from nesf.data.records import ReadOptions, Rejected
from nesf.errors import InputError


def tasks_of(file: InputFile, options: ReadOptions) -> Found:
    """The crystals of one file; what cannot even be told apart comes as `Rejected`.

    A fault in the middle of a file keeps what came before it.

    Raises:
        InputError: a file that the user named cannot be read at all.
    """
    read = _READERS[file.kind]
    count = 0
    try:
        if not stat.S_ISREG(file.path.stat().st_mode):  # opening a pipe would wait for its writer
            raise InputError(f"{file.path} is not a regular file")
        for found in read(file, options):
            count += 1
            yield found
    except (OSError, InputError, TooLargeError, *DAMAGED) as error:
        reason = _reason(error).removeprefix(str(file.path)).lstrip(": ")
        if file.named and not count and not isinstance(error, TooLargeError):
            sentence = str(error) if isinstance(error, InputError) else f"{file.path}: {reason}"
            raise InputError(sentence) from error
        if count and file.kind not in ("cif", "poscar"):
            reason += "; the rest of the file was not read"
        yield Rejected(str(file.path), None, None, reason)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    if isinstance(error, (InputError, TooLargeError)):
        return str(error)
    return f"is damaged ({' '.join(str(error).split())[:200]})"


def _read_structure_file(file: InputFile, options: ReadOptions) -> Found:
    with open_file(file.path, options.max_file_mib, whole=True) as stream:
        data = stream.read()
    properties = scalar_properties(dict(file.properties))
    yield from structure_tasks(
        decode(data), file.kind, str(file.path), file.id or stem_of(file.path), properties
    )


def _read_zip(file: InputFile, options: ReadOptions) -> Found:
    left = int(options.max_file_mib * 2**20)
    with file.path.open("rb") as raw, zipfile.ZipFile(raw) as archive:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        members = [m for m in members if kind_of(m.filename) in ("cif", "poscar")]
        members = [m for m in members if not _is_hidden(m.filename)]
        if not members:
            raise InputError(f"{file.path} holds no CIF or POSCAR file")
        for member in members:
            source = f"{file.path}/{member.filename}"
            fault = _fault_of_member(member, left)
            if fault is None:
                try:
                    with archive.open(member) as stream:
                        data = stream.read(min(left, MAX_CRYSTAL_MIB * 2**20) + 1)
                except (RuntimeError, NotImplementedError, *DAMAGED) as error:
                    fault = f"is damaged ({' '.join(str(error).split())[:200]})"
                else:
                    left -= len(data)
                    if len(data) > MAX_CRYSTAL_MIB * 2**20 or left < 0:
                        fault = f"expands to more than {MAX_CRYSTAL_MIB} MiB"
            if fault is not None:
                yield Rejected(source, None, stem_of(member.filename), fault)
                continue
            kind = kind_of(member.filename)
            assert kind is not None
            yield from structure_tasks(decode(data), kind, source, stem_of(member.filename), {})


def _is_hidden(name: str) -> bool:
    """Folders that macOS adds, and hidden files."""
    return any(part.startswith((".", "__MACOSX")) and part != ".." for part in name.split("/"))


def _fault_of_member(member: zipfile.ZipInfo, left: int) -> str | None:
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        return "its path leads out of the zip"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "is a link"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if member.file_size > min(left, MAX_CRYSTAL_MIB * 2**20):
        return f"expands to {member.file_size / 2**20:.0f} MiB, more than is allowed"
    return None


_READERS: dict[str, Callable[[InputFile, ReadOptions], Found]] = {
    "cif": _read_structure_file,
    "poscar": _read_structure_file,
    "csv": tables.read_csv,
    "parquet": tables.read_parquet,
    "extxyz": tables.read_extxyz,
    "json": tables.read_json,
    "jsonl": tables.read_jsonl,
    "packed": tables.read_packed,
    "zip": _read_zip,
}
