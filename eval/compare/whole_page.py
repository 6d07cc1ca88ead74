"""One page for all parts of a plan: an overview first, then each part with all it has to tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.cards import escape, facts_list
from eval.compare.parts import Cell, Row, Table, format_seconds, mark_best, metric_cell, spread_cell
from eval.compare.plan import Comparison, Plan
from eval.compare.sections import Body
from eval.compare.summary import Outcome
from eval.compare.writing import to_html
from eval.report import write_page

_CRYSTALS = (
    ("wrong atom count", "wrong_count", "%", "low"),
    ("position error", "position_error_actual", "Å", "low"),
    ("wrong species", "species_error_actual", "%", "low"),
    ("matches", "match_rate", "%", "high"),
)
_PROPERTIES = (
    ("MAE", "mae", "", "low"),
    ("share of mean's", "mae_share", "%", "low"),
    ("RMSE", "rmse", "", "low"),
    ("R²", "r2", "", "high"),
)


def overview_table(parts: Sequence[tuple[Comparison, Sequence[Outcome]]]) -> Table:
    """The figures that matter most of every part, a row a model.

    Args:
        parts: each with what is known of its models.
    """
    sections = []
    for plan, outcomes in parts:
        wanted = _PROPERTIES if plan.predicts else _CRYSTALS
        columns = [
            mark_best([metric_cell(o, "metrics", name, unit) for o in outcomes], better)
            for _, name, unit, better in wanted
        ]
        columns += [tuple(map(_lost_cell, outcomes)), tuple(map(_time_cell, outcomes))]
        names = (*(title for title, *_ in wanted), "failures", "training")
        head = Row("", tuple(Cell(name) for name in names), head=True)
        rows = [
            Row(o.model.label, tuple(cells[i] for cells in columns)) for i, o in enumerate(outcomes)
        ]
        sections.append((plan.title, (head, *rows)))
    width = len(_CRYSTALS) + 2
    return Table(
        "overview",
        "All parts",
        "Failures are counted in every figure.",
        (("", width),),
        ("",) * width,
        tuple(sections),
    )


def _lost_cell(outcome: Outcome) -> Cell:
    """Of how many test crystals a model made nothing."""
    if not outcome.done:
        return Cell("failed" if outcome.failed else "not done yet")
    first = outcome.done[0]["counts"]
    lost = [float(line["counts"]["failures"]) for line in outcome.done]
    return spread_cell(lost, lambda value: f"{value:g} of {first['reference']}")


def _time_cell(outcome: Outcome) -> Cell:
    """Wall-clock time of a training, here or before."""
    times = [
        float(line["training"]["wall_s"]) for line in outcome.done if line["training"].get("wall_s")
    ]
    cell = spread_cell(times, format_seconds)
    given = outcome.model.weights is not None and times
    return Cell(f"{cell.text}, before" if given else cell.text)


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
