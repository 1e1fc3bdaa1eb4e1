"""The command line: `chunkflow-sim`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click


class _Failure(click.ClickException):
    """One line on stderr and exit code 1."""


class _BadInput(click.ClickException):
    """One line on stderr and exit code 2."""

    exit_code = 2


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors a user can cause into one message and the promised exit code."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        from sim.config import InputError
        from sim.program import ProgramError

        try:
            command(*args, **kwargs)
        except (InputError, ProgramError) as error:
            raise _BadInput(str(error)) from None
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _Failure(f"{error.filename or 'output'}: cannot be written: {error.strerror}") from None
        except RuntimeError as error:
            raise _Failure(str(error)) from None

    return guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chunkflow-sim")
def main() -> None:
    """Simulate PCIe contention of layerwise-offloaded diffusion-transformer inference."""


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write a Chrome/Perfetto trace to this file.")
@_guarded
def run(file: Path, as_json: bool, trace: Path | None) -> None:
    """Simulate the scenario FILE and print its figures."""
    from sim.run import simulate
    from sim.scenario import Scenario

    result = simulate(Scenario.load(file))
    if trace is not None:
        from sim.trace import write_trace

        write_trace(result.timeline, trace)
    if as_json:
        import json

        click.echo(json.dumps(result.metrics, indent=2))
        return
    from sim.report.tables import print_run

    print_run(file.name, result)


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@_guarded
def hardware(name: str | None, as_json: bool) -> None:
    """List the shipped hardware profiles, or show the profile NAME (or a YAML file) with the source of each number."""
    from sim.hardware import load_profile, shipped, to_plain
    from sim.report.tables import print_profile, print_profiles

    profiles = [load_profile(n) for n in ([name] if name else shipped())]
    if as_json:
        import json

        click.echo(json.dumps(to_plain(profiles[0]) if name else [p.name for p in profiles], indent=2))
    elif name:
        print_profile(profiles[0])
    else:
        print_profiles(profiles)


if __name__ == "__main__":
    sys.exit(main())
