"""HTML by which notebooks show results: small tables, everything in them escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

MAX_ROWS = 200
"""Rows of a table that a notebook is given; a line below says how many more there are."""


def html_table(caption: str, headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table under its caption."""
    all_rows = list(rows)
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in all_rows[:MAX_ROWS]
    )
    more = f"<p>{len(all_rows) - MAX_ROWS} more rows</p>" if len(all_rows) > MAX_ROWS else ""
    top = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
    return f"<table>{top}<tbody>{body}</tbody></table>{more}"


def html_text(caption: str, text: str) -> str:
    """Preformatted text under its caption."""
    return f"<p>{escape(caption)}</p><pre>{escape(text)}</pre>"
