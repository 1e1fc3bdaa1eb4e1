"""Round-numbered profiles, scenarios from plain data, and hypothesis strategies that make whole valid inputs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from itertools import permutations
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec
from hypothesis import strategies as st
from valid_programs import programs as programs

from sim.fluid import FlowSpec, Route
from sim.hardware import Profile, load_profile, to_plain
from sim.hardware.routes import Graph
from sim.hardware.topology import Topology
from sim.inputs.config import convert
from sim.inputs.units import Bandwidth, FlopRate, Seconds
from sim.program import COLLECTIVES, HostWait, HostWaitEvent, HostWork, Kernel, Program, RankBuilder, RankProgram
from sim.run import Result, simulate
from sim.scenario import Scenario

T = TypeVar("T")
Plain = dict[str, Any]
Changes = Mapping[str, float]

NEVER_FULL = 2.0**60
"""Capacity, in B/s, of a resource that no test fills."""

KINDS = COLLECTIVES
_WAYS = {"down": "there", "up": "back", "duplex": "both_ways"}


def tiny_profile(gpus: int = 2, changes: Changes | None = None, topology: Plain | None = None) -> Profile:
    """A host with links of 8 B/s each way, one FLOP/s, and commands that cost nothing, but for `changes`.

    Keys of `changes` are the resources `down`, `up`, `duplex`, `host` (the last two are never full unless given), key
    paths such as `h2d.cap`, and `collective.X` for field X of all kinds of collective, where `cap` is the B/s that a
    rank sends alone; `all_gather.beside.all_to_all` is what one kind keeps of it beside another, and
    `collective.isolated_overhead` what a byte takes while nothing is copied. With a `topology` none
    of its resources are there.
    """
    left = dict(changes or {})
    plain: Plain = to_plain(load_profile("h200x2-hostpath"))
    plain["gpus"] = gpus
    capacities = {"down": 8.0, "up": 8.0, "duplex": NEVER_FULL, "host": NEVER_FULL}
    limits = {key: _sourced(left.pop(key, value)) for key, value in capacities.items()}
    link = {way: limits[key] for key, way in _WAYS.items()}
    plain["topology"] = topology or {
        "nodes": {"memory": {"kind": "memory"}, "host": {"kind": "root_complex", "through": limits["host"]}},
        "links": [{"ends": ["memory", "host"]}, {"ends": ["host", "gpu{gpu}"], **link}],
    }
    plain["streams"] = dict.fromkeys(plain["streams"], _sourced(0.0))
    plain["host"] = dict.fromkeys(plain["host"], _sourced(0.0)) | {"queue_depth": _sourced(1000.0)}
    for kind in ("h2d", "d2h", "d2d", "p2p"):
        ones = {"cap": 8.0, "weight": 1.0, "engines": 1.0}
        plain[kind] = {key: _sourced(ones.get(key, 0.0)) for key in plain["h2d"]}
    for kind, staging in (("h2d", 4.0), ("d2h", 0.0)):
        staged = {"rate": 4.0, "setup": 0.0, "staging": staging}
        plain.setdefault("pageable", {})[kind] = {key: _sourced(value) for key, value in staged.items()}
    for key in ("peak_flops", "hbm_bandwidth", "compute_efficiency", "hbm_efficiency", "beside_collective"):
        plain["device"][key] = _sourced(1.0)
    for kind in KINDS:
        cls: Plain = plain["collectives"]["all_to_all"]
        options = {key: 0.0 for key, value in cls.items() if isinstance(value, dict) and "value" in value} | {
            "cap": 8.0,
            "weight": 1.0,
            "overhead": 1.0,
        }
        for key in options:
            options[key] = left.get(f"{kind}.{key}", left.get(f"collective.{key}", options[key]))
        cap, latency = options.pop("cap"), options["latency"]
        alone = {"bytes": [1, 2], "seconds": [latency + 1 / cap, latency + 2 / cap], "source": "test"}
        plain["collectives"][kind] = {"alone": alone} | {key: _sourced(value) for key, value in options.items()}
    for path, value in left.items():
        section, key = path.split(".", 1)
        if key == "isolated_overhead":
            for kind in KINDS if section == "collective" else (section,):
                plain["collectives"][kind][key] = _sourced(value)
        elif key.startswith("beside."):
            plain["collectives"][section].setdefault("beside", {})[key.removeprefix("beside.")] = _sourced(value)
        elif section not in ("collective", *KINDS):
            assert key in plain[section], f"no {path} in a profile"
            plain[section][key] = _sourced(value)
    return convert(plain, Profile, "tiny profile")


def _sourced(value: float) -> Plain:
    return {"value": value, "source": "test"}


def scaled(data: T, factor: float) -> T:
    """A profile or a program in which everything takes `factor` times as long."""
    kind = type(data)
    if isinstance(data, Seconds):
        return kind(data * factor)
    if isinstance(data, Bandwidth | FlopRate):
        return kind(data / factor)
    if isinstance(data, Kernel):
        seconds = None if data.seconds is None else data.seconds * factor
        return msgspec.structs.replace(data, seconds=seconds)
    if isinstance(data, HostWork):
        return msgspec.structs.replace(data, seconds=data.seconds * factor)
    if isinstance(data, HostWait | HostWaitEvent):
        return msgspec.structs.replace(data, poll=data.poll * factor)
    if isinstance(data, msgspec.Struct):
        fields = {f.name: scaled(getattr(data, f.name), factor) for f in msgspec.structs.fields(data)}
        return msgspec.structs.replace(data, **fields)
    if isinstance(data, tuple):
        return kind(scaled(item, factor) for item in data)
    if isinstance(data, dict):
        return kind((key, scaled(item, factor)) for key, item in data.items())
    return data


def scenario(workload: Plain, policy: Plain, world_size: int = 2, hardware: str = "h200x2-hostpath") -> Scenario:
    """A scenario from plain data, as a YAML file would give it."""
    plain = {"hardware": hardware, "world_size": world_size, "workload": workload, "policy": policy}
    return Scenario.from_plain(plain)


def compute(seconds: float, name: str = "k", **more: Any) -> Plain:
    """A block's entry: a kernel."""
    return {"compute": {"name": name, "seconds": seconds} | more}


