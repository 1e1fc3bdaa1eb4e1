"""Options that fit a profile to one measurement before a scenario runs on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sim.cli.common import note

if TYPE_CHECKING:
    from sim.hardware import Profile
    from sim.scenario import Scenario
    from sim.sweeps.results_file import Point

STEP, AS_WRITTEN = "--fit-step", "--fit-step-as-written"

FIT_OPTIONS = (
    click.option(
        STEP,
        "fit_step",
        metavar="TIME",
        help="A measured step of this workload on ONE GPU without offload, all CFG passes included, such as 38.08s: "
        "one factor on all compute makes the simulated one as long; then the scenario runs as written.",
    ),
    click.option(
        AS_WRITTEN,
        "fit_step_as_written",
        metavar="TIME",
        help="The same of the scenario on its own ranks, without offload.",
    ),
)


class Fits(NamedTuple):
    """What a profile is fitted to, as the command line gives it."""

    fit_step: str | None = None
    fit_step_as_written: str | None = None

    def fitted(self, scenario: Scenario, profile: Profile) -> Profile:
        """`profile` fitted to what was measured. Raises `InputError`."""
        from sim.analysis.fit_step import fit_step
        from sim.inputs.config import InputError
        from sim.workloads.named import Named

        if self.fit_step is not None and self.fit_step_as_written is not None:
            raise InputError(STEP, "", f"and {AS_WRITTEN} say the same of two different runs: give one of them")
        if self.fit_step is not None:
            if scenario.world_size > 1 and not isinstance(scenario.workload, Named):
                note(f"{STEP}: the workload's blocks are taken to be those of one GPU, without their collectives")
            profile = fit_step(scenario, profile, _seconds(STEP, self.fit_step), source=STEP)
        if self.fit_step_as_written is not None:
            seconds = _seconds(AS_WRITTEN, self.fit_step_as_written)
            profile = fit_step(scenario, profile, seconds, as_written=True, source=AS_WRITTEN)
        return profile

    def fitted_points(self, points: Sequence[Point]) -> list[Point]:
        """`points`, the profile of each fitted; of those with one workload and host it is fitted once."""
        from sim.sweeps.job import Job, canonical, profile_digest

        if self == Fits():
            return list(points)
        known: dict[bytes, Profile] = {}
        made = []
        for point in points:
            job: Job = point.job
            plain = {key: value for key, value in point.data.items() if key != "policy"}
            key = canonical([plain, profile_digest(job.profile)])
            if key not in known:
                known[key] = self.fitted(job.scenario, job.profile)
            fitted = known[key]
            identity = point.identity._replace(profile=profile_digest(fitted))
            made.append(point._replace(job=job._replace(profile=fitted), identity=identity))
        return made

    def shown(self, profile: Profile) -> dict[str, Any]:
        """For JSON: what was fitted; nothing if nothing was."""
        from sim.analysis.fit_step import factor_of

        return {"compute_factor": factor_of(profile)} if self.fit_step or self.fit_step_as_written else {}

    def say(self, profile: Profile) -> None:
        """Print what was fitted."""
        from sim.analysis.fit_step import factor_of
        from sim.report.terminal import say

        if self.fit_step or self.fit_step_as_written:
            which = f"{STEP} {self.fit_step}" if self.fit_step else f"{AS_WRITTEN} {self.fit_step_as_written}"
            say(
                f"Isolated kernel times x {factor_of(profile):.4g} (compute_factor) by {which}; copies, collectives "
                "and costs of commands as the profile says."
            )


def _seconds(option: str, text: str) -> float:
    """A duration above 0. Raises `InputError`."""
    from sim.inputs import units
    from sim.inputs.config import InputError

    try:
        seconds = units.parse(units.Seconds, text)
    except ValueError as error:
        raise InputError(option, "", str(error)) from None
    if seconds <= 0:
        raise InputError(option, "", f"is {text}, expected more than 0")
    return float(seconds)
