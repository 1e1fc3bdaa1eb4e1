"""Where the boxes and wires of a topology's drawing lie.

A box spans what hangs from it, so that wires are vertical, at the middle of the lower box. Rows have the height that
their words need; gaps hold the labels of wires and, below those, a channel for each wire that goes aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from sim.report.text_layout import (
    ACROSS,
    LINE,
    SMALL,
    Box,
    Layout,
    View,
    Wire,
    Word,
    fill,
    least_width,
    settle,
    text_width,
)
from sim.report.topology_fabrics import MARGIN, ROOM, place_fabrics
from sim.report.topology_plan import Join, Plan

_GAP, _APART, _HOSTS = 12.0, 26.0, 60.0
_CELL, _PASS = 80.0, 72.0
_CHANNEL = 22.0


class Placer:
    """Places one drawing."""

    def __init__(self, plan: Plan, view: View) -> None:
        self.plan = plan
        self.view = view
        self.made = Layout(plan)
        self.aside = {frozenset(join[:2]): join for join in plan.sideways}
        self.said = {name: view.chips(name) for name in [*plan.level, *plan.below, *plan.bottom]}
        self.joined: dict[str, list[Join]] = {}
        for _, join in plan.drops:
            self.joined.setdefault(join.lower, []).append(join)
        self.ports: dict[str, list[str]] = {}
        for end, join in plan.drops:
            self.ports.setdefault(end, []).append(join.lower)
        for name, joins in self.joined.items():
            if not self.labelled(name):
                self.said[name] = [*self.said[name], *view.summary(joins)]
        self.needed: dict[str, float] = {}
        self.x: dict[str, float] = {}
        """Middles of passes."""

    def place(self) -> Layout:
        """The drawing."""
        self._columns()
        bottom = self._rows()
        self._vertical()
        low = place_fabrics(self, bottom)
        made = self.made
        made.height = low + MARGIN
        made.frames = list(_frames(made))
        made.width += MARGIN
        reach = max((w.left + w.width for wire in made.wires for w in wire.words), default=0.0)
        made.width = max([made.width, reach + 4, *(frame.end + 4 for frame in made.frames)])
        return made

    # ---- columns ----

    def labelled(self, below: str) -> bool:
        """Whether the wires to something below have labels of their own."""
        ends = [end for end, join in self.plan.drops if join.lower == below]
        return below not in self.plan.bundles and all(len(self.ports[end]) == 1 for end in ends)

    def least(self, name: str) -> float:
        """Px that a box needs."""
        return least_width(self.plan, name, self.said[name])

    def _between(self, one: str, other: str, least: float) -> float:
        """Px between adjacent nodes: room for the label of the link between them."""
        join = self.aside.get(frozenset((one, other)))
        return least if join is None else 12 + max([58, *(text_width(line, SMALL) for line in self.view.label(join))])

    def _needs(self, name: str) -> float:
        if name not in self.said:
            return _PASS
        for inner in [] if name in self.needed else self.plan.bottom_up([name]):
            if inner not in self.needed:
                self.needed[inner] = self._need(inner)
        return self.needed[name]

    def _need(self, name: str) -> float:
        """Px that a box and what hangs from it need, once those of its children are known."""
        if name not in self.said:
            return _PASS
        plan = self.plan
        own = max(self.least(name), _CELL if name in plan.bottom else 0.0)
        caps = [self.least(m) for m in plan.caps.get(name, ())]
        return max(own, self._row_of(plan.children.get(name, []), _GAP), sum(caps) + _GAP * max(len(caps) - 1, 0))

    def _row_of(self, names: list[str], gap: float) -> float:
        gaps = sum(self._between(a, b, gap) for a, b in pairwise(names))
        return sum(map(self._needs, names)) + gaps

    def _put(self, names: list[str], x: float, width: float, gap: float) -> None:
        """Boxes in a row that they fill, and what hangs from them."""
        left = self._split(names, x, width, gap)
        while left:
            name, at, w = left.pop()
            self._box(name, at, w)
            if children := self.plan.children.get(name):
                left += self._split(children, at, w, _GAP)

    def _split(self, names: list[str], x: float, width: float, gap: float) -> list[tuple[str, float, float]]:
        """(name, x, width) of a row's boxes, the last one first."""
        extra = (width - self._row_of(names, gap)) / len(names)
        found = []
        for i, name in enumerate(names):
            w = self._needs(name) + extra
            found.append((name, x, w))
            x += w + (self._between(name, names[i + 1], gap) if i + 1 < len(names) else 0.0)
        return found[::-1]

    def _box(self, name: str, x: float, w: float) -> None:
        if name not in self.said:
            self.x[name] = x + w / 2
            return
        self.made.boxes[name] = Box(name, x, w)
        caps = self.plan.caps.get(name, [])
        extra = (w - sum(map(self.least, caps)) - _GAP * (len(caps) - 1)) / max(len(caps), 1)
        for memory in caps:
            self.made.boxes[memory] = Box(memory, x, self.least(memory) + extra)
            x += self.least(memory) + extra + _GAP

    def _columns(self) -> None:
        plan = self.plan
        needed = sum(self._row_of(g, _APART) for g in plan.roots) + _HOSTS * (len(plan.roots) - 1)
        most = max([needed, *(self.least(name) for name in plan.below)])
        x = MARGIN
        for group in plan.roots:
            width = self._row_of(group, _APART) + (most - needed) / len(plan.roots)
            self._put(group, x, width, _APART)
            x += width + _HOSTS
        self.made.width = x - _HOSTS

    # ---- rows ----

    def _rows(self) -> float:
        """Heights; returns where the row of GPUs ends."""
        plan, boxes = self.plan, self.made.boxes
        last = 1 + max((at for name, at in plan.level.items() if name not in plan.bottom), default=0)
        rows: dict[int, list[Box]] = {}
        for name, box in boxes.items():
            rows.setdefault(last if name in plan.bottom else plan.level[name], []).append(box)
        self.row = {box.name: at for at, row in rows.items() for box in row}
        self.channels: dict[int, list[Join]] = {}
        for join in plan.sideways:
            if not self._neighbours(join):
                self.channels.setdefault(self.row[join.upper], []).append(join)
        for _, join in plan.elbows:
            self.channels.setdefault(self.row[join.lower], []).append(join)
        y = MARGIN
        self.top: dict[int, float] = {}
        for at in range(last + 1):
            y += (ROOM if at else 0.0) + _CHANNEL * len(self.channels.get(at, ()))
            self.top[at] = y
            height = max(
                (fill(plan, box, self.said[box.name], box.x, box.end) for box in rows.get(at, ())), default=0.0
            )
            for box in rows.get(at, ()):
                settle(box, y, height)
            y += height
        return y

    # ---- wires of the host ----

    def _neighbours(self, join: Join) -> bool:
        """Whether nothing lies between two boxes of a row but room for a label."""
        one, other = sorted((self.made.boxes[n] for n in join[:2]), key=lambda b: b.x)
        return abs(other.x - one.end - self._between(one.name, other.name, 0.0)) < 1

    def _vertical(self) -> None:
        plan, boxes = self.plan, self.made.boxes
        for join in plan.tree:
            upper, lower = boxes[join.upper], boxes[join.lower]
            x = upper.middle if upper.name in plan.caps.get(lower.name, ()) else lower.middle
            under = self.row[lower.name]
            y = self.top[under] - _CHANNEL * len(self.channels.get(under, ())) - ROOM
            self.wire(join, [(x, upper.y + upper.h), (x, lower.y)], self.side_label(join, x, y))
        for join in plan.sideways:
            one, other = sorted((boxes[n] for n in join[:2]), key=lambda b: b.x)
            turned = join if one.name == join.upper else join.turned()
            lines = [line.translate(ACROSS) for line in self.view.label(turned)]
            if self._neighbours(join):
                y = one.y + one.h / 2
                self.wire(turned, [(one.end, y), (other.x, y)], _above(lines, (one.end + other.x) / 2, y))
            else:
                a, b, y = one.end - 12, other.x + 12, self._channel(join, self.row[one.name])
                words = _above(["  ".join(lines)], (a + b) / 2, y)
                self.wire(turned, [(a, one.y), (a, y), (b, y), (b, other.y)], words)
        for name, join in plan.elbows:
            upper, lower = boxes[join.upper], boxes[join.lower]
            x = self.x[name]
            y = self._channel(join, self.row[lower.name])
            a = lower.x + 14 + 10 * sum(w.join.lower == lower.name for w in self.made.wires)
            points = [(x, upper.y + upper.h), (x, y), (a, y), (a, lower.y)]
            self.wire(join, points, _above(["  ".join(self.view.label(join))], (x + a) / 2, y))

    def _channel(self, join: Join, row: int) -> float:
        return self.top[row] - 6 - _CHANNEL * self.channels[row].index(join)

    def wire(self, join: Join, points: list[tuple[float, float]], words: Sequence[Word] = ()) -> None:
        """Add a wire and its label."""
        self.made.wires.append(Wire(join, tuple(points), tuple(word for word in words if word.text)))

    def side_label(self, join: Join, x: float, y: float) -> list[Word]:
        """The label of a vertical wire at x, from y down."""
        lines = self.view.label(join)
        return [Word(x + 12, y + 6 + LINE * (i + 1), line, "label") for i, line in enumerate(lines)]


def _above(lines: list[str], x: float, y: float) -> list[Word]:
    """Lines over a level wire."""
    return [Word(x, y - 8 - LINE * i, line, "label", "middle") for i, line in enumerate(reversed(lines))]


def _frames(layout: Layout) -> Iterable[Box]:
    """A frame around each host, if there are several."""
    plan = layout.plan
    if len(plan.roots) < 2:
        return
    for number in dict.fromkeys(plan.host[group[0]] for group in plan.roots):
        mine = [b for name, b in layout.boxes.items() if plan.host[_end(plan, name)] == number]
        names = {b.name for b in mine}
        words = [w for wire in layout.wires if names & {*wire.join[:2]} for w in wire.words]
        x, y = min(b.x for b in mine) - 9, min(b.y for b in mine) - 9
        w = max([*(b.end for b in mine), *(w.left + w.width for w in words)]) + 9 - x
        h = max(b.y + b.h for b in mine) + 9 - y
        yield Box(f"host {number}", x, w, y, h)


def _end(plan: Plan, name: str) -> str:
    """A bundle's first end, or the box itself."""
    return plan.bundles[name].ends[0] if name in plan.bundles else name
