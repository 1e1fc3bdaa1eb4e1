"""Output of nccl-tests and rccl-tests: times of collectives by size.

Versions differ in their columns: without a root, without a reduction, with or without an in-place half. What a row
means is told by its own numbers: its algorithm bandwidth is its size over its time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from sim.importers.text_lines import Line, at, lines_of, unpacked
from sim.inputs.config import InputError
from sim.inputs.other_formats import refuse_other
from sim.program import CollectiveKind

KINDS: dict[str, CollectiveKind] = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "sendrecv": "send_recv",
}
"""Tests whose times a profile holds."""

_OTHERS = ("broadcast", "reduce", "gather", "scatter", "hypercube", "alltoallv")
_SIZES = {
    **dict.fromkeys(("int8", "uint8", "char", "fp8_e4m3", "fp8_e5m2", "f8e4m3", "f8e5m2"), 1),
    **dict.fromkeys(("half", "bfloat16", "fp16", "bf16"), 2),
    **dict.fromkeys(("int32", "uint32", "int", "float"), 4),
    **dict.fromkeys(("int64", "uint64", "double"), 8),
}
_NAME = re.compile(
    r"\b(all_reduce|all_gather|reduce_scatter|alltoallv?|sendrecv|broadcast|reduce|gather|scatter|hypercube)_perf"
)
_RANK = re.compile(r"#\s*Rank\s+(\d+)\b.*?\bon\s+(\S+)\s+device\s+(\d+)\s*(?:\[[^\]]*\])?\s*(.*)")
_ROW = re.compile(r"\s*(\d{1,15})\s+(\d{1,15})\s+([a-z]\w*)\s+(.*\d.*)$")
_SHORT = re.compile(r"\s*(\d{1,15})((?:\s+\d[\d.e+]*){3})\s*$")


class Timed(NamedTuple):
    """A row: bytes of the buffer, elements, type and reduction; s and bus over algorithm bandwidth by half."""

    line: Line
    size: int
    elements: int
    dtype: str
    redop: str
    root: int
    out_of_place: float | None
    in_place: float | None
    ratio: float
    wrong: bool


class Run(NamedTuple):
    """One test: its kind, ranks, and times (s) by bytes of the buffer on a rank, ascending."""

    kind: CollectiveKind
    ranks: int
    times: dict[int, float]
    remarks: tuple[str, ...]
    gpu: str
    source: str


class _Section(NamedTuple):
    name: str
    ranks: dict[int, tuple[str, str]]
    rows: list[Timed]
    has_root: bool
    line: Line


def read_nccl_tests(
    lines: Sequence[Line], source: str, kind: str | None = None, ranks: int | None = None, in_place: bool = False
) -> list[Run]:
    """The tests in one output. `kind` and `ranks` say what it does not.

    Raises:
        InputError: of `source`: no rows, a row that is cut off or does not add up, or a test that no profile holds.
    """
    sections = [section for section in _sections(lines, source) if section.rows]
    if not sections:
        raise InputError(source, "", "has no row of nccl-tests (size, count, type, time, algbw, busbw)")
    runs = []
    refused = []
    for section in sections:
        name = kind or section.name or _inferred(section, source, ranks)
        if name not in KINDS and name not in get_args(CollectiveKind):
            problem = f"is {name}_perf, of which a profile has no times: it holds {', '.join(KINDS)}"
            refused.append(at(section.line, problem))
            continue
        runs.append(_run(section, KINDS.get(name, name), source, ranks, in_place))  # type: ignore[arg-type]
    if not runs:
        raise InputError(source, "", refused[0])
    if refused:
        runs[0] = runs[0]._replace(remarks=(*runs[0].remarks, *(f"{source}: left out: {said}" for said in refused)))
    return runs


def _sections(lines: Sequence[Line], source: str) -> list[_Section]:
    """Parts of an output: a new one begins with a test's name, its settings, or its table's head after rows."""
    first = lines[0] if lines else Line(1, "")
    sections = [_Section("", {}, [], True, first)]
    short = False
    for line in lines:
        current = sections[-1]
        named = _NAME.search(line.text)
        begins = re.match(r"\s*# (?:nThread\b|Collective test starting|nccl-tests version)", line.text) is not None
        if (
            (named or begins)
            and "concluded" not in line.text
            and (current.rows or (named and current.name not in ("", named[1])))
        ):
            sections.append(_Section("", {}, [], True, line))
            current = sections[-1]
        if named and "concluded" not in line.text:
            sections[-1] = current._replace(name=named[1], line=line)
        elif (rank := _RANK.search(line.text)) is not None:
            current.ranks[int(rank[1])] = (rank[2], rank[4].strip())
        elif "algbw" in line.text and "size" in line.text:
            short = "count" not in line.text
            sections[-1] = current._replace(has_root="root" in line.text)
        elif (row := _row(line, short, source)) is not None:
            current.rows.append(row)
    return sections


def _row(line: Line, short: bool, source: str) -> Timed | None:
    if line.text.lstrip().startswith("#"):
        return None
    if short and (match := _SHORT.match(line.text)) is not None:
        size, count, dtype, words = int(match[1]), 0, "", match[2].split()
    elif (match := _ROW.match(line.text)) is not None and match[3] in _SIZES:
        size, count, dtype, words = int(match[1]), int(match[2]), match[3], match[4].split()
    else:
        return None
    redop = words.pop(0) if words and re.fullmatch(r"[a-z]\w*", words[0]) else ""
    for root, width, halves in ((1, 4, 2), (0, 4, 2), (1, 4, 1), (0, 4, 1), (1, 3, 2), (0, 3, 2), (1, 3, 1), (0, 3, 1)):
        if len(words) != root + width * halves or (root and re.fullmatch(r"-?\d+", words[0]) is None):
            continue
        found = [_half(words[root + width * half :][:width], size) for half in range(halves)]
        if all(one is None for one in found):
            continue
        whole = [one for one in found if one is not None]
        wrong = width == 4 and any(re.fullmatch(r"[1-9]\d*", words[root + width * half + 3]) for half in range(halves))
        out = found[0][0] if found[0] is not None else None
        inside = found[1][0] if halves == 2 and found[1] is not None else None
        return Timed(line, size, count, dtype, redop, int(words[0]) if root else -1, out, inside, whole[-1][1], wrong)
    if size == 0:
        return None
    problem = "is cut off, or does not add up: algbw is not size / time"
    raise InputError(source, "", at(line, f"{problem}: {line.text.strip()[:90]!r}"))


def _half(words: Sequence[str], size: int) -> tuple[float, float] | None:
    """(s, busbw / algbw) of one half of a row; None if they do not add up or are not there."""
    try:
        micros, algorithm, bus = (float(word) for word in words[:3])
    except ValueError:
        return None
    if not 0 < micros < 1e12 or not 0 <= algorithm < 1e7:
        return None
    if abs(algorithm - size / micros * 1e-3) > max(0.0101, 0.02 * algorithm):
        return None
    return micros * 1e-6, bus / algorithm if algorithm >= 0.1 else 0.0


def _ratio(section: _Section) -> float:
    """Bus over algorithm bandwidth, of the row where rounding matters least."""
    return max(section.rows, key=lambda row: row.size).ratio


def _inferred(section: _Section, source: str, ranks: int | None) -> str:
    """The test's name, where the output does not say it. Raises InputError where two could have these rows."""
    row = max(section.rows, key=lambda row: row.size)
    ratio = _ratio(section)
    count = ranks or len(section.ranks)
    if row.root >= 0:
        return "reduce" if row.redop not in ("", "none") else "broadcast"
    if ratio > 1.01:
        return "all_reduce"
    if 0 < ratio < 0.99 and row.redop not in ("", "none"):
        return "reduce_scatter"
    if ratio >= 0.99 and count == 2 and row.redop not in ("", "none"):
        return "all_reduce"
    could = "all_gather or alltoall" if 0 < ratio < 0.99 else "all_reduce, sendrecv or another"
    raise InputError(source, "", at(row.line, f"no line says which test this is, and it could be {could}: give --kind"))


