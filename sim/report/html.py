"""Self-contained HTML reports: one file with plotly.js, styles and data inlined, which asks the network for nothing.

A content security policy in the page makes that a fact that the browser enforces. The plots follow the reader's
light or dark preference together with the rest of the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

from sim.report.theme import FONT, TEMPLATES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Cell = str | int | float


class Table(NamedTuple):
    """Rows under headers. A column of numbers, also of text such as "39.7 ms" or "-0.3 %", is right-aligned."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]


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
    """A part of a page: its title, paragraphs (parted by blank lines) and a figure, a table or preformatted text."""

    title: str
    text: str
    body: Figure | Table | Panels | str | None = None


def page(title: str, subtitle: str, sections: Sequence[Section], facts: Mapping[str, str], *, style: str = "") -> str:
    """The HTML of a report. `facts` are shown in a strip on top, `style` is more CSS; all text given is escaped."""
    plots = any(_is_figure(s.body) for s in sections)
    return _PAGE.format(
        title=escape(title),
        subtitle=escape(subtitle),
        style=_STYLE.replace("$FONT", FONT) + style,
        facts="".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()),
        contents=_contents(sections),
        sections="\n".join(_section(i, s) for i, s in enumerate(sections)),
        scripts=_scripts() if plots else "",
    )


def _contents(sections: Sequence[Section]) -> str:
    """Links to the sections, where there are enough to get lost in."""
    if len(sections) < 3:
        return ""
    links = "".join(f'<li><a href="#s{i}">{escape(s.title)}</a></li>' for i, s in enumerate(sections))
    return f'<nav aria-label="Contents"><ol>{links}</ol></nav>'


