"""What an output is, a folder of CIFs or one table, and whether it holds something already."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nesf.data.append_file import more_than_header, one_sentence, whole_parts
from nesf.data.writer_formats import CsvFormat, ExtxyzFormat, JsonlFormat, RowFormat
from nesf.errors import InputError

TABLES = (".csv", ".csv.gz", ".extxyz", ".jsonl")  # outputs that are one file
_KINDS = "a folder, or a .csv, .csv.gz, .extxyz or .jsonl file"
_SLASHES = ("/", os.sep)
_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]*$")  # and not the end of a version or a number


def is_folder(output: str | Path) -> bool:
    """Whether an output is a folder and not one file.

    It is where it ends in a slash, is a folder already, or has no suffix. What ends in a dot and a
    letter is no folder, since nobody means one by `out.xlsx`.

    Raises:
        InputError: its suffix is that of no file that we write.
    """
    path = Path(output)
    if path.is_dir() or str(output).endswith(_SLASHES):
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file and no folder; give another output")
        return True
    if path.name.lower().endswith(TABLES):
        return False
    if path.exists() or _SUFFIX.search(path.name):
        hint = "" if path.exists() else f" ({path}{os.sep} would be a folder)"
        raise InputError(f"{path} cannot be written to; give {_KINDS}{hint}")
    return True


def table_format(path: Path, columns: Sequence[str] | None = None) -> RowFormat:
    """The format of a file, by its suffix."""
    name = path.name.lower()
    if name.endswith(".extxyz"):
        return ExtxyzFormat()
    return JsonlFormat() if name.endswith(".jsonl") else CsvFormat(("material_id", "cif"), columns)


def refuse_earlier(output: str | Path) -> None:
    """Refuse an output that holds crystals of an earlier run, or a file of somebody else's.

    Raises:
        InputError: it does, or is of no known kind.
    """
    if not is_folder(output):
        if holds_crystals(output):
            raise InputError(
                f"the file {output} is there already: go on with --resume, replace it with "
                "--overwrite, or give another output"
            )
        return
    listed = listed_cifs(Path(output))
    if listed:
        crystals = f"{len(listed)} crystal{'s' * (len(listed) > 1)}"
        raise InputError(
            f"the folder {output} holds {crystals} of an earlier run: go on with --resume, remove "
            "them with --overwrite, or give another output"
        )


def holds_crystals(output: str | Path) -> bool:
    """Whether an output holds crystals, or whatever is no header of ours."""
    path = Path(output)
    if is_folder(output):
        return bool(listed_cifs(path))
    return path.exists() and more_than_header(path, table_format(path))


def listed_cifs(folder: Path) -> list[str]:
    """The names of the CIFs that an earlier run has listed and that are still there."""
    index = folder / "index.csv"
    if not index.is_file():
        return []
    names = [name for _, name in whole_parts(index, CsvFormat(("id", "file")))[1]]
    return [name for name in names if (folder / name).is_file()]


def make_ready(*files: str | Path | None) -> None:
    """Make the folders above files that are written last, and see now whether they can be.

    Args:
        files: those that are None are left out.

    Raises:
        InputError: one of them cannot be written.
    """
    for path in (Path(file) for file in files if file is not None):
        with one_sentence(path):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path.parent):
                pass
