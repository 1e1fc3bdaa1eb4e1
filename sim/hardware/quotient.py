"""A host on which one rank stands for each class of ranks that do the same at the same time.

A flow stands for all flows that an automorphism maps it to. They have equal caps and weights, and the load that they
make is spread evenly over the resources that they are mapped to, so that one resource stands for each class of those:
the flow takes of it what they all take, divided by how many there are. Filling proceeds in step in a class, so
weighted max-min fair rates of the quotient are those of the host (docs/performance.md).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from sim.fluid import FlowSpec, Route
from sim.hardware import collectives
from sim.hardware.host_flows import Group, HostFlows
from sim.hardware.profile import CollectiveTag, Profile
from sim.hardware.symmetry import Symmetry
from sim.program import CollectiveKind, CopyKind

_Ranks = tuple[int, ...]
_Load = dict[int, float]


class BrokenSymmetryError(Exception):
    """What ranks do together does not treat those of a class alike."""


class Quotient(HostFlows):
    """The flows of classes of ranks. Class c is that of rank `representatives[c]`, the smallest one.

    Resources of `capacities` are classes of those of the profile. Groups are groups of ranks; members are classes.
    """

    def __init__(self, profile: Profile, gpus: Sequence[int], symmetry: Symmetry) -> None:
        super().__init__(profile, gpus)
        self.symmetry = symmetry
        self.representatives = tuple(sorted(set(symmetry.rank_class)))
        number = {rank: at for at, rank in enumerate(self.representatives)}
        self.class_of = tuple(number[rank] for rank in symmetry.rank_class)
        """Of each rank."""
        self.sizes = Counter(self.class_of)
        self._class_of_gpu = dict(zip(self.gpus, self.class_of, strict=True))
        kept = {resource: at for at, resource in enumerate(sorted(set(symmetry.resource_class)))}
        self.resource_class = tuple(kept[resource] for resource in symmetry.resource_class)
        """Of each resource of the profile."""
        self.resources_in = Counter(self.resource_class)
        self.capacities = tuple(profile.capacities[resource] for resource in kept)

    @classmethod
    def of(cls, profile: Profile, gpus: tuple[int, ...], symmetry: Symmetry) -> Quotient:
        """That of `profile`, made once: runs that differ in their programs share it."""
        key = gpus, symmetry.rank_class, symmetry.resource_class
        if key not in profile.quotients:
            profile.quotients[key] = cls(profile, gpus, symmetry)
        found: Quotient = profile.quotients[key]
        return found

    def kernel(self, gpu: int, seconds: float, launches: int) -> FlowSpec:
        """What kernels of a class of ranks are, from that of one of them."""
        return self.fold(super().kernel(gpu, seconds, launches), self.sizes[self._class_of_gpu[gpu]])

    def copy(self, kind: CopyKind, gpu: int, peer: int | None) -> FlowSpec:
        """What copies of a class of ranks are, from that of one of them."""
        return self.fold(super().copy(kind, gpu, peer), self.sizes[self._class_of_gpu[gpu]])

    def members(self, group: Group) -> _Ranks:
        """The classes of ranks of a group."""
        return tuple(sorted(self.sizes if group is None else {self.class_of[rank] for rank in group}))

    def place(self, group: Group, rank: int) -> int:
        """The place of the class of `rank` among `members`."""
        return self.members(group).index(self.class_of[rank])

    def fold(self, spec: FlowSpec, count: int) -> FlowSpec:
        """The flow that stands for `count` flows that `spec` is mapped to, itself among them."""
        drag, other = spec.drag, spec.alternate_route
        return spec._replace(
            route=self._route(spec.route, count),
            drag=None if drag is None else (self.resource_class[drag[0]], drag[1]),
            tags=self._tags(spec.tags),
            slowed_by=tuple((self._tags(tags), factor) for tags, factor in spec.slowed_by),
            alternate_route=None if other is None else (self._tags(other[0]), self._route(other[1], count)),
        )

    def _route(self, route: Route, count: int) -> Route:
        taken: _Load = {}
        for resource, multiplier in route:
            at = self.resource_class[resource]
            taken[at] = taken.get(at, 0.0) + multiplier
        return tuple((at, m * count / self.resources_in[at]) for at, m in sorted(taken.items()))

    def _tags(self, tags: Iterable[object]) -> tuple[object, ...]:
        return tuple(dict.fromkeys(self._tag(tag) for tag in tags))

    def _tag(self, tag: object) -> object:
        if not isinstance(tag, CollectiveTag):
            return tag
        return tag._replace(gpu=self.gpus[self.representatives[self._class_of_gpu[tag.gpu]]])

    def _find_collective(self, kind: CollectiveKind, size: int, group: Group) -> list[collectives.PhaseFlows]:
        """Raises BrokenSymmetryError where ranks of a class would not be treated alike."""
        ranks = tuple(range(len(self.gpus))) if group is None else group
        sources = {place for place, rank in enumerate(ranks) if self.symmetry.rank_class[rank] == rank}
        gpus = [self.gpus[rank] for rank in ranks]
        found = []
        for phase in collectives.phases_of(self.profile, kind, size, gpus, collectives.Pairs(sources)):
            moves = collectives.flows_of_phase(self.profile, kind, gpus, phase)
            flows = [(spec, part, tuple(ranks[place] for place in part.ranks)) for spec, part in moves.flows]
            if phase.pairs_of:
                self._check_groups([tuple(ranks[place] for place in of) for of in phase.pairs_of])
                folded = self._of_pairs(flows)
            else:
                folded = self._of_all(flows)
            places = {number: place for place, number in enumerate(self.members(group))}
            parts = tuple(
                (spec, collectives.Part((), length, tuple(places[number] for number in classes)))
                for spec, length, classes in folded
            )
            found.append(collectives.PhaseFlows(moves.latency, parts))
        return found

    def _find_incoming(
        self, kind: CollectiveKind, size: int, group: Group, rank: int
    ) -> list[list[tuple[FlowSpec, float]]]:
        """As of `HostFlows`; of pairs, from flows of representatives to any rank of the class of `rank`.

        An automorphism maps such a rank to `rank`, and its flows and copies to those of `rank`.
        """
        ranks = tuple(range(len(self.gpus))) if group is None else group
        place, gpus = ranks.index(rank), [self.gpus[member] for member in ranks]
        own, classes = self.profile.graph.copy(self.gpus[rank], "h2d"), self.class_of
        same = {at for at, member in enumerate(ranks) if classes[member] == classes[rank]}
        sources = {at for at, member in enumerate(ranks) if self.symmetry.rank_class[member] == member}
        found = []
        for phase in collectives.phases_of(self.profile, kind, size, gpus, collectives.Pairs(sources, same)):
            flows = collectives.flows_of_phase(self.profile, kind, gpus, phase).flows
            if not phase.pairs_of:
                found.append([(spec, part.size) for spec, part in flows if any(to == place for _, to in part.edges)])
                continue
            alike: Counter[tuple[FlowSpec, float]] = Counter()
            for spec, part in flows:
                source, target = part.ranks
                copied = self.profile.graph.copy(gpus[target], "h2d")
                moved = {resource: to for (resource, _), (to, _) in zip(copied, own, strict=True)}
                route, other = _crossed(spec.route, moved), spec.alternate_route
                at_rank = spec._replace(
                    route=route,
                    tags=(),
                    slowed_by=(),
                    alternate_route=None if other is None else (other[0], _crossed(other[1], moved)),
                )
                alike[at_rank, part.size] += self.sizes[classes[ranks[source]]]
            share = self.sizes[classes[rank]]
            found.append(
                [(s._replace(weight=s.weight * n / share), length * n / share) for (s, length), n in alike.items()]
            )
        return found

    def _check_groups(self, groups: Sequence[_Ranks]) -> None:
        """Automorphisms must permute the groups whose pairs exchange something: then they permute these pairs."""
        sets = {frozenset(group) for group in groups}
        for generator in self.symmetry.generators:
            if {frozenset(generator.ranks[rank] for rank in group) for group in sets} != sets:
                raise BrokenSymmetryError("ranks of a class are in groups that are not alike")

    def _of_pairs(
        self, flows: Iterable[tuple[FlowSpec, collectives.Part, _Ranks]]
    ) -> Iterator[tuple[FlowSpec, float, _Ranks]]:
        """The flows of all pairs, from those of representatives: (flow, size, classes that it is awaited by)."""
        alike: Counter[tuple[FlowSpec, float, _Ranks]] = Counter()
        for spec, part, (source, target) in flows:
            a, b = self.class_of[source], self.class_of[target]
            alike[self.fold(spec, self.sizes[a]), part.size, tuple(sorted({a, b}))] += 1
        for (spec, size, classes), count in alike.items():
            yield _times(spec, count), size, classes

    def _of_all(
        self, flows: Iterable[tuple[FlowSpec, collectives.Part, _Ranks]]
    ) -> Iterator[tuple[FlowSpec, float, _Ranks]]:
        """As `_of_pairs`, from all flows; checks that what is alike loads resources of a class alike."""
        alike: dict[tuple[FlowSpec, float, _Ranks], list[FlowSpec]] = {}
        of_ranks: list[set[int]] = [set() for _ in self.gpus]
        numbers: dict[tuple[FlowSpec, float, _Ranks], int] = {}
        for spec, part, ranks in flows:
            classes = tuple(sorted({self.class_of[rank] for rank in ranks}))
            key = self.fold(spec, 1), part.size, classes
            alike.setdefault(key, []).append(spec)
            number = numbers.setdefault(key, len(numbers))
            for rank in ranks:
                of_ranks[rank].add(number)
        for rank, its in enumerate(of_ranks):
            if its != of_ranks[self.symmetry.rank_class[rank]]:
                raise BrokenSymmetryError("ranks of a class wait for flows that are not alike")
        for (spec, size, classes), found in alike.items():
            self._check_load(each.route for each in found)
            self._check_load(each.alternate_route[1] for each in found if each.alternate_route is not None)
            yield _times(spec, len(found)), size, classes

    def _check_load(self, routes: Iterable[Route]) -> None:
        load: _Load = {}
        for route in routes:
            for resource, multiplier in route:
                load[resource] = load.get(resource, 0.0) + multiplier
        loaded = Counter(self.resource_class[resource] for resource in load)
        first: _Load = {}
        for resource, taken in load.items():
            at = self.resource_class[resource]
            every = loaded[at] == self.resources_in[at]
            if not every or not math.isclose(taken, first.setdefault(at, taken), rel_tol=1e-12):
                raise BrokenSymmetryError("flows that are alike load resources of a class differently")


def _crossed(route: Route, moved: dict[int, int]) -> Route:
    """What a route takes of the resources that are `moved`, as where they are moved to."""
    return tuple((moved[resource], taken) for resource, taken in route if resource in moved)


def _times(spec: FlowSpec, count: int) -> FlowSpec:
    """The flow that stands for `count` flows of `spec`, which all get the same."""
    if count == 1:
        return spec
    other = spec.alternate_route
    return spec._replace(
        route=tuple((resource, m * count) for resource, m in spec.route),
        alternate_route=None if other is None else (other[0], tuple((resource, m * count) for resource, m in other[1])),
    )
