"""Text that came from files, made harmless where it goes: names and descriptions are data, never instructions.

A terminal obeys escape sequences, and a spreadsheet runs cells that begin like a formula.
"""

from __future__ import annotations

import re
import unicodedata

_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""How cells begin that spreadsheets evaluate; the last four are the full-width forms of the first four."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|nan)", re.ASCII)

_UNSHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of what is not a letter: controls, formats (which also reverse text), surrogates, separators."""


def printable(text: str) -> str:
    """`text` with control characters as the escapes that Python writes, such as `\\x1b`; line ends and tabs stay.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if c not in "\n\t" and unicodedata.category(c) in _UNSHOWN else c
        for c in text
    )


def csv_cell(value: object) -> str:
    """`value` as a cell of a CSV file: a quote before what a spreadsheet would evaluate; true and false as in JSON.

    >>> csv_cell("=1+1"), csv_cell("-5"), csv_cell(True)
    ("'=1+1", '-5', 'true')
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def csv_text(cell: str) -> str:
    """The text that `csv_cell` made `cell` of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