def _section(number: int, section: Section) -> str:
    paragraphs = "".join(f"<p>{escape(p)}</p>" for p in re.split(r"\n\s*\n", section.text.strip()) if p)
    head = f'<section id="s{number}"><h2>{escape(section.title)}</h2>{paragraphs}'
    body = section.body
    if body is None:
        return f"{head}</section>"
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
    classes = [' class="n"' if n and table.rows else "" for n in numeric]
    head = "".join(f"<th{c}>{escape(h)}</th>" for c, h in zip(classes, table.headers, strict=True))
    rows = (
        "<tr>" + "".join(f"<td{c}>{escape(_shown(v))}</td>" for c, v in zip(classes, row, strict=True)) + "</tr>"
        for row in table.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


_NUMBER = re.compile(r"([-+\u2212\u2013\u2014]|[-+\u2212]?\d[\d.,]*(e[-+]?\d+)?( ?%| ?[^\W\d]\S*)?)?")


def _is_number(cell: Cell) -> bool:
    """Also for an empty cell or a dash: there is no number where others have one."""
    return not isinstance(cell, str) or _NUMBER.fullmatch(cell) is not None


def _shown(cell: Cell) -> str:
    return cell if isinstance(cell, str) else f"{cell:,d}" if isinstance(cell, int) else f"{cell:.5g}"


def _scripts() -> str:
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>\n<script>{_DRAW.replace('$TEMPLATES', _in_script(TEMPLATES))}</script>"


# A figure is drawn when it comes near the viewport: pages with many large timelines open at once. On touch screens a
# drag scrolls the page instead of zooming.
_DRAW = """
const templates = $TEMPLATES;
const dark = matchMedia("(prefers-color-scheme: dark)"), printing = matchMedia("print");
const config = {responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  displayModeBar: matchMedia("(hover: hover)").matches && "hover", toImageButtonOptions: {format: "svg"},
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};
const drawn = new Set();
function draw(plot) {
  const figure = JSON.parse(plot.nextElementSibling.textContent);
  figure.layout.template = templates[dark.matches && !printing.matches ? "dark" : "light"];
  if (matchMedia("(pointer: coarse)").matches) figure.layout.dragmode = false;
  drawn.add(plot);
  return Plotly.react(plot, figure.data, figure.layout, config);
}
const plots = [...document.querySelectorAll(".plot")];
const near = new IntersectionObserver(entries => entries.forEach(e => {
  if (e.isIntersecting) { near.unobserve(e.target); draw(e.target); }
}), {rootMargin: "1000px"});
plots.forEach(plot => near.observe(plot));
dark.addEventListener("change", () => drawn.forEach(draw));
printing.addEventListener("change", () => plots.forEach(draw));
"""

_STYLE = """
:root { color-scheme: light dark; --page: #f7f8f9; --card: #fff; --text: #1f2430; --dim: #59616d; --line: #e1e4e8;
  --link: #2358c8; --stripe: #f7f8f9; }
@media (prefers-color-scheme: dark) { :root { --page: #12161b; --card: #181d23; --text: #e4e7ec; --dim: #a2abb8;
  --line: #2a313b; --link: #8ab0ff; --stripe: #1c2229; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 1rem; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 $FONT;
  font-feature-settings: "calt" 0; }
header, .frame { max-width: 1320px; margin: 0 auto; padding: 0 2rem; }
header { padding-top: 2.25rem; }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 0.35rem; font-weight: 650;
  overflow-wrap: anywhere; }
.subtitle { color: var(--dim); margin: 0; max-width: 46rem; }
dl { display: flex; flex-wrap: wrap; gap: 0.7rem 2.25rem; margin: 1.4rem 0 0; padding: 0.85rem 0;
  border: solid var(--line); border-width: 1px 0; }
dl div { min-width: 0; }
dt { color: var(--dim); font-size: 0.75rem; }
dd { margin: 0; font-size: 0.875rem; font-weight: 550; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.frame { display: flex; gap: 2.5rem; align-items: flex-start; padding-bottom: 4rem; }
main { flex: 1; min-width: 0; }
nav { position: sticky; top: 0; flex: 0 0 11.5rem; padding-top: 2.4rem; max-height: 100vh; overflow-y: auto; }
nav ol { list-style: none; margin: 0; padding: 0; border-left: 1px solid var(--line); }
nav a { display: block; padding: 0.28rem 0 0.28rem 0.9rem; color: var(--dim); font-size: 0.8125rem; line-height: 1.35;
  text-decoration: none; }
nav a:hover, nav a:focus-visible { color: var(--link); }
section { padding-top: 2rem; }
h2 { font-size: 1.2rem; line-height: 1.3; letter-spacing: -0.01em; margin: 0 0 0.3rem; font-weight: 620; }
p { margin: 0 0 0.7rem; max-width: 46rem; color: var(--dim); font-size: 0.9375rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.9rem 0.9rem 0.4rem;
  margin-top: 0.9rem; }
.wide { overflow-x: auto; padding: 0; }
pre { margin: 0; padding: 1rem 1.1rem; font: 0.8125rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
table { border-collapse: collapse; width: 100%; font-size: 0.875rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 550; color: var(--dim); font-size: 0.8125rem; vertical-align: bottom; }
th, td { padding: 0.42rem 1.1rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
td:first-child { white-space: normal; min-width: 9rem; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: var(--stripe); }
.n { text-align: right; }
.plot { width: 100%; }
.panels { display: flex; flex-wrap: wrap; gap: 0 0.9rem; }
.panels figure { flex-grow: 1; min-width: 0; max-width: 100%; margin-bottom: 0; }
figure { margin: 0; }
figcaption p { font-size: 0.8125rem; margin: 0.4rem 0 0.5rem; }
h3 { font-size: 0.9375rem; font-weight: 600; margin: 0 0 0.5rem; }
.drawn { overflow-x: auto; }
.plot .modebar-container { top: -3rem !important; }
@media (max-width: 1000px) {
  .frame { display: block; }
  html { scroll-padding-top: 3.2rem; }
  nav { padding: 0; margin: 1rem -2rem 0; background: var(--page); border-bottom: 1px solid var(--line); z-index: 5; }
  nav ol { display: flex; gap: 1.25rem; overflow-x: auto; border: 0; padding: 0 2rem; scrollbar-width: none; }
  nav a { padding: 0.7rem 0; white-space: nowrap; }
}
@media (max-width: 600px) {
  header, .frame { padding-left: 1rem; padding-right: 1rem; }
  header { padding-top: 1.4rem; }
  h1 { font-size: 1.4rem; }
  dl { gap: 0.6rem 1.5rem; }
  nav { margin: 0.5rem -1rem 0; }
  nav ol { padding: 0 1rem; }
  .card { margin-left: -0.5rem; margin-right: -0.5rem; padding: 0.6rem 0.3rem 0.2rem; }
  .wide { padding: 0; }
  th, td { padding: 0.4rem 0.7rem; }
}
@media print { nav { display: none; } .card { break-inside: avoid; } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
 style-src 'unsafe-inline'; img-src data: blob:">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="subtitle">{subtitle}</p>
<dl>{facts}</dl>
</header>
<div class="frame">
{contents}
<main>
{sections}
</main>
</div>
{scripts}
</body>
</html>
"""
