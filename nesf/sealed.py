"""`torch.save` files that carry their own checksum and load without running code.

PyTorch writes a CRC of every record but does not look at it when it loads: most flipped bits come
back as silently wrong weights. Here the sha256 of the whole file is kept in the comment field at
the end of its zip archive, where `torch.load` and every zip tool still read the file as usual.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from nesf.atomic import atomic_write
from nesf.errors import CheckpointError

_ZIP_MAGIC = b"PK\x03\x04"
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
)
_END_MAGIC = b"PK\x05\x06"  # of the archive's last 22 bytes, which end with a comment's length
_END_LENGTH = 22
_SEAL = b"nesf-sha256:"
_SEAL_LENGTH = len(_SEAL) + 64


def save_sealed(content: dict[str, Any], path: str | Path) -> None:
    """Write tensors and plain Python values with `torch.save`, sealed and atomically.

    Args:
        content: tensors, numbers, strings, None, and lists, tuples, dicts of them.
        path: the file to create or replace.

    Raises:
        TypeError: `content` holds an object that a safe load would refuse; better to learn it now
            than when a run is resumed.
        OSError: the file cannot be written; an older one stays as it was.
    """
    buffer = io.BytesIO()  # torch hides errors of the disk, so the disk is left to us
    torch.save(content, buffer)
    buffer.seek(0)
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
    if unsafe:
        raise TypeError(f"only tensors and plain values can be saved, not {', '.join(unsafe)}")
    data = buffer.getbuffer()
    comment_length = _SEAL_LENGTH.to_bytes(2, "little")  # the archive's last field
    digest = hashlib.sha256(data[:-2])
    digest.update(comment_length)
    with atomic_write(path) as file:
        file.write(data[:-2])
        file.write(comment_length + _SEAL + digest.hexdigest().encode())


def load_sealed(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a file of `save_sealed`, or one of plain `torch.save`, after checking every byte.

    A file without a seal is held to the CRCs of its records instead.

    Args:
        path: the file.
        map_location: as in `torch.load`.

    Returns:
        What was saved.

    Raises:
        CheckpointError: the file is missing, damaged, no torch file, or holds Python objects.
    """
    data = read_bytes(path)
    if not data.startswith(_ZIP_MAGIC):
        raise CheckpointError(
            f"{path} is not a checkpoint of this package (not a zip archive of torch.save); "
            "nothing in it was run"
        )
    data = _checked(data, path)
    try:
        content = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds Python objects besides tensors and plain values, which could run code; "
            "it was not loaded"
        ) from error
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read by torch: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a model file.

    Raises:
        CheckpointError: the file is missing, empty, or cannot be read.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise CheckpointError(f"{path} is empty; copy or save it again")
    return data


def one_line(error: BaseException) -> str:
    """The first line of an error's message, short enough for one sentence."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _checked(data: bytes, path: str | Path) -> bytes:
    """The bytes to give to torch, once every one of them is known to be right."""
    body, seal = data[:-_SEAL_LENGTH], data[-_SEAL_LENGTH:]
    if seal.startswith(_SEAL):
        if hashlib.sha256(body).hexdigest().encode() != seal[len(_SEAL) :]:
            raise CheckpointError(
                f"{path} is damaged: its sha256 is not the one it was saved with; copy it again"
            )
        return data
    if data[-_END_LENGTH:][:4] != _END_MAGIC or data[-2:] != b"\0\0":
        raise CheckpointError(f"{path} is damaged or cut off; copy it again")
    try:
        return _checked_records(data)
    # what zipfile raises on a damaged archive, by the field that was hit
    except _ZIP_ERRORS as error:
        raise CheckpointError(
            f"{path} is damaged or cut off ({one_line(error)}); copy it again"
        ) from error


def _checked_records(data: bytes) -> bytes:
    """A fresh archive of the records whose CRCs are right.

    Torch's reader heeds fields that no checksum covers (a flipped "is a directory" bit makes it
    read nothing and leave a tensor uninitialised), so that it gets only what was checked.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as copy:
        records = source.infolist()
        if len({record.filename for record in records}) != len(records):
            raise zipfile.BadZipFile("two records have one name")
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f"the record {record.filename} is compressed")
            copy.writestr(record.filename, source.read(record))
    return buffer.getvalue()
