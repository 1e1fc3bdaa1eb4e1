"""What of a topology is drawn where: host nodes as a forest over the row of GPUs, fabrics and bundles of links below.

A host node lies as far down as it is from a memory. Every node has one parent at most; links that this leaves over go
sideways, or down through a column of their own, a pass. Links between GPUs are drawn as bundles.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from sim.hardware.routes import Graph
from sim.hardware.topology import Link

_BELOW = ("nvswitch", "fabric", "network")
_BESIDE = ("socket", "root_complex")


class Join(NamedTuple):
    """A wire from `upper` to `lower`: the resources of each of its directions, and of both together."""

    upper: str
    lower: str
    down: tuple[int, ...]
    up: tuple[int, ...]
    both: tuple[int, ...]
    kind: str

    @property
    def resources(self) -> tuple[int, ...]:
        return self.down + self.up + self.both

    def turned(self) -> Join:
        """Upside down."""
        return Join(self.lower, self.upper, self.up, self.down, self.both, self.kind)


class Bundle(NamedTuple):
    """Links of one kind within the row of GPUs."""

    links: tuple[Join, ...]
    ends: tuple[str, ...]


@dataclass
class Plan:
    """Where things go. Passes and bundles have names with a space, which no node has."""

    graph: Graph
    level: dict[str, int] = field(default_factory=dict)
    """Of host nodes; memories are at 0."""
    bottom: set[str] = field(default_factory=set)
    """What is in the row of GPUs: them, and NICs that nothing hangs from."""
    parent: dict[str, str] = field(default_factory=dict)
    children: dict[str, list[str]] = field(default_factory=dict)
    caps: dict[str, list[str]] = field(default_factory=dict)
    """Memories that lie over the one node that they are joined to."""
    roots: list[list[str]] = field(default_factory=list)
    """By host: what only networks join lies apart."""
    tree: list[Join] = field(default_factory=list)
    sideways: list[Join] = field(default_factory=list)
    elbows: list[tuple[str, Join]] = field(default_factory=list)
    """Through a pass, and then aside to the lower end."""
    drops: list[tuple[str, Join]] = field(default_factory=list)
    """From a GPU, a NIC or a pass to what lies below."""
    below: dict[str, int] = field(default_factory=dict)
    """Nodes and bundles below the GPUs, and how many hops away these are."""
    deep: list[Join] = field(default_factory=list)
    """Between nodes below."""
    bundles: dict[str, Bundle] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)

    def order(self, end: str) -> tuple[float, str]:
        """GPUs by their number, then others by name."""
        return (inf if end in self.graph.nodes else float(end.removeprefix("gpu"))), end

    def bottom_up(self, names: Iterable[str]) -> list[str]:
        """`names` and all that hangs from them, each once and after what hangs from it."""
        found: list[str] = []
        seen: set[str] = set()
        left = [(name, False) for name in names]
        while left:
            name, opened = left.pop()
            if opened:
                found.append(name)
            elif name not in seen:
                seen.add(name)
                left.append((name, True))
                left += [(child, False) for child in self.children.get(name, ())]
        return found

    def passed(self, node: str) -> str:
        """A new pass under `node`."""
        name = f"pass {len(self.elbows) + len(self.drops)}"
        self.children.setdefault(node, []).append(name)
        return name


def plan(graph: Graph) -> Plan:
    """Plan the drawing of a topology."""
    made = Plan(graph)
    index = {name: i for i, name in enumerate(graph.names)}
    links = []
    for link in graph.topology.links:
        for a, b in link.edges(graph.gpus):
            found = [((index[n],) if n in index else ()) for n in (f"{a}>{b}", f"{b}>{a}", f"{a}-{b}")]
            links.append((link, Join(a, b, found[0], found[1], found[2], link.kind)))
    joins = [join for _, join in links]
    _levels(made, joins)
    _parents(made, joins)
    _bundles(made, [(link, join) for link, join in links if {join.upper, join.lower} <= made.bottom])
    _spread(made, [join for join in joins if not {join.upper, join.lower} <= made.bottom])
    _hosts(made, joins)
    return made


def _near(joins: Iterable[Join]) -> dict[str, list[str]]:
    near: dict[str, list[str]] = {}
    for join in joins:
        near.setdefault(join.upper, []).append(join.lower)
        near.setdefault(join.lower, []).append(join.upper)
    return near


def _levels(made: Plan, joins: list[Join]) -> None:
    """Levels of what is on the host's side: reached from memories without GPUs, and without fabrics that copies need
    not cross.
    """
    graph, near = made.graph, _near(joins)
    kinds = {name: node.kind for name, node in graph.nodes.items()}
    fabrics = [name for name, kind in kinds.items() if kind in _BELOW]
    aside = set(fabrics)
    if fabrics:
        away = {start: graph.distances(start) for start in {*graph.pinned, *(f"gpu{g}" for g in range(graph.gpus))}}
        for gpu, memory in enumerate(graph.pinned):
            there, back = away[memory], away[f"gpu{gpu}"]
            aside -= {f for f in fabrics if there.get(f, inf) + back.get(f, inf) == there[f"gpu{gpu}"]}
    made.level = {name: 0 for name, kind in kinds.items() if kind == "memory"}
    queue = deque(made.level)
    while queue:
        at = queue.popleft()
        for other in near.get(at, ()):
            if other not in kinds or other in aside:
                continue
            level = made.level[at] + (not (kinds[at] == kinds[other] and kinds[at] in _BESIDE))
            if level < made.level.get(other, level + 1):
                made.level[other] = level
                queue.append(other)
    made.below = {name: 0 for name in kinds if name not in made.level}


def _parents(made: Plan, joins: list[Join]) -> None:
    """A parent for every node that has one, and caps."""
    level, near, nodes = made.level, _near(joins), made.graph.nodes
    gpus = [f"gpu{g}" for g in range(made.graph.gpus)]
    hosts = {at: [n for n in dict.fromkeys(near.get(at, ())) if n in level] for at in [*level, *gpus]}
    lone = {m for m, at in level.items() if not at and not any(n not in nodes for n in near.get(m, ()))}
    lone = {m for m in lone if len(hosts[m]) == 1 and level[hosts[m][0]] == 1}
    for node, at in level.items():
        over = [n for n in hosts[node] if level[n] == at - 1]
        if over and all(n in lone for n in over):
            made.caps[node] = over
        elif over:
            made.parent[node] = next(n for n in over if n not in lone)
    for gpu in gpus:
        made.parent[gpu] = max(hosts[gpu], key=lambda n: (nodes[n].kind != "nic", level[n]))
    for node, above in made.parent.items():
        made.children.setdefault(above, []).append(node)
    nics = {n for n in level if nodes[n].kind == "nic" and n in made.parent and n not in made.children}
    made.bottom = {*gpus, *nics}


def _bundles(made: Plan, pairs: list[tuple[Link, Join]]) -> None:
    """Links within the row of GPUs, as one bundle if they are joined and have the same limits."""
    kinds: dict[object, list[Join]] = {}
    for link, join in pairs:
        kinds.setdefault((link.kind, link.there, link.back, link.each_way, link.both_ways), []).append(join)
    for joins in kinds.values():
        for ends in _connected(_near(joins)):
            mine = tuple(join for join in joins if join.upper in ends)
            name = f"links {len(made.bundles)}"
            made.bundles[name] = Bundle(mine, tuple(sorted(ends, key=made.order)))
            made.below[name] = 1
            for end in made.bundles[name].ends:
                own = [j if j.upper == end else j.turned() for j in mine if end in (j.upper, j.lower)]
                down, up, both = (
                    tuple(r for limits in part for r in limits) for part in zip(*(j[2:5] for j in own), strict=True)
                )
                made.drops.append((end, Join(end, name, down, up, both, own[0].kind)))


def _spread(made: Plan, joins: list[Join]) -> None:
    """Sort the links by where they go, and find how far down the nodes below lie."""
    level, bottom = made.level, made.bottom
    for join in joins:
        a, b = join.upper, join.lower
        if a in made.below and b in made.below:
            made.deep.append(join)
        elif a in made.below or b in made.below:
            join = join.turned() if a in made.below else join
            made.below[join.lower] = 1
            made.drops.append((join.upper if join.upper in bottom else made.passed(join.upper), join))
        elif made.parent.get(b) == a or a in made.caps.get(b, ()):
            made.tree.append(join)
        elif made.parent.get(a) == b or b in made.caps.get(a, ()):
            made.tree.append(join.turned())
        elif not {a, b} & bottom and level[a] == level[b]:
            made.sideways.append(join)
        else:
            up = b in level and (a not in level or a in bottom or (b not in bottom and level[b] < level[a]))
            join = join.turned() if up else join
            made.elbows.append((made.passed(join.upper), join))
    near = _near(made.deep)
    queue = deque(name for name, depth in made.below.items() if depth == 1)
    while queue:
        at = queue.popleft()
        for other in near.get(at, ()):
            if not made.below[other]:
                made.below[other] = made.below[at] + 1
                queue.append(other)


def _hosts(made: Plan, joins: list[Join]) -> None:
    """The order of columns: hosts, and what is in them, by their first GPU."""
    nodes = made.graph.nodes
    inside = [j for j in joins if not any(n in nodes and nodes[n].kind == "network" for n in j[:2])]
    near = _near([*inside, *(link for bundle in made.bundles.values() for link in bundle.links)])
    for name in [*nodes, *(f"gpu{g}" for g in range(made.graph.gpus))]:
        near.setdefault(name, [])
    first: dict[str, float] = {}
    for name in made.bottom_up([*made.level, *near]):
        own = made.order(name)[0] if name in near else inf
        first[name] = min([own, *(first[child] for child in made.children.get(name, ()))])
    order = first.__getitem__
    for children in made.children.values():
        children.sort(key=lambda name: (order(name), name))
    caps = {m for over in made.caps.values() for m in over}
    roots = [n for n in made.level if n not in made.parent and n not in caps]

    def without_gpus(root: str) -> float:
        """A root without GPUs goes next to one that has some."""
        return min([order(root), *(order(n) + 0.5 for n in near[root] if n in nodes)])

    parts = sorted((sorted(part, key=order) for part in _connected(near)), key=lambda part: order(part[0]))
    for i, part in enumerate(parts):
        made.host |= dict.fromkeys(part, i)
    groups: dict[int, list[str]] = {}
    for root in sorted(roots, key=lambda root: (made.host[root], without_gpus(root), root)):
        groups.setdefault(made.host[root], []).append(root)
    made.roots = list(groups.values())


def _connected(near: dict[str, list[str]]) -> list[set[str]]:
    """The parts of a graph."""
    parts: list[set[str]] = []
    seen: set[str] = set()
    for start in near:
        if start in seen:
            continue
        part, queue = {start}, [start]
        while queue:
            for other in near[queue.pop()]:
                if other not in part:
                    part.add(other)
                    queue.append(other)
        seen |= part
        parts.append(part)
    return parts
