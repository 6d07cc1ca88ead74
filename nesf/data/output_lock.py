"""One run at a time works on an output."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from nesf.errors import InputError

try:
    import fcntl
except ImportError:  # not a Unix: two runs at once are then not noticed
    fcntl = None  # type: ignore[assignment]


class OutputLock:
    """Holds an output for one run, from its making to `release`.

    The kernel gives the lock up when its process ends, however that ends; what a killed one leaves
    is an empty hidden file that hinders nobody. Where a file system has no locks, all may go on.

    Args:
        output: a folder that is there, or a file.

    Raises:
        InputError: another run holds it.
        OSError: the hidden file cannot be made.
    """

    def __init__(self, output: str | Path) -> None:
        path = Path(output)
        folder = path.is_dir()
        self.path = path / ".lock" if folder else path.with_name(f".{path.name}.lock")
        self._file: BinaryIO | None = None
        while fcntl is not None:
            file = self.path.open("ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.close()
                raise InputError(
                    f"another run is writing into {output}; wait for its end or stop it, or give "
                    "another output"
                ) from error
            except OSError:  # a file system without locks
                pass
            self._file = file
            if os.fstat(file.fileno()).st_nlink:  # else its holder removed it before it was locked
                return
            file.close()

    def release(self) -> None:
        """Let others come; the second call does nothing."""
        if self._file is not None:
            with suppress(OSError):  # whoever comes next takes the file as it is
                self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
