"""The page of a plan: the answer, memory against step time, runtimes, what would help, and every point."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from sim.inputs.atomic_files import write_atomically
from sim.inputs.units import show_bytes, show_seconds
from sim.planning import Plan
from sim.planning.points import Point
from sim.planning.result import COLUMNS
from sim.policies import describe
from sim.report import figures
from sim.report.html import Badge, Cell, Section, Table, page
from sim.report.step_sections import why
from sim.timeline.memory_components import COMPONENTS
from sim.timeline.metrics import LEFT_OUT


def write_page(file: Path, name: str, plan: Plan) -> None:
    """Write the page. Raises OSError."""
    write_atomically(file, plan_page(name, plan))


def plan_page(name: str, plan: Plan) -> str:
    """The HTML of a plan's page."""
    sections = [Section("Answer", "\n\n".join(plan.sentences))]
    sections += [*_front(plan), *_why(plan), *_memory(plan), *_runtimes(plan), *_suggestions(plan)]
    sections.append(Section("All simulated schedules", _ALL, _points(plan)))
    facts = {
        "host": plan.profile.name,
        "memory allowed": show_bytes(plan.memory_limit_bytes),
        "schedules": f"{len(plan.evaluated)} simulated, {plan.pruned} ruled out",
        "took": f"{plan.seconds:.1f} s",
        "chunkflow-sim": version("chunkflow-sim"),
    }
    if plan.best is not None:
        facts = {"step": show_seconds(plan.best.step_time_s), "floor": show_seconds(plan.floor_s), **facts}
    return page(f"Plan of {name}", plan.profile.description, sections, facts)


_ALL = """Step times of simulations; a schedule without a runtime is one that ChunkFlow's own runtime has, or none yet.
A click on a header sorts."""
_FRONT = """Peak device memory and step time of every simulated schedule that fits; no schedule of the chosen runtimes
beats those on the front in both."""


def _front(plan: Plan) -> Iterator[Section]:
    if not plan.pareto:
        return
    drawn = [_drawn(point) for point in plan.evaluated if point.fits]
    figure = figures.memory_against_step(drawn, plan.memory_limit_bytes, [_drawn(point) for point in plan.pareto])
    yield Section("Memory against step time", _FRONT, figure)
    yield Section("The front", "Of schedules that the chosen runtimes have.", Table(COLUMNS, plan.rows()), under=True)


def _drawn(point: Point) -> figures.Point:
    policy = point.policy
    return figures.Point(
        policy.label(),
        policy.chunk_bytes,
        policy.resident_fraction,
        point.step_time_s,
        point.peak_memory_bytes,
        point.words,
        f"{layers} layers" if (layers := len(policy.numbers_of_resident_layers)) else "",
    )


def _why(plan: Plan) -> Iterator[Section]:
    if plan.fall is not None and plan.best is not None:
        yield why(plan.fall, "all resident", "the chosen one")


def _memory(plan: Plan) -> Iterator[Section]:
    point = plan.best or plan.needed
    if point is None:
        return
    rows: list[tuple[Cell, ...]] = [(COMPONENTS[part], show_bytes(b)) for part, b in point.memory_bytes.items() if b]
    rows.append(("peak of a rank", show_bytes(point.peak_memory_bytes)))
    rows.append((f"left for {LEFT_OUT}", show_bytes(plan.reserve_bytes)))
    rows.append(("pinned in host memory, all ranks together", show_bytes(point.host_memory_bytes)))
    there = plan.host_memory_bytes
    rows.append(("host memory: not known", "") if there is None else ("host memory", show_bytes(there)))
    yield Section("Memory by component", f"Of {point.words}.", Table(("", "bytes"), rows))


def _runtimes(plan: Plan) -> Iterator[Section]:
    if not plan.nearest:
        return
    rows: list[tuple[Cell, ...]] = [
        (
            near.runtime,
            show_seconds(near.point.step_time_s),
            f"{100 * near.cost:+.2f} %",
            show_bytes(near.point.peak_memory_bytes),
            near.flags,
            near.lacks,
        )
        for near in plan.nearest
    ]
    headers = ("runtime", "step time", "longer", "peak memory", "flags", "what it lacks")
    yield Section("Flags of runtimes", "The fastest simulated schedule that each runtime has.", Table(headers, rows))


def _suggestions(plan: Plan) -> Iterator[Section]:
    if not plan.suggestions:
        return
    rows: list[tuple[Cell, ...]] = [
        (
            tip.words,
            show_seconds(tip.step_time_s),
            "" if tip.gain is None else f"{-100 * tip.gain:+.2f} %",
            show_bytes(tip.peak_memory_bytes),
            describe(tip.policy, short=True),
            _fits(tip.fits_memory),
        )
        for tip in plan.suggestions
    ]
    headers = ("with", "step time", "change", "peak memory", "schedule", "fits")
    yield Section("What would help", "Each simulated.", Table(headers, rows))


def _fits(fits: bool) -> Badge:
    return Badge("yes", "plain") if fits else Badge("no", "bad")


def _points(plan: Plan) -> Table:
    rows: list[tuple[Cell, ...]] = [
        (
            point.words + plan.layout_words(point),
            show_seconds(point.step_time_s),
            show_seconds(point.exposed_prefetch_s),
            show_bytes(point.peak_memory_bytes),
            show_bytes(point.host_memory_bytes),
            _fits(point.fits),
            ", ".join(point.runtimes),
        )
        for point in plan.evaluated
    ]
    headers = ("schedule", "step time", "wait for prefetch", "peak memory", "pinned", "fits", "runtimes")
    return Table(headers, rows, sortable=True)
