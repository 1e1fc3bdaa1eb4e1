"""Which GPUs of a host stand where others do: automorphisms of its topology.

An automorphism is a permutation of GPUs and nodes that keeps every node's limits, every link's length and limits, where
pinned memory lies, and which GPUs reach each other directly. Routes follow from these alone, so it maps the route
between two GPUs to that between their images, resource by resource. Permutations are guessed (ranks that turn in blocks
of equal size) and then checked on the whole graph: a wrong guess costs time, never a wrong symmetry.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from sim.hardware.routes import Graph


class Automorphism(NamedTuple):
    """Where each rank goes, and each resource that it moves; others stay."""

    ranks: tuple[int, ...]
    resources: dict[int, int]


class Symmetry(NamedTuple):
    """The group that some automorphisms generate, by its orbits on ranks and resources.

    `rank_class` holds for each rank the smallest rank of its orbit, `resource_class` likewise for resources.
    """

    generators: tuple[Automorphism, ...]
    rank_class: tuple[int, ...]
    resource_class: tuple[int, ...]

    def parts(self) -> Iterator[Symmetry]:
        """The groups of the first generators: all of them, then always one less, as long as some ranks are joined."""
        for count in range(len(self.generators), 0, -1):
            yield generated(self.generators[:count], len(self.rank_class), len(self.resource_class))


_KNOWN: WeakKeyDictionary[Graph, dict[tuple[tuple[int, ...], tuple[int, ...]], Symmetry]] = WeakKeyDictionary()
"""Of each topology, by the GPUs of ranks and their kinds, what has been looked for."""


def symmetry(graph: Graph, gpus: Sequence[int], kinds: Sequence[int]) -> Symmetry:
    """A group of automorphisms that permutes the ranks on `gpus`, which are of `kinds`; one of 1 if none is found."""
    known = _KNOWN.setdefault(graph, {})
    key = tuple(gpus), tuple(kinds)
    if key not in known:
        known[key] = _find(graph, *key)
    return known[key]


def _find(graph: Graph, gpus: tuple[int, ...], kinds: tuple[int, ...]) -> Symmetry:
    checker = _Checker(graph, gpus, kinds)
    return generated(tuple(_generators(checker, len(gpus))), len(gpus), len(graph.limits))


def generated(generators: tuple[Automorphism, ...], ranks: int, resources: int) -> Symmetry:
    """The group that `generators` generate, of so many ranks and resources."""
    of_ranks, of_resources = _Orbits(ranks), _Orbits(resources)
    for generator in generators:
        of_ranks.join_all(enumerate(generator.ranks))
        of_resources.join_all(generator.resources.items())
    return Symmetry(generators, of_ranks.classes(), of_resources.classes())


def _generators(checker: _Checker, count: int) -> Iterator[Automorphism]:
    """Automorphisms that turn ranks in blocks: all of them, and where that joins not all, those that look alike."""
    joined = _Orbits(count)
    for generator in _turns(checker, range(count)):
        yield generator
        joined.join_all(enumerate(generator.ranks))
    if len(set(joined.classes())) > 1:
        for ranks in checker.alike():
            if len({joined.root(rank) for rank in ranks}) > 1:
                for generator in _turns(checker, ranks):
                    yield generator
                    joined.join_all(enumerate(generator.ranks))


def _turns(checker: _Checker, ranks: Sequence[int]) -> Iterator[Automorphism]:
    """Automorphisms that turn `ranks` in blocks: of all of them, then within a block of those, and so on."""
    block = len(ranks)
    while block > 1:
        for turn in (d for d in range(1, block) if block % d == 0):
            if (found := checker.check(_turned(ranks, turn, block))) is not None:
                yield found
                block = turn
                break
        else:
            block = max(d for d in range(1, block) if block % d == 0)


def _turned(ranks: Sequence[int], turn: int, block: int) -> dict[int, int]:
    """Where each of `ranks` goes if those of each block of so many move on by `turn` places."""
    return {rank: ranks[at - at % block + (at % block + turn) % block] for at, rank in enumerate(ranks)}


class _Orbits:
    """Sets of numbers that are joined."""

    def __init__(self, count: int) -> None:
        self.parent = list(range(count))

    def root(self, number: int) -> int:
        """The smallest number that `number` is joined with."""
        parent = self.parent
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    def join(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a != b:
            self.parent[max(a, b)] = min(a, b)

    def join_all(self, pairs: Iterable[tuple[int, int]]) -> None:
        for a, b in pairs:
            self.join(a, b)

    def classes(self) -> tuple[int, ...]:
        """The smallest number of each one's set."""
        return tuple(map(self.root, range(len(self.parent))))


def _counted(what: Iterable[Hashable]) -> Hashable:
    """The same for the same things in any order."""
    return frozenset(Counter(what).items())


class _Edge(NamedTuple):
    """One direction of a link: what it looks like, and the resources that it crosses."""

    looks: int
    resources: tuple[int, ...]


