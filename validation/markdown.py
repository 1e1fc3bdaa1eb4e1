"""Markdown tables, and their places in documents."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

_PLACE = re.compile(
    r"<!-- table: (?P<name>[^\n]*?) -->\n(?P<table>.*?)\n?<!-- end of table -->",
    re.DOTALL,
)

_PICTURE = re.compile(r"!\[[^\]]*\]\((?P<file>[^)\s]+\.svg)\)")


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


def standing(text: str) -> Iterator[tuple[str, str]]:
    """(name, table) for each pair of markers in a document."""
    for match in _PLACE.finditer(text):
        yield match["name"], match["table"]


def pictures(documents: Mapping[Path, str]) -> set[Path]:
    """The drawings (SVG) that `documents` show."""
    return {path.parent / m["file"] for path, text in documents.items() for m in _PICTURE.finditer(text)}


def placed(documents: Mapping[Path, str], tables: Mapping[str, str]) -> dict[Path, str]:
    """`documents` with each table between its markers, wherever they are.

    Raises:
        ValueError: a table has no place in them, or several.
    """
    times = Counter(name for text in documents.values() for name, _ in standing(text))
    for name in tables:
        if times[name] != 1:
            raise ValueError(f"table {name} has {times[name]} places")

    def filled(place: re.Match[str]) -> str:
        content = tables.get(place["name"], place["table"])
        return f"<!-- table: {place['name']} -->\n{content}\n<!-- end of table -->"

    return {path: _PLACE.sub(filled, text) for path, text in documents.items()}


def differences(documents: Mapping[Path, str], tables: Mapping[str, str]) -> list[str]:
    """What sets `documents` apart from ones in which each of `tables`, and no other, stands once; a line each."""
    places = [(name, path, content) for path, text in documents.items() for name, content in standing(text)]
    times = Counter(name for name, _, _ in places)
    found = [f"table {name} has no place" for name in tables if name not in times]
    found += [f"table {name} has {n} places" for name, n in times.items() if n > 1]
    for name, path, content in places:
        if name not in tables:
            found.append(f"{path}: nothing makes table {name}")
        elif content != tables[name]:
            found.append(f"{path}: table {name} is not as made from the data today")
    return sorted(found)
