"""Files that appear whole or not at all: a temporary file beside the target, then a rename."""

from __future__ import annotations

import errno
import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # not a Unix: leftovers of killed writers then stay
    fcntl = None  # type: ignore[assignment]


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` when the block ends well.

    The temporary file lies in the same folder, so that the final rename never crosses file
    systems; file and folder are flushed to the disk. If the block fails, the old file stays as it
    was. The temporary files that killed writers of the same target left are removed first.

    Args:
        path: the file to create or replace; its folder must exist.

    Yields:
        The open temporary file.

    Raises:
        OSError: the folder is missing or read-only, the disk is full, ...: with the file's name.
    """
    path = Path(path)
    remove_leftovers(path)
    file, temporary = _open_temporary(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            # inside the block, since closing gives up the lock that keeps others from cleaning
            temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
        raise
    _sync_folder(path.parent)


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files of writers of `path` that were killed.

    A writer holds a lock on its temporary file for as long as it lives, so that one that can be
    locked belongs to nobody.
    """
    path = Path(path)
    if fcntl is None:
        return
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        # gone already, not ours to open, or still locked: in each case it is not a leftover
        with suppress(OSError), leftover.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            leftover.unlink(missing_ok=True)


def _open_temporary(path: Path) -> tuple[BinaryIO, Path]:
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        file = _open_exclusive(temporary, path)
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink:  # nobody removed it before it was locked
            return file, temporary
        file.close()


def _open_exclusive(temporary: Path, path: Path) -> BinaryIO:
    try:
        return temporary.open("xb")
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # some network file systems cannot flush a folder, and say so in one of these ways
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
