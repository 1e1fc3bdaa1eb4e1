"""`chunkflow-sim hardware`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sim.cli.common import Failure, OutputPath, check_outputs_shared, force_option, main, note, say, with_exit_codes

if TYPE_CHECKING:
    from sim.hardware import Profile


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--html", type=OutputPath(), help="Write a page with a drawing of NAME to this file.")
@click.option(
    "--check",
    is_flag=True,
    help="Compare NAME's simulated collectives with its own tables; exit code 1 if they differ.",
)
@force_option
@with_exit_codes
def hardware(name: str | None, as_json: bool, html: Path | None, check: bool, force: bool) -> None:
    """List the shipped hardware profiles, or show the profile NAME (or a YAML file) with the source of each number."""
    if name is None and (html is not None or check):
        raise click.UsageError(f"--{'check' if check else 'html'} is for one profile: give its NAME")
    from sim.hardware import is_session, load_profile, shipped, to_plain
    from sim.report.tables import print_profile, print_profiles

    names = sorted(shipped(), key=lambda n: (is_session(n), n)) if name is None else [name]
    profiles = [load_profile(n) for n in names]
    check_outputs_shared(force, ("--html", html, "PAGE"))
    if check:
        if html is not None:
            raise click.UsageError("--check takes no --html")
        _check_profile(profiles[0], as_json)
        return
    if html is not None:
        from sim.report.hardware_page import write_page

        write_page(html, profiles[0])
        say(f"page: {html}")
    if as_json:
        import json

        click.echo(json.dumps([p.name for p in profiles] if name is None else to_plain(profiles[0]), indent=2))
    elif name is None:
        print_profiles(profiles)
    elif html is None:
        print_profile(profiles[0])


def _check_profile(profile: Profile, as_json: bool) -> None:
    """Print how the profile's isolated collectives, simulated, compare with its tables; fail if they contradict."""
    from sim.hardware.profile_check import check_profile, summaries, to_plain

    checks = check_profile(profile)
    said = summaries(checks)
    if not checks:
        why = "one GPU, so no" if profile.gpus == 1 else "no"
        note(f"{profile.name} has {why} tables of collectives: there is nothing to check")
    if as_json:
        import json

        click.echo(json.dumps(to_plain(profile, checks), indent=2))
    elif checks:
        from sim.report.tables import print_check

        print_check(profile, checks)
    if said:
        raise Failure(f"{profile.name} contradicts itself: " + "; ".join(said))
