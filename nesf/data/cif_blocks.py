"""The data blocks of a CIF, told apart without being parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nesf.errors import InputError

BLOCK = re.compile(r"^[ \t]*data_(\S*)", re.MULTILINE)
_HOLDS_CRYSTAL = re.compile(r"^\s*(_atom_site_|_cell_length_)", re.MULTILINE)


def split_blocks(text: str) -> list[tuple[str, str]]:
    """The data blocks of a CIF that may hold a crystal.

    Lines inside a text field (from a line that starts with ";" to the next one) begin no block.
    Blocks without cell or atoms (titles, powder patterns) are left out if another block has them.

    Args:
        text: a whole CIF file.

    Returns:
        Pairs of the block's name and its text; a file without any block comes back whole.
    """
    if len(BLOCK.findall(text)) <= 1:
        match = BLOCK.search(text)
        return [(match.group(1) if match else "", text)]
    blocks: list[tuple[str, list[str]]] = []
    for line, in_text in _lines(text):
        match = None if in_text else BLOCK.match(line)
        if match:
            blocks.append((match.group(1), []))
        if blocks:
            blocks[-1][1].append(line)
    whole = [(name, "\n".join(lines) + "\n") for name, lines in blocks]
    return [block for block in whole if _HOLDS_CRYSTAL.search(block[1])] or whole[:1]


def _lines(text: str) -> Iterator[tuple[str, bool]]:
    """Lines, and whether each lies within a text field (its opening line does not)."""
    in_text = False
    for line in text.split("\n"):
        delimiter = line.startswith(";")
        yield line, in_text and not delimiter
        in_text ^= delimiter


def defuse_text_fields(text: str) -> str:
    """Keep pymatgen from taking a line of a text field for a block; refuse an open field."""
    if "\n;" not in text:
        return text
    lines, is_open = [], False
    for line, in_text in _lines(text):
        lines.append(f".{line}" if in_text and BLOCK.match(line) else line)
        is_open ^= line.startswith(";")
    if is_open:
        raise InputError("a text field that ';' opens is never closed")
    return "\n".join(lines)
