"""A topology with its resources numbered and its routes found."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from itertools import islice
from math import inf
from typing import NamedTuple, assert_never

from sim.hardware.topology import Capacity, Link, Node, Topology, Use
from sim.inputs.faults import Fault, FaultsError, close_to, refuse
from sim.program import HostCopyKind

OrderedRoute = tuple[tuple[int, float], ...]
"""(resource, what a byte takes of it), in the order in which they are crossed; one may be crossed twice."""


ROUTES_ONE_BY_ONE = 8
"""To look for all routes from a vertex of a large host takes as long as for some of them."""


class _Edge(NamedTuple):
    """One direction of a link: where it leads, its length, and the resources crossed by it and by entering there."""

    to: str
    hops: int
    resources: OrderedRoute


class Graph:
    """A `Topology` of `gpus` GPUs with its resources numbered and its routes found.

    So many routes from a vertex are looked for `one_by_one`; then all from there at once.

    Raises:
        FaultsError: links, groups or placements name what is not there, or a route is missing or ambiguous.
    """

    def __init__(self, topology: Topology, gpus: int, one_by_one: int = ROUTES_ONE_BY_ONE) -> None:
        self.topology = topology
        self.one_by_one = one_by_one
        self.gpus = gpus
        self.names: list[str] = []
        """Of the resources: `a>b` and `a-b` of links, `n`, `n.in` and `n.out` of nodes."""
        self.limits: list[Capacity] = []
        self.edges: dict[str, list[_Edge]] = {f"gpu{g}": [] for g in range(gpus)}
        self.nodes: dict[str, Node] = {}
        """With `{gpu}` in their names replaced."""
        self.inside: dict[str, tuple[int | None, int | None, int | None]] = {}
        self._into: dict[str, dict[str, _Edge]] = {name: {} for name in self.edges}
        """Of each vertex: the edges that lead there, by where they come from."""
        self._routes: dict[tuple[str, Use], dict[str, OrderedRoute | None]] = {}
        self._single: dict[tuple[str, str, Use], OrderedRoute | None] = {}
        self._asked: Counter[tuple[str, Use]] = Counter()
        self._faults: list[Fault] = []
        self._add_nodes()
        for i, link in enumerate(topology.links):
            self._add_link(f"topology.links[{i}]", link)
        self._groups("topology.domains", topology.domains)
        if not isinstance(topology.peers, str):
            self._peer_groups(topology.peers)
        memories = [name for name, node in self.nodes.items() if node.kind == "memory"]
        for name, group in topology.pinned.items():
            self._known(f"topology.pinned.{name}", group)
            if name not in memories:
                self._wrong("topology.pinned", f"names {name!r}, which is none of {', '.join(memories)}")
        refuse(self._faults)
        self.pinned = [self._memory_of(g, memories) for g in range(gpus)]
        refuse(self._faults)

    def copy(self, gpu: int, kind: HostCopyKind) -> OrderedRoute:
        """Resources that a copy crosses; the last one of h2d is the link into the GPU."""
        memory, device = self.pinned[gpu], f"gpu{gpu}"
        if kind == "h2d":
            return self.route(memory, device, "copies")
        if kind == "d2h":
            return self.route(device, memory, "copies")
        assert_never(kind)

    def peer(self, source: int, destination: int) -> OrderedRoute:
        """Resources on the route from `source` to `destination`, each as often as it is crossed."""
        a, b = f"gpu{source}", f"gpu{destination}"
        peers = self.topology.peers
        direct = peers == "direct" or (peers != "host" and any({source, destination} <= set(group) for group in peers))
        if direct:
            return self.route(a, b, "peers")
        memory = self.pinned[destination]
        return self.route(a, memory, "peers") + self.route(memory, b, "peers")

    def domain_of(self, gpu: int) -> int | None:
        """Which of the topology's domains a GPU is in."""
        return next((i for i, group in enumerate(self.topology.domains) if gpu in group), None)

    def route(self, start: str, end: str, use: Use) -> OrderedRoute:
        """Resources on the route between two vertices, in their order."""
        routes = self._routes.get((start, use))
        if routes is None and (start, end, use) in self._single:
            routes = {end: self._single[start, end, use]}
        if routes is None:
            self._asked[start, use] += 1
            if self._asked[start, use] > self.one_by_one:
                routes = self._routes[start, use] = self._search(start, use)
            else:
                routes = self._single_route(start, end, use)
        if end not in routes:
            raise FaultsError([Fault("topology", f"there is no route from {start} to {end}{self._hint(start, end)}")])
        found = routes[end]
        if found is None:
            problem = f"the route from {start} to {end} is ambiguous: several have as few hops and are as wide; "
            raise FaultsError([Fault("topology", problem + "give links of one of them more hops")])
        return found

    def _hint(self, start: str, end: str) -> str:
        """What to do where there is no route."""
        if start in self.nodes or end in self.nodes:
            return ": add links"
        if self.topology.peers == "direct":
            return ": add links, or `peers: host` if these GPUs reach each other through the host's memory"
        return ": add links, or put them into different groups of `peers` if they go through the host's memory"

    def _wrong(self, path: str, problem: str) -> None:
        self._faults.append(Fault(path, problem))

    def _add_nodes(self) -> None:
        for pattern, node in self.topology.nodes.items():
            names = (pattern.replace("{gpu}", str(g)) for g in range(self.gpus))
            for name in dict.fromkeys(names):
                if name in self.edges:
                    self._wrong("topology.nodes", f"has {name!r}, which there is already")
                    continue
                if not name or any(c in name for c in "{}>- ") or name.endswith((".in", ".out")):
                    self._wrong("topology.nodes", f"has {name!r}: expected a word without '-', '>' and '.in'")
                self.edges[name] = []
                self._into[name] = {}
                self.nodes[name] = node
                self.inside[name] = (
                    self._resource(f"{name}.in", node.into),
                    self._resource(f"{name}.out", node.out_of),
                    self._resource(name, node.through),
                )

    def _resource(self, name: str, limit: Capacity | None) -> int | None:
        if limit is None:
            return None
        self.names.append(name)
        self.limits.append(limit)
        return len(self.names) - 1

    def _add_link(self, where: str, link: Link) -> None:
        for group in (*(link.mesh or ()), link.gpus or ()):
            self._known(where, group)
        for a, b in link.edges(self.gpus):
            unknown = [end for end in (a, b) if end not in self.edges]
            if unknown:
                close = close_to(unknown[0], self.edges)
                known = ", ".join(islice(sorted(self.edges), 20)) + (", ..." if len(self.edges) > 20 else "")
                hint = f"; {close.strip()}" if close else ""
                self._wrong(where, f"names {unknown[0]!r}, which is none of {known}{hint}")
                return
            if a == b:
                self._wrong(where, f"joins {a} to itself")
                return
            if a in self._into[b]:
                self._wrong(where, f"joins {a} and {b}, which are joined already")
                return
            both = self._resource(f"{a}-{b}", link.both_ways)
            there = self._resource(f"{a}>{b}", link.there or link.each_way)
            back = self._resource(f"{b}>{a}", link.back or link.each_way)
            for one, other, way in ((a, b, there), (b, a, back)):
                edge = self._edge(one, other, link.hops, (both, way))
                self.edges[one].append(edge)
                self._into[other][one] = edge

    def _edge(self, a: str, b: str, hops: int, own: tuple[int | None, ...]) -> _Edge:
        """From a to b: what leaves a, the link, what enters b. `through` of b is crossed on entering it."""
        leave = self.inside.get(a, (None, None, None))[1]
        enter, _, through = self.inside.get(b, (None, None, None))
        crossed = [(r, 1.0) for r in (leave, *own, enter) if r is not None]
        if through is not None:
            cost = self.nodes[b].write_cost
            crossed.append((through, 1.0 if cost is None else float(cost.value)))
        return _Edge(b, hops, tuple(crossed))

    def _known(self, where: str, group: Iterable[int]) -> None:
        for gpu in group:
            if not 0 <= gpu < self.gpus:
                self._wrong(where, f"has GPU {gpu}, expected 0 to {self.gpus - 1}")

    def _groups(self, where: str, groups: tuple[tuple[int, ...], ...]) -> None:
        seen: set[int] = set()
        for i, group in enumerate(groups):
            self._known(f"{where}[{i}]", group)
            if not group or len(set(group)) != len(group) or seen & set(group):
                self._wrong(f"{where}[{i}]", "is empty, or has a GPU that was named before")
            seen |= set(group)

    def _peer_groups(self, groups: tuple[tuple[int, ...], ...]) -> None:
        """Groups may overlap: a GPU that reaches two others need not let them reach each other."""
        for i, group in enumerate(groups):
            where = f"topology.peers[{i}]"
            self._known(where, group)
            if not group or len(set(group)) != len(group) or any(set(group) <= set(other) for other in groups[:i]):
                self._wrong(where, "is empty, or has a GPU that was named before")

    def _memory_of(self, gpu: int, memories: list[str]) -> str:
        """Which of `memories` holds the pinned buffers of `gpu`; "" with a fault if none does."""
        given = [name for name, group in self.topology.pinned.items() if gpu in group]
        if len(given) > 1:
            self._wrong("topology.pinned", f"has GPU {gpu} in {' and in '.join(given)}")
        if given:
            return given[0]
        near = self._nearest(f"gpu{gpu}")
        if not near:
            self._wrong("topology", f"there is no route from gpu{gpu} to a memory: add links")
            return ""
        if len(near) > 1 and near[0][0] == near[1][0]:
            self._wrong("topology.pinned", f"is needed: {near[0][1]} and {near[1][1]} are equally near to gpu{gpu}")
        return near[0][1]

    def _forwards(self, name: str) -> bool:
        return name in self.nodes and self.nodes[name].kind != "memory"

    def distances(self, start: str) -> dict[str, int]:
        """Hops from `start` to all that can be reached."""
        away = {start: 0}
        heap = [(0, start)]
        while heap:
            hops, at = heapq.heappop(heap)
            if hops > away[at] or not (at == start or self._forwards(at)):
                continue
            for edge in self.edges[at]:
                if (there := hops + edge.hops) < away.get(edge.to, there + 1):
                    away[edge.to] = there
                    heapq.heappush(heap, (there, edge.to))
        return away

    def _nearest(self, start: str) -> list[tuple[int, str]]:
        """(hops, name) of the memories that are nearest to a GPU."""
        away, found = {start: 0}, list[tuple[int, str]]()
        heap = [(0, start)]
        while heap:
            hops, at = heapq.heappop(heap)
            if found and hops > found[0][0]:
                break
            if hops > away[at]:
                continue
            if at in self.nodes and not self._forwards(at):
                found.append((hops, at))
            elif not found and (at == start or at in self.nodes):
                for edge in self.edges[at]:
                    if edge.to in self.nodes and (there := hops + edge.hops) < away.get(edge.to, there + 1):
                        away[edge.to] = there
                        heapq.heappush(heap, (there, edge.to))
        return sorted(found)

    @cached_property
    def _core(self) -> dict[str, list[_Edge]]:
        """Of each vertex that passes on what comes in: edges to others that do."""
        return {name: [e for e in self.edges[name] if self._forwards(e.to)] for name in self.nodes}

    def _single_route(self, start: str, end: str, use: Use) -> dict[str, OrderedRoute | None]:
        """As `_search`, of one vertex: what is farther away than that is not looked at."""
        to_end, away, heap = self._into[end], {start: 0}, [(0, start)]
        least = inf
        while heap:
            hops, at = heapq.heappop(heap)
            if hops >= least:
                break
            if hops > away[at]:
                continue
            if at in to_end:
                least = min(least, hops + to_end[at].hops)
            onward = self._core[at] if at != start else [e for e in self.edges[at] if self._forwards(e.to)]
            for edge in onward:
                if (there := hops + edge.hops) < min(away.get(edge.to, inf), least):
                    away[edge.to] = there
                    heapq.heappush(heap, (there, edge.to))
        if least == inf:
            return {}
        away[end] = int(least)
        first = self.inside.get(start, (None, None, None))[2]
        known: dict[str, tuple[float, OrderedRoute | None]] = {
            start: (inf, ((first, 1.0),) if first is not None else ())
        }

        before: dict[str, list[tuple[str, _Edge]]] = {}
        looked_at = [end]
        for at in looked_at:
            if at in before or at == start:
                continue
            others = [*away] if at == end else [start, *(e.to for e in self._core.get(at, ()))]
            before[at] = [
                (a, into)
                for a in dict.fromkeys(others)
                if (into := self._into[at].get(a)) is not None
                and a != at
                and a in away
                and away[a] + into.hops == away[at]
            ]
            looked_at += [a for a, _ in before[at]]
        for at in sorted(before, key=lambda name: away[name]):
            wide = [(min(known[a][0], self._width(last)), known[a][1], last) for a, last in before[at]]
            most = max(width for width, _, _ in wide)
            best = [(came, last) for width, came, last in wide if width == most]
            came, last = best[0]
            known[at] = most, None if len(best) > 1 or came is None else came + last.resources
        found = known[end][1]
        found = self._single[start, end, use] = None if found is None else self._carrying(found, use)
        return {end: found}

    def _carrying(self, route: OrderedRoute, use: Use) -> OrderedRoute:
        """What of a route limits traffic of a use."""
        return tuple(c for c in route if self.limits[c[0]].carries in ("all", use))

    def _search(self, start: str, use: Use) -> dict[str, OrderedRoute | None]:
        """Resources on the route from `start` to every other vertex; None where the route is ambiguous."""
        away = self.distances(start)
        width = {start: inf}
        first = self.inside.get(start, (None, None, None))[2]
        routes: dict[str, OrderedRoute | None] = {start: ((first, 1.0),) if first is not None else ()}
        before: dict[str, list[tuple[str, _Edge]]] = {}
        for at in away:
            if at == start or self._forwards(at):
                for edge in self.edges[at]:
                    if away[at] + edge.hops == away[edge.to]:
                        before.setdefault(edge.to, []).append((at, edge))
        for at in sorted(before, key=lambda name: away[name]):
            wide = [(min(width[a], self._width(edge)), a, edge) for a, edge in before[at]]
            width[at] = max(w for w, _, _ in wide)
            best = [(a, edge) for w, a, edge in wide if w == width[at]]
            came = routes[best[0][0]]
            routes[at] = None if len(best) > 1 or came is None else came + best[0][1].resources
        return {
            name: found if found is None else self._carrying(found, use)
            for name, found in routes.items()
            if name != start
        }

    def _width(self, edge: _Edge) -> float:
        return min((self.limits[r].value / cost for r, cost in edge.resources), default=inf)
