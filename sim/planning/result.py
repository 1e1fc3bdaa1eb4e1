"""What a plan found, for tables, pages, notebooks and JSON."""

from __future__ import annotations

from typing import Any, NamedTuple

from sim.hardware import Profile
from sim.inputs.notebook_html import html_table
from sim.inputs.units import show_bytes, show_seconds
from sim.planning.points import Point
from sim.planning.runtimes import Nearest, allowed_by
from sim.planning.suggestions import Suggestion
from sim.scenario import Scenario
from sim.timeline.critical_path import Waterfall

SCHEMA_VERSION = 1
SEEN = 0.001
"""Points of the front that are faster than the one before by less than this share are left out of tables."""
COLUMNS = ("", "schedule", "step time", "over the floor", "peak memory", "runtimes")
"""What `Plan.rows` has."""


BY_COPIES = ", collectives by copy engines"
"""What is said of a point whose collectives run so, and the scenario's do not."""


class Plan(NamedTuple):
    """The answer, and all that was simulated for it (s, B)."""

    scenario: Scenario
    profile: Profile
    runtime: str
    memory_limit_bytes: int
    """What a rank's peak may take."""
    reserve_bytes: int
    """What was left of the given memory for what no peak counts."""
    reserve_known: bool
    """Whether that was given or measured; else nothing was left."""
    host_memory_bytes: int | None
    """The host's memory; None where it is not known."""
    within: float
    best: Point | None
    """The fastest that fits; None where nothing does."""
    smallest_within: Point | None
    pareto: list[Point]
    floor_s: float
    """No schedule that was searched, and fits, has a shorter step."""
    binding: str
    suggestions: list[Suggestion]
    evaluated: list[Point]
    """All points that were simulated, the fastest first, also those of other runtimes."""
    resident: Point
    runner_up: Point | None
    nearest: list[Nearest]
    needed: Point | None
    """Where nothing fits, the schedule with the smallest peak."""
    fall: Waterfall | None
    causes_s: dict[str, float]
    pruned: int
    """Schedules that the floor ruled out."""
    simulated: int
    """Simulations that were run, and not found in a cache."""
    seconds: float
    sentences: list[str]
    """The answer in words."""

    @property
    def overlaps(self) -> bool | None:
        """Whether the intervals of the best and the runner-up overlap; None where they are not known."""
        if self.best is None or self.runner_up is None:
            return None
        first, second = self.best.interval, self.runner_up.interval
        return None if first is None or second is None else second[0] <= first[1]

    def allows(self, point: Point) -> bool:
        """Whether a point is one that the plan's runtimes have."""
        return allowed_by(self.runtime, point.world_size)(point.policy)

    def chosen(self) -> Scenario:
        """The scenario with the best policy. Raises ValueError where nothing fits."""
        if self.best is None:
            raise ValueError("nothing fits")
        return self.best.scenario

    def rows(self) -> list[tuple[str, ...]]:
        """The front, the smallest first, as `COLUMNS` say, without steps that nobody would see."""
        found: list[tuple[str, ...]] = []
        last = float("inf")
        for point in self.pareto:
            marked = point is self.best or point is self.smallest_within
            if not marked and point.step_time_s > last * (1 - SEEN):
                continue
            last = point.step_time_s
            marks = [
                word
                for word, one in (("fastest", self.best), (f"within {100 * self.within:g} %", self.smallest_within))
                if one is point
            ]
            over = f"{100 * (point.step_time_s / self.floor_s - 1):.2f} %" if self.floor_s else ""
            found.append(
                (
                    ", ".join(marks),
                    point.words + self.layout_words(point),
                    show_seconds(point.step_time_s),
                    over,
                    show_bytes(point.peak_memory_bytes),
                    ", ".join(point.runtimes),
                )
            )
        return found

    def layout_words(self, point: Point) -> str:
        """How a point's layout differs from the scenario's; empty where it does not."""
        words = []
        if point.world_size != self.scenario.world_size:
            words.append(f"{point.world_size} GPU{'s' * (point.world_size > 1)}")
        kind = getattr(point.scenario.workload, "parallelism", None)
        if kind != getattr(self.scenario.workload, "parallelism", None):
            words.append(str(kind))
        own, there = (getattr(s.workload, "collectives", None) for s in (self.scenario, point.scenario))
        by_copies = "" if own == there else BY_COPIES
        return (f" on {', '.join(words)}" if words else "") + by_copies

    def __repr__(self) -> str:
        if self.best is None:
            return f"<Plan: nothing fits {show_bytes(self.memory_limit_bytes)}>"
        step, peak = show_seconds(self.best.step_time_s), show_bytes(self.best.peak_memory_bytes)
        return f"<Plan: {self.best.words}: step {step}, peak memory {peak}>"

    def _repr_html_(self) -> str:
        return html_table(" ".join(self.sentences), COLUMNS, self.rows())

    def to_frame(self) -> Any:
        """All simulated points as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame([point.to_plain() for point in self.evaluated])

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON (s, B)."""

        def plain(point: Point | None) -> dict[str, Any] | None:
            return None if point is None else point.to_plain()

        return {
            "schema_version": SCHEMA_VERSION,
            "runtime": self.runtime,
            "memory_limit_bytes": self.memory_limit_bytes,
            "reserve_bytes": self.reserve_bytes,
            "host_memory_bytes": self.host_memory_bytes,
            "within": self.within,
            "best": plain(self.best),
            "smallest_within": plain(self.smallest_within),
            "runner_up": plain(self.runner_up),
            "runner_up_overlaps": self.overlaps,
            "resident": plain(self.resident),
            "pareto": [point.to_plain() for point in self.pareto],
            "floor_s": self.floor_s,
            "binding": self.binding,
            "causes_s": self.causes_s,
            "waterfall": None if self.fall is None else self.fall._asdict(),
            "memory_bytes": {} if self.best is None else dict(self.best.memory_bytes),
            "suggestions": [suggestion.to_plain() for suggestion in self.suggestions],
            "nearest_flags": [
                {"runtime": n.runtime, "flags": n.flags, "lacks": n.lacks, "cost": n.cost, **n.point.to_plain()}
                for n in self.nearest
            ],
            "needed_memory_bytes": None if self.needed is None else self.needed.peak_memory_bytes,
            "evaluated": [point.to_plain() for point in self.evaluated],
            "sentences": self.sentences,
            "pruned": self.pruned,
            "simulated": self.simulated,
            "seconds": self.seconds,
        }
