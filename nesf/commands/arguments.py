"""Arguments that commands share: their types, and what is refused before anything is loaded.

It imports no torch, and neither do the modules whose signatures and docstrings make the command
line, so that asking for help stays quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from nesf.data.records import ReadOptions
from nesf.errors import InputError
from nesf.reconstruction.options import ReconstructOptions

Changes = Annotated[Mapping[str, Any], ReconstructOptions]  # those that the user gave
BOX_ATOMS = 2000  # in a box that is read, unless the user says otherwise
Files = list[str] | str | None  # one, or several


def listed(files: Files) -> list[str]:
    """The files of an option that takes one or several."""
    return [files] if isinstance(files, str) else list(files or ())


def read_boxes(read: ReadOptions) -> ReadOptions:
    """How boxes are read: atoms may face each other across walls, and there may be many.

    Args:
        read: as crystals are read.
    """
    most = BOX_ATOMS if read.max_atoms == ReadOptions().max_atoms else read.max_atoms
    return replace(read, max_atoms=most, min_distance=0.0)


def split_id(text: str) -> tuple[str, str | None]:
    """`FILE#ID` as file and id; a plain file has no id."""
    file, mark, name = text.rpartition("#")
    return (file, name) if mark and file and name and not Path(text).exists() else (text, None)


def check_arguments(inputs: Sequence[str], output: str, batch_size: int) -> None:
    """Refuse what cannot work before anything is loaded or written.

    Raises:
        InputError: the batch size is below 1, or the output lies in an input.
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; give at least 1")
    target = Path(output).resolve()
    for name in inputs:
        source = Path(name).resolve()
        if source == target or (source.is_dir() and source in target.parents):
            raise InputError(f"the output {output} lies in the input {name}; give another output")
