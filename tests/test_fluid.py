"""The fluid fabric, with times worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from sim.fluid import Environment, Fabric, Flow, FlowSpec, caps_now, weighted_max_min


class Net:
    """A fabric on which things are planned at given times; `ends` holds when each flow ended, by name."""

    def __init__(self, *capacities: float) -> None:
        self.env = Environment()
        self.fabric = Fabric(self.env, capacities)
        self.flows: dict[str, Flow] = {}
        self.ends: dict[str, float] = {}

    def at(self, time: float, action: Callable[[], object]) -> None:
        callbacks = self.env.at(time).callbacks
        assert callbacks is not None
        callbacks.append(lambda _: action())

    def flow(self, name: str, spec: FlowSpec, size: float, start: float = 0.0) -> None:
        def begin() -> None:
            flow = self.flows[name] = self.fabric.transfer(spec, size)
            assert flow.done.callbacks is not None
            flow.done.callbacks.append(lambda _: self.ends.update({name: self.env.now}))

        self.at(start, begin)

    def run(self) -> dict[str, float]:
        self.env.run()
        assert self.fabric.active == (), "flows are left that never end"
        return self.ends


def over(*resources: int, cap: float = 1000.0, weight: float = 1.0) -> FlowSpec:
    """A flow that takes one unit of each of `resources` a unit moved."""
    return FlowSpec(tuple((r, 1.0) for r in resources), cap, weight)


def marked(mark: str, cap: float = 1000.0) -> FlowSpec:
    return over(0, cap=cap)._replace(tags=(mark,))


def beside(mark: str, factor: float, cap: float) -> FlowSpec:
    """A flow whose cap is `factor` times `cap` beside flows with `mark`."""
    return over(0, cap=cap)._replace(slowed_by=(((mark,), factor),))


@pytest.mark.parametrize(
    ("capacities", "flows", "ends"),
    [
        pytest.param([10], {"a": (over(0), 50, 0)}, {"a": 5}, id="alone"),
        pytest.param([10], {"a": (over(0, cap=4), 20, 0)}, {"a": 5}, id="alone at its cap"),
        # 5 each until b has its 10 at 2; then a has the link: 40 left at 10
        pytest.param([10], {"a": (over(0), 50, 0), "b": (over(0), 10, 0)}, {"a": 6, "b": 2}, id="two share a link"),
        # 7.5 and 2.5: a ends at 4, b has moved 10 of 20
        pytest.param(
            [10], {"a": (over(0, weight=3), 30, 0), "b": (over(0), 20, 0)}, {"a": 4, "b": 5}, id="shares follow weights"
        ),
        # a takes its 2, b the other 8
        pytest.param(
            [10], {"a": (over(0, cap=2), 10, 0), "b": (over(0), 40, 0)}, {"a": 5, "b": 5}, id="a cap frees the rest"
        ),
        # a alone moves 20 until 2; 5 each until b ends at 4; a has 30 - 10 = 20 left
        pytest.param([10], {"a": (over(0), 50, 0), "b": (over(0), 10, 2)}, {"a": 6, "b": 4}, id="one starts midway"),
        # equal rates r: 3 r + r = 10
        pytest.param(
            [10],
            {"a": (FlowSpec(((0, 3.0),), 1000.0), 10, 0), "b": (over(0), 10, 0)},
            {"a": 4, "b": 4},
            id="a multiplier takes more capacity, not a larger share",
        ),
        # link 0 gives a and b 3 each; c takes the other 7 of link 1
        pytest.param(
            [6, 10],
            {"a": (over(0), 12, 0), "b": (over(0, 1), 12, 0), "c": (over(1), 28, 0)},
            {"a": 4, "b": 4, "c": 4},
            id="what is bound elsewhere leaves its share",
        ),
        # b cannot have more than 1 on link 1, so a has 9
        pytest.param(
            [10, 1], {"a": (over(0), 90, 0), "b": (over(0, 1), 10, 0)}, {"a": 10, "b": 10}, id="two bottlenecks"
        ),
        pytest.param([10], {"a": (FlowSpec((), 4.0), 8, 1)}, {"a": 3}, id="no route: its cap alone counts"),
        pytest.param([10], {"a": (over(0), 0, 3)}, {"a": 3}, id="nothing to move ends at once"),
        pytest.param([10], {"a": (over(0, cap=0), 0, 3)}, {"a": 3}, id="nothing to move needs no rate"),
        # the copy takes all of link 0 until 5: work goes at 1 / (1 + 0.25), 4 units done; then at 1
        pytest.param(
            [10],
            {"copy": (over(0), 50, 0), "work": (FlowSpec((), 1.0, 1.0, (0, 0.25)), 8, 0)},
            {"copy": 5, "work": 9},
            id="drag slows work in full while the link is full",
        ),
        # half of the link is used: 1 / (1 + 0.5 * 0.5) = 0.8
        pytest.param(
            [10],
            {"copy": (over(0, cap=5), 50, 0), "work": (FlowSpec((), 1.0, 1.0, (0, 0.5)), 4, 0)},
            {"copy": 10, "work": 5},
            id="drag goes with utilisation",
        ),
        # a at 4 until b ends at 2, then at 8; b at its 10 throughout
        pytest.param(
            [100],
            {"a": (beside("b", 0.5, cap=8), 16, 0), "b": (marked("b", cap=10), 20, 0)},
            {"a": 3, "b": 2},
            id="a cap is lower beside a flow, and what it was when that ends",
        ),
        # 8 at 8 until 1; at 4 until 3; the other 8 at 8
        pytest.param(
            [100],
            {"a": (beside("b", 0.5, cap=8), 24, 0), "b": (marked("b", cap=10), 20, 1)},
            {"a": 4, "b": 3},
            id="beside a flow that starts midway",
        ),
        # half, however many there are: until 3, and 12 by then
        pytest.param(
            [100],
            {
                "a": (beside("b", 0.5, cap=8), 20, 0),
                "b": (marked("b", cap=10), 30, 0),
                "c": (marked("b", cap=10), 20, 0),
            },
            {"a": 4, "b": 3, "c": 2},
            id="beside several flows alike",
        ),
        # a quarter until 2, half until 3: 4 + 4, and the other 8 at 8
        pytest.param(
            [100],
            {
                "a": (over(0, cap=8)._replace(slowed_by=((("b",), 0.5), (("c",), 0.5))), 16, 0),
                "b": (marked("b", cap=10), 30, 0),
                "c": (marked("c", cap=10), 20, 0),
            },
            {"a": 4, "b": 3, "c": 2},
            id="beside flows of two kinds",
        ),
        pytest.param(
            [100],
            {"a": (beside("b", 0.5, cap=8), 16, 0), "b": (marked("c", cap=10), 20, 0)},
            {"a": 2, "b": 2},
            id="beside a flow that does not slow it",
        ),
        # a asks for 8 of its 16, and gets 5 either way: b is no slower
        pytest.param(
            [10],
            {"a": (beside("b", 0.5, cap=16), 10, 0), "b": (marked("b"), 10, 0)},
            {"a": 2, "b": 2},
            id="a lower cap that does not bind changes nothing",
        ),
        # a asks for 2, b has the other 8
        pytest.param(
            [10],
            {"a": (beside("b", 0.25, cap=8), 10, 0), "b": (marked("b"), 40, 0)},
            {"a": 5, "b": 5},
            id="a lower cap leaves the rest to others",
        ),
        # work at half its pace, and 1 / (1 + 0.25) of that while b has the link: 2 of 3 done at 5
        pytest.param(
            [10],
            {
                "b": (marked("b"), 50, 0),
                "work": (FlowSpec((), 1.0, 1.0, (0, 0.25), slowed_by=((("b",), 0.5),)), 3, 0),
            },
            {"b": 5, "work": 6},
            id="drag and what is beside",
        ),
    ],
)
def test_flows_end_when_arithmetic_says(
    capacities: list[float], flows: dict[str, tuple[FlowSpec, float, float]], ends: dict[str, float]
) -> None:
    net = Net(*capacities)
    for name, (spec, size, start) in flows.items():
        net.flow(name, spec, size, start)
    assert net.run() == pytest.approx(ends, rel=1e-12)


def test_cancelling_returns_what_is_left_and_gives_its_share_away() -> None:
    net, left = Net(10), []
    net.flow("a", over(0), 50)
    net.flow("b", over(0), 50)
    net.at(2, lambda: left.append(net.fabric.cancel(net.flows["b"])))
    assert net.run() == {"a": 6}  # 10 by 2, then the 40 left at 10
    assert left == [40]
    assert net.fabric.moved == [60]


def test_cancelling_gives_back_what_it_took_from_the_cap_of_others() -> None:
    net = Net(100)
    net.flow("a", beside("b", 0.5, cap=8), 16)
    net.flow("b", marked("b", cap=10), 1000)
    net.at(1, lambda: net.fabric.cancel(net.flows["b"]))
    assert net.run() == {"a": 2.5}  # 4 by 1, then the 12 left at 8
    assert net.fabric.moved == [26]


def test_caps_beside_each_other_leave_the_flows_as_they_are() -> None:
    alone, slowed, both = marked("b", cap=8), beside("b", 0.5, cap=8), marked("c", cap=8)
    both = both._replace(slowed_by=((("b",), 0.25), (("d",), 0.5)))
    assert caps_now([alone, slowed, both]) == [alone, slowed._replace(cap=4), both._replace(cap=2)]
    assert caps_now([slowed, both]) == [slowed, both]
    once = over(0, cap=8)._replace(slowed_by=((("a", "b", "c"), 0.5),))
    assert caps_now([alone, both, once])[-1] == once._replace(cap=4), "however many of the tags are there"
    assert caps_now([]) == []


def test_a_flow_crosses_more_while_others_are_there() -> None:
    net, used = Net(10, 4), []
    crowded = over(0)._replace(alternate_route=(("b",), ((0, 1.0), (1, 2.0))))
    net.flow("a", crowded, 24)
    net.flow("b", marked("b", cap=5), 5, 1)
    net.at(1.5, lambda: used.append(net.fabric.used()))
    # 10 by 1; beside b, which ends at 2, 2 a second; then the 12 left at 10
    assert net.run() == {"a": 3.2, "b": 2}
    assert used == [[7, 4]]
    assert net.fabric.moved == [29, 4]


@pytest.mark.parametrize("left", [14, 12])
def test_cancelling_counts_what_a_flow_took_on_each_of_its_routes(left: int) -> None:
    net, found = Net(10, 4), []
    net.flow("a", over(0)._replace(alternate_route=(("b",), ((1, 2.0),))), 24)
    net.flow("b", marked("b", cap=5), 500, 1)
    net.at(1 + (14 - left) / 2, lambda: found.append(net.fabric.cancel(net.flows["a"])))
    net.at(3, lambda: net.fabric.cancel(net.flows["b"]))
    net.run()
    assert found == [left]
    assert net.fabric.moved == [10 + 10, 2 * (14 - left)]


@pytest.mark.parametrize(("start", "size"), [(0.0, 50.0), (2.0, 50.0)])
def test_cancelling_a_flow_before_it_moved_returns_all(start: float, size: float) -> None:
    net, left = Net(10), []
    net.flow("a", over(0), size, start)
    net.at(start, lambda: left.append(net.fabric.cancel(net.flows["a"])))
    assert net.run() == {}
    assert left == [size]


def test_a_flow_that_has_ended_cannot_be_cancelled() -> None:
    net = Net(10)
    net.flow("a", over(0), 50)
    net.run()
    with pytest.raises(ValueError, match="the flow of 50 units is not in flight"):
        net.fabric.cancel(net.flows["a"])


@pytest.mark.parametrize(
    ("flow", "capacity"),
    [
        (over(0, cap=math.nan), 10.0),
        (over(0, weight=math.nan), 10.0),
        (over(0), math.nan),
        (FlowSpec(((0, math.nan),), 1.0), 10.0),
    ],
)
def test_a_rate_law_that_returns_nan_is_an_error(flow: FlowSpec, capacity: float) -> None:
    net = Net(capacity)
    net.flow("a", flow, 1)
    net.flow("b", over(0), 1)
    with pytest.raises(RuntimeError, match="a rate of nan|there are no fair rates"):
        net.run()


def test_a_remainder_that_vanishes_ends_the_filling() -> None:
    # the least that a float can hold, shared: rounding to 0 must not leave a flow that is never frozen
    assert weighted_max_min([over(0, weight=1e10), over(0)], [5e-324]) == [0.0, 0.0]


def test_all_changes_of_one_time_are_settled_by_one_solve() -> None:
    seen: list[int] = []

    def law(flows: object, capacities: object) -> list[float]:
        seen.append(len(flows))  # type: ignore[arg-type]
        return weighted_max_min(flows, capacities)  # type: ignore[arg-type]

    net = Net(10)
    net.fabric.law = law
    for i in range(5):
        net.flow(f"f{i}", over(0), 10)
    net.at(0, lambda: net.fabric.cancel(net.flows["f0"]))
    net.run()
    assert seen == [4]
    assert net.fabric.solves == 1


def test_a_train_of_equal_flows_is_solved_once() -> None:
    net = Net(10)

    def next_chunk(number: int) -> None:
        if number < 100:
            flow = net.fabric.transfer(over(0), 5)
            assert flow.done.callbacks is not None
            flow.done.callbacks.append(lambda _: next_chunk(number + 1))

    net.flow("other", over(0), 250)
    net.at(0, lambda: next_chunk(0))
    assert net.run() == {"other": 50}  # 5 beside the 50 chunks of a second each
    assert net.env.now == 75  # then 50 chunks of half a second
    assert net.fabric.solves <= 4  # each alone, and both in either order


def test_an_end_does_not_shift_while_others_come_and_go() -> None:
    net = Net(10, 10)
    net.flow("long", over(0, cap=0.3), 7)
    for i in range(60):
        net.flow(f"f{i}", over(1), 1.1, i / 3)
    assert net.run()["long"] == 7 / 0.3, "to the last bit"


def test_used_and_moved_count_multipliers() -> None:
    net = Net(10, 100)
    net.flow("a", FlowSpec(((0, 2.0), (1, 0.5)), 3.0), 30)
    used: list[list[float]] = []
    net.at(1, lambda: used.append(net.fabric.used()))
    net.run()
    assert used == [[6, 1.5]]
    assert net.fabric.moved == [60, 15]


def test_a_flow_that_can_never_move_is_an_error() -> None:
    net = Net(10)
    net.flow("a", over(0, cap=0.0), 1)
    with pytest.raises(RuntimeError, match="no flow can make progress"):
        net.run()


def test_another_rate_law_can_be_given() -> None:
    env = Environment()
    fabric = Fabric(env, [10.0], law=lambda flows, capacities: [capacities[0] / 4 for _ in flows])
    flow = fabric.transfer(over(0), 10)
    env.run(flow.done)
    assert env.now == 4
