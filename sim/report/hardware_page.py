"""The page of a hardware profile: its topology as a drawing, where flows meet, and every number with its source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from sim.analysis.steady_state import BUFFER, MAX_GPUS, Steady, gb, gpu_list, sentences, steady_states
from sim.hardware import Profile
from sim.hardware.topology import Capacity
from sim.inputs.atomic_files import write_atomically
from sim.inputs.units import show_bytes
from sim.report.html import Cell, Panel, Panels, Section, Table, page
from sim.report.profile_rows import ANOTHER_TOPOLOGY, rows_of, shown
from sim.report.text_layout import Chip, View
from sim.report.topology_place import Placer
from sim.report.topology_plan import Join, Plan, plan
from sim.report.topology_svg import MIN_SCALE, STYLE, legend, svg

_DOWN, _UP, _BOTH, _SUM = "\N{DOWNWARDS ARROW}", "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}\N{UPWARDS ARROW}", "\u03a3"
_TIMES = "\N{MULTIPLICATION SIGN}"
_RIGHT = "\N{RIGHTWARDS ARROW}"
_SHOWN_ROUTES = 16
_SHADES = {"idle": "idle", "u1": "to 25 %", "u2": "to 50 %", "u3": "to 75 %", "u4": "to 99 %", "u5": "full"}


def write_page(file: Path, profile: Profile) -> None:
    """Write the page of a profile. Raises OSError."""
    write_atomically(file, hardware_page(profile))


def hardware_page(profile: Profile) -> str:
    """The HTML of a profile's page."""
    planned = plan(profile.graph)
    states = steady_states(profile)
    sections = [
        Section("Topology", "\n\n".join(_topology_words(profile)), Panels([_drawing(planned)])),
        Section(
            "Where flows meet",
            _contention_words(profile, states),
            Panels([_contention_panel(profile, planned, m) for m in states], legend(_SHADES)),
        ),
        Section("Rates", "GB/s of each GPU, all flows in flight.", _rates(profile, states)),
        Section("Routes", _ROUTES_NOTE, _routes(profile)),
        *_kept(profile),
        Section("All numbers", "Uncertainties are one standard deviation.", _numbers(profile)),
    ]
    facts = {
        "GPUs": profile.cards.replace(" x ", f" {_TIMES} "),
        "isolated H2D copy": f"{gb(profile.h2d.cap.value)} GB/s",
        "peers": _peers_fact(profile),
        "chunkflow-sim": version("chunkflow-sim"),
    }
    return page(profile.name, profile.description, sections, facts, style=STYLE + _STYLE)


def _kept(profile: Profile) -> list[Section]:
    """What the profile has from the one that it is like."""
    if not profile.kept:
        return []
    rows: list[list[Cell]] = [
        [kept.key, kept.profile, ANOTHER_TOPOLOGY if kept.another_topology else ""] for kept in profile.kept
    ]
    words = "This profile inherits from another one all that it does not give itself."
    return [Section("Inherited from another profile", words, Table(["inherited", "from", ""], rows))]


# ---- words ----


def _peers_fact(profile: Profile) -> str:
    peers = profile.topology.peers
    if isinstance(peers, str):
        return {"direct": "direct", "host": "through host memory"}[peers]
    return "direct within groups"


def _topology_words(profile: Profile) -> Iterator[str]:
    graph, topology = profile.graph, profile.topology
    pinned_by: dict[str, list[int]] = {}
    for gpu, memory in enumerate(graph.pinned):
        pinned_by.setdefault(memory, []).append(gpu)
    pinned = [f"{memory} holds the pinned buffers of {gpu_list(gpus)}" for memory, gpus in pinned_by.items()]
    far = [g for g, memory in enumerate(graph.pinned) if memory not in _nearest(profile, g)]
    away = f" There is memory nearer to {gpu_list(far)}." if far else ""
    peers = topology.peers
    if profile.gpus == 1:
        meet = ""
    elif peers == "direct":
        meet = " GPUs reach each other directly."
    elif peers == "host":
        meet = " GPUs reach each other through host memory: the sender writes to where the receiver's buffers lie."
    else:
        groups = "; ".join(gpu_list(group) for group in peers)
        meet = f" GPUs reach each other directly within {groups}, and otherwise through the receiver's host memory."
    yield f"{'; '.join(pinned)}.{away}{meet}"
    if topology.domains:
        yield f"Hierarchical collectives take {'; '.join(gpu_list(group) for group in topology.domains)} as domains."


