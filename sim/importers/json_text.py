"""JSON values in text of other tools: what stands before the first, and after the last, is skipped."""

from __future__ import annotations

import json
import re
from typing import Any

from sim.inputs.config import InputError


def json_values(content: bytes, source: str) -> list[Any]:
    """The objects and lists that follow one another in `content`, at least one.

    Raises:
        InputError: of `source`: the first is no JSON, or is cut off.
    """
    text = content.decode("utf-8-sig", errors="replace")
    decoder = json.JSONDecoder()
    values: list[Any] = []
    place = 0
    while (found := re.compile(r"\s*" if values else r"[^{\[]*").match(text, place)) is not None:
        place = found.end()
        if text[place : place + 1] not in ("{", "["):
            break
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", 0)) + 1
            problem = getattr(error, "msg", "is nested too deeply, or has too long a number")
            raise InputError(source, "", f"line {line}: is not JSON: {problem}; is it cut off?") from None
        values.append(value)
    if not values:
        raise InputError(source, "", "has no JSON: no { or [ begins a value")
    return values
