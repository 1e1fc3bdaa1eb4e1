"""`nvidia-smi topo -m` and `topo -p2p`: matrices of how devices of a host reach each other.

Drivers differ in what they print: NICs as columns or not, `SOC` for today's `SYS`, an underlined header, columns for
affinities, a legend. Terminals wrap lines, and reports make spaces of tabs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from sim.importers.text_lines import Line, at

NEAR = ("PIX", "PXB", "PHB", "NODE", "SYS")
"""How near two devices are, nearest first: one PCIe switch, several, one host bridge, one NUMA node, several."""

_CODE = re.compile(r"X|PIX|PXB|PHB|NODE|SYS|SOC|NV\d+|N/A|OK|CNS|GNS|TNS|NS|DR|U|PCN|-")
_GPU = re.compile(r"GPU\d+")
_DEVICE = re.compile(r"GPU\d+|NIC\d+|[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)+|\w*(?:ib|eth|hfi|efa|mlx|bnxt|irdma)\w*\d+")
_AFFINITIES = ("CPU Affinity", "NUMA Affinity", "GPU NUMA ID")


class MatrixError(ValueError):
    """Text that holds no whole matrix; says what is wrong and where."""


class Matrix(NamedTuple):
    """`cells[a, b]` is how device `a` reaches device `b`, as printed, with `SYS` for `SOC`."""

    gpus: tuple[str, ...]
    """In their order: `GPU0`, ..."""
    others: tuple[str, ...]
    """NICs."""
    cells: dict[tuple[str, str], str]
    affinity: dict[str, dict[str, str]]
    """Device -> `CPU Affinity` and `NUMA Affinity`, as far as printed."""

    def between(self, a: str, b: str) -> str:
        """How two devices reach each other. Raises KeyError where neither row says it."""
        found = self.cells.get((a, b))
        return self.cells[b, a] if found is None else found


def read_matrix(lines: Sequence[Line]) -> Matrix:
    """The first matrix in `lines`.

    Raises:
        MatrixError: there is none, a row is cut off or has a word that means nothing, or two rows contradict.
    """
    clean = [Line(n, re.sub(r"^[\s>|]*(?=GPU\d|NIC\d|\w+_\d)", _indent, _cells(text))) for n, text in lines]
    start = next((i for i, line in enumerate(clean) if _is_header(line.text)), None)
    if start is None:
        raise MatrixError("has no header of `nvidia-smi topo -m` (GPU0 GPU1 ...)")
    columns, titles, after = _header(clean, start)
    cells: dict[tuple[str, str], str] = {}
    affinity: dict[str, dict[str, str]] = {}
    number = after
    while number < len(clean):
        line = clean[number]
        number += 1
        words = line.text.split()
        if not words or words[0] not in columns:
            if words and _is_header(line.text) and cells:
                break  # another matrix
            continue
        name, rest = words[0], words[1:]
        if name in affinity:
            break
        while len(_codes(rest)) < len(columns) and number < len(clean) and _goes_on(clean[number].text):
            rest += clean[number].text.split()
            number += 1
        found = rest[: len(columns)]
        wrong = next((word for word in found if _CODE.fullmatch(word) is None), None)
        if len(found) < len(columns) or wrong is not None:
            said = f"has {wrong!r}, which is no connection" if wrong else f"has {len(found)} of {len(columns)} cells"
            raise MatrixError(at(line, f"the row of {name} {said}: is it cut off?"))
        cells |= {(name, column): code.replace("SOC", "SYS") for column, code in zip(columns, found, strict=True)}
        affinity[name] = _affinity(line.text, rest[len(columns) :], titles, len(columns))
    gpus = tuple(c for c in columns if _GPU.fullmatch(c))
    _check(gpus, cells)
    return Matrix(gpus, tuple(c for c in columns if c not in gpus), cells, affinity)


def _cells(text: str) -> str:
    """A row of a Markdown table as the columns that it shows; any other line as it is."""
    if not text.lstrip().startswith("|") or text.count("|") < 3:
        return text
    return re.sub(r" *\| *", "\t", text.strip().strip("|").strip(" "))


def _indent(match: re.Match[str]) -> str:
    return "\t" if "\t" in match[0] else ""


def _is_header(text: str) -> bool:
    words = text.split()
    if not words or _GPU.fullmatch(words[0]) is None:
        return False
    return len(words) == 1 or words[1] in ("CPU", "NUMA", "GPU") or _DEVICE.fullmatch(words[1]) is not None


def _devices(words: Sequence[str]) -> list[str]:
    """The names of devices that `words` begin with."""
    found = []
    for word in words:
        if word in ("CPU", "NUMA", "GPU", "Affinity") or _DEVICE.fullmatch(word) is None:
            break
        found.append(word)
    return found


def _header(lines: Sequence[Line], start: int) -> tuple[list[str], list[str], int]:
    """(names of columns, titles of what follows them, where rows begin); a terminal may have wrapped it."""
    text = lines[start].text
    after = start + 1
    while after < len(lines) and "Affinity" not in text:
        words = lines[after].text.split()
        devices = _devices(words)
        if not words or not (devices or words[0] in ("CPU", "NUMA")) or _CODE.fullmatch((words[1:] or [""])[0]):
            break
        text += "  " + lines[after].text
        after += 1
    columns = _devices(text.split())
    if len(set(columns)) < len(columns):
        raise MatrixError(at(lines[start], "the header names a device twice"))
    places = sorted((text.find(title), title) for title in _AFFINITIES if title in text)
    return columns, [title for _, title in places], after


def _codes(words: Sequence[str]) -> list[str]:
    return [word for word in words if _CODE.fullmatch(word)]


def _goes_on(text: str) -> bool:
    words = text.split()
    return bool(words) and _CODE.fullmatch(words[0]) is not None


def _affinity(text: str, words: Sequence[str], titles: Sequence[str], columns: int) -> dict[str, str]:
    """What a row says after its connections; cells may be empty where tabs are kept."""
    if "\t" in text:
        cells = [cell.strip() for cell in text.strip(" ").split("\t")]
        first = next((i for i, cell in enumerate(cells) if cell), 0)
        found = cells[first + columns + 1 :]
        return {title: value for title, value in zip(titles, found, strict=False) if value}
    named = dict(zip(titles, words, strict=False))
    if len(words) < len([t for t in titles if t != "GPU NUMA ID"]) and words and re.fullmatch(r"\d+|N/A", words[0]):
        return {"NUMA Affinity": words[0]}  # no processors are printed, and their column is lost in spaces
    return named


def _check(gpus: Sequence[str], cells: dict[tuple[str, str], str]) -> None:
    for i, a in enumerate(gpus):
        if cells.get((a, a), "X") not in ("X", "-", "N/A", "OK"):
            raise MatrixError(f"{a} reaches itself by {cells[a, a]}: the columns are shifted")
        for b in gpus[:i]:
            forth, back = cells.get((a, b)), cells.get((b, a))
            if forth is None and back is None:
                raise MatrixError(f"says nothing of {b} and {a}: is it cut off?")
            if forth is not None and back is not None and forth != back:
                raise MatrixError(f"contradicts itself: {b} to {a} is {back}, {a} to {b} is {forth}")


def numa_of(matrix: Matrix, device: str) -> int | None:
    """The NUMA node of a device; None where one node is not printed."""
    said = matrix.affinity.get(device, {}).get("NUMA Affinity", "")
    return int(said) if said.isdecimal() and len(said) < 5 else None
