"""Simulated time: what happens, and in what order, is what plain SimPy does with the same events."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st
from simpy.events import Event

from sim.environment import Environment, Process, Wait

DELAYS = (0.0, 0.0, 0.25, 0.5)


class Step(NamedTuple):
    """What a process does next: wait for `delay` s, for event `event`, or for a process of its own; or wake others."""

    what: str
    delay: float
    event: int


steps = st.builds(
    Step, st.sampled_from(["time", "event", "wake", "start", "last"]), st.sampled_from(DELAYS), st.integers(0, 3)
)
plans = st.lists(st.lists(steps, max_size=6), min_size=1, max_size=5)
Seen = list[tuple[float, int, int]]


def at_end_in_simpy(env: simpy.Environment, action: Callable[[], object]) -> None:
    """Priorities above normal come after all else of an instant."""
    event = Event(simpy.Environment()).succeed()  # in one that never runs: it is scheduled here instead
    event.callbacks = [lambda _: action()]
    env.schedule(event, priority=2)  # type: ignore[arg-type]


def in_simpy(plan: list[list[Step]]) -> Seen:
    """When each step of each process began, in SimPy's own environment."""
    env, seen = simpy.Environment(0.0), Seen()
    events = [Event(env) for _ in range(4)]

    def short(number: int) -> Generator[Event, Any, None]:
        seen.append((env.now, number, -1))
        yield env.timeout(0.25)
        seen.append((env.now, number, -2))

    def run(number: int, steps: list[Step]) -> Generator[Event, Any, None]:
        for place, step in enumerate(steps):
            seen.append((env.now, number, place))
            if step.what == "time":
                yield env.timeout(step.delay)
            elif step.what == "event":
                yield events[step.event]
            elif step.what == "wake" and not events[step.event].triggered:
                events[step.event].succeed()
            elif step.what == "start":
                env.process(short(number))
            elif step.what == "last":
                at_end_in_simpy(env, lambda at=(number, place): seen.append((env.now, *at)))  # type: ignore[misc]

    for number, steps in enumerate(plan):
        env.process(run(number, steps))
    env.run()
    return seen


def in_ours(plan: list[list[Step]], go: Callable[[Environment], object]) -> Seen:
    """As `in_simpy`, with what costs less; `go` runs the environment."""
    env, seen = Environment(), Seen()
    events = [Event(env) for _ in range(4)]

    def short(number: int) -> Generator[Wait, Any, None]:
        seen.append((env.now, number, -1))
        yield env.now + 0.25
        seen.append((env.now, number, -2))

    def run(number: int, steps: list[Step]) -> Generator[Wait, Any, None]:
        for place, step in enumerate(steps):
            seen.append((env.now, number, place))
            if step.what == "time":
                yield env.now + step.delay
            elif step.what == "event":
                yield events[step.event]
            elif step.what == "wake" and not events[step.event].triggered:
                events[step.event].succeed()
            elif step.what == "start":
                Process(env, short(number))
            elif step.what == "last":
                env.at_end_of_instant(lambda at=(number, place): seen.append((env.now, *at)))  # type: ignore[misc]

    for number, steps in enumerate(plan):
        Process(env, run(number, steps))
    go(env)
    return seen


def stepwise(env: Environment) -> None:
    """Run as one does who looks at the time before each step."""
    while (next_time := env.peek()) < float("inf"):
        env.step()
        assert env.now == next_time


@given(plans)
def test_the_order_is_that_of_simpy(plan: list[list[Step]]) -> None:
    expected = in_simpy(plan)
    assert in_ours(plan, Environment.run) == expected
    assert in_ours(plan, stepwise) == expected


def test_what_is_called_soon_comes_after_what_is_scheduled_and_before_time_passes() -> None:
    env, seen = Environment(), []
    env.call_at(1.0, lambda: seen.append("later"))
    env.at_end_of_instant(lambda: seen.append("last"))
    env.call_soon(lambda: (seen.append("first"), env.call_soon(lambda: seen.append("second"))))
    env.run()
    assert seen == ["first", "second", "last", "later"]


def test_a_process_that_waits_for_nothing_is_resumed_by_whoever_holds_it() -> None:
    env, seen = Environment(), []

    def waits() -> Generator[Wait, Any, None]:
        yield None
        seen.append(env.now)

    held = Process(env, waits())
    env.call_at(2.0, held)
    env.run()
    assert seen == [2.0]


def test_running_until_an_event_stops_there_and_can_go_on() -> None:
    env, seen = Environment(), []
    until = env.at(1.0)
    env.call_at(2.0, lambda: seen.append(env.now))
    env.run(until)
    assert (env.now, seen) == (1.0, [])
    assert until.callbacks == []
    env.run()
    assert seen == [2.0]


def test_an_error_in_a_process_ends_the_run() -> None:
    env = Environment()

    def fails() -> Generator[Wait, Any, None]:
        yield 1.0
        raise ValueError("at one second")

    Process(env, fails())
    with pytest.raises(ValueError, match="at one second"):
        env.run()
    assert env.now == 1.0


def test_an_event_that_fails_ends_the_run() -> None:
    env = Environment()
    Event(env).fail(KeyError("lost"))
    with pytest.raises(KeyError, match="lost"):
        env.run()