def collective(size: int, kind: str = "all_to_all") -> Plain:
    """A block's entry: a collective."""
    return {"collective": {"kind": kind, "bytes": size}}


def program(*ranks: RankBuilder) -> Program:
    """The program of builders, one a rank."""
    return Program(tuple(rank.build() for rank in ranks))


# ---- strategies ----------------------------------------------------------------------------------------------------

# A grid that makes many things happen at the same time, and floats that make nothing do.
durations = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0, 2.0, 4.0]) | st.floats(1e-3, 5.0)
costs = st.sampled_from([0.0, 0.0, 0.0, 0.125, 0.5]) | st.floats(1e-3, 0.5)
positive = st.sampled_from([0.25, 0.5, 1.0, 1.0, 2.0]) | st.floats(0.1, 10.0)
rates = st.sampled_from([2.0, 4.0, 8.0, 8.0, 16.0]) | st.floats(1.0, 20.0)

_kernels = st.builds(
    compute, durations, st.sampled_from(["qkv", "mlp"]), launches=st.sampled_from([1, 1, 2, 5])
) | st.builds(lambda f, b: {"compute": {"name": "roof", "flops": f, "bytes": b}}, positive, positive)
_collectives = st.builds(collective, st.sampled_from([1, 2, 16, 16, 64]), st.sampled_from(KINDS))
_layer_bytes = st.sampled_from([1, 2, 3, 16, 16, 32]) | st.integers(1, 40)


@st.composite
def workloads(draw: st.DrawFn, layer_bytes: st.SearchStrategy[int] = _layer_bytes, min_steps: int = 1) -> Plain:
    """One or several kinds of layer, of mixed blocks, for 1 to 4 steps of 1 or 2 passes."""
    groups = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "repeat": st.integers(1, 2),
                    "layer_bytes": layer_bytes,
                    "block": st.lists(_kernels | _collectives, min_size=1, max_size=4),
                }
            ),
            min_size=1,
            max_size=3,
        )
    )
    common = {
        "steps": draw(st.integers(min_steps, 4)),
        "passes_per_step": draw(st.sampled_from([1, 1, 2])),
        "activation_bytes": draw(st.sampled_from([0, 100])),
    }
    if len(groups) == 1 and draw(st.booleans()):
        (group,) = groups
        return common | {"layers": group["repeat"], "layer_bytes": group["layer_bytes"], "block": group["block"]}
    return common | {"blocks": groups}


