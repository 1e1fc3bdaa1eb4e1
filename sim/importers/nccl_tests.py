"""Output of nccl-tests and rccl-tests: times of collectives by size.

Versions differ in their columns: without a root, without a reduction, with or without an in-place half, with figures of
each iteration, with a time of day. What a row means is told by its own numbers: its algorithm bandwidth is its size
over its time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from sim.importers.nccl_runs import CPU_TIMES, Rank, Run, Section, Timed, runs_of
from sim.importers.nccl_tests_json import read_nccl_tests_json
from sim.importers.text_lines import Line, at, lines_of, unpacked
from sim.inputs.config import InputError
from sim.inputs.other_formats import refuse_other

_TYPES = re.compile(r"u?int(?:8|32|64)?|u?char|fp?8_?e[45]m[23]\w*|half|b?float(?:16)?|bf16|fp16|double")
_NAME = re.compile(
    r"\b(all_reduce|all_gather|reduce_scatter|alltoallv?|sendrecv|broadcast|reduce|gather|scatter|hypercube)_perf"
)
_BUILD = re.compile(r"^\s*(?:Linking|Compiling|make\b|\S*nvcc\b|\S*g\+\+ )|\.(?:o|cu|cc)\b")
"""Lines of a build, which name tests that do not run."""
_RANK = re.compile(r"#\s*Rank\s+(\d+)\b(?:\s+Group\s+(\d+))?.*?\bon\s+(\S+)\s+device\s+(\d+)\s*(?:\[[^\]]*\])?\s*(.*)")
_PROCESS = re.compile(r"nThreads?:? (\d+) nGpus:? (\d+)\b")
_ROW = re.compile(r"\s*(\d{1,15})\s+(\d{1,15})\s+([a-z]\w*)\s+(.*\d.*)$")
_SHORT = re.compile(r"\s*(\d{1,15})((?:\s+\d[\d.e+]*){3})\s*$")
_DAYTIME = re.compile(r"\s+\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?$")
_HALVES = [(root, width, halves) for width, halves, root in product((4, 8, 3), (2, 1), (1, 0))]
"""Whether a row has a root, how many words each half has (time, algbw, busbw, wrong results, four of iterations)."""


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
    return runs_of(sections, source, kind, ranks, in_place)


def _sections(lines: Sequence[Line], source: str) -> list[Section]:
    """Parts of an output: a new one begins with a test's name, its settings, or its table's head after rows."""
    sections = [Section("", {}, [], f"line {lines[0].number if lines else 1}")]
    short = False
    for line in lines:
        current = sections[-1]
        name = _named(line.text)
        begins = re.match(r"\s*# (?:nThread\b|Collective test starting|n?r?ccl-tests version)", line.text) is not None
        if (name or begins) and (current.rows or (name and current.name not in ("", name))):
            sections.append(Section("", {}, [], f"line {line.number}"))
            current = sections[-1]
        if name:
            current = sections[-1] = current._replace(name=name, where=f"line {line.number}")
        if (process := _PROCESS.search(line.text)) is not None:
            sections[-1] = current._replace(supposed=min(int(process[1]) * int(process[2]), 1024))
        elif (rank := _RANK.search(line.text)) is not None:
            current.ranks[int(rank[1])] = Rank(rank[3], rank[5].strip(), int(rank[2] or 0))
        elif "algbw" in line.text and "size" in line.text:
            short = "count" not in line.text
            if "cputime" in line.text:
                raise InputError(source, "", at(line, CPU_TIMES))
        elif (row := _row(line, short, source)) is not None:
            current.rows.append(row)
    return sections


def _named(text: str) -> str:
    """The test that a line says is run; "" if none, or several, as lists of programs do."""
    names = set(_NAME.findall(text))
    return names.pop() if len(names) == 1 and "concluded" not in text and not _BUILD.search(text) else ""


def _row(line: Line, short: bool, source: str) -> Timed | None:
    if line.text.lstrip().startswith("#"):
        return None
    text = _DAYTIME.sub("", line.text)
    if short and (match := _SHORT.match(text)) is not None:
        size, words = int(match[1]), match[2].split()
    elif (match := _ROW.match(text)) is not None and _TYPES.fullmatch(match[3]):
        size, words = int(match[1]), match[4].split()
    else:
        return None
    redop = words.pop(0) if words and re.fullmatch(r"[a-z]\w*", words[0]) else ""
    for root, width, halves in _HALVES:
        if len(words) != root + width * halves or (root and re.fullmatch(r"-?\d+", words[0]) is None):
            continue
        found = [_half(words[root + width * half :][:width], size) for half in range(halves)]
        whole = [one for one in found if one is not None]
        if not whole:
            continue
        wrong = width >= 4 and any(re.fullmatch(r"[1-9]\d*", words[root + width * half + 3]) for half in range(halves))
        out = found[0][0] if found[0] is not None else None
        inside = found[1][0] if halves == 2 and found[1] is not None else None
        place = int(words[0][:9]) if root else -1
        unchecked = width >= 4 and halves == 2 and words[-1] == "N/A" != words[root + 3]
        return Timed(f"line {line.number}", size, redop, place, out, inside, whole[-1][1], wrong, unchecked)
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


def read_file(file: Path, kind: str | None = None, ranks: int | None = None, in_place: bool = False) -> list[Run]:
    """The tests in a file, text or JSON, named without its folder. Raises InputError."""
    content = unpacked(file)
    refuse_other(content, str(file), "nccl-tests")
    if content.lstrip()[:1] in (b"{", b"["):
        runs = read_nccl_tests_json(content, str(file), kind, ranks, in_place)
    else:
        runs = read_nccl_tests(lines_of(content, str(file)), str(file), kind, ranks, in_place)
    return [run._replace(source=file.name) for run in runs]
