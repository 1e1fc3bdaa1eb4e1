"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from sim import units
from sim.hardware import Profile, to_plain
from sim.run import Result
from sim.units import show_bytes, show_seconds

_RUN_ROWS = (
    ("step time", "step_time_s", "median of all steps but the first"),
    ("lower bound", "lower_bound_s", "no schedule on this host is faster"),
    ("exposed prefetch", "exposed_prefetch_s", "compute stream blocked on copies"),
    ("collectives", "collective_time_s", "on the compute stream, peer wait included"),
    ("  inflation", "collective_inflation_s", "beyond their time alone"),
    ("  of it contention", "contention_s", "slowed by other traffic"),
    ("  of it skew", "skew_s", "waiting for peers"),
    ("H2D busy", "h2d_busy_s", "a copy in flight"),
    ("  not under kernels", "h2d_uncovered_s", "copy in flight, no kernel running"),
    ("  under collectives", "h2d_collective_overlap_s", "copy and collective at once"),
    ("H2D bytes a step", "h2d_bytes_per_step", "per GPU"),
    ("peak memory", "peak_memory_bytes", "weights, slots, activations, collective buffers"),
)


def table(*columns: str, title: str | None = None) -> Table:
    """A table in the house style; columns after the first are right-aligned."""
    made = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i else "left", no_wrap=not i)
    return made


def show(*tables: Table) -> None:
    """Print tables to standard output."""
    console = Console(soft_wrap=True)
    for made in tables:
        console.print(made)


def print_run(name: str, result: Result) -> None:
    """The figures of one simulation."""
    policy = result.scenario.policy
    made = table("last step, rank 0", "", "share", title=f"{name} on {result.profile.name}: {_policy(policy)}")
    made.add_column("", style="dim")
    step = float(result.metrics["step_time_s"])  # type: ignore[arg-type]
    for label, key, remark in _RUN_ROWS:
        value = float(result.metrics[key])  # type: ignore[arg-type]
        if key.endswith("_s"):
            made.add_row(label, show_seconds(value), f"{100 * value / step:.1f} %" if step else "", remark)
        else:
            made.add_row(label, show_bytes(value), "", remark)
    show(made)


def _policy(policy: object) -> str:
    plain = msgspec.to_builtins(policy, enc_hook=units.plain)
    shown = [f"{k} {show_bytes(v) if k.endswith('bytes') else v}" for k, v in plain.items() if k != "kind"]
    return ", ".join([plain["kind"], *shown])


def print_profiles(profiles: Iterable[Profile]) -> None:
    """One line a profile."""
    made = table("profile", "GPUs", "H2D", title="hardware profiles")
    made.add_column("", style="dim")
    for profile in profiles:
        made.add_row(profile.name, str(profile.gpus), f"{profile.h2d.cap.value / 1e9:.1f} GB/s", profile.description)
    show(made)


def print_profile(profile: Profile) -> None:
    """Every number of a profile with its source."""
    made = table("number", "value", title=f"{profile.name}: {profile.description}")
    made.add_column("source", style="dim")

    def walk(path: str, value: object) -> None:
        if isinstance(value, dict) and "source" in value:
            number = value["value"] if "value" in value else f"{len(value['bytes'])} rows"
            made.add_row(path, f"{number:.6g}" if isinstance(number, float) else str(number), value["source"])
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{path}.{key}" if path else key, inner)
        elif isinstance(value, (list, tuple)):
            made.add_row(path, ", ".join(value), "")
        else:
            made.add_row(path, str(value), "")

    walk("", {k: v for k, v in to_plain(profile).items() if k not in ("name", "description")})
    show(made)