_offload = {
    "resident_fraction": st.sampled_from([0.0, 0.0, 0.25, 0.5, 0.9, 1.0]) | st.floats(0.0, 1.0),
    "prefetch_layers": st.integers(0, 3),
}
_chunk_bytes = st.integers(1, 40)
whole_layer = st.fixed_dictionaries(
    {"kind": st.just("whole_layer"), "issue": st.sampled_from(["async", "after_compute"])} | _offload
)
quiescing = whole_layer.map(lambda policy: policy | {"quiesce": True})
chunked = st.fixed_dictionaries({"kind": st.just("chunked"), "chunk_bytes": _chunk_bytes} | _offload)
gated = st.fixed_dictionaries(
    {"kind": st.just("yielding"), "chunk_bytes": _chunk_bytes, "drain": st.booleans()} | _offload
)
windowed = st.fixed_dictionaries(
    {"kind": st.just("yielding"), "chunk_bytes": _chunk_bytes, "window": st.sampled_from(["launch", "kernel"])}
    | {"poll": st.sampled_from([0.0, 0.25, 0.7])}
    | _offload
)
sharded = st.fixed_dictionaries(
    {"kind": st.just("sharded"), "chunk_bytes": st.none() | st.integers(2, 40)}
    | {"store": st.sampled_from(["host", "device"])}
    | _offload
)
_host = {"hook": costs, "per_tensor": costs}
runtimes = st.fixed_dictionaries(
    {"kind": st.just("diffusers_group_offload"), "level": st.sampled_from(["block", "leaf"])}
    | {"stream": st.booleans(), "record_stream": st.booleans(), "new_pages": st.booleans()}
    | _host
) | st.fixed_dictionaries({"kind": st.sampled_from(["sglang_layerwise", "vllm_omni_layerwise"])} | _offload | _host)
offloading = whole_layer | quiescing | chunked | gated | windowed
policies = st.just({"kind": "resident"}) | offloading | sharded | runtimes

_changes: dict[str, st.SearchStrategy[float]] = {
    "down": rates,
    "up": rates,
    "duplex": rates | st.just(NEVER_FULL),
    "host": rates | st.just(NEVER_FULL),
    "h2d.cap": rates,
    "h2d.weight": positive,
    "h2d.setup": costs,
    "h2d.minimum": costs | st.just(2.0),
    **{f"{kind}.cap": rates for kind in KINDS},
    "collective.weight": positive,
    "collective.overhead": positive,
    "collective.isolated_overhead": positive,
    "collective.latency": costs,
    "collective.latency_per_rank": costs,
    "all_reduce.copy_start": costs,
    **{f"{a}.beside.{b}": st.sampled_from([0.5, 0.75]) for a, b in permutations(("all_to_all", "all_gather"))},
    "device.beside_collective": st.sampled_from([1.0, 1.5, 2.0]),
    "streams.write_flag": costs,
    "streams.wake": costs,
    "streams.flag_wake": costs,
    "streams.beside_kernel": costs,
    "streams.wait_flag": costs,
    "streams.event": costs,
    "streams.launch_delay": costs,
    **{f"host.{command}": costs for command in ("kernel", "copy", "collective", "event", "memop", "wake", "sync")},
    "host.queue_depth": st.sampled_from([1.0, 2.0, 3.0, 8.0, 1000.0]),
}


def changes(**fixed: float) -> st.SearchStrategy[Changes]:
    """Changes to a tiny profile: any costs, contention and queue depth. `fixed` are kept (`__` stands for the dot)."""
    keep = {key.replace("__", "."): value for key, value in fixed.items()}
    free = {key: strategy for key, strategy in _changes.items() if key not in keep}
    return st.fixed_dictionaries({}, optional=free).map(lambda drawn: drawn | keep)


FORWARDING = ("root_complex", "switch", "socket", "nvswitch", "fabric", "nic", "network")
"""Kinds of node that pass on what comes in."""

_limits = st.none() | st.sampled_from([4.0, 8.0, 16.0]).map(_sourced)
_uses = st.sampled_from(["all", "copies", "peers"])
_carried = st.builds(lambda limit, carries: limit and limit | {"carries": carries}, _limits, _uses)


