"""Where a command's scenario comes from: a file or standard input, and what the command line changes in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sim.cli.common import note, note_at_end, note_borrowed_tables
from sim.cli.fits import FIT_OPTIONS, Fits

if TYPE_CHECKING:
    from sim.hardware import Profile
    from sim.scenario import Scenario

STANDARD_INPUT = "-"


class Given(NamedTuple):
    """A scenario as the command line gives it; see the options of `scenario_options`."""

    file: Path
    hardware: str | None
    settings: tuple[str, ...] = ()
    fits: Fits = Fits()

    @property
    def source(self) -> str:
        """What messages call it."""
        return "standard input" if str(self.file) == STANDARD_INPUT else str(self.file)

    @property
    def name(self) -> str:
        """What tables call it."""
        return "standard input" if str(self.file) == STANDARD_INPUT else self.file.name

    def plain(self) -> Any:
        """The scenario's plain data on the hardware that was asked for, without `settings`. Raises `InputError`."""
        from sim.inputs.input_files import read_standard_input
        from sim.scenario import plain_of, read_plain

        if str(self.file) == STANDARD_INPUT:
            data = plain_of(read_standard_input(), self.source)
        else:
            data = read_plain(self.file)
        if self.hardware is not None:
            from sim.hardware import profile_file
            from sim.inputs.config import InputError

            try:
                profile_file(self.hardware)
            except InputError as error:
                raise InputError("--hardware", "", error.problem) from None
            if isinstance(data, dict):
                data["hardware"] = self.hardware
        return data

    def load(self) -> tuple[Scenario, Profile]:
        """The scenario and its profile; notes what one should know of the profile. Raises `InputError`."""
        from sim.analysis.computed_kernels import computes_kernels, remark
        from sim.scenario import Scenario

        if self.settings:
            loaded = self._with_settings()
        else:
            scenario = Scenario.from_plain(self.plain(), self.source)
            loaded = scenario, scenario.profile(self.source)
        scenario, profile = loaded[0], self.fits.fitted(*loaded)
        if scenario.world_size > 1:
            note_borrowed_tables({scenario.hardware: profile})
        if computes_kernels(scenario, profile):
            note_at_end(remark())
        return scenario, profile

    def _with_settings(self) -> tuple[Scenario, Profile]:
        """The one point of a sweep whose axes have one value each: keys are set, and left out, as a sweep does."""
        from sim.sweeps.axes import parse_settings
        from sim.sweeps.grid import points

        settings = parse_settings(self.settings, "several are what `sweep` runs")
        axes = {path: [value] for path, value in settings.items()}
        (point,) = points(self.plain(), axes, self.source, note)
        return point.job.scenario, point.job.profile


def scenario_options(settings: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The argument FILE and its options, which a command gets together as `given`, a `Given`.

    Without `settings` there is no --set: the command has one of its own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def packed(*args: Any, **options: Any) -> None:
            fits = Fits(**{name: options.pop(name) for name in Fits._fields})
            given = Given(**{name: options.pop(name) for name in Given._fields if name in options}, fits=fits)
            command(*args, given=given, **options)

        for option in reversed(FIT_OPTIONS):
            packed = option(packed)

        if settings:
            packed = click.option(
                "--set",
                "settings",
                multiple=True,
                help="Change the scenario: key.path=value, such as policy.chunk_bytes=16MiB. Repeat for more keys.",
            )(packed)
        packed = click.option("--hardware", help="Run on this profile (a name, or a YAML file), not the scenario's.")(
            packed
        )
        return click.argument("file", type=click.Path(path_type=Path))(packed)

    return decorate
