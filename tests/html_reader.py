"""What a browser would make of a page."""

from __future__ import annotations

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Collects what a browser would load, and all text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.data: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [v for k, v in attrs if k in ("src", "href", "srcset", "action") and v]
        if tag == "script" and ("type", "application/json") in attrs:
            self.tags[-1] = "data"

    def handle_data(self, data: str) -> None:
        (self.data if self.tags and self.tags[-1] == "data" and data.strip() else self.text).append(data)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


def table_rows(source: str, title: str) -> int:
    """How many rows, but the header, the table of the section of this title has."""
    section = source[source.index(f">{title}</h2>") :]
    return section[: section.index("</section>")].partition("<tbody>")[2].count("<tr>")
