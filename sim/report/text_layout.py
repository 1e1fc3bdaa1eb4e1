"""Boxes, wires and words of a topology's drawing, and how words fill a box. All lengths are px."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sim.report.topology_plan import Join, Plan

TITLE, SMALL = 12.5, 10.5
"""Sizes of letters."""
LINE = 13.0
"""Height of a line of a label."""
ACROSS = str.maketrans("\N{DOWNWARDS ARROW}\N{UPWARDS ARROW}", "\N{RIGHTWARDS ARROW}\N{LEFTWARDS ARROW}")
"""Of labels on wires from left to right."""
_ROW = 18.0
_MAX_CHARACTERS = 26


class Chip(NamedTuple):
    """A few words in a box, on a ground of their own if they have a shade."""

    text: str
    shade: str = ""
    title: str = ""


class View(NamedTuple):
    """What a drawing says of boxes and wires."""

    chips: Callable[[str], list[Chip]]
    label: Callable[[Join], list[str]]
    summary: Callable[[Sequence[Join]], list[Chip]]
    """Of wires that have no room for a label."""


class Word(NamedTuple):
    """Text at its base line; `anchor` is start or middle."""

    x: float
    y: float
    text: str
    style: str
    anchor: str = "start"

    @property
    def width(self) -> float:
        return text_width(self.text, TITLE if self.style == "name" else SMALL)

    @property
    def left(self) -> float:
        return self.x - self.width / 2 if self.anchor == "middle" else self.x


@dataclass
class Box:
    """A vertex or a bundle of links, with its words and where its chips lie."""

    name: str
    x: float
    w: float
    y: float = 0.0
    h: float = 0.0
    words: list[Word] = field(default_factory=list)
    chips: list[tuple[float, float, float, Chip]] = field(default_factory=list)
    """x, y, width."""

    @property
    def middle(self) -> float:
        return self.x + self.w / 2

    @property
    def end(self) -> float:
        return self.x + self.w


class Wire(NamedTuple):
    """A join along `points`, from its upper end to its lower one."""

    join: Join
    points: tuple[tuple[float, float], ...]
    words: tuple[Word, ...]


@dataclass
class Layout:
    """A drawing."""

    plan: Plan
    boxes: dict[str, Box] = field(default_factory=dict)
    wires: list[Wire] = field(default_factory=list)
    frames: list[Box] = field(default_factory=list)
    width: float = 0.0
    height: float = 0.0


def text_width(text: str, size: float) -> float:
    """About the px that a text takes, rather more than less."""
    wide = sum(
        1.05 if unicodedata.east_asian_width(c) in "WF" else 0.9 if c in "mwMW@%" else 0.72 if c.isupper() else 0.59
        for c in text
    )
    return wide * size


def short(text: str) -> str:
    """A name that fits a box."""
    return text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def kind_of(plan: Plan, name: str) -> str:
    """What a node is, unless its name says so."""
    node = plan.graph.nodes.get(name)
    kind = "" if node is None else node.kind.replace("_", " ")
    return "" if kind.split(" ")[0] in name.lower() else kind


def title_of(plan: Plan, name: str) -> str:
    """What is written in a box."""
    if name not in plan.bundles:
        return short(name)
    links = plan.bundles[name].links
    kind = links[0].kind or "link"
    return short(kind) if len(links) == 1 else f"{short(kind)}, {len(links)} links"


def least_width(plan: Plan, name: str, chips: Sequence[Chip]) -> float:
    """Px that the words of a box need."""
    kind = kind_of(plan, name)
    title = text_width(title_of(plan, name), TITLE) + (text_width(f" {kind}", SMALL) if kind else 0.0)
    return 12 + max([title + 6, *(_chip_width(chip) for chip in chips)])


def fill(plan: Plan, box: Box, said: Sequence[Chip], x: float, end: float) -> float:
    """Put the words of a box between two borders, its top at 0. Returns the height that they need."""
    middle = (x + end) / 2
    title, kind = title_of(plan, box.name), kind_of(plan, box.name)
    wide = text_width(title, TITLE)
    start = middle - (wide + (text_width(f" {kind}", SMALL) if kind else 0.0)) / 2
    box.words = [Word(start, 19, title, "name")]
    if kind:
        box.words.append(Word(start + wide + 4, 19, kind, "dim"))
    box.chips = []
    y = 26.0
    for row in _rows(said, end - x - 12):
        at = middle - (sum(map(_chip_width, row)) + 4 * (len(row) - 1)) / 2
        for chip in row:
            box.chips.append((at, y, _chip_width(chip), chip))
            at += _chip_width(chip) + 4
        y += _ROW
    return y + (4 if said else 2)


def settle(box: Box, y: float, height: float) -> None:
    """Move a filled box down to y, and make it as high as its row."""
    box.y, box.h = y, height
    shift = y if box.chips else y + (height - 28) / 2
    box.words = [w._replace(y=w.y + shift) for w in box.words]
    box.chips = [(x, at + y, w, chip) for x, at, w, chip in box.chips]


def _chip_width(chip: Chip) -> float:
    return text_width(chip.text, SMALL) + (10 if chip.shade else 0)


def _rows(chips: Sequence[Chip], width: float) -> list[list[Chip]]:
    """Chips in as many rows as they need."""
    rows: list[list[Chip]] = []
    for chip in chips:
        if rows and sum(_chip_width(c) + 4 for c in rows[-1]) + _chip_width(chip) <= width:
            rows[-1].append(chip)
        else:
            rows.append([chip])
    return rows
