"""Files that grow by whole pieces, and lose nothing but their torn end when a run is killed."""

from __future__ import annotations

import errno
import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, FileIO
from pathlib import Path

from nesf.atomic import atomic_write
from nesf.data.writer_formats import Scannable
from nesf.errors import InputError


class AppendFile:
    """A text file that grows by whole pieces, each handed to the operating system at once.

    A file whose name ends in .gz is compressed: each opening adds a gzip member, which is flushed
    after every piece.

    Attributes:
        found: what `Scannable.scan` told of the whole parts of a file that is resumed.
        is_empty: nothing is in it.
    """

    def __init__(self, path: Path, row_format: Scannable, resume: bool) -> None:
        self.path = path
        self.found: list[tuple[str, ...]] = []
        self._compressor = zlib.compressobj(wbits=31) if path.suffix == ".gz" else None
        with one_sentence(path):
            kept = b""
            if resume and path.exists():
                kept, self.found = whole_parts(path, row_format)
                if self._compressor is not None:
                    with atomic_write(path) as file:  # a compressed file can't be cut in the middle
                        file.write(zlib.compress(kept, wbits=31))
            self.is_empty = not kept
            self._file = FileIO(path, "ab" if kept else "wb")
            if kept and self._compressor is None:
                self._file.truncate(len(kept))

    def append(self, text: str) -> None:
        """Write a piece."""
        data = text.encode("utf-8", errors="surrogateescape")
        self.is_empty = self.is_empty and not data
        if self._compressor is not None:
            data = self._compressor.compress(data) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        with one_sentence(self.path):
            write_all(self._file, data)

    def close(self) -> None:
        """Flush the file to the disk."""
        if self._file.closed:
            return
        with self._file, one_sentence(self.path):
            if self._compressor is not None:
                write_all(self._file, self._compressor.flush())
            os.fsync(self._file.fileno())


@contextmanager
def one_sentence(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an InputError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); "
            f"{'free some space or ' if full else ''}give another output"
        ) from error


def write_all(file: FileIO, data: bytes) -> None:
    """Write all bytes, in as many calls as the operating system asks for."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]


def whole_parts(path: Path, row_format: Scannable) -> tuple[bytes, list[tuple[str, ...]]]:
    """An earlier output without its torn end, and what its parts are."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = _expand(data)
    lines = list(BytesIO(data))  # at \n only
    texts = (line.decode("utf-8", errors="surrogateescape") for line in lines)
    found, count = [], 0
    try:
        for length, fields in row_format.scan(texts):
            count += length
            if fields is not None:
                found.append(fields)
    except InputError as error:
        raise InputError(f"{path} cannot be resumed: {error}; give another output") from error
    return b"".join(lines[:count]) if found else b"", found


def more_than_header(path: Path, row_format: Scannable) -> bool:
    """Whether a file holds anything but a header of ours, told from its beginning alone."""
    with one_sentence(path), gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        lines = (line.decode("utf-8", errors="surrogateescape") for line in file)
        try:
            begin = next(iter(row_format.scan(lines)), None)
            if begin is not None and begin[1] is None:
                return next(lines, None) is not None
        except (InputError, EOFError, zlib.error, gzip.BadGzipFile):  # somebody else's, or torn
            return True
    return begin is not None or path.stat().st_size > 0


def _expand(data: bytes) -> bytes:
    """What can be read of gzip members, the last of which may be torn."""
    parts = []
    while data:
        expander = zlib.decompressobj(wbits=31)
        try:
            parts.append(expander.decompress(data))
        except zlib.error:  # torn within its first bytes
            break
        data = expander.unused_data
    return b"".join(parts)