@st.composite
def trees(draw: st.DrawFn, gpus: int = 3) -> Plain:
    """The topology of a host whose switches form a tree, with one or two memories and every GPU below some switch."""
    nodes: Plain = {}
    links: list[Plain] = []
    for i in range(draw(st.integers(1, 4))):
        nodes[f"n{i}"] = {"kind": draw(st.sampled_from(FORWARDING)), "through": draw(_carried)}
        if i:
            links.append({"ends": [f"n{draw(st.integers(0, i - 1))}", f"n{i}"], **draw(_link())})
    inner = st.sampled_from(list(nodes))
    memories = [f"memory{i}" for i in range(draw(st.integers(1, 2)))]
    for memory in memories:
        nodes[memory] = {"kind": "memory", **{key: draw(_carried) for key in ("into", "out_of", "through")}}
        if nodes[memory]["through"] is not None and draw(st.booleans()):
            nodes[memory]["write_cost"] = _sourced(draw(positive))
        links.append({"ends": [draw(inner), memory], **draw(_link())})
    narrow = st.sampled_from([4.0, 8.0]).map(_sourced)
    links += [{"ends": [draw(inner), f"gpu{gpu}"], "each_way": draw(narrow)} for gpu in range(gpus)]
    placed: Plain = {memory: [] for memory in memories}
    for gpu in range(gpus):
        placed[draw(st.sampled_from(memories))].append(gpu)
    peers = draw(st.sampled_from(["direct", "host", [[0, 1]], [[0], [1, 2]]]))
    return {"nodes": nodes, "links": links, "peers": peers, "pinned": placed}


def _link() -> st.SearchStrategy[Plain]:
    """Limits and length of a link."""
    return st.fixed_dictionaries(
        {"there": _limits, "back": _limits, "both_ways": _limits, "hops": st.sampled_from([1, 1, 2])}
    )


@st.composite
def topologies(draw: st.DrawFn) -> Graph:
    """Graphs with up to three links more than a tree has: routes may be many, or equally good."""
    plain = draw(trees())
    inner = [name for name, node in plain["nodes"].items() if node["kind"] in FORWARDING]
    ends = [*inner, "gpu0", "gpu1", "gpu2"]
    joined = {frozenset(link["ends"]) for link in plain["links"]}
    for _ in range(draw(st.integers(0, 3))):
        pair = draw(st.lists(st.sampled_from(ends), min_size=2, max_size=2, unique=True))
        if frozenset(pair) not in joined:
            joined.add(frozenset(pair))
            plain["links"].append({"ends": pair, **draw(_link())})
    return Graph(convert(plain, Topology, "generated"), 3)


class Case(NamedTuple):
    """A scenario and the host to run it on, as plain data that reads well when a test fails."""

    workload: Plain
    policy: Plain
    ranks: int = 2
    changes: Changes = MappingProxyType({})

    @property
    def scenario(self) -> Scenario:
        return scenario(self.workload, self.policy, self.ranks)

    @property
    def profile(self) -> Profile:
        return tiny_profile(self.ranks, self.changes)

    def run(self) -> Result:
        """With the steps of the workload alone."""
        return simulate(self.scenario, self.profile, settle=False)


def cases(
    workload: st.SearchStrategy[Plain] | None = None, policy: st.SearchStrategy[Plain] | None = None, **fixed: float
) -> st.SearchStrategy[Case]:
    """Whole scenarios for 1 to 4 ranks, with a host."""
    ranks = st.sampled_from([2, 1, 2, 3, 4])
    return st.builds(
        Case,
        workloads() if workload is None else workload,
        policies if policy is None else policy,
        ranks,
        changes(**fixed),
    )


class Demand(NamedTuple):
    """A flow that starts at `start`, and is cancelled at `cancel`, if it is still in flight then."""

    start: float
    size: float
    spec: FlowSpec
    cancel: float | None = None


class Network(NamedTuple):
    """Resources and what is asked of them."""

    capacities: tuple[float, ...]
    demands: tuple[Demand, ...]


class Company(NamedTuple):
    """What a flow is, what slows it, and beside what it crosses other resources."""

    tags: tuple[str, ...] = ()
    beside: tuple[tuple[tuple[str, ...], float], ...] = ()
    elsewhere: tuple[tuple[str, ...], Route] | None = None

    def of(self, spec: FlowSpec) -> FlowSpec:
        elsewhere = self.elsewhere if spec.route else None
        return spec._replace(tags=self.tags, slowed_by=self.beside, alternate_route=elsewhere)


_factors = st.sampled_from([0.25, 0.5, 1.0]) | st.floats(0.01, 1.0)


