"""Self-contained HTML reports: one file with plotly.js, styles and data inlined, which asks the network for nothing.

A content security policy in the page makes that a fact that the browser enforces. The plots follow the reader's
light or dark preference together with the rest of the page.
"""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Literal, NamedTuple

from sim.report.assets import DRAW, PAGE, SORT, STYLE
from sim.report.theme import FONT, TEMPLATES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class Badge(NamedTuple):
    """A cell whose word is to be seen at once."""

    text: str
    tone: Literal["good", "fair", "bad", "plain"]


Cell = str | int | float | Badge


class Table(NamedTuple):
    """Rows under headers. A column of numbers, also of text such as "39.7 ms" or "-0.3 %", is right-aligned.

    A sortable table scrolls within the page, and has a field to filter its rows by words.
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    sortable: bool = False


class Panel(NamedTuple):
    """A drawing under its title, with notes below. The drawing is SVG, taken as it is, at least `width` px wide."""

    title: str
    svg: str
    notes: Sequence[str]
    width: float


class Panels(NamedTuple):
    """Drawings side by side as far as there is room, under a legend, SVG too."""

    panels: Sequence[Panel]
    legend: str = ""


class Section(NamedTuple):
    """A part of a page: its title, paragraphs (parted by blank lines) and a figure, a table or preformatted text.

    One that is `under` the one before it has a smaller title, which is not among the contents.
    """

    title: str
    text: str
    body: Figure | Table | Panels | str | None = None
    under: bool = False


def page(title: str, subtitle: str, sections: Sequence[Section], facts: Mapping[str, str], *, style: str = "") -> str:
    """The HTML of a report. `facts` are shown in a strip on top, `style` is more CSS; all text given is escaped."""
    scripts = [_plots()] if any(_is_figure(s.body) for s in sections) else []
    if any(isinstance(s.body, Table) and s.body.sortable for s in sections):
        scripts.append(SORT)
    return PAGE.format(
        title=escape(title),
        subtitle=escape(subtitle),
        style=STYLE.replace("$FONT", FONT) + style,
        facts="".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()),
        contents=_contents(sections),
        sections="\n".join(_section(i, s) for i, s in enumerate(sections)),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def _contents(sections: Sequence[Section]) -> str:
    """Links to the sections, where there are enough to get lost in."""
    listed = [(i, s.title) for i, s in enumerate(sections) if not s.under]
    if len(listed) < 3:
        return ""
    links = "".join(f'<li><a href="#s{i}">{escape(title)}</a></li>' for i, title in listed)
    return f'<nav aria-label="Contents"><ol>{links}</ol></nav>'


def _section(number: int, section: Section) -> str:
    paragraphs = "".join(f"<p>{escape(p)}</p>" for p in re.split(r"\n\s*\n", section.text.strip()) if p)
    level = "h3" if section.under else "h2"
    kind = ' class="under"' if section.under else ""
    head = f'<section id="s{number}"{kind}><{level}>{escape(section.title)}</{level}>{paragraphs}'
    body = section.body
    if body is None:
        return f"{head}</section>"
    if isinstance(body, Table) and body.sortable:
        return (
            f'{head}<input type="search" placeholder="Filter, such as: yielding 16 MiB" aria-label="Filter rows">'
            f'<div class="card wide tall">{_table(body)}</div></section>'
        )
    if isinstance(body, Table):
        return f'{head}<div class="card wide">{_table(body)}</div></section>'
    if isinstance(body, Panels):
        return f'{head}{body.legend}<div class="panels">{"".join(map(_panel, body.panels))}</div></section>'
    if isinstance(body, str):
        return f'{head}<div class="card wide"><pre>{escape(body)}</pre></div></section>'
    height = int(body.layout.height or 450)
    return (
        f'{head}<div class="card"><div class="plot" role="img" aria-label="{escape(section.title)}" '
        f'style="height:{height}px"></div><script type="application/json">{_figure_json(body)}</script></div></section>'
    )


def _panel(panel: Panel) -> str:
    title = f"<h3>{escape(panel.title)}</h3>" if panel.title else ""
    notes = "".join(f"<p>{escape(note)}</p>" for note in panel.notes)
    drawn = f'<div class="drawn">{panel.svg}</div><figcaption>{notes}</figcaption>'
    return f'<figure class="card" style="flex-basis:{panel.width + 32:.0f}px">{title}{drawn}</figure>'


def _is_figure(body: object) -> bool:
    return body is not None and not isinstance(body, Table | Panels | str)


def _figure_json(figure: Figure) -> str:
    """The figure as JSON without its template, which the page supplies to suit the reader."""
    plain = json.loads(figure.to_json())
    plain["layout"].pop("template", None)
    return _in_script(plain)


def _in_script(data: object) -> str:
    """JSON that cannot end the script element it is in."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _table(table: Table) -> str:
    numeric = [all(_is_number(row[i]) for row in table.rows) for i in range(len(table.headers))]
    words = [
        any(isinstance(cell := row[i], str) and len(cell) > _LONG for row in table.rows) for i in range(len(numeric))
    ]
    classes = [
        ' class="n"' if n and table.rows else ' class="t"' if long and i else ""
        for i, (n, long) in enumerate(zip(numeric, words, strict=True))
    ]
    shown = ("<button>{}</button>" if table.sortable else "{}").format
    head = "".join(f"<th{c}>{shown(escape(h))}</th>" for c, h in zip(classes, table.headers, strict=True))
    rows = (
        "<tr>" + "".join(f"<td{c}>{_shown(v)}</td>" for c, v in zip(classes, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    kind = ' class="sortable"' if table.sortable else ""
    return f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


_LONG = 44
"""Characters of a cell from which on its column's text is wrapped."""
_NUMBER = re.compile(r"([-+\u2212\u2013\u2014]|[-+\u2212]?\d[\d.,]*(e[-+]?\d+)?( ?%| ?[^\W\d]\S*)?)?")


def _is_number(cell: Cell) -> bool:
    """Also for an empty cell or a dash: there is no number where others have one."""
    if isinstance(cell, Badge):
        return False
    return not isinstance(cell, str) or _NUMBER.fullmatch(cell) is not None


def _shown(cell: Cell) -> str:
    if isinstance(cell, Badge):
        return f'<span class="badge {cell.tone}">{escape(cell.text)}</span>'
    return escape(cell) if isinstance(cell, str) else f"{cell:,d}" if isinstance(cell, int) else f"{cell:.5g}"


@cache
def _plots() -> str:
    from plotly.offline import get_plotlyjs

    packed = b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
    return DRAW.replace("$TEMPLATES", _in_script(TEMPLATES)).replace("$PLOTLY", packed)
