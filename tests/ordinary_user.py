"""Permissions as an ordinary user meets them, also where the tests run as root."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def read_only_folder(*files: Path) -> Iterator[Path]:
    """A folder with copies of `files` that can be read but not written while the block runs."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        for file in files:
            shutil.copy(file, folder)
        folder.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)  # root may write everywhere
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)