@st.composite
def companies(draw: st.DrawFn) -> Company:
    """Up to two of three tags, and factors and another route beside flows with some of the others."""
    tags = draw(st.sets(st.sampled_from("abc"), max_size=2))
    others = st.lists(st.sampled_from(sorted({*"abc"} - tags)), min_size=1, max_size=2, unique=True).map(tuple)
    routes = positive.map(lambda multiplier: ((0, multiplier),))
    elsewhere = draw(st.none() | st.tuples(others, routes))
    return Company(tuple(sorted(tags)), tuple(draw(st.lists(st.tuples(others, _factors), max_size=2))), elsewhere)


@st.composite
def networks(
    draw: st.DrawFn,
    *,
    simultaneous: bool = False,
    most_resources: int = 5,
    most_flows: int = 8,
    company: st.SearchStrategy[Company] = st.just(Company()),  # noqa: B008
) -> Network:
    """Random resources, and flows with random routes, multipliers, weights, caps, drags, starts and cancellations."""
    capacities = draw(st.lists(rates, min_size=1, max_size=most_resources))
    resources = st.integers(0, len(capacities) - 1)
    routes = st.dictionaries(resources, positive, max_size=4).map(lambda route: tuple(sorted(route.items())))
    alone = (st.just(()), st.just(()), st.none())  # all given: builds would infer the last
    moving = st.builds(FlowSpec, routes, rates, positive, st.none(), *alone)
    working = st.builds(FlowSpec, st.just(()), positive, st.just(1.0), st.tuples(resources, costs), *alone)
    specs = st.builds(Company.of, company, moving | working)
    starts = st.just(0.0) if simultaneous else st.just(0.0) | durations
    sizes = st.sampled_from([0.0, 1.0, 8.0, 16.0]) | st.floats(0.01, 100.0)
    cancels = st.none() if simultaneous else st.none() | durations
    demands = draw(st.lists(st.builds(Demand, starts, sizes, specs, cancels), min_size=1, max_size=most_flows))
    return Network(tuple(capacities), tuple(demands))


@st.composite
def direct_programs(draw: st.DrawFn, ranks: int, *, collectives: bool = True) -> Program:
    """Programs no policy makes: several host threads and streams a rank, events between any of them, host waits.

    All ranks call the same collectives, on one stream; else each does what it likes. Buffers are not shared.
    """
    calls = draw(st.lists(st.sampled_from([8, 16, 64]), max_size=4 if collectives else 0))
    return Program(tuple(draw(_direct_rank(calls)) for _ in range(ranks)))


@st.composite
def _direct_rank(draw: st.DrawFn, calls: list[int]) -> RankProgram:
    rank = RankBuilder()
    left, buffers = list(calls), itertools.count()
    events = [rank.record_step("t0.s0")]
    for thread in range(draw(st.integers(1, 2))):
        streams = [f"t{thread}.s{i}" for i in range(draw(st.integers(1, 3)))]
        if thread:
            rank.thread()
        for _ in range(draw(st.integers(0, 10))):
            stream = draw(st.sampled_from(streams))
            match draw(st.sampled_from(["kernel", "kernel", "copy", "call", "record", "wait", "host_wait"])):
                case "kernel":
                    rank.kernel(stream, "k", seconds=draw(durations), launches=draw(st.sampled_from([1, 1, 4])), step=0)
                case "copy":
                    size, kind = draw(st.sampled_from([1, 8, 20])), draw(st.sampled_from(["h2d", "d2h"]))
                    buffer = rank.buffer(f"b{next(buffers)}", size, "weights")
                    rank.copy(stream, "c", size, buffer, kind=kind, step=0)
                case "call" if thread == 0 and left:
                    rank.collective("t0.s0", "coll", "all_to_all", left.pop(0), step=0)
                case "record":
                    events.append(rank.record(stream))
                case "wait":
                    rank.wait(stream, draw(st.sampled_from(events)))
                case "host_wait":
                    rank.host_wait(draw(st.sampled_from(events)))
        if thread == 0:
            for size in left:
                rank.collective("t0.s0", "coll", "all_to_all", size, step=0)
            rank.record_step("t0.s0")
    return rank.build()


def plain_data() -> st.SearchStrategy[object]:
    """Anything that YAML and JSON can hold, with the odd values that break readers."""
    text = st.text(st.characters(exclude_characters="`", exclude_categories=["Cs"]), max_size=8)
    keys = text | st.sampled_from(["inner", "size", "name", "several", "by_name", "choice", "kind", "a"])
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | text
        | st.sampled_from(["a", "b", "switch", "1 MiB", "1e-300", "-0", "1:30", "010", ".nan", "on", "~", 10**300])
    )
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=6
    )
