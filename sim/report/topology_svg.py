"""A topology's drawing as SVG. Colours come from classes, so that it suits a light and a dark page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from math import sqrt

from sim.analysis.steady_state import gb
from sim.hardware.inheritance import provenance
from sim.hardware.topology import Capacity
from sim.report.text_layout import SMALL, Box, Layout, Word, text_width
from sim.report.topology_plan import Join

Points = Sequence[tuple[float, float]]

MIN_SCALE = 0.8
"""Scale at which words can still be read; narrower pages scroll."""
_THIN, _THICK = 1.5, 8.0


def thickness(rate: float | None) -> float:
    """Px of a lane of some B/s; None has no limit."""
    return _THIN if rate is None else min(max(0.42 * sqrt(rate / 1e9), _THIN), _THICK)


def svg(layout: Layout, label: str, shade: dict[int, str]) -> str:
    """The drawing; `shade` holds the class of each resource that has one."""
    width, height = layout.width, layout.height
    body = [*_frames(layout), *_boxes(layout), *_wires(layout, shade)]
    return (
        f'<svg class="topology" role="img" aria-label="{escape(label)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="min-width:{MIN_SCALE * width:.0f}px;max-width:{1.3 * width:.0f}px">{"".join(body)}</svg>'
    )


def legend(shades: Mapping[str, str]) -> str:
    """What shades stand for."""
    entries, x = [], 0.0
    for shade, words in shades.items():
        entries.append(f'<rect class="chip {shade}" x="{x:.0f}" y="3" width="22" height="12" rx="3"/>')
        entries.append(_text(Word(x + 27, 13, words, "label")))
        x += 42 + text_width(words, SMALL)
    size = f'viewBox="0 0 {x:.0f} 18" style="max-width:{1.1 * x:.0f}px"'
    return f'<svg class="topology legend" {size}>{"".join(entries)}</svg>'


def _frames(layout: Layout) -> Iterator[str]:
    for frame in layout.frames:
        yield f'<rect class="frame" {_at(frame)} rx="8"/>'


def _at(box: Box) -> str:
    return f'x="{box.x:.1f}" y="{box.y:.1f}" width="{box.w:.1f}" height="{box.h:.1f}"'


def _boxes(layout: Layout) -> Iterator[str]:
    nodes = layout.plan.graph.nodes
    for box in layout.boxes.values():
        bundle = box.name in layout.plan.bundles
        kind = "bundle" if bundle else nodes[box.name].kind if box.name in nodes else "gpu"
        radius = box.h / 2 if bundle else 4
        yield f"<g><title>{escape(_told(layout, box.name))}</title>"
        yield f'<rect class="box {kind}" {_at(box)} rx="{radius:.1f}"/>'
        for x, y, width, chip in box.chips:
            if chip.shade:
                yield (
                    f'<rect class="chip {chip.shade}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="15" rx="3"/>'
                )
            style = f"onchip {chip.shade}" if chip.shade else "label"
            yield _text(Word(x + width / 2, y + 11, chip.text, style, "middle"))
        yield from map(_text, box.words)
        yield "</g>"


def _text(word: Word) -> str:
    anchor = ' text-anchor="middle"' if word.anchor == "middle" else ""
    return f'<text class="{word.style}" x="{word.x:.1f}" y="{word.y:.1f}"{anchor}>{escape(word.text)}</text>'


def _told(layout: Layout, name: str) -> str:
    """All that is known of a box."""
    graph = layout.plan.graph
    if name in layout.plan.bundles:
        links = layout.plan.bundles[name].links
        return "\n".join(_limits(layout, join) for join in links)
    if name not in graph.nodes:
        return f"{name}: pinned buffers in {graph.pinned[int(name.removeprefix('gpu'))]}"
    node = graph.nodes[name]
    limits = {"into": node.into, "out of": node.out_of, "through": node.through}
    shown = [f"{direction} it {_limit(limit)}" for direction, limit in limits.items() if limit]
    return "\n".join([f"{name}: {node.kind.replace('_', ' ')}", *shown])


def _limit(limit: Capacity) -> str:
    carries = "" if limit.carries == "all" else f" of {limit.carries} only"
    return f"{gb(limit.value)} GB/s{carries} ({provenance(limit)})"


def _limits(layout: Layout, join: Join) -> str:
    graph = layout.plan.graph
    shown = [f"{graph.names[r]} {_limit(graph.limits[r])}" for r in join.resources]
    return "\n".join([f"{join.upper} to {join.lower}{': ' + join.kind if join.kind else ''}", *(shown or ["no limit"])])


def _wires(layout: Layout, shade: dict[int, str]) -> Iterator[str]:
    """Two lanes, one a direction, in a sleeve if both together have a limit, over a halo that parts it from others."""
    limits = layout.plan.graph.limits
    for join, points, words in layout.wires:
        rates = [sum(limits[r].value for r in direction) if direction else None for direction in (join.down, join.up)]
        wide = [thickness(rate) for rate in rates]
        total = sum(wide) + 4
        yield f"<g><title>{escape(_limits(layout, join))}</title>"
        yield f'<path class="halo" d="{_path(points)}" stroke-width="{total + 2:.1f}"/>'
        if join.both:
            style = _shade(join.both, shade)
            yield f'<path class="sleeve {style}" d="{_path(points)}" stroke-width="{total + 4.5:.1f}"/>'
            yield f'<path class="halo" d="{_path(points)}" stroke-width="{total + 1.5:.1f}"/>'
        offset = (sum(wide) / 2 + 2.4) / 2
        for direction, rate, lane, line in zip((join.down, join.up), rates, wide, (points, points[::-1]), strict=True):
            style = _shade(direction, shade) if rate is not None else "free"
            yield from _lane(_parallel_line(line, -offset), lane, style)
        yield from map(_text, words)
        yield "</g>"


def _shade(resources: Sequence[int], shade: dict[int, str]) -> str:
    """The class of the busiest."""
    return max((shade.get(r, "") for r in resources), default="")


def _lane(points: Points, width: float, style: str) -> Iterator[str]:
    """A line with an arrow at its end."""
    (x0, y0), (x, y) = points[-2:]
    length = max(abs(x - x0) + abs(y - y0), 1e-9)
    dx, dy = (x - x0) / length, (y - y0) / length
    long, half = min(4 + 0.5 * width, 0.45 * length), 0.5 * width + 1.6
    neck = (x - long * dx, y - long * dy)
    yield f'<path class="lane {style}" d="{_path([*points[:-1], neck])}" stroke-width="{width:.1f}"/>'
    corners = [(x, y), (neck[0] - half * dy, neck[1] + half * dx), (neck[0] + half * dy, neck[1] - half * dx)]
    yield f'<polygon class="{style}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}"/>'


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _parallel_line(points: Points, offset: float) -> Points:
    """A line beside one of upright and level parts."""
    normals = []
    for (x0, y0), (x1, y1) in pairwise(points):
        length = max(abs(x1 - x0) + abs(y1 - y0), 1e-9)
        normals.append((-(y1 - y0) / length, (x1 - x0) / length))
    moved = []
    for i, (x, y) in enumerate(points):
        mine = {(round(a), round(b)) for a, b in normals[max(i - 1, 0) : i + 1]}
        moved.append((x + offset * sum(a for a, _ in mine), y + offset * sum(b for _, b in mine)))
    return moved


STYLE = """
svg.topology { display: block; width: 100%; height: auto; margin: 0 auto; font-size: 10.5px; --full: #c03c08;
  --u1: #b9dbd8; --u2: #79b9ba; --u3: #2f7686; --u4: #16435a; --lane: #6f7c8c; --chip: #eceff3;
  --faint: #b9c1cc; --gpu: #e5f3ea; --gpu-line: #35966a; --memory: #e8effc; --memory-line: #5d84d6; --fabric: #f6eaf4;
  --fabric-line: #b56bab; }
@media (prefers-color-scheme: dark) { svg.topology { --full: #f0703a; --u1: #22464d; --u2: #2f7686; --u3: #79b9ba;
  --u4: #d3ebe9; --lane: #8d99a8; --chip: #2a323c;
  --faint: #4d5866; --gpu: #173026; --gpu-line: #3fa777; --memory: #1b2740;
  --memory-line: #6d92e0; --fabric: #33203a; --fabric-line: #c07fb8; } }
svg.legend { margin: 0; } .legend .chip { stroke: var(--faint); stroke-width: 0.5; }
.topology text { fill: var(--text); font-variant-numeric: tabular-nums; }
.topology .name { font-size: 12.5px; font-weight: 620; }
.topology .dim, .topology .label { fill: var(--dim); }
.topology .label { paint-order: stroke; stroke: var(--card); stroke-width: 3px; stroke-linejoin: round; }
.topology g > .label { stroke-width: 3px; }
.topology .frame { fill: none; stroke: var(--line); stroke-width: 1.5; stroke-dasharray: 6 4; }
.topology .box { fill: var(--stripe); stroke: var(--lane); stroke-width: 1.2; }
.topology .gpu { fill: var(--gpu); stroke: var(--gpu-line); }
.topology .memory { fill: var(--memory); stroke: var(--memory-line); }
.topology .nvswitch, .topology .fabric, .topology .network, .topology .bundle { fill: var(--fabric);
  stroke: var(--fabric-line); }
.topology .bundle { stroke-dasharray: 4 3; }
.topology path { fill: none; }
.topology .halo { stroke: var(--card); }
.topology .sleeve { stroke: var(--faint); }
.topology .lane { stroke: var(--lane); }
.topology polygon { fill: var(--lane); }
.topology .lane.free { stroke-dasharray: 3 2; }
.topology .chip { fill: var(--chip); } .topology .chip.limit { fill: var(--card); }
.topology .box ~ .label { stroke: none; }
.topology .lane.idle, .topology .lane.free.idle { stroke: var(--line); }
.topology polygon.idle { fill: var(--line); }
.topology .lane.u1, .topology .sleeve.u1 { stroke: var(--u1); } .topology .chip.u1, .topology polygon.u1 {
  fill: var(--u1); }
.topology .lane.u2, .topology .sleeve.u2 { stroke: var(--u2); } .topology .chip.u2, .topology polygon.u2 {
  fill: var(--u2); }
.topology .lane.u3, .topology .sleeve.u3 { stroke: var(--u3); } .topology .chip.u3, .topology polygon.u3 {
  fill: var(--u3); }
.topology .lane.u4, .topology .sleeve.u4 { stroke: var(--u4); } .topology .chip.u4, .topology polygon.u4 {
  fill: var(--u4); }
.topology .lane.u5, .topology .sleeve.u5 { stroke: var(--full); } .topology .chip.u5, .topology polygon.u5 {
  fill: var(--full); }
.topology .onchip.u3, .topology .onchip.u4, .topology .onchip.u5 { fill: var(--card); font-weight: 600; }
"""
