"""Where things that can be made again are kept between runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a Unix: two processes then do the same work, and the last one's stays
    fcntl = None  # type: ignore[assignment]


def cache_folder() -> Path:
    """The user's cache folder for this package, by the platform's custom; it may not exist yet.

    XDG_CACHE_HOME, where it is set, comes first everywhere.
    """
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        return Path(chosen) / "nesf"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nesf"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "nesf" / "cache"
    return Path.home() / ".cache" / "nesf"


@contextmanager
def only_one_process(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; the others wait.

    The lock goes with its process, however that ends. On a file system without locks the block
    runs at once: it must then be harmless to run twice.

    Args:
        path: the lock file, which stays.

    Raises:
        OSError: the lock file cannot be made.
    """
    with path.open("ab") as file:
        if fcntl is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
