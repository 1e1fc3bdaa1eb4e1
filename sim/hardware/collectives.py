"""Collectives as flows between GPUs, for any number of ranks, by algorithm.

With n ranks and a per-rank buffer of B bytes, a rank sends (nccl-tests, doc/PERFORMANCE.md):

- all_to_all, all_gather (B is the output), reduce_scatter (B is the input): (n - 1) / n B;
- all_reduce, as a reduce_scatter and an all_gather: 2 (n - 1) / n B;
- send_recv, every rank to its successor: B.

Algorithms:

- `direct`: every ordered pair moves its B / n, all at once. Pairs are flows of their own and end when they end.
- `ring`: all edges from a rank to its successor. The steps of a ring are pipelined over small pieces, so all its
  edges advance at one rate: a ring is one flow over all edges.
- `hierarchical`, with D domains of g ranks: one phase within domains, one between ranks of the same place in their
  domains, all at once in each. all_to_all sends (g - 1) / g B within (what is for ranks of the same place goes
  together) and then (D - 1) / D B across; all_gather (D - 1) / n B across and then (g - 1) / g B within;
  reduce_scatter the same in reverse order; all_reduce is a reduce_scatter within, an all_reduce of B / g across and
  an all_gather within. A phase starts when all ranks have ended the one before.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterable, Sequence
from typing import Any, Literal, NamedTuple, assert_never, get_args

from simpy.events import Event

from sim.environment import Environment, Process, Wait
from sim.fluid import Fabric, FlowSpec, RateLaw, weighted_max_min
from sim.hardware import COPY_TAG, CollectiveClass, CollectiveTag, Contention, Profile
from sim.hardware.collective_classes import Algorithm
from sim.inputs.config import InputError
from sim.program import CollectiveKind


class Part(NamedTuple):
    """One flow of a collective: `size` bytes over each of `edges` (source, destination), awaited by `ranks`."""

    edges: tuple[tuple[int, int], ...]
    size: float
    ranks: tuple[int, ...]


class Phase(NamedTuple):
    """Flows that go at once. Of `ranks` that take part together each sends `sent` bytes, to `peers` at a time.

    Where every ordered pair of a group has a flow of its own, these are the groups in `pairs_of`.
    """

    parts: tuple[Part, ...]
    ranks: int
    sent: float
    peers: int
    pairs_of: tuple[tuple[int, ...], ...] = ()


class Pairs(NamedTuple):
    """Which flows of pairs are wanted: those from `sources`, to `targets`; of any where these are None."""

    sources: Container[int] | None = None
    targets: Container[int] | None = None


ALL_PAIRS = Pairs()


class PhaseFlows(NamedTuple):
    """A phase as flows of the fabric, which start `latency` s after their ranks have arrived."""

    latency: float
    flows: tuple[tuple[FlowSpec, Part], ...]


def sent_per_rank(kind: CollectiveKind, size: int, world_size: int) -> float:
    """Bytes that each rank sends if none travel twice; more are sent by a hierarchical all_to_all."""
    match kind:
        case "send_recv":
            return float(size) if world_size > 1 else 0.0
        case "all_reduce":
            return 2 * size * (world_size - 1) / world_size
        case "all_to_all" | "all_gather" | "reduce_scatter":
            return size * (world_size - 1) / world_size
        case _:
            assert_never(kind)


def phases(
    kind: CollectiveKind,
    size: int,
    world_size: int,
    algorithm: Algorithm,
    domains: Sequence[tuple[int, ...]] = (),
    wanted: Pairs = ALL_PAIRS,
) -> tuple[Phase, ...]:
    """What moves a collective of `size` bytes per rank; nothing for a single rank.

    Where each pair has a flow, parts are only those that are `wanted`.
    """
    n = world_size
    if n == 1:
        return ()
    everyone = (tuple(range(n)),)
    if kind == "send_recv":
        shift = tuple(Part(((i, (i + 1) % n),), float(size), (i, (i + 1) % n)) for i in range(n))
        return (Phase(shift, n, float(size), 1),)
    match algorithm:
        case "direct":
            return (_exchange(everyone, sent_per_rank(kind, size, n), wanted),)
        case "ring":
            return (_ring(everyone, sent_per_rank(kind, size, n), wanted),)
        case "hierarchical":
            return _hierarchical(kind, size, n, domains, wanted)
        case _:
            assert_never(algorithm)


def _hierarchical(
    kind: Literal["all_to_all", "all_reduce", "all_gather", "reduce_scatter"],
    size: int,
    n: int,
    domains: Sequence[tuple[int, ...]],
    wanted: Pairs,
) -> tuple[Phase, ...]:
    """A phase within `domains` and one between them, in the order of the kind."""
    within, across = tuple(domains), tuple(zip(*domains, strict=True))
    g, d = len(within[0]), len(within)
    near, far = size * (g - 1) / g, size * (d - 1) / n
    match kind:
        case "all_to_all":
            steps = [(_exchange, within, near), (_exchange, across, size * (d - 1) / d)]
        case "all_gather":
            steps = [(_ring, across, far), (_ring, within, near)]
        case "reduce_scatter":
            steps = [(_ring, within, near), (_ring, across, far)]
        case "all_reduce":
            steps = [(_ring, within, near), (_ring, across, 2 * far), (_ring, within, near)]
        case _:
            assert_never(kind)
    return tuple(move(groups, sent, wanted) for move, groups, sent in steps if sent)


def _exchange(groups: Iterable[tuple[int, ...]], sent: float, wanted: Pairs, /) -> Phase:
    """Every ordered pair of each group that is `wanted`, one flow each."""
    groups = tuple(groups)
    n = len(groups[0])
    pairs = tuple(
        Part(((a, b),), sent / (n - 1), (a, b))
        for group in groups
        for targets in [_among(group, wanted.targets)]
        for a in _among(group, wanted.sources)
        for b in targets
        if a != b
    )
    return Phase(pairs, n, sent, n - 1, groups)


def _among(group: Sequence[int], wanted: Container[int] | None) -> Sequence[int]:
    return group if wanted is None else [rank for rank in group if rank in wanted]


def _ring(groups: Iterable[tuple[int, ...]], sent: float, _: Pairs, /) -> Phase:
    """A ring in each group, one flow each, whatever pairs are wanted."""
    groups = tuple(groups)
    rings = tuple(Part(tuple(zip(group, group[1:] + group[:1], strict=True)), sent, group) for group in groups)
    return Phase(rings, len(groups[0]), sent, 1)


def algorithm_of(cls: CollectiveClass, kind: CollectiveKind) -> Algorithm:
    """As the profile says; else direct where every pair has bytes of its own, otherwise a ring."""
    if cls.algorithm is not None:
        return cls.algorithm
    match kind:
        case "all_to_all" | "send_recv":
            return "direct"
        case "all_reduce" | "all_gather" | "reduce_scatter":
            return "ring"
        case _:
            assert_never(kind)


def phases_of(
    profile: Profile, kind: CollectiveKind, size: int, gpus: Sequence[int], wanted: Pairs = ALL_PAIRS
) -> tuple[Phase, ...]:
    """`phases` by the algorithm and the domains of `profile`, for ranks that sit on `gpus`.

    Raises:
        InputError: a hierarchical collective on domains that the ranks do not fill evenly.
    """
    algorithm = algorithm_of(profile.collective_class(kind), kind)
    domains = domains_of(profile, gpus) if algorithm == "hierarchical" and len(gpus) > 1 else ()
    return phases(kind, size, len(gpus), algorithm, domains, wanted)


def flows(profile: Profile, kind: CollectiveKind, size: int, gpus: Sequence[int]) -> list[PhaseFlows]:
    """The phases of a collective on `profile` between ranks that sit on `gpus`; ranks of parts are places in `gpus`.

    A rank's demand cap and weight are divided between the peers it sends to at the same time. Tags tell kernels, and
    collectives of other streams, that it moves data on their GPU.

    Raises:
        InputError: a hierarchical collective on domains that the ranks do not fill evenly.
    """
    return [flows_of_phase(profile, kind, gpus, phase) for phase in phases_of(profile, kind, size, gpus)]


def flows_of_phase(profile: Profile, kind: CollectiveKind, gpus: Sequence[int], phase: Phase) -> PhaseFlows:
    """As `flows`, of one phase."""
    cls = profile.collective_class(kind)
    cap = cls.demand_cap(phase.ranks, phase.sent) / phase.peers
    share = cls.contention(phase.ranks)
    weight = share.weight.value / phase.peers
    specs = []
    for part in phase.parts:
        edges = tuple((gpus[a], gpus[b]) for a, b in part.edges)
        spec = _flow(profile, share, edges, cap, weight)
        specs.append((_tagged(cls, profile.like(kind), spec, [gpus[rank] for rank in part.ranks]), part))
    return PhaseFlows(cls.latency_of(phase.ranks), tuple(specs))


def transfer(
    profile: Profile, size: int, source: int, target: int, peers: int = 1, one_way: bool = False
) -> tuple[float, FlowSpec]:
    """The latency (s) of a send of `size` bytes from GPU `source` to GPU `target`, and its flow.

    It is as one of a send_recv of two ranks. Demand cap and weight are divided by `peers`, the transfers that go with
    it at the same time from or to one GPU. `one_way`: the target sends nothing back meanwhile.
    """
    cls = profile.collective_class("send_recv")
    share = cls.contention(2)
    faster = cls.one_way.value if one_way and cls.one_way is not None else 1.0
    cap, weight = faster * cls.demand_cap(2, float(size)) / peers, share.weight.value / peers
    spec = _flow(profile, share, ((source, target),), cap, weight)
    return cls.latency_of(2), _tagged(cls, profile.like("send_recv"), spec, (source, target))


def _flow(
    profile: Profile, share: Contention, edges: tuple[tuple[int, int], ...], cap: float, weight: float
) -> FlowSpec:
    """A flow over `edges`; with an isolated overhead in `share`, another route while copies are in flight."""
    alternate = profile.peer_route(edges, share.overhead.value)
    if share.isolated_overhead is None:
        return FlowSpec(alternate, cap, weight)
    least = min(share.isolated_overhead.value, share.overhead.value)
    route = profile.peer_route(edges, least)
    return FlowSpec(route, cap, weight, alternate_route=((COPY_TAG,), alternate))


def isolated_time(
    profile: Profile, kind: CollectiveKind, size: int, gpus: Sequence[int], law: RateLaw = weighted_max_min
) -> float:
    """Seconds of a collective of `size` bytes per rank on an idle host, all ranks (on `gpus`) arriving together.

    This is the one definition of that time. Its table of isolated times gives the demand cap of its flows; where a
    resource of the host lets them have less than that, the time is longer than the table says.
    `sim.hardware.profile_check` finds the profiles of which that is true. Raises InputError as `flows`.
    """
    return max(isolated_times(profile, kind, size, gpus, law))


def isolated_times(
    profile: Profile, kind: CollectiveKind, size: int, gpus: Sequence[int], law: RateLaw = weighted_max_min
) -> tuple[float, ...]:
    """`isolated_time` on each rank: one is done with the last of its own flows. Raises InputError as `flows`."""
    return times_alone(flows(profile, kind, size, gpus), len(gpus), profile.capacities, law)


def times_alone(
    moves: Sequence[PhaseFlows], count: int, capacities: Sequence[float], law: RateLaw = weighted_max_min
) -> tuple[float, ...]:
    """Seconds of `moves`, phase after phase with nothing else in flight, for each of `count` ranks."""
    *before, last = moves or [PhaseFlows(0.0, ())]
    begun = sum(phase.latency + phase_time(phase, capacities, law) for phase in before)
    ends = _ends(last, capacities, law)
    return tuple(begun + (last.latency + ends.get(rank, 0.0)) for rank in range(count))


def phase_time(phase: PhaseFlows, capacities: Sequence[float], law: RateLaw = weighted_max_min) -> float:
    """Seconds from the first byte of `phase` to its last, with nothing else in flight."""
    return max(_ends(phase, capacities, law).values(), default=0.0)


def _ends(phase: PhaseFlows, capacities: Sequence[float], law: RateLaw) -> dict[int, float]:
    """Seconds from the first byte of `phase` to the last one of each rank, with nothing else in flight."""
    env = Environment()
    fabric = Fabric(env, capacities, law)
    ends: dict[int, float] = {}
    for spec, part in phase.flows:
        done = fabric.transfer(spec, part.size).done

        def ended(_: Event, ranks: tuple[int, ...] = part.ranks) -> None:
            ends.update(dict.fromkeys(ranks, env.now))

        assert done.callbacks is not None
        done.callbacks.append(ended)
    env.run()
    return ends


def transfers_time(
    transfers: Sequence[tuple[float, FlowSpec, int]], capacities: Sequence[float], law: RateLaw = weighted_max_min
) -> float:
    """Seconds of (latency, flow, bytes) posted together, with nothing else in flight."""
    env = Environment()
    fabric = Fabric(env, capacities, law)

    def move(latency: float, spec: FlowSpec, size: int) -> Generator[Wait, Any, None]:
        yield env.now + latency
        yield fabric.transfer(spec, size).done

    for each in transfers:
        Process(env, move(*each))
    env.run()
    return env.now


def _tagged(cls: CollectiveClass, kind: CollectiveKind, spec: FlowSpec, gpus: Sequence[int]) -> FlowSpec:
    """`spec` with its tags, and with those of what slows it on any of its GPUs."""
    tags = tuple(CollectiveTag(name, gpu) for gpu in gpus for name in (None, kind))
    slowed_by = tuple(
        (tuple(CollectiveTag(other, gpu) for gpu in gpus), factor.value) for other, factor in cls.beside.items()
    )
    return spec._replace(tags=tags, slowed_by=slowed_by)


def hierarchical_kinds(profile: Profile) -> set[CollectiveKind]:
    """Kinds of collective that need domains of one size on `profile`."""
    kinds: tuple[CollectiveKind, ...] = get_args(CollectiveKind)
    return {kind for kind in kinds if algorithm_of(profile.collective_class(kind), kind) == "hierarchical"}


def domains_of(profile: Profile, gpus: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Places in `gpus` of the ranks in each domain of the topology. Raises InputError unless all are of one size."""
    places = {gpu: place for place, gpu in enumerate(gpus)}
    domains = tuple(tuple(places[g] for g in group if g in places) for group in profile.topology.domains)
    domains = tuple(group for group in domains if group)
    if sum(map(len, domains)) != len(gpus) or len(set(map(len, domains))) != 1:
        shown = ", ".join(str(list(group)) for group in domains) or "none"
        problem = f"are {shown}: a hierarchical collective needs {len(gpus)} ranks in domains of one size"
        raise InputError(profile.name, "topology.domains", problem)
    return domains