class _Checker:
    """The topology as far as routes between the GPUs of ranks depend on it: a GPU passes nothing on.

    Vertices are numbered: those of ranks first, then nodes.
    """

    def __init__(self, graph: Graph, gpus: Sequence[int], kinds: Sequence[int]) -> None:
        self.graph = graph
        self.count = len(gpus)
        names = [*(f"gpu{gpu}" for gpu in gpus), *graph.nodes]
        number = {name: at for at, name in enumerate(names)}
        looks: dict[Hashable, int] = {}
        self.looks = [looks.setdefault(kind, len(looks)) for kind in kinds]
        self.looks += [looks.setdefault(self._look(name), len(looks)) for name in graph.nodes]
        self.inside = {number[name]: inside for name, inside in graph.inside.items()}
        self.edges: dict[tuple[int, int], _Edge] = {}
        self.near: list[list[tuple[int, int]]] = [[] for _ in names]
        """Of each vertex: (neighbour, what the link from there to it looks like)."""
        limits = [(limit.value, limit.carries) for limit in graph.limits]
        for name, at in number.items():
            for edge in graph.edges[name]:
                to = number.get(edge.to)
                if to is None:
                    continue
                crossed = tuple((limits[resource], cost) for resource, cost in edge.resources)
                look = looks.setdefault((edge.hops, crossed), len(looks))
                self.edges[at, to] = _Edge(look, tuple(resource for resource, _ in edge.resources))
                self.near[to].append((at, look))
        self.pinned = [number[graph.pinned[gpu]] for gpu in gpus]
        peers = graph.topology.peers
        placed = {gpu: rank for rank, gpu in enumerate(gpus)}
        self.peers = (
            {frozenset(placed[gpu] for gpu in group if gpu in placed) for group in peers}
            if not isinstance(peers, str)
            else set()
        )

    def _look(self, name: str) -> Hashable:
        node, graph = self.graph.nodes[name], self.graph
        limits = (None if r is None else (graph.limits[r].value, graph.limits[r].carries) for r in graph.inside[name])
        return node.kind == "memory", *limits, None if node.write_cost is None else node.write_cost.value

    def alike(self) -> list[list[int]]:
        """Ranks that look alike, from however far (colour refinement): no others can be joined."""
        looks, count = self.looks, 0
        while len(set(looks)) > count:
            count, seen = len(set(looks)), dict[Hashable, int]()
            peers: list[list[Hashable]] = [[] for _ in looks]
            for group in self.peers:
                for rank in group:
                    peers[rank].append(_counted(looks[other] for other in group))
            around = [
                (look, _counted((looks[a], link) for a, link in near), _counted(groups))
                for look, near, groups in zip(looks, self.near, peers, strict=True)
            ]
            looks = [seen.setdefault(each, len(seen)) for each in around]
        found: dict[int, list[int]] = {}
        for rank in range(self.count):
            found.setdefault(looks[rank], []).append(rank)
        return list(found.values())

    def check(self, moves: dict[int, int]) -> Automorphism | None:
        """The automorphism that moves ranks so, and no others; None if there is none, or its nodes are not found."""
        ranks = [moves.get(rank, rank) for rank in range(self.count)]
        image = self._image(ranks)
        if image is None or any(image[self.pinned[r]] != self.pinned[to] for r, to in enumerate(ranks)):
            return None
        if {frozenset(ranks[rank] for rank in group) for group in self.peers} != self.peers:
            return None
        moved: dict[int, int] = {}
        if any(self.looks[at] != self.looks[to] for at, to in enumerate(image)):
            return None
        for (a, b), edge in self.edges.items():
            other = self.edges.get((image[a], image[b]))
            if other is None or other.looks != edge.looks:
                return None
            for resource, to in zip(edge.resources, other.resources, strict=True):
                if moved.setdefault(resource, to) != to:
                    return None
        for at, limits in self.inside.items():
            for own, other_own in zip(limits, self.inside[image[at]], strict=True):
                if own is not None and (other_own is None or moved.setdefault(own, other_own) != other_own):
                    return None
        if len(set(moved.values())) != len(moved) or len(set(image)) != len(image):
            return None
        return Automorphism(tuple(ranks), moved)

    def _image(self, ranks: Sequence[int]) -> list[int] | None:
        """Where each vertex goes if ranks go so: nodes by the neighbours that are known already, from GPUs on."""
        image = [*ranks, *([-1] * (len(self.looks) - self.count))]
        known = [True] * self.count + [False] * (len(self.looks) - self.count)
        left = [at for at in range(self.count, len(image)) if self.near[at]]
        while left:
            next_to = [at for at in left if any(known[a] for a, _ in self.near[at])]
            if not next_to:
                break
            images: dict[Hashable, list[int]] = {}
            for at in reversed(next_to):
                seen = frozenset((a, look) for a, look in self.near[at] if known[a])
                images.setdefault((self.looks[at], seen), []).append(at)
            for at in next_to:
                seen = frozenset((image[a], look) for a, look in self.near[at] if known[a])
                same = images.get((self.looks[at], seen))
                if not same:
                    return None
                image[at] = same.pop()
            for at in next_to:
                known[at] = True
            left = [at for at in left if not known[at]]
        for at, to in enumerate(image):
            if to < 0:
                image[at] = at
        return image