def _nearest(profile: Profile, gpu: int) -> set[str]:
    away = profile.graph.distances(f"gpu{gpu}")
    memories = {n: away[n] for n, node in profile.graph.nodes.items() if node.kind == "memory" and n in away}
    return {name for name, hops in memories.items() if hops == min(memories.values())}


def _contention_words(profile: Profile, states: Sequence[Steady]) -> str:
    text = _MEET
    if profile.gpus > 1 and len(states) == 1:
        why = f"with more than {MAX_GPUS} GPUs" if profile.gpus > MAX_GPUS else "for which the profile gives no domains"
        return f"{text}\n\nLeft out: the all-to-all, {why}."
    if len(states) > 1:
        text += f" The all-to-all is of {show_bytes(BUFFER)} on each GPU."
    return text


_CAPTION = [
    "GB/s. A wire has a lane for each direction, the wider the more it moves; dashed lanes have no limit of their own. "
    f"{_BOTH} each way, {_DOWN} down, {_UP} up, {_SUM} both ways together (the sleeve around the lanes); in boxes, "
    "what may enter a node, leave it and cross it, and what a written byte takes of that. Dashed "
    "boxes are links between GPUs. Point at anything for its source.",
]
_MEET = """What the simulator's rate law (weighted max-min fairness) gives when all flows are in flight. Colours and
percentages show how much of each resource is used."""
_ROUTES_NOTE = """The limits that a transfer crosses, in their order: a link is a>b, or a-b for both directions;
n, n.in and n.out are what crosses, enters and leaves a node."""


# ---- drawings ----


def _drawing(planned: Plan) -> Panel:
    """The drawing with all capacities."""
    graph = planned.graph
    several = sum(node.kind == "memory" for node in graph.nodes.values()) > 1

    def chips(name: str) -> list[Chip]:
        if name in planned.bundles:
            ends = planned.bundles[name].ends
            return [Chip(_ends(ends))] if len(planned.bundles[name].links) > 1 else []
        if name not in graph.nodes:
            return [Chip("pinned in"), Chip(graph.pinned[int(name.removeprefix("gpu"))])] if several else []
        node = graph.nodes[name]
        limits = (("in", node.into), ("out", node.out_of), ("through", node.through))
        found = [Chip(f"{way} {_limit(limit)}", "limit") for way, limit in limits if limit]
        if node.write_cost is not None:
            found.append(Chip(f"writes {_TIMES} {node.write_cost.value:.3g}", "limit"))
        if node.kind == "memory":
            gpus = gpu_list(g for g, memory in enumerate(graph.pinned) if memory == name)
            found.append(Chip(f"pinned: {gpus}" if gpus else "nothing pinned"))
        return found

    def label(join: Join) -> list[str]:
        down, up, both = (gb(graph.limits[way[0]].value) if way else "" for way in join[2:5])
        carries = {graph.limits[r].carries for r in join.resources} - {"all"}
        lines = [f"{_BOTH} {down}"] if down == up and down else [f"{_DOWN} {down}"] * bool(down)
        lines += [f"{_UP} {up}"] * bool(up and up != down) + [f"{_SUM} {both}"] * bool(both)
        return lines + [f"{c} only" for c in sorted(carries)]

    def summary(joins: Sequence[Join]) -> list[Chip]:
        single = [j._replace(down=j.down[:1], up=j.up[:1], both=j.both[:1]) for j in joins]
        texts = list(dict.fromkeys("  ".join(label(j)) for j in single))
        return [Chip(text + (" each" if len(joins) > 2 else ""), "limit") for text in texts[:3] if text]

    made = Placer(planned, View(chips, label, summary)).place()
    return Panel("", svg(made, f"Topology of {graph.gpus} GPUs", {}), _CAPTION, MIN_SCALE * made.width)


def _limit(limit: Capacity) -> str:
    return gb(limit.value) + ("" if limit.carries == "all" else f", {limit.carries} only")


