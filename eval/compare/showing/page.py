"""The page: of one comparison, or of all parts of a plan behind an overview."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eval.cards import escape, facts_list
from eval.compare.plan import Comparison, Plan
from eval.compare.showing.cells import Table
from eval.compare.showing.sections import Body
from eval.compare.showing.writing import to_html
from eval.page import write_page


def write_whole_page(path: Path, plan: Plan, overview: Table, bodies: Mapping[str, Body]) -> None:
    """Write the page of several parts, atomically.

    Args:
        path: the file.
        plan: its title and its parts.
        overview: the table that comes first.
        bodies: by part.

    Raises:
        OSError: the file cannot be written.
    """
    links = ", ".join(
        f'<a href="#part-{escape(part.name)}">{escape(part.title)}</a>' for part in plan.parts
    )
    sections = [
        f'<section><h2>All parts</h2><p class="soft">{escape(overview.note)} In full: {links}.</p>'
        f"{to_html(overview)}</section>"
    ]
    for part in plan.parts:
        body = bodies[part.name]
        told = "\n".join(section for section in body.sections if section)
        sections.append(
            f'<section class="part" id="part-{escape(part.name)}"><h2>{escape(part.title)}</h2>'
            f"{facts_list(body.facts, 'facts')}{body.cards}"
            f'{_nested(told, part.name)}<p class="soft">{body.footer}</p></section>'
        )
    write_page(
        path,
        title=plan.title,
        summary=facts_list({"parts": len(plan.parts), **_shared(plan)}, "facts"),
        cards="",
        sections=sections,
        footer=escape("Tables, charts and results.jsonl of each part: in the folder of its name."),
        drawings=[drawing for part in plan.parts for drawing in bodies[part.name].drawings],
        style="compare.css",
    )


def write_only_page(path: Path, plan: Comparison, body: Body) -> None:
    """Write the page of a single comparison, atomically.

    Args:
        path: the file.
        plan: what was compared.
        body: what is told of it.

    Raises:
        OSError: the file cannot be written.
    """
    write_page(
        path,
        title=plan.title,
        summary=facts_list(body.facts, "facts"),
        cards=body.cards,
        sections=body.sections,
        footer=body.footer,
        drawings=body.drawings,
        style="compare.css",
    )


def _shared(plan: Plan) -> dict[str, object]:
    first = plan.parts[0]
    threads = {"threads": first.threads} if first.threads else {}
    return {"device": plan.device, **threads, "seeds": ", ".join(map(str, first.seeds))}


def _nested(html: str, part: str) -> str:
    """A part's sections one level down, their tables under names of their own."""
    inner = html.replace("<h2>", '<h3 class="inner">').replace("</h2>", "</h3>")
    return inner.replace('id="table-', f'id="table-{part}-')
