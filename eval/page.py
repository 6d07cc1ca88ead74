"""One self-contained HTML page: style, figures, sections, and crystals to turn."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from eval.cards import Drawing, crystal_data, escape
from nesf.errors import InputError

DRAWN_WITH = "Drawn with 3Dmol.js 2.5.5 (BSD-3-Clause, University of Pittsburgh and contributors)."


def write_page(
    path: str | Path,
    *,
    title: str,
    summary: str,
    cards: str,
    sections: Sequence[str],
    footer: str,
    drawings: Sequence[Drawing] = (),
    style: str = "",
) -> None:
    """Write one self-contained page of this style, atomically.

    Args:
        path: the file to write.
        title: its headline.
        summary: HTML below the headline.
        cards: HTML of the figures that matter most.
        sections: HTML of the sections; empty ones are left out.
        footer: HTML of the last lines.
        drawings: crystals, one for each element of class "pair", in their order.
        style: name of an asset with more CSS.

    Raises:
        OSError: the file cannot be written.
    """
    from nesf.atomic import atomic_write

    page = Template(_asset("report.html")).substitute(
        title=escape(title),
        css=_asset("report.css") + (_asset(style) if style else ""),
        summary=summary,
        cards=cards,
        sections="\n".join(section for section in sections if section),
        footer=footer,
        crystals=crystal_data(drawings),
        viewer_library=viewer_library() if drawings else "",
        script=_asset("report.js"),
    )
    with atomic_write(path) as file:
        file.write(page.encode())


def viewer_library() -> str:
    """3Dmol.js (BSD-3), as vendored in eval/assets.

    Raises:
        InputError: the vendored file is not the one whose sha256 lies beside it.
    """
    text = _asset("3Dmol-min.js")
    expected = _asset("3Dmol-min.js.sha256").split()[0]
    if hashlib.sha256(text.encode()).hexdigest() != expected:
        raise InputError("eval/assets/3Dmol-min.js is damaged; install the package again")
    return text


def _asset(name: str) -> str:
    # bytes, since reading text would turn line ends round and change the hash
    return (files("eval") / "assets" / name).read_bytes().decode()
