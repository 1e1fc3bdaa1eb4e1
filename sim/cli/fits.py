"""Options that fit a profile to one measurement before a scenario runs on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from sim.cli.common import note

if TYPE_CHECKING:
    from sim.analysis.fit_collective import Measured
    from sim.hardware import Profile
    from sim.inputs.units import Quantity
    from sim.scenario import Scenario
    from sim.sweeps.points import Points
    from sim.sweeps.results_file import Point

    Q = TypeVar("Q", bound=Quantity)

STEP, AS_WRITTEN, COLLECTIVE = "--fit-step", "--fit-step-as-written", "--fit-collective"

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
    click.option(
        COLLECTIVE,
        "fit_collective",
        metavar="KIND:BYTES:TIME[:RANKS]",
        help="A measured collective on the idle host, such as all_reduce:20MiB:10.9ms, of the scenario's ranks unless "
        "given: one factor on what bytes take in all collectives.",
    ),
)


class Fits(NamedTuple):
    """What a profile is fitted to, as the command line gives it."""

    fit_step: str | None = None
    fit_step_as_written: str | None = None
    fit_collective: str | None = None

    @property
    def options(self) -> str:
        """As the command line has them; empty if nothing is fitted."""
        names = (STEP, AS_WRITTEN, COLLECTIVE)
        return " ".join(f"{name} {value}" for name, value in zip(names, self, strict=True) if value is not None)

    def fitted(self, scenario: Scenario, profile: Profile) -> Profile:
        """`profile` fitted to what was measured: collectives first, which steps as written have. Raises InputError."""
        from sim.analysis.fit_step import fit_step
        from sim.inputs.config import InputError
        from sim.inputs.units import Seconds
        from sim.workloads.named import Named

        if self.fit_step is not None and self.fit_step_as_written is not None:
            raise InputError(STEP, "", f"and {AS_WRITTEN} say the same of two different runs: give one of them")
        if self.fit_collective is not None:
            profile = _fitted_collectives(self.fit_collective, scenario, profile)
        if self.fit_step is not None:
            seconds = _quantity(STEP, Seconds, self.fit_step)
            if scenario.world_size > 1 and not isinstance(scenario.workload, Named):
                note(f"{STEP}: the workload's blocks are taken to be those of one GPU, without their collectives")
            profile = fit_step(scenario, profile, seconds, source=STEP)
        if self.fit_step_as_written is not None:
            seconds = _quantity(AS_WRITTEN, Seconds, self.fit_step_as_written)
            profile = fit_step(scenario, profile, seconds, as_written=True, source=AS_WRITTEN)
        return profile

    def fitted_points(self, points: Points) -> Points:
        """`points`, the profile of each fitted; of those with one workload and host it is fitted once."""
        from sim.sweeps.job import canonical, profile_digest

        if self == Fits():
            return points
        known: dict[bytes, Profile] = {}

        def fitted(point: Point) -> Point:
            job = point.job
            plain = {key: value for key, value in point.data.items() if key != "policy"}
            key = canonical([plain, profile_digest(job.profile)])
            if key not in known:
                known[key] = self.fitted(job.scenario, job.profile)
            identity = point.identity._replace(profile=profile_digest(known[key]))
            return point._replace(job=job._replace(profile=known[key]), identity=identity)

        return points.changed(fitted)

    def shown(self, profile: Profile) -> dict[str, Any]:
        """For JSON: what was fitted; nothing if nothing was."""
        from sim.analysis.fit_step import factor_of

        found: dict[str, Any] = {}
        if self.fit_step or self.fit_step_as_written:
            found["compute_factor"] = factor_of(profile)
        if self.fit_collective:
            found["collectives_fitted"] = profile.collectives.all_to_all.alone.source.partition(";")[0]
        return found

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
        if self.fit_collective:
            source = profile.collectives.all_to_all.alone.source.partition(";")[0]
            say(f"Isolated times of all collectives by {source}.")


def _fitted_collectives(text: str, scenario: Scenario, profile: Profile) -> Profile:
    from sim.analysis.fit_collective import fit_collective
    from sim.inputs.config import InputError

    measured, ranks = _measured(text)
    ranks = scenario.world_size if ranks is None else ranks
    if ranks > profile.gpus:
        raise InputError(COLLECTIVE, text, f"has {ranks} ranks, but {profile.name} has {profile.gpus} GPUs")
    gpus = scenario.gpus[:ranks] if ranks <= scenario.world_size else range(ranks)
    return fit_collective(profile, measured, gpus, COLLECTIVE)[0]


def _measured(text: str) -> tuple[Measured, int | None]:
    """What KIND:BYTES:TIME[:RANKS] says. Raises `InputError`."""
    from sim.analysis.fit_collective import Measured
    from sim.inputs.config import InputError
    from sim.inputs.units import Bytes, Seconds
    from sim.program import COLLECTIVES

    kind, *given = text.split(":")
    if not 2 <= len(given) <= 3:
        raise InputError(COLLECTIVE, text, "expected KIND:BYTES:TIME[:RANKS], such as all_reduce:20MiB:10.9ms")
    if kind not in COLLECTIVES:
        raise InputError(COLLECTIVE, text, f"{kind!r} is no collective, expected one of {', '.join(COLLECTIVES)}")
    if len(given) == 3 and not (given[2].isdecimal() and 2 <= int(given[2]) <= 10**6):
        raise InputError(COLLECTIVE, text, f"expected a number of ranks, at least 2, got {given[2]!r}")
    size, seconds = _quantity(COLLECTIVE, Bytes, given[0]), _quantity(COLLECTIVE, Seconds, given[1])
    return Measured(kind, int(size), float(seconds)), int(given[2]) if len(given) == 3 else None  # type: ignore[arg-type]


def _quantity(option: str, kind: type[Q], text: str) -> Q:
    """A quantity above 0. Raises `InputError`."""
    from sim.inputs import units
    from sim.inputs.config import InputError

    try:
        found = units.parse(kind, text)
    except ValueError as error:
        raise InputError(option, "", str(error)) from None
    if found <= 0:
        raise InputError(option, "", f"is {text}, expected more than 0")
    return found
