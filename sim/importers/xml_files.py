"""XML of other tools, read with care: no entities, bounded depth and number of elements, one message for a fault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.inputs.config import InputError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_DEPTH = 100
MAX_ELEMENTS = 300_000
"""More than any file of these tools has."""
_PIECE = 2**16


def parse_xml(content: bytes, source: str, tool: str) -> Element:
    """The root of a file of `tool`.

    Raises:
        InputError: of `source`: it is not XML, defines entities, is nested too deeply or has too many elements.
    """
    from xml.etree import ElementTree

    if b"<!ENTITY" in content:
        raise InputError(source, "", f"defines entities, which no file of {tool} does")
    parser: Any = ElementTree.XMLPullParser(["start", "end"])
    root: Any = None
    depth = count = 0
    try:
        for start in range(0, len(content), _PIECE):
            parser.feed(content[start : start + _PIECE])
            for event, element in parser.read_events():
                root = element if root is None else root
                depth, count = (depth + 1, count + 1) if event == "start" else (depth - 1, count)
                if depth > MAX_DEPTH:
                    raise InputError(source, "", "is nested too deeply")
                if count > MAX_ELEMENTS:
                    raise InputError(source, "", f"has more than {MAX_ELEMENTS} elements")
        parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        line = getattr(error, "position", (0, 0))[0]
        raise InputError(source, "", (f"line {line}: " if line else "") + f"is not XML: {error}") from None
    assert root is not None
    return root  # type: ignore[no-any-return]
