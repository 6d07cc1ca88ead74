"""Tables as Markdown, LaTeX and HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from eval.cards import escape
from eval.compare.showing.cells import Table
from eval.table import markdown

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "Å": r"\AA{}",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
    "°": r"$^\circ$",
    "³": r"$^3$",
    "²": r"$^2$",
    "×": r"$\times$",
    "µ": r"$\mu$",
    "σ": r"$\sigma$",
    "\u00a0": "~",
}


def latex_escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def to_markdown(table: Table) -> str:
    """A Markdown table; the best of each row is bold."""
    header = [table.title, *_flat_columns(table)]
    rows: list[list[str]] = []
    for title, lines in table.sections:
        rows.append([f"*{_md(title)}*", *[""] * (len(header) - 1)])
        for line in lines:
            texts = [f"**{_md(c.text)}**" if c.best else _md(c.text) for c in line.cells]
            rows.append([_md(line.title), *texts])
    return "\n".join([*markdown([_md(cell) for cell in header], rows), "", table.note])


def _md(text: str) -> str:
    """Text that stays in its cell and is no markup."""
    return re.sub(r"([|\\`*_<>\[\]])", r"\\\1", " ".join(text.split()))


def _flat_columns(table: Table) -> list[str]:
    """One title a column, where there is one line of titles."""
    groups = [title for title, width in table.groups for _ in range(width)]
    if not table.columns:
        return groups
    return [" ".join(filter(None, pair)) for pair in zip(groups, table.columns, strict=True)]


def to_latex(table: Table) -> str:
    """A LaTeX table for the package booktabs; the best of each row is bold."""
    width = sum(count for _, count in table.groups)
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{latex_escape(table.title)}. {latex_escape(table.note)}}}",
        rf"  \label{{tab:{table.name}}}",
        rf"  \begin{{tabular}}{{l{'r' * width}}}",
        r"    \toprule",
    ]
    named = any(title for title, _ in table.groups)
    if named:
        heads = [
            latex_escape(title)
            if count == 1
            else rf"\multicolumn{{{count}}}{{c}}{{{latex_escape(title)}}}"
            for title, count in table.groups
        ]
        lines.append(f"    & {' & '.join(heads)} \\\\")
    if any(table.columns):
        starts = accumulate((count for _, count in table.groups), initial=2)
        rules = [
            rf"\cmidrule(lr){{{start}-{start + count - 1}}}"
            for start, (title, count) in zip(starts, table.groups, strict=False)
            if title and count > 1
        ]
        lines += [f"    {' '.join(rules)}"] if rules else []
        lines.append(f"    & {' & '.join(map(latex_escape, table.columns))} \\\\")
    for title, rows in table.sections:
        lines.append(r"    \midrule")
        lines.append(rf"    \multicolumn{{{width + 1}}}{{l}}{{\emph{{{latex_escape(title)}}}}} \\")
        for row in rows:
            texts = [
                rf"\textbf{{{latex_escape(c.text)}}}" if c.best else latex_escape(c.text)
                for c in row.cells
            ]
            lines.append(f"    {latex_escape(row.title)} & {' & '.join(texts)} \\\\")
    lines += [r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def to_html(table: Table) -> str:
    """An HTML table in a panel that scrolls sideways where the page is narrow."""
    first = '<th rowspan="2"></th>' if any(table.columns) else "<th></th>"
    named = any(title for title, _ in table.groups)
    head = ""
    if named:
        groups = "".join(
            f'<th class="group" colspan="{count}">{escape(title)}</th>'
            for title, count in table.groups
        )
        head += f"<tr>{first}{groups}</tr>"
    if any(table.columns):
        lead = "" if named else "<th></th>"
        head += f"<tr>{lead}{''.join(f'<th>{escape(c)}</th>' for c in table.columns)}</tr>"
    starts = set(accumulate((count for _, count in table.groups), initial=0))
    width = sum(count for _, count in table.groups) + 1
    body = []
    for title, rows in table.sections:
        body.append(
            f'<tr class="section"><th colspan="{width}"><span>{escape(title)}</span></th></tr>'
        )
        for row in rows:
            cells = "".join(
                _html_cell(cell.text, cell.note, cell.best, i in starts)
                for i, cell in enumerate(row.cells)
            )
            kind = ' class="columns"' if row.head else ""
            body.append(f'<tr{kind}><th scope="row">{escape(row.title)}</th>{cells}</tr>')
    return (
        f'<div class="panel compare" id="table-{table.name}"><table><thead>{head}</thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _html_cell(text: str, note: str, best: bool, starts: bool) -> str:
    kinds = [kind for kind, holds in (("best", best), ("first", starts)) if holds]
    attribute = f' class="{" ".join(kinds)}"' if kinds else ""
    more = f"<small>{escape(note)}</small>" if note else ""
    return f"<td{attribute}>{escape(text)}{more}</td>"


def document(tables: Sequence[Table], title: str, facts: Sequence[str]) -> str:
    """All tables as one Markdown text."""
    parts = [f"# {_md(title)}", *facts, *map(to_markdown, tables)]
    return "\n\n".join(parts) + "\n"


def latex_document(tables: Sequence[Table], title: str) -> str:
    """All tables as LaTeX, to be taken into a document that loads booktabs."""
    comment = " ".join(title.split())
    return "\n".join([f"% {comment}: needs \\usepackage{{booktabs}}", *map(to_latex, tables)])
