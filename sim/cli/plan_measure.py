"""`chunkflow-sim plan --measure`: the plan's best schedules on this host's GPUs, and the regret of its choice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sim.cli.common import Failure, needs, resumable

if TYPE_CHECKING:
    from sim.datasets.cases import MeasuredCase
    from sim.planning import Plan
    from sim.planning.points import Point

Device = Literal["cuda", "cpu"]


class Measured(NamedTuple):
    """Points of a plan with their measured step times, s; None where a case failed. The plan's choice is the first."""

    points: Sequence[Point]
    steps_s: Sequence[float | None]
    cases: Sequence[MeasuredCase]

    @property
    def regret(self) -> float | None:
        """How much longer the plan's choice takes than the best of those measured, relative; None where it failed."""
        known = [step for step in self.steps_s if step is not None]
        return None if self.steps_s[0] is None else self.steps_s[0] / min(known) - 1

    @property
    def failures(self) -> int:
        """How many cases failed, baselines included."""
        return sum(bool(case.error) for case in self.cases)

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        pairs = zip(self.points, self.steps_s, strict=True)
        return {
            "measured": [{**point.to_plain(), "measured_step_time_s": step} for point, step in pairs],
            "regret": self.regret,
        }


def check_machine(ranks: int, device: Device | None) -> None:
    """Fail unless this machine can measure as many ranks. GPUs are meant unless `device` says a CPU."""
    needs("torch")
    from calibration.torch_machine import MachineError, check_ranks

    try:
        check_ranks(ranks, device or "cuda")
    except MachineError as error:
        raise Failure(f"--measure: {error}; --device cpu only tries the procedure") from None


def candidates(plan: Plan, count: int) -> list[Point]:
    """The plan's `count` fastest schedules that fit, and the runner-up; its choice first."""
    offered = [point for point in plan.evaluated if point.fits and plan.allows(point)]
    assert plan.best is not None
    chosen = [plan.best, *(point for point in offered if point is not plan.best)][:count]
    rival = plan.runner_up
    return chosen if rival is None or any(point is rival for point in chosen) else [*chosen, rival]


def measure(plan: Plan, count: int, device: Device | None, out: Path | None) -> Measured:
    """Measure a plan's `candidates` into the data set `out`, which is not kept unless given. Raises as `measure`."""
    from calibration.measure import measure as run_all
    from calibration.measure import plan as cases_of
    from sim.report.terminal import progress

    points = candidates(plan, count)
    plain = [point.scenario.with_steps(max(point.scenario.workload.steps, 3)).to_plain() for point in points]
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(TemporaryDirectory()))
        stack.enter_context(resumable(out, "cases"))
        advance = stack.enter_context(progress(len(cases_of(plain)), "cases"))
        cases = run_all(plain, folder, 2, device or "cuda", advance)
    times = {_key(case.scenario): case.step_time_s for case in cases if not case.error}
    return Measured(points, [times.get(_key(data)) for data in plain], cases)


def _key(scenario: dict[str, Any]) -> str:
    """Equal for equal plain data, whether or not it has been in a file."""
    return json.dumps(scenario, sort_keys=True)


def print_measured(found: Measured) -> None:
    """Measured beside simulated, and the regret."""
    from sim.inputs.units import show_seconds
    from sim.report.terminal import say, show, table

    made = table("schedule", "simulated", "measured", "error", title="measured on this host")
    for point, step in zip(found.points, found.steps_s, strict=True):
        error = "" if not step else f"{100 * (point.step_time_s / step - 1):+.2f} %"
        made.add_row(
            point.words, show_seconds(point.step_time_s), "failed" if step is None else show_seconds(step), error
        )
    show(made)
    for case in found.cases:
        if case.error:
            say(f"failed: {case.error}")
    if found.regret is not None:
        longer = f"{100 * found.regret:.2f} %"
        say(f"Regret of the plan's choice: its measured step is {longer} longer than the best of these.")
