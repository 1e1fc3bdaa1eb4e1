"""The command line: `chunkflow-sim`."""

from __future__ import annotations

import signal

try:  # until this module is there, Ctrl-C ends the process without a traceback
    _usual = signal.signal(signal.SIGINT, signal.SIG_DFL)
except ValueError:  # only the main thread hears of it
    _usual = None

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from sim.cli_group import CommandGroup

if _usual is not None:
    signal.signal(signal.SIGINT, _usual)

if TYPE_CHECKING:
    from calibration.probes import ProbeCase
    from sim.datasets.probe_rows import Row as ProbeRow
    from sim.hardware import Profile
    from sim.ledger import Point, Row
    from sim.run import Result
    from sim.scenario import Scenario
    from sim.sensitivity import Interval


class _Failure(click.ClickException):
    """One line on stderr and exit code 1."""


class _BadInput(click.ClickException):
    """One line on stderr and exit code 2."""

    exit_code = 2


class _Seconds(click.FloatRange):
    """A finite number of seconds in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number != number:  # NaN is in every range
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return number


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
        except (RuntimeError, ArithmeticError) as error:
            raise _Failure(str(error)) from None
        except ImportError as error:
            if (file := _hiding(error)) is None:
                raise
            raise _Failure(
                f"{file} hides a package of chunkflow-sim: rename it, or start from another folder"
            ) from None
        except MemoryError:
            raise _Failure("the memory is full: take fewer layers or steps, or larger chunks") from None

    return guarded


def _hiding(error: ImportError) -> str | None:
    """The file of another module that was imported under the name of a package of ours; None if that is not why."""
    name = (error.name or "").partition(".")[0]
    file = getattr(sys.modules.get(name), "__file__", None)
    ours = name in ("calibration", "scenarios", "sim", "validation")
    return file if ours and file and not Path(file).is_relative_to(Path(__file__).parents[1] / name) else None


_RECOMPUTE = "Run rows of --out again that were made with another profile, model or version; else they are refused."


def _say(text: str) -> None:
    """A line on standard error."""
    from sim.safe_text import printable

    click.echo(printable(text), err=True)


def _note(text: str) -> None:
    _say(f"note: {text}")


def _check_outputs(force: bool, *outputs: tuple[str, Path | None, str]) -> None:
    """Refuse to destroy anything: `outputs` are options, their files, and the kinds of file as `Kind` names them."""
    from sim.overwriting import Kind, Output, check_outputs

    check_outputs([Output(option, file, Kind[kind]) for option, file, kind in outputs if file is not None], force)


_force = click.option(
    "--force", is_flag=True, help="Overwrite files also where they were read, or are no earlier results."
)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chunkflow-sim")
def main() -> None:
    """Simulate PCIe contention of layerwise-offloaded diffusion-transformer inference."""


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write a Chrome/Perfetto trace to this file.")
@click.option(
    "--interval",
    "with_interval",
    is_flag=True,
    help="Add where the step time lies, by the model's error and the profile's.",
)
@_force
@_guarded
def run(file: Path, as_json: bool, trace: Path | None, with_interval: bool, force: bool) -> None:
    """Simulate the scenario FILE and print its figures."""
    from sim.run import simulate

    loaded = _load(file)
    _check_outputs(force, ("--trace", trace, "TRACE"))
    result = simulate(*loaded)
    if trace is not None:
        from sim.trace import write_trace

        write_trace(result.timeline, trace)
    from sim.explain import resident_causes
    from sim.why import causes, waterfall

    by_cause = causes(result.timeline, result.profile)
    fall = waterfall(by_cause, resident_causes(result.scenario, result.profile))
    interval = _interval(result) if with_interval else None
    if as_json:
        import json

        shown = {**result.metrics, "causes_s": by_cause, "waterfall": fall._asdict()}
        if with_interval:
            shown["step_time_interval_s"] = [interval.low, interval.high] if interval else None
        click.echo(json.dumps(shown, indent=2))
        return
    from sim.report.tables import print_run, print_waterfall

    print_run(file.name, result)
    print_waterfall(fall)
    if with_interval:
        from sim.report.uncertainty import print_interval

        print_interval(interval, result.profile, result.scenario.world_size)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.option("--change", default="5%", show_default=True, help="By how much each number is changed, up and down.")
@click.option("--metric", default="step_time_s", show_default=True, help="The figure that is looked at.")
@click.option("--workers", type=click.IntRange(1), help="Processes; as many as there are cores unless given.")
@_guarded
def sensitivity(file: Path, as_json: bool, change: str, metric: str, workers: int | None) -> None:
    """Rank the numbers of the hardware profile by how much they move a figure of the scenario FILE."""
    from sim.config import InputError
    from sim.ledger import FIGURES
    from sim.report.terminal import progress
    from sim.scenario import Scenario
    from sim.sensitivity import most_runs, to_plain
    from sim.sensitivity import sensitivity as find
    from sim.workers import Workers

    varied = [name for name in FIGURES if name not in ("device_memory_bytes", "fits_memory")]
    if metric not in varied:
        raise InputError("--metric", metric, f"expected one of {', '.join(varied)}")
    share = _share(change)
    scenario = Scenario.load(file)
    profile = scenario.profile(str(file))
    with Workers(workers) as pool, progress(most_runs(profile, True), "simulations") as advance:
        found = find(scenario, profile, metric, share, pool, advance)
    if as_json:
        import json

        click.echo(json.dumps(to_plain(found), indent=2))
        return
    from sim.report.uncertainty import print_sensitivity

    print_sensitivity(file.name, found)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@_guarded
def explain(file: Path, as_json: bool) -> None:
    """Say what binds the scenario FILE, and what would help."""
    from sim.explain import explain as explain_result
    from sim.explain import to_plain
    from sim.run import simulate

    explanation = explain_result(simulate(*_load(file)))
    if as_json:
        import json

        click.echo(json.dumps(to_plain(explanation), indent=2))
        return
    from sim.report.tables import print_explanation

    print_explanation(file.name, explanation)


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with a drawing of NAME to this file.")
@click.option(
    "--check",
    is_flag=True,
    help="Compare NAME's simulated collectives with its own tables; exit code 1 if they differ.",
)
@_force
@_guarded
def hardware(name: str | None, as_json: bool, html: Path | None, check: bool, force: bool) -> None:
    """List the shipped hardware profiles, or show the profile NAME (or a YAML file) with the source of each number."""
    if name is None and (html is not None or check):
        raise click.UsageError(f"--{'check' if check else 'html'} is for one profile: give its NAME")
    from sim.hardware import is_session, load_profile, shipped, to_plain
    from sim.report.tables import print_profile, print_profiles

    names = sorted(shipped(), key=lambda n: (is_session(n), n)) if name is None else [name]
    profiles = [load_profile(n) for n in names]
    _check_outputs(force, ("--html", html, "PAGE"))
    if check:
        if html is not None:
            raise click.UsageError("--check takes no --html")
        _check_profile(profiles[0], as_json)
        return
    if html is not None:
        from sim.report.hardware_page import write_page

        write_page(html, profiles[0])
        _say(f"page: {html}")
    if as_json:
        import json

        click.echo(json.dumps([p.name for p in profiles] if name is None else to_plain(profiles[0]), indent=2))
    elif name is None:
        print_profiles(profiles)
    elif html is None:
        print_profile(profiles[0])


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@_guarded
def models(name: str | None, as_json: bool) -> None:
    """List the models that a scenario can name, or show the shapes of the model NAME with their sources."""
    from sim.models import load_model, shipped
    from sim.report.tables import print_model, print_models

    known = [load_model(n) for n in (shipped() if name is None else [name])]
    if as_json:
        import json

        import msgspec

        click.echo(json.dumps([m.name for m in known] if name is None else msgspec.to_builtins(known[0]), indent=2))
    elif name is None:
        print_models(known)
    else:
        print_model(known[0])


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "settings",
    multiple=True,
    required=True,
    help="An axis: key.path=a,b,c or key.path=first..last:x2 (factor) or :+1 (step). Repeat for more axes.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write rows to this CSV file; continues where it ends.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page of plots to this file.")
@click.option("--workers", type=click.IntRange(1), help="Processes; as many as there are cores unless given.")
@click.option("--recompute", is_flag=True, help=_RECOMPUTE)
@_force
@_guarded
def sweep(
    file: Path,
    settings: tuple[str, ...],
    out: Path | None,
    html: Path | None,
    workers: int | None,
    recompute: bool,
    force: bool,
) -> None:
    """Simulate the scenario FILE at every combination of values and print one row each.

    Example: --set policy.kind=chunked,yielding --set policy.chunk_bytes=1MiB..256MiB:x2
    """
    with _resumable(out, "points"):
        from sim.scenario import read_plain
        from sim.sweep import parse_axes, points

        axes = parse_axes(settings)
        chosen = points(read_plain(file), axes, str(file), _note)

        def page(html: Path, rows: Sequence[Row]) -> None:
            from sim.report.sweep_page import write_page

            write_page(html, str(file), chosen, rows)

        _run_points(file.name, chosen, out, html, workers, recompute, force, page)


@main.command()
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Write rows to this CSV file; continues where it ends.")
@click.option("--html", type=click.Path(path_type=Path), help="Write the page with the plot to this file.")
@click.option("--workers", type=click.IntRange(1), help="Processes; as many as there are cores unless given.")
@click.option("--recompute", is_flag=True, help=_RECOMPUTE)
@_force
@_guarded
def experiment(
    name: str | None, out: Path | None, html: Path | None, workers: int | None, recompute: bool, force: bool
) -> None:
    """List the shipped experiments, or run NAME (or a YAML file): the published figures as sweeps."""
    from sim.experiment import load_experiment, shipped
    from sim.report.tables import print_experiments

    if name is None:
        print_experiments({n: load_experiment(n).title for n in shipped()})
        return
    with _resumable(out, "points"):
        chosen = load_experiment(name)
        points = chosen.points(name)

        def page(html: Path, rows: Sequence[Row]) -> None:
            from sim.report.sweep_page import write_experiment

            write_experiment(html, chosen, points, rows)

        _run_points(name, points, out, html, workers, recompute, force, page)


@main.command()
@click.option(
    "--data", "sets", multiple=True, help="A data set: a shipped name, a folder of `measure`, or all (default)."
)
@click.option("--published", is_flag=True, help="Published cases instead of measured ones, with bounds of their own.")
@click.option("--hardware", help="Profile to predict with; each data set's own unless given.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a report page to this file.")
@click.option("--trace", type=click.Path(path_type=Path), help="Write a Perfetto trace of the worst case to this file.")
@click.option("--intervals", is_flag=True, help="Intervals about predictions, and how many hold the measurement.")
@click.option("--markdown", is_flag=True, help="Print the bounds, errors and cases as Markdown.")
@click.option("--workers", type=click.IntRange(1), help="Processes; as many as there are cores unless given.")
@_force
@_guarded
def validate(
    sets: tuple[str, ...],
    published: bool,
    hardware: str | None,
    html: Path | None,
    trace: Path | None,
    intervals: bool,
    markdown: bool,
    workers: int | None,
    force: bool,
) -> None:
    """Predict measured cases, print measured against predicted, and judge the stated bounds: exit code 1 if one breaks.

    A folder is predicted with the profile of its name, or with --hardware.
    """
    if published:
        if sets or hardware or html or trace or intervals:
            raise click.UsageError("--published takes no other option than --markdown and --workers")
        _validate_published(markdown, workers)
        return
    from sim.hardware import load_profile
    from sim.report.terminal import progress
    from sim.safe_text import printable
    from sim.workers import Workers
    from validation import report, run, summary
    from validation.sets import load_set, shipped_sets
    from validation.terminal import print_validation

    profile = None if hardware is None else load_profile(hardware)  # first: reading all sets takes seconds
    names = shipped_sets() if "all" in (sets or ("all",)) else dict.fromkeys(sets)
    chosen = run.plan([load_set(name) for name in names], profile, intervals)
    _check_outputs(force, ("--html", html, "PAGE"), ("--trace", trace, "TRACE"))
    with Workers(workers) as pool:
        with progress(chosen.size, "cases") as advance:
            found = run.validate(chosen, pool, advance)
        if intervals:
            wanted = run.intervals(found)
            with progress(wanted.size, "intervals") as advance:
                found = run.with_intervals(found, wanted, pool, advance)
    if markdown:
        click.echo(printable(summary.markdown(found.compared, found.judged, found.covered)))
    else:
        print_validation(found, with_cases=html is None)
    worst = report.worst_cases(found) if html is not None or trace is not None else []
    if html is not None:
        report.write_page(html, found, [report.look(job, case) for job, case in worst])
        _say(f"report: {html.resolve()}")
    if trace is not None and worst:
        from sim.trace import write_trace
        from validation.predict import predict

        job, case = worst[0]
        write_trace(predict(job.case, job.residents, job.profile).timeline, trace)
        _say(f"trace of {case.name}: {trace.resolve()} (open it in ui.perfetto.dev)")
    if found.broken:
        figures = (f"{j.bound.name}: {j.figure} {j.value:.2f} % > {j.allowed:g} %" for j in found.broken)
        raise _Failure("a stated bound is broken: " + "; ".join(figures))


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, help="An axis as `sweep` takes it, for every scenario file.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the data set; continued if there."
)
@click.option("--runs", type=click.IntRange(1), default=2, show_default=True, help="Uninstrumented runs of each case.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="What to run on; GPUs if there are any.")
@click.option("--timeout", type=_Seconds(1, 1e6), default=120.0, show_default=True, help="Seconds a run may take.")
@_force
@_guarded
def measure(
    files: tuple[Path, ...],
    settings: tuple[str, ...],
    out: Path,
    runs: int,
    device: Literal["cuda", "cpu"] | None,
    timeout: float,
    force: bool,
) -> None:
    """Run scenarios (or experiments) FILES on this host's GPUs and write step times and timelines to a data set."""
    _needs("torch")
    from calibration.measure import measure as run_all
    from calibration.measure import plan, scenarios
    from sim.datasets.cases import CASES, HOST
    from sim.report.tables import print_measured
    from sim.report.terminal import progress

    chosen = [data for file in files for data in scenarios(file, settings)]
    _check_outputs(force, ("--out", out / CASES, "RECORDS"), ("--out", out / HOST, "ORIGIN"))
    with _resumable(out, "cases"), progress(len(plan(chosen)), "cases") as advance:
        cases = run_all(chosen, out, runs, device, advance, timeout)
    print_measured(cases)
    _say(f"data set: {out.resolve()}")
    if failed := sum(bool(case.error) for case in cases):
        raise _Failure(f"{failed} of {len(cases)} cases failed")


