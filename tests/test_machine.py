"""The simulated machine: small programs with times worked out by hand, and all others against a longest-path sum.

Links of the tiny profile move 8 B/s; a rank of a collective alone sends 8 B/s; commands cost nothing unless given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import (
    KINDS,
    Case,
    cases,
    chunked,
    compute,
    costs,
    direct_programs,
    offloading,
    program,
    tiny_profile,
    whole_layer,
)

from sim.hardware import Profile
from sim.machine import DeadlockError, SimulatedMachine
from sim.program import (
    Collective,
    Copy,
    HostWaitEvent,
    Kernel,
    Program,
    RankBuilder,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.timeline import Span, Timeline

Build = Callable[[RankBuilder], object]
Times = dict[str, tuple[float, ...]]


def kernel(stream: str, name: str, seconds: float, launches: int = 1, attention: bool = False) -> Build:
    return lambda rank: rank.kernel(stream, name, seconds=seconds, launches=launches, attention=attention)


def copy(stream: str, name: str, size: int, **more: Any) -> Build:
    return lambda rank: rank.copy(stream, name, size, rank.buffer(name, size, "weights"), **more)


def call(size: int = 16, name: str = "x", kind: str = "all_to_all", stream: str = "s") -> Build:
    return lambda rank: rank.collective(stream, name, kind, size)  # type: ignore[arg-type]


def record(stream: str) -> Build:
    return lambda rank: rank.record(stream)


def wait(stream: str, event: int) -> Build:
    return lambda rank: rank.wait(stream, event)


def host_wait(event: int) -> Build:
    return lambda rank: rank.host_wait(event)


def write(stream: str, flag: str, value: int) -> Build:
    return lambda rank: rank.write_flag(stream, flag, value)


def wait_flag(stream: str, flag: str, value: int) -> Build:
    return lambda rank: rank.wait_flag(stream, flag, value)


def new_thread(rank: RankBuilder) -> object:
    return rank.thread()


def run(ranks: list[list[Build]], changes: dict[str, float] | None = None) -> Timeline:
    builders = [RankBuilder() for _ in ranks]
    for rank, commands in zip(builders, ranks, strict=True):
        for command in commands:
            command(rank)
    return SimulatedMachine(tiny_profile(len(ranks), changes)).run(program(*builders))


def label(span: Span) -> str:
    return getattr(span.command, "name", "") or f"{span.kind} {span.command.stream}"


def times(timeline: Timeline, rank: int = 0) -> Times:
    """(start, end) of each span of a rank by its name, or its type and stream; without records of events."""
    spans = [s for s in timeline.of(rank) if not isinstance(s.command, RecordEvent)]
    found = {label(s): (s.start, s.end) for s in spans}
    assert len(found) == len(spans), "names are not unique"
    return found


def near(expected: Times) -> dict[str, object]:
    return {name: pytest.approx(interval) for name, interval in expected.items()}


@pytest.mark.parametrize(
    ("commands", "changes", "expected"),
    [
        pytest.param(
            [kernel("s", "a", 1), kernel("s", "b", 2), copy("s", "c", 8)],
            {},
            {"a": (0, 1), "b": (1, 3), "c": (3, 4)},
            id="a stream is FIFO",
        ),
        pytest.param(
            [kernel("s", "a", 1), kernel("t", "b", 2), copy("u", "c", 24)],
            {},
            {"a": (0, 1), "b": (0, 2), "c": (0, 3)},
            id="streams run side by side",
        ),
        pytest.param(
            [lambda r: r.kernel("s", "a", flops=3, hbm_bytes=5), lambda r: r.kernel("s", "b", flops=6, hbm_bytes=5)],
            {"device.compute_efficiency": 0.5, "device.hbm_bandwidth": 2.0},
            {"a": (0, 6), "b": (6, 18)},
            id="the roofline takes the longer of flops and bytes",
        ),
        pytest.param(
            [lambda r: r.kernel("s", "a", flops=3, hbm_bytes=20)],
            {"device.hbm_bandwidth": 4.0, "device.hbm_efficiency": 0.5},
            {"a": (0, 10)},
            id="the roofline of memory traffic",
        ),
        # ---- events
        pytest.param(
            [copy("c", "c", 16), record("c"), wait("s", 0), kernel("s", "a", 1)],
            {},
            {"c": (0, 2), "WaitEvent s": (0, 2), "a": (2, 3)},
            id="a wait ends with its event",
        ),
        pytest.param(
            [copy("c", "c", 16), record("c"), copy("c", "d", 8), wait("s", 0), kernel("s", "a", 1)],
            {"streams.event": 0.5, "streams.wake": 0.25},
            {"c": (0, 2), "d": (2.5, 3.5), "WaitEvent s": (0, 2.75), "a": (2.75, 3.75)},
            id="recording and waking cost time",
        ),
        pytest.param(
            [record("c"), kernel("s", "a", 1), wait("s", 0), kernel("s", "b", 1)],
            {"streams.event": 0.5, "streams.wake": 0.25},
            {"a": (0, 1), "b": (1, 2)},
            id="waiting for what has happened costs nothing",
        ),
        # ---- flags
        pytest.param(
            [kernel("s", "a", 3), write("s", "f", 1), wait_flag("t", "f", 1), kernel("t", "b", 1)],
            {"streams.write_flag": 0.5, "streams.wait_flag": 0.25},
            {"a": (0, 3), "WriteFlag s": (3, 3.5), "WaitFlag t": (0, 3.5), "b": (3.5, 4.5)},
            id="a flag wait ends with the write",
        ),
        pytest.param(
            [
                *(kernel("s", "a", 2), write("s", "f", 1), wait_flag("t", "f", 1), kernel("t", "b", 1)),
                *(kernel("u", "c", 3), wait_flag("u", "f", 1), kernel("u", "d", 1)),
            ],
            {"streams.flag_wake": 0.5},
            {"a": (0, 2), "WriteFlag s": (2, 2), "WaitFlag t": (0, 2.5), "b": (2.5, 3.5)}
            | {"c": (0, 3), "WaitFlag u": (3, 3), "d": (3, 4)},
            id="a stream blocked by a flag continues a moment after its write",
        ),
        pytest.param(
            [
                *(kernel("s", "a", 2), write("s", "f", 1), kernel("u", "b", 2.25), write("u", "f", 0)),
                *(kernel("v", "c", 3.25), write("v", "f", 1), wait_flag("t", "f", 1), kernel("t", "d", 1)),
            ],
            {"streams.flag_wake": 0.5},
            {"a": (0, 2), "WriteFlag s": (2, 2), "b": (0, 2.25), "WriteFlag u": (2.25, 2.25)}
            | {"c": (0, 3.25), "WriteFlag v": (3.25, 3.25), "WaitFlag t": (0, 3.75), "d": (3.75, 4.75)},
            id="a flag that is set for less than that moment holds on",
        ),
        pytest.param(
            [wait_flag("t", "f", 0), kernel("t", "b", 1), kernel("s", "a", 3), write("s", "f", 1)],
            {"streams.write_flag": 0.5, "streams.wait_flag": 0.25},
            {"WaitFlag t": (0, 0.25), "b": (0.25, 1.25), "a": (0, 3), "WriteFlag s": (3, 3.5)},
            id="flags start at 0, a passed wait costs its time",
        ),
        pytest.param(
            [
                *(kernel("s", "a", 1), write("s", "f", 1), kernel("t", "b", 2), write("t", "f", 2)),
                *(kernel("u", "c", 1), write("u", "g", 2), wait_flag("v", "f", 2), kernel("v", "d", 1)),
            ],
            {},
            {"a": (0, 1), "b": (0, 2), "c": (0, 1), "d": (2, 3), "WaitFlag v": (0, 2)}
            | {f"WriteFlag {stream}": (time, time) for stream, time in (("s", 1), ("t", 2), ("u", 1))},
            id="a flag wait is for one value of one flag",
        ),
        # ---- the host
        pytest.param(
            [kernel("s", "a", 0.5), kernel("s", "b", 0.5, launches=3), copy("c", "c", 8), kernel("s", "d", 9)],
            {"host.kernel": 1.0, "host.copy": 0.25},
            {"a": (1, 1.5), "b": (4, 4.5), "c": (4.25, 5.25), "d": (5.25, 14.25)},
            id="commands start once issued, every launch is issued",
        ),
        pytest.param(
            [kernel("s", "a", 9), kernel("s", "b", 1), record("s"), wait("t", 0), write("t", "f", 1)],
            {"host.kernel": 1.0, "host.event": 2.0, "host.memop": 4.0},
            {"a": (1, 10), "b": (10, 11), "WaitEvent t": (6, 11), "WriteFlag t": (11, 11)},
            id="the host runs ahead",
        ),
        pytest.param(
            [*(kernel("s", f"k{i}", 1) for i in range(4)), kernel("t", "other", 1)],
            {"host.queue_depth": 2},
            {"k0": (0, 1), "k1": (1, 2), "k2": (2, 3), "k3": (3, 4), "other": (2, 3)},
            id="a full queue blocks the host until a command has ended",
        ),
        pytest.param(
            [*(kernel("s", f"k{i}", 1) for i in range(3)), kernel("t", "other", 1)],
            {"host.queue_depth": 2, "host.kernel": 0.25},
            {"k0": (0.25, 1.25), "k1": (1.25, 2.25), "k2": (2.25, 3.25), "other": (1.5, 2.5)},
            id="a blocked host continues when there is room",
        ),
        pytest.param(
            [kernel("s", "a", 1, launches=3), kernel("s", "b", 1, launches=2), kernel("t", "other", 1)],
            {"host.queue_depth": 4},
            {"a": (0, 1), "b": (1, 2), "other": (1, 2)},
            id="launches count against the queue",
        ),
        pytest.param(
            [*(kernel("s", f"k{i}", 1, launches=2) for i in range(3)), kernel("t", "other", 1)],
            {"host.queue_depth": 4},
            {"k0": (0, 1), "k1": (1, 2), "k2": (2, 3), "other": (1, 2)},
            id="all launches of a command leave the queue with it",
        ),
        pytest.param(
            [kernel("s", "a", 1, launches=9), kernel("s", "b", 1, launches=9), kernel("t", "other", 1)],
            {"host.queue_depth": 4},
            {"a": (0, 1), "b": (1, 2), "other": (1, 2)},
            id="more launches than the queue holds wait for an empty one",
        ),
        pytest.param(
            [kernel("s", "a", 2), record("s"), kernel("s", "b", 2), host_wait(0), kernel("t", "c", 1)],
            {"host.kernel": 0.5, "host.event": 0.25},
            {"a": (0.5, 2.5), "b": (2.5, 4.5), "c": (3, 4)},
            id="a host wait holds what is issued later",
        ),
        pytest.param(
            [record("s"), kernel("s", "a", 1), host_wait(0), kernel("t", "c", 1)],
            {"host.kernel": 0.5, "host.event": 0.25},
            {"a": (0.75, 1.75), "c": (1.5, 2.5)},
            id="a host wait for what has happened costs its call alone",
        ),
        pytest.param(
            [kernel("s", "a", 5), record("s"), host_wait(0), kernel("s", "b", 1), new_thread, kernel("t", "c", 1)],
            {"host.kernel": 0.5},
            {"a": (0.5, 5.5), "b": (6, 7), "c": (0.5, 1.5)},
            id="host threads issue side by side",
        ),
        # ---- copies
        pytest.param(
            [copy("c", "c", 16), copy("d", "d", 8)],
            {"h2d.engines": 2.0},
            {"c": (0, 3), "d": (0, 2)},
            id="copies of two engines share the link",
        ),
        pytest.param(
            [copy("c", "c", 16), copy("d", "d", 8)],
            {},
            {"c": (0, 2), "d": (0, 3)},
            id="copies wait for the one copy engine",
        ),
        pytest.param(
            [copy("c", "c", 8), copy("c", "e", 8), copy("d", "d", 8)],
            {},
            {"c": (0, 1), "e": (1, 2), "d": (0, 3)},
            id="a stream keeps the engine while its next copy can follow at once",
        ),
        pytest.param(
            [copy("c", "c", 8), write("c", "f", 1), copy("c", "e", 8), copy("d", "d", 8)],
            {},
            {"c": (0, 1), "WriteFlag c": (1, 1), "e": (1, 3), "d": (0, 2)},
            id="a stream loses the engine where it has something else to do",
        ),
        pytest.param(
            [copy("c", "c", 16), copy("d", "d", 16, kind="d2h")],
            {"d2h.cap": 4.0},
            {"c": (0, 2), "d": (0, 4)},
            id="up and down do not share links",
        ),
        pytest.param(
            [copy("c", "c", 16), copy("d", "d", 24, kind="d2h")],
            {"duplex": 8.0, "d2h.weight": 3.0},
            {"c": (0, 5), "d": (0, 4)},  # 2 and 6 until 4, then c's last 8 bytes
            id="up and down share a duplex limit by weight",
        ),
        pytest.param(
            [copy("c", "c", 8), copy("c", "d", 16)],
            {"h2d.setup": 0.5, "h2d.minimum": 2.0},
            {"c": (0, 2), "d": (2, 4.5)},
            id="a copy takes its setup, and its minimum at least",
        ),
        pytest.param(
            [copy("c", "c", 8), copy("c", "d", 16)],
            {"down": 4.0, "h2d.setup": 0.5, "h2d.minimum": 2.25},
            {"c": (0, 2.5), "d": (2.5, 7)},
            id="a link below the cap counts into the minimum",
        ),
        # ---- interference: full link until 5, work at 1 / (1 + 2 launches * 0.5 s / 4 s)
        pytest.param(
            [copy("c", "c", 40), kernel("s", "a", 4, launches=2), kernel("s", "b", 1)],
            {"streams.launch_delay": 0.5},
            {"c": (0, 5), "a": (0, 5), "b": (5, 6)},
            id="launches are late while copies fill the link",
        ),
        pytest.param(
            [kernel("s", "a", 4), write("t", "f", 1), copy("t", "c", 8), kernel("s", "b", 1), write("s", "f", 2)],
            {"streams.beside_kernel": 0.125, "streams.write_flag": 0.25, "h2d.setup": 0.5},
            {"a": (0, 4), "WriteFlag t": (0, 0.375), "c": (0.375, 2), "b": (4, 5), "WriteFlag s": (5, 5.25)},
            id="commands take longer beside a kernel",
        ),
    ],
)
def test_one_rank(commands: list[Build], changes: dict[str, float], expected: Times) -> None:
    assert times(run([commands], changes)) == near(expected)


def add(counter: str, delta: int = 1) -> Build:
    return lambda rank: rank.host_add(counter, delta)


def wait_counter(counter: str, **bounds: float) -> Build:
    return lambda rank: rank.host_wait_counter(counter, **bounds)  # type: ignore[arg-type]


def acquire(lock: str) -> Build:
    return lambda rank: rank.host_acquire(lock)


def release(lock: str) -> Build:
    return lambda rank: rank.host_release(lock)


@pytest.mark.parametrize(
    ("commands", "changes", "expected"),
    [
        pytest.param(
            # thread 0 counts at 1 and at 3, when its calls have returned
            [
                kernel("s", "a", 0, 1),
                add("n"),
                kernel("s", "b", 0, 2),
                add("n"),
                new_thread,
                wait_counter("n", least=1),
                kernel("t", "c", 1),
                wait_counter("n", least=2),
                record("t"),
                kernel("t", "d", 1),
            ],
            {"host.kernel": 1.0},
            {"a": (1, 1), "b": (3, 3), "c": (2, 3), "d": (4, 5)},
            id="a counter holds a thread until it is high enough",
        ),
        pytest.param(
            [
                add("n"),
                kernel("s", "a", 4),
                record("s"),
                host_wait(0),
                add("n", -1),
                new_thread,
                kernel("t", "b", 0),
                wait_counter("n", most=0),
                kernel("t", "c", 1),
            ],
            {"host.kernel": 1.0},
            {"a": (1, 5), "b": (1, 1), "c": (6, 7)},
            id="or low enough",
        ),
        pytest.param(
            [kernel("s", "a", 0), add("n"), new_thread, wait_counter("n", least=1, poll=0.75), kernel("t", "c", 1)],
            {"host.kernel": 1.0},
            {"a": (1, 1), "c": (2.5, 3.5)},  # looks at 0, 0.75 and 1.5
            id="a polling thread sees a counter late",
        ),
        pytest.param(
            [kernel("s", "a", 1), record("s"), new_thread, lambda r: r.host_wait(0, poll=0.75), kernel("t", "c", 1)],
            {"host.wake": 0.0},
            {"a": (0, 1), "c": (1.5, 2.5)},
            id="a polling thread sees an event late",
        ),
        pytest.param(
            [kernel("s", "a", 2), record("s"), new_thread, lambda r: r.host_wait(0, poll=0.5), kernel("t", "c", 1)],
            {},
            {"a": (0, 2), "c": (2, 3)},
            id="a polling thread that looks just then sees it",
        ),
        pytest.param(
            [
                kernel("s", "a", 1),
                record("s"),
                new_thread,
                host_wait(0),
                kernel("t", "b", 1, launches=3),
                lambda r: r.host_wait(0, poll=2),
                kernel("u", "c", 1),
            ],
            {"host.kernel": 1.0},
            {"a": (1, 2), "b": (5, 6), "c": (6, 7)},
            id="a thread that finds an event of the past does not go back to it",
        ),
        pytest.param(
            [kernel("s", "a", 1), record("s"), host_wait(0), kernel("s", "b", 1)],
            {"host.wake": 0.25},
            {"a": (0, 1), "b": (1.25, 2.25)},
            id="a blocked thread wakes late",
        ),
        pytest.param(
            # both ask at 1; the second has it at 4, and issues until 5
            [
                kernel("x", "p", 0),
                acquire("l"),
                *(kernel("s", f"k{i}", 1) for i in range(3)),
                release("l"),
                new_thread,
                kernel("y", "q", 0),
                acquire("l"),
                kernel("t", "c", 1),
                release("l"),
            ],
            {"host.kernel": 1.0},
            {"p": (1, 1), "q": (1, 1), "k0": (2, 3), "k1": (3, 4), "k2": (4, 5), "c": (5, 6)},
            id="a lock is held until it is given back",
        ),
        pytest.param(
            # thread 0 has counted at 1.5; thread 1 looks at 0.5, and goes on then
            [kernel("s", "a", 0), add("n"), new_thread, wait_counter("n", least=1), kernel("t", "c", 1)],
            {"host.kernel": 1.0, "host.sync": 0.5},
            {"a": (1, 1), "c": (2.5, 3.5)},
            id="counting costs the host time",
        ),
        pytest.param(
            [acquire("l"), kernel("s", "a", 0), release("l"), kernel("s", "b", 1)],
            {"host.kernel": 1.0, "host.sync": 0.5},
            {"a": (1.5, 1.5), "b": (3, 4)},
            id="taking a lock and giving it back do too",
        ),
        pytest.param(
            [kernel("s", "a", 0), record("s"), kernel("t", "b", 0), host_wait(0), kernel("t", "c", 1)],
            {"host.kernel": 1.0, "host.sync": 0.5},
            {"a": (1, 1), "b": (2, 2), "c": (3.5, 4.5)},
            id="and asking for an event that has come",
        ),
        pytest.param(
            # the second thread records at 1.5, when the first has issued a alone
            [
                kernel("s", "a", 4),
                kernel("s", "b", 4),
                new_thread,
                lambda r: r.copy("c", "c", 8, r.buffer("c", 8, "weights")),
                record("s"),
                wait("t", 0),
                kernel("t", "d", 1),
            ],
            {"host.kernel": 1.0, "host.copy": 1.5},
            {"a": (1, 5), "b": (5, 9), "c": (1.5, 2.5), "WaitEvent t": (1.5, 5), "d": (5, 6)},
            id="an event on a stream of another thread comes where the race puts it",
        ),
    ],
)
def test_host_threads(commands: list[Build], changes: dict[str, float], expected: Times) -> None:
    assert times(run([commands], changes)) == near(expected)


@pytest.mark.parametrize(
    ("ranks", "changes", "expected"),
    [
        pytest.param(
            [[kernel("s", "a", 1), call()], [kernel("s", "a", 3), call(), kernel("s", "b", 1)]],
            {},
            [{"a": (0, 1), "x": (1, 4)}, {"a": (0, 3), "x": (3, 4), "b": (4, 5)}],
            id="a collective waits for the last rank",
        ),
        pytest.param(
            [[call(), call(32, "y")], [call(), call(32, "y")]],
            {"collective.latency": 0.5},
            [{"x": (0, 1.5), "y": (1.5, 4)}] * 2,
            id="latency comes before the bytes",
        ),
        pytest.param(
            [[call(24)]] * 3,
            {"collective.latency_per_rank": 0.25},
            [{"x": (0, 2.25)}] * 3,
            id="latency grows with ranks",
        ),
        pytest.param([[call(16, kind="all_reduce")]] * 2, {}, [{"x": (0, 2)}] * 2, id="an all-reduce moves twice"),
        pytest.param([[call(16, kind="all_gather")]] * 4, {}, [{"x": (0, 1.5)}] * 4, id="a ring sends (n-1)/n"),
        pytest.param(
            [[call(), kernel("s", "a", 1)]], {"collective.latency": 9}, [{"x": (0, 0), "a": (0, 1)}], id="one"
        ),
        pytest.param([[call()]] * 2, {"up": 4}, [{"x": (0, 2)}] * 2, id="links bound collectives too"),
        pytest.param([[call()]] * 2, {"collective.overhead": 2}, [{"x": (0, 2)}] * 2, id="so does overhead"),
        pytest.param(
            # 8 B/s: the copy 6, the all-to-all 2 until 4; then its last 8 alone
            [[call(32), copy("c", "c", 24)], [call(32)]],
            {"collective.weight": 1 / 3},
            [{"x": (0, 5), "c": (0, 4)}, {"x": (0, 5)}],
            id="copies and collectives share by weight",
        ),
        pytest.param(
            [[copy("c", "c", 16)], [copy("c", "c", 8)]], {"host": 8}, [{"c": (0, 3)}, {"c": (0, 2)}], id="one host"
        ),
        pytest.param(
            # pairs end when they end: only those with rank 2 wait for the copy
            [[call(24)], [call(24)], [call(24), copy("c", "c", 16)]],
            {"collective.weight": 2},
            [{"x": (0, 3)}, {"x": (0, 3)}, {"x": (0, 3), "c": (0, 4)}],
            id="a rank is done with its last pair",
        ),
    ],
)
def test_several_ranks(ranks: list[list[Build]], changes: dict[str, float], expected: list[Times]) -> None:
    timeline = run(ranks, changes)
    assert [times(timeline, i) for i in range(len(ranks))] == [near(e) for e in expected]


def test_a_span_tells_peer_wait_and_time_alone_apart() -> None:
    timeline = run(
        [[kernel("s", "a", 1), call(), copy("s", "c", 8)], [kernel("s", "a", 3), call()]], {"h2d.setup": 0.5}
    )
    spans = {label(s): s for s in timeline.of(0)}
    assert spans["x"][2:] == (1, 3, 4, 1)
    assert spans["c"][2:] == (4, 4, 5.5, 1.5)
    assert spans["a"][2:] == (0, 0, 1, 1)


@pytest.mark.parametrize(
    ("arrival", "start"),
    [(0.0, 0), (0.25, 0), (0.75, 0.5), (1.0, 0.5), (2.25, 0.5), (3.0, 0)],
    ids=lambda value: str(value),
)
def test_a_copy_that_starts_beside_moving_data_starts_late(arrival: float, start: float) -> None:
    # the all-reduce has its latency until 0.5 and moves until 2.5, longer beside the copy
    commands = [call(16, kind="all_reduce"), kernel("c", "before", arrival), copy("c", "c", 8)]
    changes = {"all_reduce.latency": 0.5, "all_reduce.copy_start": 0.5, "down": 100.0, "up": 100.0}
    assert times(run([commands] * 2, changes))["c"] == (arrival, arrival + start + 1)


@pytest.mark.parametrize("first", ["all_reduce", "all_gather"])
def test_a_copy_starts_late_by_the_worst_of_all_collectives_that_move(first: str) -> None:
    # both move from 0 on; the one that begun first is not forgotten when the next one begins
    commands = [call(64, "x", first, "s"), call(64, "y", "all_gather", "t"), call(64, "z", "all_reduce", "u"), kernel("c", "before", 1), copy("c", "c", 8)]  # fmt: skip
    if first == "all_gather":
        commands = [commands[2], commands[1], *commands[3:]]
    free = {"down": 1000.0, "up": 1000.0}
    assert times(run([commands] * 2, free | {"all_reduce.copy_start": 0.5}))["c"] == (1, 2.5)


def test_a_program_with_more_ranks_than_gpus_is_refused() -> None:
    rank = RankBuilder()
    rank.kernel("s", "a", seconds=1)
    with pytest.raises(ValueError, match="the program has 3 ranks, the profile 2 GPUs"):
        SimulatedMachine(tiny_profile(2)).run(program(rank, rank, rank))


def test_steps_run_from_event_to_event() -> None:
    def step(rank: RankBuilder) -> object:
        return rank.record_step("s")

    timeline = run([[kernel("s", "a", 1), step, kernel("s", "b", 2), step, kernel("s", "c", 4), step]])
    assert timeline.steps == ((1, 3, 7),)
    assert timeline.step_times() == [2, 4]


@pytest.mark.parametrize(
    ("ranks", "changes", "lines"),
    [
        pytest.param(
            [[kernel("s", "a", 2), wait_flag("s", "f", 1), write("s", "f", 1), record("s"), wait("t", 0)]],
            {},
            [
                "deadlock at 2 s:",
                "rank 0 stream 's' waits for flag 'f' to be 1; it is 0 and stream 's' has not reached its write",
                "rank 0 stream 't' waits for event 0, which stream 's' has not recorded",
            ],
            id="flag and event",
        ),
        pytest.param(
            [[call()], [wait_flag("s", "f", 2), call(), write("s", "f", 2)], [kernel("s", "a", 1), call()]],
            {},
            [
                "rank 0 stream 's' waits for ranks [1] to arrive at all_to_all 'x'",
                "rank 1 stream 's' waits for flag 'f' to be 2; it is 0",
                "rank 2 stream 's' waits for ranks [1] to arrive at all_to_all 'x'",
            ],
            id="a rank that never arrives",
        ),
        pytest.param(
            [[wait_flag("s", "f", 1), record("s"), host_wait(0), write("t", "f", 1)]],
            {},
            [
                "rank 0 host thread 0 waits for event 0",
                "rank 0 stream 's' waits for flag 'f' to be 1; it is 0 and host thread 0 has not issued its write on "
                "stream 't'",
            ],
            id="a host thread",
        ),
        pytest.param(
            [[wait_flag("s", "f", 1), kernel("s", "a", 1), kernel("s", "b", 1), write("t", "f", 1)]],
            {"host.queue_depth": 2},
            [
                "rank 0 host thread 0 waits for room on stream 's' (2 commands pending)",
                "rank 0 stream 's' waits for flag 'f' to be 1; it is 0",
            ],
            id="a full queue",
        ),
        pytest.param(
            [[write("s", "f", 1), write("s", "f", 0), kernel("t", "a", 1), wait_flag("t", "f", 1)]],
            {},
            ["rank 0 stream 't' waits for flag 'f' to be 1; it is 0 and nobody is left to write it"],
            id="a flag that was missed",
        ),
        pytest.param(
            [[wait_counter("n", least=2, most=3), new_thread, add("n")]],
            {},
            ["rank 0 host thread 0 waits for counter 'n' to be at least 2 and at most 3"],
            id="a counter",
        ),
        pytest.param(
            [
                [
                    acquire("l"),
                    kernel("s", "a", 1),
                    wait_counter("n", least=1),
                    release("l"),
                    new_thread,
                    acquire("l"),
                    add("n"),
                    release("l"),
                ]
            ],
            {},
            ["rank 0 host thread 0 waits for counter 'n'", "rank 0 host thread 1 waits for lock 'l'"],
            id="a lock",
        ),
    ],
)
def test_a_deadlock_says_who_waits_for_what(
    ranks: list[list[Build]], changes: dict[str, float], lines: list[str]
) -> None:
    with pytest.raises(DeadlockError) as caught:
        run(ranks, changes)
    for line in lines:
        assert line in str(caught.value)


def test_a_deadlock_of_one_of_two_ranks_with_one_program_looks_at_its_own_writes() -> None:
    """GPU 0's copy ends while the flag is set; GPU 1's is slower and misses it, so that its next write is not reached."""
    links = [{"ends": ["memory", f"gpu{gpu}"], "each_way": {"value": rate, "source": ""}} for gpu, rate in enumerate((8.0, 2.0))]  # fmt: skip
    topology = {"nodes": {"memory": {"kind": "memory"}}, "links": links, "peers": "host"}
    profile = tiny_profile(2, {}, topology)
    rank = RankBuilder()
    rank.buffer("w", 64, "slot")
    rank.copy("s", "c", 16, "w")
    rank.wait_flag("s", "f", 1)
    rank.write_flag("s", "f", 1)
    rank.kernel("t", "a", seconds=1)
    rank.write_flag("t", "f", 1)
    rank.kernel("t", "b", seconds=3)
    rank.write_flag("t", "f", 0)
    built = rank.build()
    with pytest.raises(DeadlockError) as caught:
        SimulatedMachine(profile).run(Program((built, built)))
    assert str(caught.value).splitlines() == [
        "deadlock at 8 s:",
        "  rank 1 stream 's' waits for flag 'f' to be 1; it is 0 and stream 's' has not reached its write",
    ]


def test_a_longer_queue_lets_the_same_program_end() -> None:
    commands = [wait_flag("s", "f", 1), kernel("s", "a", 1), kernel("s", "b", 1), write("t", "f", 1)]
    assert times(run([commands], {"host.queue_depth": 3}))["b"] == (1, 2)


def test_collectives_on_two_streams_meet_their_own_kind() -> None:
    late = kernel("s", "late", 4)
    ranks = [
        [late, call(16, "first", stream="s"), call(64, "second", "all_reduce", stream="t")],
        [call(16, "first", stream="s"), kernel("t", "late", 4), call(64, "second", "all_reduce", stream="t")],
    ]
    timeline = run(ranks, {"down": 100, "up": 100})
    for rank in (0, 1):
        spans = {label(s): s for s in timeline.of(rank)}
        assert spans["first"].end - spans["first"].ready == pytest.approx(1)
        assert spans["second"].end - spans["second"].ready == pytest.approx(8)


FREE = {"down": 1000.0, "up": 1000.0}
SLOW = {"all_to_all.beside.all_gather": 0.5, "all_gather.beside.all_to_all": 0.25, "device.beside_collective": 2.0}


@pytest.mark.parametrize(
    ("commands", "changes", "expected"),
    [
        pytest.param(
            # x moves its 8 B at 4 B/s until 2; y 4 B of its 32 by then, the rest at 8
            [call(16), call(64, "y", "all_gather", "t")],
            {},
            {"x": (0, 2), "y": (0, 5.5)},
            id="collectives of two streams",
        ),
        pytest.param(
            # nothing moves until 1, so x has its 8 B/s; y moves 2 B until 2 and has 6 left
            [call(32), call(16, "y", "all_gather", "t")],
            {"all_gather.latency": 1.0},
            {"x": (0, 3), "y": (0, 3.5)},
            id="not before bytes move",
        ),
        pytest.param(
            # half of its pace until 5.5, however many move
            [call(16), call(64, "y", "all_gather", "t"), kernel("k", "k", 4)],
            {},
            {"x": (0, 2), "y": (0, 5.5), "k": (0, 6.75)},
            id="a kernel",
        ),
        pytest.param(
            # one second of its two is done at 1, when x begins to move, and the other one at 3
            [kernel("s", "before", 1), call(32), kernel("k", "k", 2), call(2, "y", "all_gather", "t")],
            {"all_gather.latency": 9.0},
            {"before": (0, 1), "x": (1, 3), "k": (0, 3)},
            id="a kernel that starts before",
        ),
        pytest.param(
            # 1 / (1 + 0.5) of its pace by the copy, which fills the link, and half of that
            [copy("c", "c", 4000), call(64000), call(2, "y", "all_reduce", "t"), kernel("k", "k", 1)],
            {"h2d.cap": 1000.0, "streams.launch_delay": 0.5},
            {"k": (0, 3)},
            id="a kernel that a copy slows as well",
        ),
        pytest.param(
            [call(16, kind="reduce_scatter"), call(16, "y", "all_reduce", "t")],
            {},
            {"x": (0, 1), "y": (0, 2)},
            id="kinds that get on",
        ),
        pytest.param(
            [call(16), call(64, "y", "all_to_all", "t")], {}, {"x": (0, 1), "y": (0, 4)}, id="two of a kind"
        ),
        pytest.param(
            # collectives of one stream meet only the kernel
            [kernel("k", "k", 1), call(16), call(64, "y", "all_gather")],
            {},
            {"k": (0, 2), "x": (0, 1), "y": (1, 5)},
            id="collectives of one stream",
        ),
        pytest.param(
            # 1 s more a launch: 4 s of the kernel take 4 x 2 + 2 s
            [call(160), kernel("k", "k", 4, launches=2)],
            {"streams.crowd_delay": 1.0},
            {"x": (0, 10), "k": (0, 10)},
            id="launches beside a collective",
        ),
        pytest.param(
            # x comes when attention runs and starts when that has ended; y came before and slows it
            [call(16, "y", "all_reduce", "t"), kernel("k", "k", 4, attention=True), kernel("s", "before", 1), call(16)],
            {},
            {"y": (0, 2), "k": (0, 5), "before": (0, 2), "x": (2, 6)},
            id="attention holds collectives up",
        ),
    ],
)  # fmt: skip
def test_beside_collectives_of_another_stream(
    commands: list[Build], changes: dict[str, float], expected: Times
) -> None:
    timeline = run([commands] * 2, FREE | SLOW | changes)
    for rank in (0, 1):
        found = times(timeline, rank)
        assert {name: found[name] for name in expected} == near(expected)


@pytest.mark.parametrize("seconds", [5e-324, 1e-300, 1e-17, 1e-3])
@pytest.mark.parametrize(("beside", "delay"), [(copy("c", "c", 4000), "launch_delay"), (call(64000), "crowd_delay")])
def test_kernels_as_short_as_can_be_said_end(seconds: float, beside: Build, delay: str) -> None:
    # three launches, each 0.5 s late; what is shorter than any clock can tell may be late by less
    changes = {"h2d.cap": 1000.0, f"streams.{delay}": 0.5}
    timeline = run([[beside, kernel("k", "k", seconds, launches=3)]] * 2, FREE | changes)
    start, end = times(timeline)["k"]
    assert start == 0
    assert end == pytest.approx(seconds + 1.5) if seconds > 1e-18 else 0 <= end <= 1.5


def test_isolated_time_does_not_depend_on_contention() -> None:
    commands = [call(16), call(64, "y", "all_gather", "t"), kernel("k", "k", 4)]
    isolated = {label(s): s.isolated_time for s in run([commands] * 2, FREE | SLOW).of(0)}
    assert isolated == {"x": 1, "y": 4, "k": 4}


def test_kinds_of_one_class_slow_others_alike() -> None:
    # send_recv as all_to_all, 8 B at 4 B/s; reduce_scatter as all_gather, 32 B: 2 B/s until 2, and then 8
    profile = tiny_profile(2, FREE | SLOW)
    others = msgspec.structs.replace(profile.collectives, send_recv=None, reduce_scatter=None)
    rank = RankBuilder()
    rank.collective("s", "x", "send_recv", 8)
    rank.collective("t", "y", "reduce_scatter", 64)
    timeline = SimulatedMachine(msgspec.structs.replace(profile, collectives=others)).run(program(rank, rank))
    assert times(timeline) == near({"x": (0, 2), "y": (0, 5.5)})
    assert times(SimulatedMachine(profile).run(program(rank, rank))) == near({"x": (0, 1), "y": (0, 4)})


def test_a_kernel_is_slowed_while_its_own_rank_moves_data() -> None:
    # each sends 16 B to its successor; a copy to rank 2 leaves what rank 1 sends it half of the link, until 4: rank 0 is
    # done at 2
    ranks = [[call(16, "x", "send_recv"), call(3, "y", "all_gather", "t"), kernel("k", "k", 3)] for _ in range(3)]
    ranks[2].append(copy("c", "c", 32))
    timeline = run(ranks, {"device.beside_collective": 2.0, "all_gather.latency": 9.0})
    assert [times(timeline, rank)["x"] for rank in range(3)] == [(0, 2), (0, 4), (0, 4)]
    assert [times(timeline, rank)["k"] for rank in range(3)] == [(0, 4), (0, 5), (0, 5)]


@example(
    Case(
        {"layers": 1, "steps": 2, "layer_bytes": 2, "block": [compute(0.0)]},
        {"kind": "whole_layer", "prefetch_layers": 1},
        2,
        {"h2d.minimum": 0.4204559233696779},
    )
)
@given(cases(policy=offloading | st.just({"kind": "resident"})))
def test_collectives_on_the_stream_of_kernels_meet_no_others(case: Case) -> None:
    """Bit for bit."""
    met = {"device.beside_collective": 1.5, "streams.crowd_delay": 1.0} | {
        f"{a}.beside.{b}": 0.5 for a in KINDS for b in KINDS if a != b
    }
    slow = case._replace(changes={**case.changes, **met})  # with the same length, from which the grid of times follows
    assert slow.run().timeline == case.run().timeline


# ---- against a longest-path sum ------------------------------------------------------------------------------------


def sent(kind: str, size: int, ranks: int) -> float:
    share = 1 if kind == "send_recv" else (ranks - 1) / ranks
    return share * size * (2 if kind == "all_reduce" else 1)


def longest_path(program: Program, profile: Profile) -> dict[tuple[int, str], list[tuple[object, float, float, float]]]:
    """When each command runs on a host whose links are never full: (command, start, ready, end) by rank and stream.

    It knows no simulated time: every command starts at the latest of what it waits for.
    """
    spans: dict[tuple[int, str], list[tuple[object, float, float, float]]] = {}
    queues: dict[tuple[int, str], list[tuple[int, float]]] = {}
    events: dict[tuple[int, int], float] = {}
    arrivals: list[dict[int, float]] = []
    cost = {
        name: float(getattr(profile.host, name).value) for name in ("kernel", "copy", "collective", "event", "memop")
    }
    issue = {Kernel: "kernel", Copy: "copy", Collective: "collective", WriteFlag: "memop", WaitFlag: "memop"}
    ranks, streams, depth = program.world_size, profile.streams, int(profile.host.queue_depth.value)

    def thread(rank: int, commands: tuple[Any, ...]) -> Iterator[None]:
        clock, calls = 0.0, 0
        for c in commands:
            launches = getattr(c, "launches", 1)
            clock += cost[issue.get(type(c), "event")] * launches
            if isinstance(c, HostWaitEvent):
                clock += profile.host.sync.value
                while (rank, c.event) not in events:
                    yield
                clock = max(clock, events[rank, c.event])
                continue
            queue = queues.setdefault((rank, c.stream), [])
            pending = launches
            for earlier, end in reversed(queue):
                if (pending := pending + earlier) > depth:
                    clock = max(clock, end)
                    break
            start = ready = end = max([clock] + [end for _, end in queue[-1:]])
            shown = True
            if isinstance(c, Kernel):
                end = start + (max(c.flops, c.hbm_bytes) if c.seconds is None else c.seconds)
            elif isinstance(c, Copy):
                copies = profile.copy_class(c.kind)
                moving = c.bytes / 8
                end = start + max(copies.setup.value, copies.minimum.value - moving) + moving
            elif isinstance(c, Collective):
                if calls == len(arrivals):
                    arrivals.append({})
                arrived, calls = arrivals[calls], calls + 1
                arrived[rank] = start
                while len(arrived) < ranks:
                    yield
                ready = end = max(arrived.values())
                if ranks > 1:
                    cls = profile.collective_class(c.kind)
                    latency = cls.latency.value + (ranks - 2) * cls.latency_per_rank.value
                    end = ready + latency + max(1, sent(c.kind, c.bytes, ranks)) / 8
            elif isinstance(c, RecordEvent):
                end = events[rank, c.event] = start + streams.event.value
            elif isinstance(c, WaitEvent):
                while (rank, c.event) not in events:
                    yield
                shown = events[rank, c.event] > start
                end = events[rank, c.event] + streams.wake.value if shown else start
            queue.append((launches, end))
            if shown:
                spans.setdefault((rank, c.stream), []).append((c, start, ready, end))

    running = [thread(rank, t) for rank, r in enumerate(program.ranks) for t in r.threads]
    done = object()
    while running:
        running = [t for t in running if next(t, done) is not done]
    return spans


def check_longest_path(program: Program, profile: Profile) -> None:
    timeline = SimulatedMachine(profile).run(program)
    found: dict[tuple[int, str], list[tuple[object, float, float, float]]] = {}
    for s in timeline.spans:
        found.setdefault((s.rank, s.command.stream), []).append((s.command, s.start, s.ready, s.end))
    expected = longest_path(program, profile)
    assert found.keys() == expected.keys()
    for stream, spans in expected.items():
        assert [s[0] for s in found[stream]] == [s[0] for s in spans]
        assert [s[1:] for s in found[stream]] == [pytest.approx(s[1:], rel=1e-9, abs=1e-9) for s in spans]


UNCONTENDED = (
    dict.fromkeys(("down", "up", "duplex", "host"), 2.0**60)
    | dict.fromkeys(("h2d.engines", "d2h.engines"), 100.0)
    | dict.fromkeys(("h2d.cap", *(f"{kind}.cap" for kind in KINDS)), 8.0)
    | dict.fromkeys(("streams.launch_delay", "all_reduce.copy_start", "streams.beside_kernel"), 0.0)
)
_kept = {key.replace(".", "__"): value for key, value in UNCONTENDED.items()}


@given(cases(policy=whole_layer | chunked | st.just({"kind": "resident"}), **_kept))
def test_policies_on_free_links_take_their_longest_path(case: Case) -> None:
    check_longest_path(case.scenario.program(), case.profile)


@given(st.data(), st.sampled_from([1, 2, 3]))
def test_direct_programs_on_free_links_take_their_longest_path(data: st.DataObject, ranks: int) -> None:
    drawn = data.draw(
        st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(
                (
                    "h2d.setup",
                    "h2d.minimum",
                    "d2h.setup",
                    "d2h.minimum",
                    "all_to_all.latency",
                    "streams.event",
                    "streams.wake",
                    "host.kernel",
                    "host.copy",
                    "host.collective",
                    "host.event",
                    "host.sync",
                ),
                costs,
            )
            | {"host.queue_depth": st.integers(1, 6)},
        )
    )
    check_longest_path(data.draw(direct_programs(ranks)), tiny_profile(ranks, UNCONTENDED | drawn))
