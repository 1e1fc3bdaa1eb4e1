"""Topologies: which resources a route crosses, which is chosen, and what cannot be chosen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import permutations
from math import inf
from typing import Any

import pytest
from hypothesis import given
from strategies import FORWARDING, Case, cases, scenario, tiny_profile, topologies, trees

from sim.fluid import FlowSpec, weighted_max_min
from sim.hardware.routes import Graph, OrderedRoute
from sim.hardware.topology import Topology
from sim.inputs.config import InputError, convert
from sim.machine import SimulatedMachine
from sim.run import simulate

Plain = dict[str, Any]


def limit(value: float, carries: str = "all") -> Plain:
    return {"value": value, "source": "test", "carries": carries}


def graph(gpus: int, nodes: Mapping[str, Any], links: list[Plain], **more: Any) -> Graph:
    kinds = {name: {"kind": node} if isinstance(node, str) else node for name, node in nodes.items()}
    return Graph(convert({"nodes": kinds, "links": links, **more}, Topology, "test"), gpus)


def named(made: Graph, way: OrderedRoute) -> list[str]:
    return [made.names[resource] for resource, _ in way]


def tree(**more: Any) -> Graph:
    """Four GPUs, two a switch, under one root."""
    return graph(
        4,
        {
            "memory": {"kind": "memory", "into": limit(80), "out_of": limit(70), "through": limit(120)},
            "root": {"kind": "root_complex", "through": limit(100)},
            "left": "switch",
            "right": "switch",
        },
        [
            {"ends": ["memory", "root"]},
            {"ends": ["root", "left"], "each_way": limit(50)},
            {"ends": ["root", "right"], "each_way": limit(50)},
            {
                "ends": ["left", "gpu{gpu}"],
                "gpus": [0, 1],
                "there": limit(25),
                "back": limit(24),
                "both_ways": limit(40),
            },
            {"ends": ["right", "gpu{gpu}"], "gpus": [2, 3], "each_way": limit(25)},
        ],
        **more,
    )


@pytest.mark.parametrize(
    ("way", "crossed"),
    [
        (lambda g: g.copy(0, "h2d"), "memory memory.out root root>left left-gpu0 left>gpu0"),
        (lambda g: g.copy(0, "d2h"), "left-gpu0 gpu0>left left>root root memory.in memory"),
        (lambda g: g.copy(3, "h2d"), "memory memory.out root root>right right>gpu3"),
        (lambda g: g.peer(0, 1), "left-gpu0 gpu0>left left-gpu1 left>gpu1"),
        (lambda g: g.peer(1, 2), "left-gpu1 gpu1>left left>root root root>right right>gpu2"),
    ],
)
def test_routes_of_a_tree(way: Any, crossed: str) -> None:
    made = tree()
    assert named(made, way(made)) == crossed.split()


def test_peers_through_the_host_write_and_read_its_memory() -> None:
    made = tree(peers="host")
    assert named(made, made.peer(0, 1)) == [
        *("left-gpu0", "gpu0>left", "left>root", "root", "memory.in", "memory"),
        *("memory", "memory.out", "root", "root>left", "left-gpu1", "left>gpu1"),
    ]


def test_peers_of_a_group_meet_directly_and_others_through_the_host() -> None:
    made, direct, host = tree(peers=[[0, 1]]), tree(), tree(peers="host")
    assert made.peer(0, 1) == direct.peer(0, 1)
    assert made.peer(2, 3) == host.peer(2, 3)
    assert made.peer(1, 2) == host.peer(1, 2)


def test_what_is_written_to_a_memory_may_take_more_of_it_than_what_is_read() -> None:
    memory = {"kind": "memory", "through": limit(12), "write_cost": {"value": 1.5, "source": "test"}}
    made = graph(2, {"memory": memory}, [{"ends": ["memory", "gpu{gpu}"], "each_way": limit(4)}], peers="host")
    names = [[(made.names[r], cost) for r, cost in way] for way in (made.copy(0, "h2d"), made.copy(0, "d2h"))]
    assert names == [[("memory", 1), ("memory>gpu0", 1)], [("gpu0>memory", 1), ("memory", 1.5)]]
    assert [cost for r, cost in made.peer(0, 1) if made.names[r] == "memory"] == [1.5, 1]


@pytest.mark.parametrize(("cost", "refused"), [(0, True), (0.9e-30, True), (1e-30, False), (1.5, False)])
def test_a_write_costs_more_than_nothing(cost: float, refused: bool) -> None:
    memory = {"kind": "memory", "through": limit(12), "write_cost": {"value": cost, "source": "test"}}
    links = [{"ends": ["memory", "gpu{gpu}"], "each_way": limit(4)}]
    with pytest.raises(InputError, match="expected more than 0") if refused else nullcontext():
        assert graph(1, {"memory": memory}, links).copy(0, "d2h")[-1][1] == cost


def test_traffic_that_a_resource_does_not_carry_is_free() -> None:
    memory = {"kind": "memory", "into": limit(1, "copies"), "out_of": limit(2, "peers"), "through": limit(3)}
    made = graph(2, {"memory": memory}, [{"ends": ["memory", "gpu{gpu}"], "each_way": limit(4)}], peers="host")
    assert named(made, made.copy(0, "h2d")) == ["memory", "memory>gpu0"]
    assert named(made, made.copy(0, "d2h")) == ["gpu0>memory", "memory.in", "memory"]
    assert named(made, made.peer(0, 1)) == ["gpu0>memory", "memory", "memory", "memory.out", "memory>gpu1"]


SWITCHED = [
    {"ends": ["memory", "pcie"], "each_way": limit(60)},
    {"ends": ["pcie", "gpu{gpu}"], "each_way": limit(50)},
]


def test_of_the_shortest_routes_the_widest_is_taken() -> None:
    nodes = {"memory": "memory", "pcie": "switch", "nvlink": "nvswitch"}
    made = graph(2, nodes, [*SWITCHED, {"ends": ["gpu{gpu}", "nvlink"], "each_way": limit(400)}])
    assert named(made, made.peer(1, 0)) == ["gpu1>nvlink", "nvlink>gpu0"]
    assert named(made, made.copy(0, "h2d")) == ["memory>pcie", "pcie>gpu0"]


def test_a_link_between_two_gpus_is_the_shortest_way_but_no_way_for_others() -> None:
    links = [*SWITCHED, {"mesh": [[0], [1]], "each_way": limit(10)}]
    made = graph(3, {"memory": "memory", "pcie": "switch"}, links)
    assert named(made, made.peer(0, 1)) == ["gpu0>gpu1"]
    assert named(made, made.peer(0, 2)) == ["gpu0>pcie", "pcie>gpu2"]


def test_a_mesh_joins_gpus_of_different_groups() -> None:
    links = [*SWITCHED, {"mesh": [[0, 1], [2, 3]], "each_way": limit(10)}]
    made = graph(4, {"memory": "memory", "pcie": "switch"}, links)
    assert named(made, made.peer(0, 1)) == ["gpu0>pcie", "pcie>gpu1"]
    assert {(a, b): named(made, made.peer(a, b)) for a in (0, 1) for b in (2, 3)} == {
        (a, b): [f"gpu{a}>gpu{b}"] for a in (0, 1) for b in (2, 3)
    }


TWIN = [
    {"ends": ["memory", "one"], "each_way": limit(50)},
    {"ends": ["memory", "two"], "each_way": limit(50)},
    {"ends": ["one", "gpu{gpu}"], "each_way": limit(50)},
    {"ends": ["two", "gpu{gpu}"], "each_way": limit(50)},
]


def test_an_ambiguous_way_is_refused_and_hops_decide_it() -> None:
    nodes = {"memory": "memory", "one": "switch", "two": "switch"}
    with pytest.raises(ValueError, match="the route from memory to gpu0 is ambiguous"):
        graph(1, nodes, TWIN).copy(0, "h2d")
    made = graph(1, nodes, [*TWIN[:3], TWIN[3] | {"hops": 2}])
    assert named(made, made.copy(0, "h2d")) == ["memory>one", "one>gpu0"]


def test_a_missing_way_is_named() -> None:
    made = graph(2, {"memory": "memory"}, [{"ends": ["memory", "gpu{gpu}"], "each_way": limit(1)}])
    with pytest.raises(ValueError, match="there is no route from gpu0 to gpu1"):
        made.peer(0, 1)  # a memory does not forward


SOCKETS = [
    {"ends": ["memory0", "socket0"]},
    {"ends": ["memory1", "socket1"]},
    {"ends": ["socket0", "socket1"], "each_way": limit(30)},
    {"ends": ["socket0", "gpu{gpu}"], "gpus": [0], "each_way": limit(50)},
    {"ends": ["socket1", "gpu{gpu}"], "gpus": [1], "each_way": limit(50)},
]
NUMA = {"memory0": "memory", "memory1": "memory", "socket0": "socket", "socket1": "socket"}


def test_pinned_memory_is_the_nearest_unless_it_is_said_to_be_elsewhere() -> None:
    made = graph(2, NUMA, SOCKETS, peers="host")
    assert made.pinned == ["memory0", "memory1"]
    assert named(made, made.copy(1, "h2d")) == ["socket1>gpu1"]
    made = graph(2, NUMA, SOCKETS, peers="host", pinned={"memory0": [0, 1]})
    assert named(made, made.copy(1, "h2d")) == ["socket0>socket1", "socket1>gpu1"]
    assert named(made, made.copy(1, "d2h")) == ["gpu1>socket1", "socket1>socket0"]
    # the receiver's memory
    assert named(made, made.peer(0, 1)) == ["gpu0>socket0", "socket0>socket1", "socket1>gpu1"]
    with pytest.raises(ValueError, match="pinned: has GPU 0 in memory0 and in memory1"):
        graph(2, NUMA, SOCKETS, pinned={"memory0": [0], "memory1": [0]})
    with pytest.raises(ValueError, match="memory0 and memory1 are equally near to gpu0"):
        graph(1, {"memory0": "memory", "memory1": "memory", "s": "switch"}, [
            {"ends": ["memory0", "s"]}, {"ends": ["memory1", "s"]}, {"ends": ["s", "gpu0"], "each_way": limit(1)},
        ])  # fmt: skip


@pytest.mark.parametrize(
    ("gpus", "nodes", "links", "problem"),
    [
        (2, {"memory": "memory"}, [{"ends": ["memory", "gpu2"]}], "topology.links[0]: names 'gpu2'"),
        (1, {"memory": "memory"}, [{"ends": ["gpu0", "memory"]}, {"ends": ["memory", "gpu0"]}], "joined already"),
        (2, {"memory": "memory"}, [{"mesh": [[0], [7]]}], "topology.links[0]: has GPU 7, expected 0 to 1"),
        (1, {"memory": "memory"}, [{"ends": ["gpu0", "gpu0"]}], "joins gpu0 to itself"),
    ],
)  # fmt: skip
def test_wrong_links_are_named(gpus: int, nodes: Plain, links: list[Plain], problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        graph(gpus, nodes, links)


# ---- over generated topologies, against every simple path --------------------------------------------------------


def paths(made: Graph, start: str, end: str) -> Iterator[tuple[int, float, OrderedRoute]]:
    """(hops, width, resources) of every simple path, by exhaustive search."""
    kinds = {name: node.kind for name, node in made.topology.nodes.items()}

    def walk(at: str, seen: tuple[str, ...], hops: int, crossed: OrderedRoute) -> Iterator[Any]:
        if at == end:
            # a node that only one end of a way touches still limits it; the start's own is on every way
            yield hops, min((made.limits[r].value / cost for r, cost in crossed), default=inf), crossed
        elif at == start or kinds.get(at) in FORWARDING:
            for edge in made.edges[at]:
                if edge.to not in seen:
                    yield from walk(edge.to, (*seen, edge.to), hops + edge.hops, crossed + edge.resources)

    yield from walk(start, (start,), 0, ())


@given(topologies())
def test_ways_have_the_fewest_hops_and_of_these_the_greatest_width(made: Graph) -> None:
    ends = [f"gpu{g}" for g in range(made.gpus)] + [
        n for n, node in made.topology.nodes.items() if node.kind == "memory"
    ]
    for start in ends:
        for end in ends:
            if start == end:
                continue
            known = sorted(paths(made, start, end), key=lambda path: (path[0], -path[1]))
            if not known:
                with pytest.raises(ValueError, match="there is no route"):
                    made.route(start, end, "copies")
                continue
            best = [path for path in known if path[:2] == known[0][:2]]
            try:
                found = made.route(start, end, "copies")
            except ValueError as error:
                # refused only where two ways to some vertex on the best ones are as good
                assert "ambiguous" in str(error)
                assert len([p for p in known if p[0] == known[0][0]]) > 1
                continue
            own = [(made.names.index(start), 1.0)] if start in made.names else []
            carried = [[c for c in (*own, *path[2]) if made.limits[c[0]].carries != "peers"] for path in best]
            assert list(found) in carried


@given(topologies())
def test_a_route_looked_for_by_itself_is_that_of_all_from_there(made: Graph) -> None:
    ends = [f"gpu{g}" for g in range(made.gpus)] + [
        n for n, node in made.topology.nodes.items() if node.kind == "memory"
    ]
    alone, at_once = (Graph(made.topology, made.gpus, one_by_one) for one_by_one in (1000, 0))
    for start, end in permutations(ends, 2):
        found: list[object] = []
        for each in (alone, at_once):
            try:
                found.append(each.route(start, end, "peers"))
            except ValueError as error:
                found.append(str(error))
        assert found[0] == found[1]


@given(trees(), cases())
def test_a_host_of_any_shape_runs_every_policy_within_its_capacities(plain: Plain, case: Case) -> None:
    ranks = min(case.ranks, 3)
    chosen = scenario(case.workload, case.policy, ranks)
    profile = tiny_profile(3, topology=plain)
    checked = SimulatedMachine(profile, within_capacities).run(chosen.program())
    result = simulate(chosen, profile)
    steps = checked.step_times()  # a run that has not settled goes on
    assert steps == result.timeline.step_times()[: len(steps)]
    assert result.metrics["lower_bound_s"] <= result.metrics["step_time_s"] * (1 + 1e-9)


def within_capacities(flows: Sequence[FlowSpec], capacities: Sequence[float]) -> list[float]:
    rates = weighted_max_min(flows, capacities)
    load = [0.0] * len(capacities)
    for flow, rate in zip(flows, rates, strict=True):
        assert rate > 0
        for resource, multiplier in flow.route:
            load[resource] += multiplier * rate
    assert all(used <= full * (1 + 1e-9) for used, full in zip(load, capacities, strict=True))
    return rates
