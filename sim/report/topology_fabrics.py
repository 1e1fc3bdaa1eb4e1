"""Where what lies below the GPUs goes: fabrics, networks and bundles of links, as bars in as few rows as they need."""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol

from sim.report.text_layout import ACROSS, LINE, Box, Chip, Layout, View, Word, fill, settle
from sim.report.topology_plan import Join, Plan

MARGIN = 14.0
ROOM = 60.0
"""Between rows: three lines of a label."""
_ASIDE, _NEXT, _APART = 12.0, 26.0, 40.0


class Above(Protocol):
    """What is placed already, the row of GPUs and all above it, and what adds wires to the drawing."""

    plan: Plan
    view: View
    made: Layout
    said: dict[str, list[Chip]]
    """What stands in each box."""
    x: dict[str, float]
    """Middles of passes."""

    def least(self, name: str) -> float:
        """Px that a box needs."""

    def labelled(self, below: str) -> bool:
        """Whether the wires to something below have labels of their own."""

    def side_label(self, join: Join, x: float, bottom: float) -> list[Word]:
        """The label of a wire."""

    def wire(self, join: Join, points: list[tuple[float, float]], words: list[Word]) -> None:
        """Add a wire."""


def place_fabrics(placer: Above, bottom: float) -> float:
    """Place what lies below the row of GPUs, which ends at `bottom`, and its wires; returns where it ends."""
    return _Fabrics(placer).place(bottom)


class _Fabrics:
    def __init__(self, placer: Above) -> None:
        self.placer = placer
        self.plan = placer.plan
        self.boxes = placer.made.boxes
        self.spans: dict[str, tuple[float, float]] = {}
        self.rows: dict[str, int] = {}
        self.used: list[list[str]] = []
        reach = {name: self._reach(name) for name in self.plan.below}
        self.wide = {name: end - start for name, (start, end) in reach.items()}
        self.ports: dict[str, list[str]] = {}
        for end, join in self.plan.drops:
            self.ports.setdefault(end, []).append(join.lower)
        for end, mine in self.ports.items():
            x = self._middle(end)

            def aside(name: str, x: float = x) -> float:
                """The narrower a bar, the more to its side: wires to wider ones, which lie lower, pass beside it."""
                return (sum(reach[name]) / 2 - x) / max(abs(sum(reach[name]) / 2 - x), 1) / max(self.wide[name], 1)

            mine.sort(key=aside)

    def place(self, bottom: float) -> float:
        self._assign()
        y = bottom
        for i, names in enumerate(self.used):
            y += ROOM if not i else _APART if any(map(self._is_network, names)) else _NEXT
            bars = [Box(name, self.spans[name][0], self.spans[name][1] - self.spans[name][0]) for name in names]
            height = max(fill(self.plan, bar, self.placer.said[bar.name], *self._free(bar)) for bar in bars)
            for bar in bars:
                settle(bar, y, height)
                self.boxes[bar.name] = bar
            y += height
        for end, join in self.plan.drops:
            x, lower = self._port(end, join.lower), self.boxes[join.lower]
            start = self.boxes[end] if end in self.boxes else self.boxes[join.upper]
            words = self.placer.side_label(join, x, bottom) if self.placer.labelled(join.lower) else []
            self.placer.wire(join, [(x, start.y + start.h), (x, lower.y)], words)
        for join in self.plan.deep:
            y = max(y, self._between(join))
        return y

    def _between(self, join: Join) -> float:
        """The wire between two bars, side by side or one above the other; returns where it ends."""
        one, other = sorted((self.boxes[n] for n in join[:2]), key=lambda bar: (bar.y, bar.x))
        join = join if join.upper == one.name else join.turned()
        if one.y != other.y:
            x = one.end - 10
            words = self.placer.side_label(join, x, one.y + one.h - 8)
            self.placer.wire(join, [(x, one.y + one.h), (x, other.y)], words)
            return other.y
        lines = [line.translate(ACROSS) for line in self.placer.view.label(join)]
        middle, y = (one.end + other.x) / 2, one.y + one.h / 2
        words = [Word(middle, one.y + one.h + LINE, "  ".join(lines), "label", "middle")]
        self.placer.wire(join, [(one.end, y), (other.x, y)], words)
        return one.y + one.h + LINE

    def _assign(self) -> None:
        """A span for each bar, and the first row that is free over it. Networks come last."""
        depth = self.plan.below
        for name in sorted(depth, key=lambda n: (depth[n], self._is_network(n), self.wide[n])):
            over = [join.lower if join.upper == name else join.upper for join in self.plan.deep if name in join[:2]]
            over = [n for n in over if n in self.rows]
            xs = [x for x in self._reach(name) if x]
            span = self._span(name, xs)
            if not (xs and all(depth[n] == depth[name] and self._apart(span, n) for n in over)):
                span = self._span(name, [*xs, *(self.spans[n][1] - 10 for n in over)])
            first = max([0, *(self.rows[n] + (not self._apart(span, n)) for n in over)])
            if self._is_network(name):
                first = max([first, *(row + 1 for n, row in self.rows.items() if not self._is_network(n))])
            while first < len(self.used) and not all(self._apart(span, n) for n in self.used[first]):
                first += 1
            self.used.extend([] for _ in range(first + 1 - len(self.used)))
            self.used[first].append(name)
            self.spans[name], self.rows[name] = span, first

    def _apart(self, span: tuple[float, float], name: str) -> bool:
        return span[0] >= self.spans[name][1] + _ASIDE or self.spans[name][0] >= span[1] + _ASIDE

    def _is_network(self, name: str) -> bool:
        node = self.plan.graph.nodes.get(name)
        return node is not None and node.kind == "network"

    def _middle(self, end: str) -> float:
        return self.placer.x[end] if end in self.placer.x else self.boxes[end].middle

    def _reach(self, name: str) -> tuple[float, float]:
        """Where the outermost wires to a bar come from, about."""
        xs = [self._middle(end) for end, join in self.plan.drops if join.lower == name]
        return (min(xs), max(xs)) if xs else (0.0, 0.0)

    def _span(self, name: str, xs: list[float]) -> tuple[float, float]:
        """Over all of `xs`, wide enough for the words, and within the drawing."""
        ends = [self._port(end, name) for end, join in self.plan.drops if join.lower == name]
        start, end = min([*xs, *ends], default=MARGIN + 40) - 14, max([*xs, *ends], default=MARGIN + 40) + 14
        more = max(self.placer.least(name) - (end - start), 0.0) / 2
        start, end = start - more, end + more
        shift = max(MARGIN - start, 0.0) or min(self.placer.made.width - end, 0.0)
        return max(start + shift, MARGIN), min(end + shift, self.placer.made.width)

    def _port(self, end: str, below: str) -> float:
        """x of the wire from something of the row of GPUs, or from a pass, to a bar."""
        if end in self.placer.x:
            return self.placer.x[end]
        box, mine = self.boxes[end], self.ports[end]
        pitch = min(26.0, (box.w - 20) / len(mine))
        return box.middle + (mine.index(below) - (len(mine) - 1) / 2) * pitch

    def _free(self, bar: Box) -> tuple[float, float]:
        """The widest part of a bar that no wire crosses; all of it where that is too narrow for words."""
        row = self.rows[bar.name]
        passing = (self._port(end, join.lower) for end, join in self.plan.drops if self.rows[join.lower] > row)
        cuts = [bar.x, *sorted(x for x in passing if bar.x < x < bar.end), bar.end]
        start, end = max(pairwise(cuts), key=lambda part: part[1] - part[0])
        return (start, end) if end - start >= self.placer.least(bar.name) else (bar.x, bar.end)