@main.command()
@click.option("--name", default="this-host", show_default=True, help="Name of the profile.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results; as NAME unless given.")
@click.option("--quick", is_flag=True, help="Fewer sizes and repeats.")
@click.option("--gpus", type=click.IntRange(1, 1024), help="How many GPUs to use; all there are unless given.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="What to probe: a CPU only to try the way.")
@click.option("--dry-run", is_flag=True, help="Show what would run, and how long it takes.")
@click.option("--fit-only", is_flag=True, help="Fit the raw rows that OUT holds again; measure nothing.")
@_force
@_guarded
def calibrate(
    name: str,
    out: Path | None,
    quick: bool,
    gpus: int | None,
    device: Literal["cuda", "cpu"] | None,
    dry_run: bool,
    fit_only: bool,
    force: bool,
) -> None:
    """Measure this host's links, collectives and costs, and write its profile, the raw rows and their residuals."""
    _needs("scipy", *(() if fit_only else ("torch",)))
    from calibration import calibrate as steps
    from calibration.probes import listing
    from sim.datasets.probe_rows import RAW
    from sim.report.terminal import progress

    folder = out or Path(name)
    if dry_run:
        click.echo("\n".join(listing(steps.dry_run(quick, gpus, device))))
        return
    steps.check_name(name)
    raw, profile, page = ("--out", folder / RAW, "RECORDS"), folder / f"{name}.yaml", folder / steps.RESIDUALS
    made = (("--out", profile, "PROFILE"), ("--out", page, "PAGE"))
    _check_outputs(force, *made) if fit_only else _check_outputs(force, raw, *made)
    if fit_only:
        written = steps.refit(folder, name)
    else:
        cases = steps.dry_run(quick, gpus, device)
        with _resumable(folder, "probes"), progress(len(cases), "probes") as advance:
            done: set[str] = set()

            def show(case: ProbeCase, row: ProbeRow | None) -> None:
                if row is not None:
                    done.add(case.name)
                    advance(len(done))

            written = steps.calibrate(folder, name, quick, show, gpus, device)
    for case, reason in written.calibrated.rejected.items():
        _say(f"left out: {case}: {reason}")
    for said in written.contradictions:
        _say(f"the profile contradicts itself: {said}")
    _say(f"profile: {written.profile.resolve()}")
    _say(f"residuals: {written.residuals.resolve()}")
    if written.stand_in:
        _say(
            f"{name} is a stand-in: CPU threads were measured in place of GPUs, its times mean nothing. "
            "Predict nothing with it."
        )


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@_guarded
def doctor(as_json: bool) -> None:
    """Say what is wrong with this host before anything is measured on it; exit code 1 if something is."""
    from calibration.doctor import examine, print_findings, to_plain, worst
    from calibration.host import inspect

    findings = examine(inspect())
    if as_json:
        import json

        click.echo(json.dumps(to_plain(findings), indent=2))
    else:
        print_findings(findings)
    if worst(findings) == "error":
        sys.exit(1)


def _validate_published(markdown: bool, workers: int | None) -> None:
    from sim.report.terminal import progress
    from sim.workers import Workers
    from validation import published
    from validation.terminal import print_published

    cases = [case for name in published.shipped() for case in published.load_suite(name).cases]
    outcomes = []
    with Workers(workers) as pool, progress(len(cases), "cases") as advance:
        for outcome in published.predict_all(cases, pool):
            outcomes.append(outcome)
            advance(len(outcomes))
    if markdown:
        click.echo(published.markdown(outcomes))
    else:
        print_published(outcomes)
    if broken := sum(len(outcome.faults) for outcome in outcomes):
        raise _Failure(f"{broken} stated bounds are broken")


def _check_profile(profile: Profile, as_json: bool) -> None:
    """Print how the profile's simulated collectives alone compare with its tables; fail if they contradict."""
    from sim.profile_check import check_profile, summaries, to_plain

    checks = check_profile(profile)
    said = summaries(checks)
    if as_json:
        import json

        click.echo(json.dumps(to_plain(profile, checks), indent=2))
    else:
        from sim.report.tables import print_check

        print_check(profile, checks)
    if said:
        raise _Failure(f"{profile.name} contradicts itself: " + "; ".join(said))


def _needs(*packages: str) -> None:
    """Fail unless these packages are installed."""
    from importlib.util import find_spec

    if missing := [name for name in packages if find_spec(name) is None]:
        extras = {"torch": "torch", "scipy": "calibrate"}
        wanted = ",".join(extras[name] for name in missing)
        raise _Failure(f"{' and '.join(missing)} missing: pip install 'chunkflow-sim[{wanted}]'")


def _share(text: str) -> float:
    """A relative change, such as 5% or 0.05. Raises InputError."""
    from sim.config import InputError

    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 1e-6 <= share < 1:
        raise InputError("--change", text, "expected a share such as 5% or 0.05, from 0.0001% to less than 100%")
    return share


def _interval(result: Result) -> Interval | None:
    """Where the step time lies; None where the model's error on such a host is not known."""
    from functools import partial

    from sim.model_error import model_error
    from sim.report.terminal import progress
    from sim.sensitivity import figure, interval, most_runs
    from sim.workers import Workers

    known = model_error(result.profile, result.scenario.world_size)
    if known is None:
        return None
    with Workers() as pool, progress(most_runs(result.profile, False), "simulations") as advance:
        run = partial(figure, result.scenario, "step_time_s")
        return interval(run, result.profile, model=known.deviation, executor=pool, progress=advance)


def _load(file: Path) -> tuple[Scenario, Profile]:
    from sim.scenario import Scenario

    scenario = Scenario.load(file)
    return scenario, scenario.profile(str(file))


@contextmanager
def _resumable(out: Path | None, what: str) -> Iterator[None]:
    """Let Ctrl-C end a run with a message that says where the `what` are that have finished."""
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would break off the message
        kept = f": {out} holds the {what} that have finished, the same command goes on from there"
        raise _Failure(f"stopped{kept if out and out.exists() else ''}") from None


def _run_points(
    name: str,
    points: Sequence[Point],
    out: Path | None,
    html: Path | None,
    workers: int | None,
    recompute: bool,
    force: bool,
    write_page: Callable[[Path, Sequence[Row]], None],
) -> None:
    """Run a sweep, print its table, write its page; fail, when all that is done, if a point did."""
    from sim.output import write_atomically
    from sim.overwriting import Kind, Output, is_earlier
    from sim.report.tables import print_sweep
    from sim.report.terminal import progress
    from sim.sweep import sweep as run_sweep
    from sim.workers import Workers

    _check_outputs(force, ("--out", out, "ROWS"), ("--html", html, "PAGE"))
    if out is not None and not is_earlier(Output("--out", out, Kind.ROWS)):
        write_atomically(out, b"")  # as --force wants it: rows are not appended to what is none
    with Workers(workers) as pool, progress(len(points), "points") as advance:
        rows = run_sweep(points, pool, out, advance, recompute, _note)
    print_sweep(name, rows)
    if html is not None:
        write_page(html, rows)
        _say(f"page: {html}")
    if failed := sum(bool(row.error) for row in rows):
        raise _Failure(f"{failed} of {len(rows)} points failed")


if __name__ == "__main__":
    sys.exit(main())
