"""Text of other tools as numbered lines, without what terminals, mail and job launchers add."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import NamedTuple

from sim.inputs.config import InputError
from sim.inputs.input_files import MAX_BYTES, read_bytes

MAX_LINE = 4_000
"""Characters of a line that are read; no line of these formats has as many, but what logs print beside them may."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\x1b[=>()][AB0]?|[\x00\x07\x08]")
_LAUNCHER = re.compile(r"^(?:\[\d+,\d+\]<std(?:out|err)>:|\s*\d+: (?=\s*[#\d])|\d{4}-\d\d-\d\d[T ][\d:.,]+Z? )")
"""What mpirun, srun and log collectors put before each line of a rank."""
_QUOTED = re.compile(r"^(?:> ?){1,5}")
"""What mail and reports put before lines that they quote."""


class Line(NamedTuple):
    """A line of a file, counted from 1."""

    number: int
    text: str


def unpacked(file: Path) -> bytes:
    """The content of `file`, unpacked where it is packed with gzip. Raises InputError."""
    content = read_bytes(file)
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        inflater = zlib.decompressobj(wbits=31)
        content = inflater.decompress(content, MAX_BYTES + 1)
    except zlib.error as error:
        raise InputError(str(file), "", f"cannot be unpacked: {error}") from None
    if len(content) > MAX_BYTES:
        raise InputError(
            str(file), "", f"has more than {MAX_BYTES} bytes when unpacked, which are the most that are read"
        )
    return content


def lines_of(content: bytes, source: str) -> list[Line]:
    """Numbered lines of `content`. Raises InputError of `source` for what is no text."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", errors="replace")  # what PowerShell redirects
    else:
        if b"\x00" in content[:4096]:
            raise InputError(source, "", "is not a text file")
        text = content.decode("utf-8-sig", errors="replace")
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        lines.append(Line(number, _LAUNCHER.sub("", _QUOTED.sub("", _ESCAPES.sub("", line[:MAX_LINE]))).rstrip()))
    return lines


def at(line: Line, problem: str) -> str:
    """`problem` with the line that has it."""
    return f"line {line.number}: {problem}"
