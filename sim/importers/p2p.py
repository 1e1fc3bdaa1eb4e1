"""Output of p2pBandwidthLatencyTest (CUDA samples): which GPUs reach each other, how fast and how soon."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sim.importers.text_lines import Line, at, lines_of, unpacked
from sim.inputs.config import InputError
from sim.inputs.other_formats import refuse_other

MAX_VALUE = 1e7
"""Largest rate (GB/s) or time (us) that is read."""


class PeerRates(NamedTuple):
    """Matrices by title: rates in GB/s, times in us. Row: the GPU that a copy starts from, or writes."""

    gpus: tuple[str, ...]
    connected: list[list[bool]]
    """Whether a GPU may access another one; empty where it is not printed."""
    one_way: dict[bool, list[list[float]]]
    """With and without P2P."""
    both_ways: dict[bool, list[list[float]]]
    latency: dict[bool, list[list[float]]]
    """As the GPU sees it."""

    @property
    def width(self) -> int:
        """How many GPUs the matrices have."""
        return max(map(len, self.matrices()), default=0)

    def matrices(self) -> list[Sequence[Sequence[float]]]:
        """All that there are."""
        return [self.connected, *self.one_way.values(), *self.both_ways.values(), *self.latency.values()]


_TITLE = re.compile(
    r"(?P<kind>Unidirectional|Bidirectional)? ?P2P=(?P<on>Enabled|Disabled) (?P<what>Bandwidth|Latency)"
    r"|P2P Connectivity Matrix"
)


def read_p2p(lines: Sequence[Line], source: str) -> PeerRates:
    """The matrices of the test's output. Raises InputError of `source` for a row that is cut off, or none at all."""
    names = [found[1].strip() for line in lines if (found := re.match(r"\s*Device: \d+, (.*?), pciBusID", line.text))]
    rates = PeerRates(tuple(names), [], {}, {}, {})
    matrix: list[list[float]] | None = None
    title = ""
    columns = 0
    for line in lines:
        text = line.text.strip()
        if (found := _TITLE.search(text)) is not None:
            title, columns = text[:60], 0
            matrix = []
            if found["what"] is None:
                rates = rates._replace(connected=matrix)  # type: ignore[arg-type]
            else:
                kinds = {"Unidirectional": rates.one_way, "Bidirectional": rates.both_ways}
                held = rates.latency if found["what"] == "Latency" else kinds[found["kind"] or "Unidirectional"]
                held[found["on"] == "Enabled"] = matrix
        elif matrix is not None and re.match(r"(?:D\\D|GPU)\s+\d", text):
            columns = len(text.split()) - 1
        elif text.startswith("CPU"):
            matrix, columns = None, 0  # how the host sees the same times
        elif matrix is not None and columns and re.match(r"\d+\s", text):
            _add(matrix, columns, line, title, source)
    found_any = rates.matrices()
    if not any(found_any):
        raise InputError(source, "", "has no matrix of p2pBandwidthLatencyTest (`Unidirectional P2P=Enabled ...`)")
    for one in found_any:
        if one and len(one) != len(one[0]):
            raise InputError(source, "", f"a matrix has {len(one)} rows of {len(one[0])}: is it cut off?")
    counts = {len(one) for one in found_any if one}
    if len(counts) > 1:
        said = " and ".join(map(str, sorted(counts)))
        raise InputError(source, "", f"has matrices of {said} GPUs: are two outputs mixed?")
    connected = [[bool(value) for value in row] for row in rates.connected]
    return rates._replace(connected=connected)


def _add(matrix: list[list[float]], columns: int, line: Line, title: str, source: str) -> None:
    words = line.text.split()
    try:
        index, values = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        raise InputError(source, "", at(line, f"is no row of {title!r}")) from None
    if len(values) != columns:
        raise InputError(source, "", at(line, f"has {len(values)} of {columns} values of {title!r}: is it cut off?"))
    if any(not 0 <= value < MAX_VALUE for value in values):
        raise InputError(source, "", at(line, f"has a value that is no rate or time: {line.text.strip()[:60]!r}"))
    if index != len(matrix):
        raise InputError(
            source, "", at(line, f"is row {index} of {title!r}, expected {len(matrix)}: are rows missing?")
        )
    matrix.append(values)


def read_file(file: Path) -> PeerRates:
    """The output of p2pBandwidthLatencyTest in a file. Raises InputError."""
    content = unpacked(file)
    refuse_other(content, str(file), "p2p")
    return read_p2p(lines_of(content, str(file)), str(file))
