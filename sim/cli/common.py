"""What all commands share: their group, errors as messages and exit codes, common steps."""

from __future__ import annotations

import errno
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sim.cli.group import CommandGroup

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from sim.hardware import Profile
    from sim.sweeps.evaluation import Evaluator
    from sim.sweeps.points import Points
    from sim.sweeps.results_file import Row


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a write answers where there is no room, or no device any more."""


class OutputPath(click.Path):
    """A file or folder that a command is to write: a name that is not empty, and of no folder that is not there."""

    def __init__(self, folder: bool = False) -> None:
        super().__init__(path_type=Path)
        self.folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path. Fails for an empty name, and for one that ends as a folder's does where a file is wanted."""
        from sim.inputs.shipped_files import is_there

        if value == "":
            self.fail("is empty: give the name of a " + ("folder" if self.folder else "file"), param, ctx)
        if not self.folder and isinstance(value, str) and value.endswith("/") and not is_there(Path(value)):
            self.fail(f"{value!r} names a folder: give a file", param, ctx)
        return super().convert(value, param, ctx)


class SecondsRange(click.FloatRange):
    """A number of seconds in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number. Fails for one out of the range, and for NaN, which is in every range."""
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return number


_AT_END = "notes at the end"
"""Where a command's context holds what is said after its results."""


class Failure(click.ClickException):
    """One line on stderr and exit code 1."""


class _BadInput(click.ClickException):
    """One line on stderr and exit code 2."""

    exit_code = 2