def _run(section: _Section, kind: CollectiveKind, source: str, given: int | None, in_place: bool) -> Run:
    remarks = []
    listed, implied = len(section.ranks), _implied(kind, section)
    hosts = sorted({host for host, _ in section.ranks.values()})
    if len(hosts) > 1:
        problem = f"ran on {len(hosts)} hosts ({', '.join(hosts[:3])}): expected the GPUs of one"
        raise InputError(source, "", at(section.line, problem))
    ranks = given or listed or implied
    if ranks is None:
        raise InputError(source, "", at(section.line, "no line says how many ranks there were: give --ranks"))
    if implied is not None and implied != ranks and (implied < 17 or ranks < 17):
        told = "--ranks" if given else "the list of ranks"
        problem = f"has rates of {kind} on {implied} ranks, but {told} says {ranks}"
        raise InputError(source, "", at(section.rows[-1].line, problem))
    if ranks < 2:
        raise InputError(source, "", at(section.line, "ran on one rank: collectives of at least 2 are times of links"))
    if not given and not listed:
        remarks.append(f"{source}: {ranks} ranks, by busbw / algbw of {kind}")
    times: dict[int, list[float]] = {}
    for row in section.rows:
        first, second = (row.in_place, row.out_of_place) if in_place else (row.out_of_place, row.in_place)
        seconds = first if first is not None else second
        if seconds is not None and row.size > 0 and not row.wrong:
            times.setdefault(row.size, []).append(seconds)
    if wrong := sum(row.wrong for row in section.rows):
        remarks.append(f"{source}: {wrong} rows with wrong results are left out")
    if not times:
        raise InputError(source, "", at(section.line, "has no row with right results"))
    gpu = next((name for _, name in section.ranks.values() if name), "")
    return Run(kind, ranks, {s: sorted(t)[len(t) // 2] for s, t in sorted(times.items())}, tuple(remarks), gpu, source)


def _implied(kind: CollectiveKind, section: _Section) -> int | None:
    """Ranks by bus over algorithm bandwidth: 2 (n - 1) / n of an all-reduce, (n - 1) / n of the others."""
    ratio = _ratio(section)
    if kind == "send_recv" or ratio <= 0:
        return None
    share = ratio / 2 if kind == "all_reduce" else ratio
    if not 0.4 < share < 0.985:
        return None
    count = 1 / (1 - share)
    return round(count) if abs(count - round(count)) < 0.25 else None


def read_file(file: Path, kind: str | None = None, ranks: int | None = None, in_place: bool = False) -> list[Run]:
    """The tests in a file, named without its folder. Raises InputError."""
    content = unpacked(file)
    refuse_other(content, str(file), "nccl-tests")
    runs = read_nccl_tests(lines_of(content, str(file)), str(file), kind, ranks, in_place)
    return [run._replace(source=file.name) for run in runs]


def check_kind(kind: str | None) -> None:
    """Refuse a value of --kind that is no test's name. Raises InputError."""
    if kind is not None and kind not in (*KINDS, *get_args(CollectiveKind), *_OTHERS):
        raise InputError("--kind", "", f"is {kind!r}, expected one of {', '.join(KINDS)}")
