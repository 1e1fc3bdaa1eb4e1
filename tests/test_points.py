"""Points of a sweep are known by its axes: made as they are read, in the order of the product, none kept."""

from __future__ import annotations

import copy
import itertools
import json
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sweep_scenario import BASE

from sim.inputs.config import InputError
from sim.sweeps.grid import Axes, Point, Points, Setting, points, sweep

LARGE: Axes = {
    "policy.chunk_bytes": range(2**20, 2**20 + 1000),
    "world_size": [1, 2],
    "workload.steps": range(2, 102),
}
"""200,000 points."""


def peak(run: Callable[[], object]) -> int:
    """The most memory that Python's objects take while it runs, B."""
    run()  # what is loaded and remembered the first time
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Counting(Points):
    """Counts the points that are read."""

    made = 0

    def __getitem__(self, at: Any) -> Any:
        self.made += 1
        return super().__getitem__(at)


def test_a_large_sweep_is_read_in_part_without_making_the_rest() -> None:
    def read() -> None:
        large = Points(BASE, LARGE)
        assert len(large) == 200_000
        for at in (0, 1, 100, 199, 200, 123_456, -1):
            number = at % 200_000
            chunk, (ranks, steps) = number // 200, divmod(number % 200, 100)
            assert list(large[at].values.values()) == [2**20 + chunk, 1 + ranks, 2 + steps]
            assert large[at].data["policy"] == {"kind": "yielding", "chunk_bytes": 2**20 + chunk}
            assert (large[at].job.scenario.world_size, large[at].job.scenario.workload.steps) == (1 + ranks, 2 + steps)
        with pytest.raises(IndexError):
            large[200_000]

    assert peak(read) < 2 * 2**20, "of which the profile takes half"


def test_checking_keeps_a_digest_of_each_point_at_most() -> None:
    def check(count: int) -> Points:
        chunks = range(2**20, 2**20 + count)
        return points(BASE, {"policy.chunk_bytes": chunks, "policy.kind": ["resident", "chunked"]})

    few, many = peak(lambda: check(10)), peak(lambda: check(400))
    assert len(check(400)) == 401
    assert (many - few) / 390 < 300, "a point takes 5 kB"


def test_a_sweep_reads_points_as_there_is_room_to_run_them() -> None:
    large = Counting(BASE, LARGE)

    def stop(done: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(large, progress=stop)
    assert large.made == 5


def test_a_sweep_reads_no_point_again_that_its_file_holds(tmp_path: Path) -> None:
    axes = {"policy.chunk_bytes": ["1 MiB", "2 MiB"], "policy.kind": ["resident", "yielding"]}
    fresh, again = Counting(BASE, axes), Counting(BASE, axes)
    rows = sweep(fresh, output=tmp_path / "rows.csv")
    content = (tmp_path / "rows.csv").read_bytes()
    assert fresh.made == 3 + 1, "each once, and the names of the axes"
    assert sweep(again, output=tmp_path / "rows.csv") == rows == sweep(list(points(BASE, axes)))
    assert again.made == 1 and (tmp_path / "rows.csv").read_bytes() == content


def test_a_wrong_point_is_an_error_when_it_is_read_and_before_any_runs_where_all_are_checked() -> None:
    axes = {"policy.chunk_bytes": ["1 MiB", "2 MiB"], "world_size": [1, 3]}
    lazy = Points(BASE, axes, "s.yaml")
    assert lazy[2].values == {"policy.chunk_bytes": "2 MiB", "world_size": 1}
    for read in (lambda: lazy[1], lambda: list(lazy), lambda: points(BASE, axes, "s.yaml")):
        with pytest.raises(InputError) as caught:
            read()
        told = "s.yaml, policy.chunk_bytes=1 MiB, world_size=3: world_size: is 3, but h200x2-hostpath has 2 GPUs"
        assert str(caught.value) == told


def test_what_one_axis_changes_in_the_value_of_another_is_of_its_point_alone() -> None:
    policy = {"kind": "yielding", "chunk_bytes": "1 MiB"}
    axes = {
        "case": [Setting(name="a", set={"policy": policy})],
        "drain": [Setting(name="on", set={"policy.drain": True}), Setting(name="as it is", set={})],
    }
    for made in (points(BASE, axes), Points(BASE, axes), points(BASE, axes)):
        assert [point.data["policy"] for point in made] == [policy | {"drain": True}, policy]
    assert policy == {"kind": "yielding", "chunk_bytes": "1 MiB"}


VALUES: dict[str, st.SearchStrategy[object]] = {
    "policy.kind": st.sampled_from(["resident", "whole_layer", "chunked", "yielding"]),
    "policy.chunk_bytes": st.sampled_from(["1 MiB", 2**20, "2 MiB"]),
    "policy.drain": st.booleans(),
    "policy.prefetch_layers": st.sampled_from([1, 2, "1"]),
    "policy": st.sampled_from([{"kind": "chunked", "chunk_bytes": 2**20}, {"kind": "chunked", "chunk_bytes": 2**21}]),
    "world_size": st.sampled_from([1, 2]),
    "workload.block[0].compute.seconds": st.sampled_from(["1 ms", 0.001, 0.002]),
    "workload.block[-3].compute.seconds": st.sampled_from(["1 ms", 0.001]),
    "workload.block[2]": st.sampled_from([{"compute": {"name": "c", "seconds": 1}}]),
    "case": st.sampled_from(
        [Setting(name=name, set=keys) for name, keys in [("a", {}), ("b", {"world_size": 1}), ("c", {"world_size": 2})]]
    ),
}


@st.composite
def some_axes(draw: st.DrawFn) -> dict[str, list[object]]:
    paths = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=3, unique=True))
    return {path: draw(st.lists(VALUES[path], min_size=1, max_size=3)) for path in paths}


def first_of_their_kind(axes: Axes) -> Sequence[Point]:
    """Each combination as a sweep of its own, without those that say what an earlier one does; the longer way."""
    found: dict[str, Point] = {}
    for values in itertools.product(*axes.values()):
        [point] = points(BASE, {path: [value] for path, value in zip(axes, values, strict=True)})
        found.setdefault(json.dumps(point.data, sort_keys=True), point)
    return list(found.values())


@given(some_axes())
@example({"workload.block[0].compute.seconds": ["1 ms", 0.002], "workload.block[-3].compute.seconds": ["2 ms"]})
@example({"policy.chunk_bytes": ["1 MiB", "2 MiB"], "policy": [{"kind": "chunked", "chunk_bytes": 2**20}]})
def test_points_are_the_combinations_that_say_what_no_earlier_one_does(axes: dict[str, list[object]]) -> None:
    before = copy.deepcopy(axes)
    try:
        expected = first_of_their_kind(axes)
    except InputError as error:
        with pytest.raises(InputError) as caught:
            points(BASE, axes)
        assert str(caught.value) == str(error)
        return
    for made in (points(BASE, axes), Points(BASE, axes)):
        assert list(made) == expected and len(made) == len(expected)
        assert [made[at] for at in range(len(expected))] == expected
        assert (made[-1], made[1:]) == (expected[-1], expected[1:])
    assert axes == before