def with_exit_codes(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors a user can cause into one message and the promised exit code."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        from sim.inputs.atomic_files import UnwritableError
        from sim.inputs.config import InputError
        from sim.program import ProgramError

        try:
            command(*args, **kwargs)
            for text in click.get_current_context().meta.pop(_AT_END, ()):
                note(text)
        except InputError as error:
            raise _BadInput(str(error)) from None
        except ProgramError as error:  # blocks whose entries use one buffer at once, or communicate in no order
            where = f"{kwargs['given'].source}: workload: " if "given" in kwargs else ""
            raise _BadInput(f"{where}{error}") from None
        except BrokenPipeError:
            raise
        except UnwritableError as error:
            raise Failure(f"{error.filename}: cannot be written: {error.strerror}") from None
        except OSError as error:  # of reading, of starting processes, or of standard output, which has no file's name
            if error.filename is None and error.errno in FULL:
                raise Failure(f"standard output cannot be written: {error.strerror}") from None
            raise Failure(": ".join(part for part in (error.filename, error.strerror or str(error)) if part)) from None
        except (RuntimeError, ArithmeticError) as error:
            raise Failure(str(error)) from None
        except ImportError as error:
            if (file := _hiding(error)) is None:
                raise
            raise Failure(f"{file} hides a package of chunkflow-sim: rename it, or start from another folder") from None
        except MemoryError:
            raise Failure("the memory is full: take fewer layers or steps, or larger chunks") from None

    return guarded


def _hiding(error: ImportError) -> str | None:
    """The file of another module that was imported under the name of a package of ours; None if that is not why."""
    name = (error.name or "").partition(".")[0]
    file = getattr(sys.modules.get(name), "__file__", None)
    ours = name in ("calibration", "scenarios", "sim", "validation")
    return file if ours and file and not Path(file).is_relative_to(Path(__file__).parents[2] / name) else None


RECOMPUTE = "Run rows of --out again that were made with another profile, model or version; else they are refused."


def say(text: str) -> None:
    """A line on standard error."""
    from sim.inputs.safe_text import printable

    click.echo(printable(text), err=True)


def note(text: str) -> None:
    """A remark on standard error, once a command."""
    context = click.get_current_context(silent=True)
    said = set() if context is None else context.meta.setdefault("notes", set())
    if text not in said:
        said.add(text)
        say(f"note: {text}")


def note_at_end(text: str) -> None:
    """As `note`, once the command has done what it was asked for."""
    click.get_current_context().meta.setdefault(_AT_END, []).append(text)


def note_borrowed_tables(profiles: Mapping[str, Profile]) -> None:
    """Say which profiles, used by several ranks, keep or scale tables of collectives of another host; by name."""
    from sim.hardware.collective_classes import IsolatedTimes
    from sim.hardware.inheritance import tables_of_another_topology
    from sim.hardware.profile_parameters import numbers_by_path

    for name, profile in profiles.items():
        tables = (entry.number for entry in numbers_by_path(profile.collectives).values())
        if scaled := dict.fromkeys(t.scaled_from for t in tables if isinstance(t, IsolatedTimes) and t.scaled_from):
            note(
                f"{name} scales isolated times of collectives that were measured on {' and '.join(scaled)}, another "
                "host: set them by one of your own with --fit-collective, such as all_reduce:20MiB:10.9ms"
            )
            continue
        if others := tables_of_another_topology(profile.kept):
            note(
                f"{name} keeps tables of isolated times measured on another topology ({', '.join(others)}): "
                f"`chunkflow-sim hardware {shlex.quote(name)} --check` names what contradicts"
            )


def check_outputs_shared(force: bool, *outputs: tuple[str, Path | None, str]) -> None:
    """Refuse to destroy anything: `outputs` are options, their files, and the kinds of file as `Kind` names them."""
    from sim.inputs.overwriting import Kind, Output, check_outputs

    check_outputs([Output(option, file, Kind[kind]) for option, file, kind in outputs if file is not None], force)


force_option = click.option(
    "--force", is_flag=True, help="Overwrite files also where they were read, or are not earlier results."
)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chunkflow-sim")
def main() -> None:
    """Simulate PCIe contention of layerwise-offloaded diffusion-transformer inference."""


def needs(*packages: str) -> None:
    """Fail unless these packages are installed."""
    from importlib.util import find_spec

    if missing := [name for name in packages if find_spec(name) is None]:
        extras = {"torch": "torch", "scipy": "calibrate", "distributed": "cluster"}
        wanted = ",".join(extras[name] for name in missing)
        raise Failure(f"{' and '.join(missing)} missing: pip install 'chunkflow-sim[{wanted}]'")


no_cache_option = click.option(
    "--no-cache", is_flag=True, help="Simulate all, also what the cache in ~/.cache/chunkflow-sim holds."
)
workers_option = click.option(
    "--workers", type=click.IntRange(1), help="Processes; as many as there are cores unless given."
)


@contextmanager
def evaluating(workers: int | None, no_cache: bool, count: int | None = None) -> Iterator[Evaluator]:
    """What simulates for a command, on `workers` processes, with the user's cache, and a bar for `count` points."""
    from sim.report.terminal import progress
    from sim.sweeps.evaluation import Evaluator
    from sim.sweeps.figures_cache import user_cache
    from sim.sweeps.worker_pool import Workers

    with Workers(workers) as pool, progress(count, "simulations") as advance:
        yield Evaluator(pool, user_cache(not no_cache), lambda now: advance(now.done))


def parsed(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback of an option whose text `parse` reads, or raises ValueError."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> Any:
        try:
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return read


def _scheduler_address(text: str) -> str:
    """Where a Dask scheduler listens. Raises ValueError for what is not an address."""
    from sim.sweeps.cluster import is_address

    if not is_address(text):
        raise ValueError(f"{text!r} is not a scheduler's address: expected HOST:PORT, or tls://HOST:PORT")
    return text


@contextmanager
def running_on(workers: int | None, dask: str | None) -> Iterator[Executor]:
    """What runs points: `workers` processes of this machine, or the Dask cluster at the address `dask`."""
    if dask is None:
        from sim.sweeps.worker_pool import Workers

        with Workers(workers) as pool:
            yield pool
        return
    from sim.sweeps.cluster import Cluster

    with Cluster(dask) as cluster:
        yield cluster


class PointRun(NamedTuple):
    """How a command is to run the points of a sweep, and where to; see the options of `point_options`."""

    out: Path | None
    html: Path | None
    workers: int | None
    recompute: bool
    force: bool
    no_cache: bool
    dask: str | None


def point_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of commands that run points, which they get together as `how`, a `PointRun`."""

    @wraps(command)
    def packed(*args: Any, **given: Any) -> None:
        how = PointRun(**{name: given.pop(name) for name in PointRun._fields})
        if how.dask is not None:
            if how.workers is not None:
                raise click.UsageError("--workers are processes of this machine, --dask runs on a cluster's: give one")
            needs("distributed")
        command(*args, how=how, **given)

    for option in (
        force_option,
        click.option("--recompute", is_flag=True, help=RECOMPUTE),
        click.option(
            "--dask",
            callback=parsed(_scheduler_address),
            help="Run on the Dask cluster whose scheduler is at this address.",
        ),
        workers_option,
        no_cache_option,
        click.option("--html", type=OutputPath(), help="Write a page of plots to this file."),
        click.option("--out", type=OutputPath(), help="Write rows to this CSV file; continues where it ends."),
    ):
        packed = option(packed)
    return packed


@contextmanager
def resumable(out: Path | None, what: str) -> Iterator[None]:
    """Let Ctrl-C end a run with a message that says where the `what` are that have finished."""
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would break off the message
        kept = f": {out} holds the {what} that have finished; run the same command again to resume"
        raise Failure(f"stopped{kept if out and out.exists() else ''}") from None


def run_points(
    name: str,
    points: Points,
    how: PointRun,
    write_page: Callable[[Path, Sequence[Row]], None],
) -> None:
    """Run a sweep, print its table, write its page; fail, when all that is done, if a point did."""
    from sim.inputs.atomic_files import write_atomically
    from sim.inputs.overwriting import Kind, Output, is_earlier
    from sim.report.tables import print_sweep
    from sim.report.terminal import progress
    from sim.sweeps.figures_cache import user_cache
    from sim.sweeps.grid import sweep as run_sweep

    out, html, workers, recompute, force, no_cache, dask = how
    check_outputs_shared(force, ("--out", out, "ROWS"), ("--html", html, "PAGE"))
    note_borrowed_tables(points.profiles)
    if out is not None and not is_earlier(Output("--out", out, Kind.ROWS)):
        write_atomically(out, b"")  # as --force wants it: rows are not appended to what is none
    with running_on(workers, dask) as pool, progress(len(points), "points") as advance:
        rows = run_sweep(points, pool, out, advance, recompute, note, user_cache(not no_cache))
    try:
        print_sweep(name, rows)
    finally:  # also where whoever read the table has gone
        if html is not None:
            write_page(html, rows)
            say(f"page: {html}")
    if failed := sum(bool(row.error) for row in rows):
        raise Failure(f"{failed} of {len(rows)} points failed")
