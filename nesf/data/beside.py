"""What stands beside an output: the list of rejected rows, and other lists of one run.

They are in the folder where the output is one, and are named after it where it is a file, so that
two outputs in one folder keep theirs apart.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from nesf.atomic import atomic_write
from nesf.data.records import Rejected
from nesf.errors import InputError

REJECTED = "rejected.csv"


def beside(output: str | Path, name: str) -> Path:
    """Where a list of an output is: `out/NAME` of a folder, `out.NAME` of `out.csv.gz`."""
    path = Path(output)
    if path.is_dir():
        return path / name
    file = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return path.with_name(f"{Path(file).stem}.{name}")


def list_rejected(output: str | Path, rejected: Sequence[Rejected]) -> Path | None:
    """List the rejected rows of an output; with none, remove the list of an earlier run.

    Returns:
        Where they are listed, if there are any.

    Raises:
        InputError: the list cannot be written.
    """
    path = beside(output, REJECTED)
    if rejected:
        write_rejected(path, rejected)
        return path
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path} cannot be removed ({error.strerror or error})") from error
    return None


def write_rejected(path: str | Path, rejected: Sequence[Rejected]) -> None:
    """Write a list of rejected rows (file, row, id, reason), replacing an old one in one step.

    Raises:
        InputError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "row", "id", "reason"])
    for one in rejected:
        writer.writerow(["" if v is None else v for v in (one.source, one.row, one.id, one.reason)])
    try:
        with atomic_write(path) as file:
            file.write(text.getvalue().encode("utf-8", errors="backslashreplace"))
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error})") from error