def _ends(ends: Sequence[str]) -> str:
    gpus = [int(end.removeprefix("gpu")) for end in ends if end.startswith("gpu") and end[3:].isdigit()]
    return gpu_list(gpus) if len(gpus) == len(ends) else ", ".join(ends)


def _contention_panel(profile: Profile, planned: Plan, steady: Steady) -> Panel:
    """The drawing of some flows in flight, and what limits them."""
    graph = planned.graph
    index = {name: i for i, name in enumerate(graph.names)}

    def busy(direction: str, resource: int) -> Chip:
        return Chip(f"{direction} {_percent(steady.used[resource])}", _shade(steady.used[resource]))

    def chips(name: str) -> list[Chip]:
        if name in planned.bundles:
            return []
        if name in graph.nodes:
            places = ((("in"), f"{name}.in"), ("out", f"{name}.out"), ("through", name))
            return [busy(way, index[place]) for way, place in places if place in index]
        gpu = int(name.removeprefix("gpu"))
        found = (("H2D", steady.copied(gpu)), ("sends", steady.sent(gpu)))
        return [Chip(f"{what} {gb(rate)}") for what, rate in found if rate is not None]

    def most(resources: Sequence[int]) -> float:
        return max((steady.used[r] for r in resources), default=0.0)

    def label(join: Join) -> list[str]:
        lanes = ((_DOWN, join.down), (_UP, join.up), (_SUM, join.both))
        return [f"{sign} {_percent(most(way))}" for sign, way in lanes if most(way) > 0]

    def summary(joins: Sequence[Join]) -> list[Chip]:
        used = most([r for join in joins for r in join.resources])
        return [Chip(f"busiest link {_percent(used)}", _shade(used))]

    made = Placer(planned, View(chips, label, summary)).place()
    shades = {r: _shade(share) for r, share in enumerate(steady.used)}
    drawing = svg(made, steady.title, shades)
    return Panel(steady.title, drawing, sentences(profile, steady), MIN_SCALE * made.width)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.005 else "<1 %"


def _shade(share: float) -> str:
    """Class of a share: idle, u1 to u4 by quarters, u5 for what is full."""
    if share <= 0:
        return "idle"
    return "u5" if share > 0.9995 else f"u{min(int(4 * share) + 1, 4)}"


# ---- tables ----


def _rates(profile: Profile, states: Sequence[Steady]) -> Table:
    """GPUs with the same rates share a row."""
    columns = [(m.title, what, get) for m in states for what, get in (("H2D", m.copied), ("sends", m.sent)) if get(0)]
    headers = ["", *(title if what in title else f"{title}: {what}" for title, what, _ in columns)]
    rows: dict[tuple[str, ...], list[int]] = {}
    for gpu in range(profile.gpus):
        rows.setdefault(tuple(gb(get(gpu) or 0.0) for _, _, get in columns), []).append(gpu)
    return Table(headers, [(gpu_list(gpus), *cells) for cells, gpus in rows.items()])


def _routes(profile: Profile) -> Table:
    """Copies of every GPU, and what gpu0 sends to others, as far as there is room."""
    graph = profile.graph
    copies = [(f"H2D to gpu{g}", graph.copy(g, "h2d")) for g in range(profile.gpus)]
    sends = [(f"gpu0 {_RIGHT} gpu{g}", graph.peer(0, g)) for g in range(1, profile.gpus)]
    shown_routes = [*copies[:_SHOWN_ROUTES], *sends[:_SHOWN_ROUTES]]
    rows = [(name, ", ".join(graph.names[r] for r, _ in route) or "no limit") for name, route in shown_routes]
    return Table(["transfer", "crosses"], rows)


def _numbers(profile: Profile) -> Table:
    rows: list[Sequence[Cell]] = []
    for path, value, source, uncertainty in rows_of(profile):
        spread = "" if uncertainty is None else f"\u00b1 {100 * uncertainty:.2g} %"
        rows.append((path, shown(value), spread, source))
    return Table(["number", "value", "uncertainty", "source"], rows)


_STYLE = """
header, .frame { max-width: 1640px; }
td:first-child { overflow-wrap: anywhere; }
td:last-child { white-space: normal; min-width: 14rem; overflow-wrap: anywhere; }
"""
