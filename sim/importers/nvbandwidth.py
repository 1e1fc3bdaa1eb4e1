"""nvbandwidth's output, JSON and text of all its versions: matrices of rates by test."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sim.importers.json_text import json_values
from sim.importers.text_lines import Line, at, lines_of, unpacked
from sim.inputs.config import InputError
from sim.inputs.other_formats import refuse_other

MAX_RATE = 1e6
"""GB/s; no GPU moves as much."""


class Bandwidths(NamedTuple):
    """`tests[name]` is a test's matrix, GB/s, None where it has no value; `left_out` says which tests have none."""

    gpus: tuple[str, ...]
    """Names of the GPUs, as far as they are printed."""
    tests: dict[str, list[list[float | None]]]
    left_out: tuple[str, ...]
    version: str
    driver: str

    def row(self, name: str) -> list[float] | None:
        """Rates of one test between the host and each GPU, GB/s; None where it is not there or not whole."""
        matrix = self.tests.get(name)
        if matrix is None or len(matrix) != 1 or any(value is None for value in matrix[0]):
            return None
        return [value for value in matrix[0] if value is not None]

    @property
    def width(self) -> int:
        """How many GPUs the widest matrix has."""
        return max((len(row) for matrix in self.tests.values() for row in matrix), default=0)


def read_nvbandwidth_json(content: bytes, source: str) -> Bandwidths:
    """Output of `nvbandwidth --json`; text before and after the object is skipped. Raises InputError of `source`."""
    data = json_values(content[max(content.find(b"{"), 0) :], source)[0]
    about = data.get("nvbandwidth") if isinstance(data, dict) else None
    if not isinstance(about, dict):
        raise InputError(source, "nvbandwidth", "is missing, expected what `nvbandwidth --json` writes")
    cases = about.get("testcases")
    if not isinstance(cases, list):
        problem = str(about.get("error", ""))[:200]
        raise InputError(source, "nvbandwidth.testcases", f"is missing{': ' + problem if problem else ''}")
    tests: dict[str, list[list[float | None]]] = {}
    left_out = []
    for i, case in enumerate(cases):
        path = f"nvbandwidth.testcases[{i}]"
        if not isinstance(case, dict) or not isinstance(case.get("name"), str):
            raise InputError(source, path, "expected a test with its name")
        name, matrix = case["name"], case.get("bandwidth_matrix")
        if matrix is None:
            left_out.append(f"{name}: {case.get('status', 'no matrix')}")
            continue
        tests[name] = _matrix(matrix, source, f"{path}.bandwidth_matrix")
    devices = about.get("GPU Device list") or about.get("GPU Device info") or []
    names = [_name(one) for one in devices if isinstance(one, str)] if isinstance(devices, list) else []
    version = str(about.get("git_version") or about.get("version") or "")[:60]
    return Bandwidths(tuple(names), tests, tuple(left_out), version, str(about.get("Driver Version", ""))[:40])


def _matrix(matrix: Any, source: str, path: str) -> list[list[float | None]]:
    if not isinstance(matrix, list) or not all(isinstance(row, list) for row in matrix):
        raise InputError(source, path, "expected rows of rates")
    return [[_rate(cell, source, f"{path}[{i}][{j}]") for j, cell in enumerate(row)] for i, row in enumerate(matrix)]


def _rate(cell: Any, source: str, path: str) -> float | None:
    if cell is None or (isinstance(cell, str) and cell.strip().upper() in ("N/A", "")):
        return None
    try:
        value = float(cell) if not isinstance(cell, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 0 <= value < MAX_RATE:
        raise InputError(source, path, f"is {str(cell)[:40]!r}, expected a rate in GB/s")
    return value or None


def _name(text: str) -> str:
    inner = re.sub(r"^\s*(?:Device\s+)?\d+:\s*", "", text)
    return re.sub(r"\s*\((?:[0-9a-fA-F]+:)+[0-9a-fA-F.]+\)?.*", "", inner).strip()


def read_nvbandwidth_text(lines: Sequence[Line], source: str) -> Bandwidths:
    """Output of `nvbandwidth`. Raises InputError of `source`."""
    tests: dict[str, list[list[float | None]]] = {}
    left_out: list[str] = []
    names: list[str] = []
    version = driver = ""
    test = ""
    columns = 0
    for line in lines:
        text = line.text.strip()
        if (found := re.match(r"(?:nvbandwidth Version|Built from Git version): *(\S+)", text)) is not None:
            version = found[1]
        elif (found := re.match(r"(?:NVIDIA )?Driver Version: *(\S+)", text)) is not None:
            driver = found[1]
        elif re.match(r"(?:Process \d+ \([^)]*\): *)?[Dd]evice \d+: ", text) is not None:
            names.append(_name(re.sub(r"^Process \d+ \([^)]*\): *", "", text)))
        elif (found := re.match(r"Running (\w+)\.?$", text)) is not None:
            test, columns = found[1], 0
        elif (found := re.match(r"(?:Waived|Error|\[?ERROR\]?)\b:?\s*(.*)", text)) is not None:
            left_out.append(f"{test or 'a test'}: {text[:80]}")
        elif text.startswith("SUM "):
            name = text.split()[1]
            if test and name != test:
                raise InputError(source, "", at(line, f"is the sum of {name}, but {test} runs: are two outputs mixed?"))
            test, columns = "", 0
        elif re.fullmatch(r"\d+(?:\s+\d+)*", text) and test and not columns:
            columns = len(text.split())
        elif columns and (found := re.match(r"(\d+)((?:\s+(?:N/A|[\d.]+(?:e[+-]?\d+)?))+)$", text)) is not None:
            cells = found[2].split()
            if len(cells) != columns:
                problem = f"has {len(cells)} of {columns} rates of {test}: is it cut off?"
                raise InputError(source, "", at(line, problem))
            where = at(line, test)
            tests.setdefault(test, []).append([_rate(cell, source, where) for cell in cells])
        elif text and columns and not re.match(r"[A-Z]{3}\w* ", text) and "bandwidth" not in text:
            columns = 0
    if not tests:
        raise InputError(source, "", "has no matrix of nvbandwidth (`Running host_to_device_memcpy_ce.` and its rates)")
    return Bandwidths(
        tuple(dict.fromkeys(names)) if len(set(names)) < 2 else tuple(names), tests, tuple(left_out), version, driver
    )


def read_file(file: Path) -> Bandwidths:
    """The output of nvbandwidth in a file, of either form. Raises InputError."""
    content = unpacked(file)
    refuse_other(content, str(file), "nvbandwidth")
    if b'"nvbandwidth"' in content and b"{" in content:
        return read_nvbandwidth_json(content, str(file))
    return read_nvbandwidth_text(lines_of(content, str(file)), str(file))
