"""Markdown tables, and their places in a document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> str:
    """A Markdown table whose first `words` columns hold words; the others hold numbers, at the right."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * words + "---:|" * (len(headers) - words)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def span(values: Iterable[float], form: str) -> str:
    """Least and most, as one number if they are written alike."""
    ordered = sorted(values)
    if not ordered:
        return ""
    least, most = form.format(ordered[0]), form.format(ordered[-1])
    return least if least == most else f"{least} to {most}"


def maybe(number: float | None, scale: float, form: str) -> str:
    """A number, or a dash where there is none."""
    return form.format(number * scale) if number is not None else "-"


def placed(text: str, tables: dict[str, str]) -> str:
    """`text` with each table between its markers. Raises ValueError if it has no place."""
    for name, content in tables.items():
        pattern = re.compile(rf"(<!-- table: {re.escape(name)} -->\n).*?(\n?<!-- end of table -->)", re.DOTALL)
        text, times = pattern.subn(lambda m, content=content: f"{m[1]}{content}\n<!-- end of table -->", text)  # type: ignore[misc]
        if times != 1:
            raise ValueError(f"table {name} has {times} places")
    return text


def standing(text: str) -> Iterator[tuple[str, str]]:
    """(name, table) for each pair of markers in a document."""
    for match in re.finditer(r"<!-- table: (.*?) -->\n(.*?)\n?<!-- end of table -->", text, re.DOTALL):
        yield match[1], match[2]
