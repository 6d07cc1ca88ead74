"""One file of named arrays: magic, version, JSON header, raw arrays, sha256. No pickle.

Layout, all numbers little-endian:

    bytes 0-7     magic "NESFPACK"
    bytes 8-11    format version, uint32
    bytes 12-15   zero
    bytes 16-23   length of the header in bytes, uint64
    header        JSON: {"arrays": {name: {"dtype", "shape", "offset"}}, "data_bytes", "meta"}
    zeros         up to a multiple of 64
    arrays        each at its offset (from the first array), a multiple of 64
    last 32 bytes sha256 of everything before them
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nesf.atomic import atomic_write
from nesf.errors import InputError

MAGIC = b"NESFPACK"
VERSION = 1
ALIGNMENT = 64
CHUNK_BYTES = 4 << 20
DTYPES = ("|u1", "<i8", "<f8")  # all that a packed set needs
_PREFIX = struct.Struct("<8sIIQ")
_DIGEST_BYTES = hashlib.sha256().digest_size
_MEND = "pack it again from its sources"


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """`atomic_write`, in a folder that is made if need be, with errors as one sentence.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


class Spill:
    """An array that grows on disk, in a nameless temporary file: constant memory.

    Args:
        folder: where the file lies; the folder of the output, so that it is full before we are.
        dtype: of the array.
        columns: shape of one row.
    """

    def __init__(self, folder: Path, dtype: str, columns: tuple[int, ...] = ()):
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by close)
        self.dtype, self.columns, self.rows = np.dtype(dtype), columns, 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape so far."""
        return (self.rows, *self.columns)

    def append(self, values: np.ndarray) -> None:
        """Add rows at the end."""
        values = np.ascontiguousarray(values, self.dtype).reshape(-1, *self.columns)
        self.file.write(values.tobytes())
        self.rows += len(values)

    def chunks(self) -> Iterator[np.ndarray]:
        """The rows so far, a few MiB at a time."""
        row_bytes = self.dtype.itemsize * math.prod(self.columns)
        size = max(1, CHUNK_BYTES // row_bytes) * row_bytes
        position = 0
        while data := os.pread(self._flushed(), size, position):
            position += len(data)
            yield np.frombuffer(data, self.dtype).reshape(-1, *self.columns)

    def _flushed(self) -> int:
        self.file.flush()
        return self.file.fileno()

    def close(self) -> None:
        """Drop the file."""
        self.file.close()


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def write_container(
    path: Path, arrays: Mapping[str, np.ndarray | Spill], meta: Mapping[str, Any]
) -> None:
    """Write arrays and a JSON-able header atomically; the same content gives the same bytes.

    Raises:
        InputError: the file cannot be written.
    """
    layout, position = {}, 0
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<").str
        if dtype not in DTYPES:
            raise TypeError(f"array {name} has type {array.dtype}; known are {DTYPES}")
        layout[name] = {"dtype": dtype, "shape": list(array.shape), "offset": position}
        position = _aligned(position + math.prod(array.shape) * array.dtype.itemsize)
    header = json.dumps(
        {"arrays": layout, "data_bytes": position, "meta": meta}, ensure_ascii=False
    ).encode()

    with writing(path) as file:
        digest = hashlib.sha256()
        written = 0

        def put(data: bytes) -> None:
            nonlocal written
            file.write(data)
            digest.update(data)
            written += len(data)

        def pad() -> None:
            put(bytes(_aligned(written) - written))

        put(_PREFIX.pack(MAGIC, VERSION, 0, len(header)))
        put(header)
        pad()
        for array in arrays.values():
            for chunk in array.chunks() if isinstance(array, Spill) else _row_chunks(array):
                put(chunk.astype(chunk.dtype.newbyteorder("<"), copy=False).tobytes())
            pad()
        file.write(digest.digest())


def _row_chunks(array: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def read_container(
    path: Path, verify: bool = True, mmap: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays (read-only, memory-mapped unless `mmap` is false) and the header's `meta`.

    Args:
        path: a file that `write_container` wrote.
        verify: check the sha256 first, in constant memory.
        mmap: leave the arrays on disk until they are touched.

    Raises:
        InputError: the file is missing, foreign, of another version, truncated or damaged.
    """
    try:
        with open(path, "rb") as file:
            header, start = _read_header(path, file)
            if verify:
                _verify_digest(path, file)
        data: np.ndarray = np.memmap(path, np.uint8, mode="r")
        if not mmap:
            data = np.array(data)
            data.flags.writeable = False
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    arrays = {}
    for name, entry in header["arrays"].items():
        begin = start + entry["offset"]
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        end = begin + math.prod(shape) * dtype.itemsize
        arrays[name] = data[begin:end].view(np.ndarray).view(dtype).reshape(shape)
    return arrays, header["meta"]


def _read_header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, checked against the size of the file, and where the first array starts."""
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(_PREFIX.size)
    if not prefix.startswith(MAGIC) and prefix != MAGIC[: len(prefix)]:
        raise InputError(f"{path} is not a packed set; pack it with `nesf data pack`")
    if len(prefix) < _PREFIX.size:
        raise InputError(f"{path} is truncated ({size} bytes); {_MEND}")
    _, version, _, length = _PREFIX.unpack(prefix)
    if version > VERSION:
        raise InputError(
            f"{path} has format version {version}, and this nesf reads up to {VERSION}; "
            "upgrade nesf, or pack the set again with this one"
        )
    if _PREFIX.size + length + _DIGEST_BYTES > size:
        raise InputError(f"{path} is truncated ({size} bytes); {_MEND}")
    try:
        header = json.loads(file.read(length))
        data_bytes = header["data_bytes"]
        valid = version == VERSION and all(
            entry["dtype"] in DTYPES
            and entry["offset"] >= 0
            and entry["offset"] % ALIGNMENT == 0
            and all(isinstance(n, int) and n >= 0 for n in entry["shape"])
            and entry["offset"] + math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
            <= data_bytes
            for entry in header["arrays"].values()
        )
        meta_valid = isinstance(header["meta"], dict)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged (its header cannot be read); {_MEND}") from error
    if not (valid and meta_valid):
        raise InputError(f"{path} is damaged (its header contradicts itself); {_MEND}")
    start = _aligned(_PREFIX.size + length)
    expected = start + data_bytes + _DIGEST_BYTES
    if size != expected:
        state = "truncated" if size < expected else "damaged"
        raise InputError(f"{path} is {state} ({size} bytes, should be {expected}); {_MEND}")
    return header, start


def _verify_digest(path: Path, file: BinaryIO) -> None:
    digest = hashlib.sha256()
    left = os.fstat(file.fileno()).st_size - _DIGEST_BYTES
    file.seek(0)
    while left > 0 and (data := file.read(min(CHUNK_BYTES, left))):
        digest.update(data)
        left -= len(data)
    if digest.digest() != file.read(_DIGEST_BYTES):
        raise InputError(f"{path} is damaged (its checksum does not match); {_MEND}")
