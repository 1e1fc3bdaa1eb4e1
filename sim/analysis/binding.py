"""What binds a step, and whether its weights hide: sentences from the causes of its critical path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sim.inputs.units import show_seconds
from sim.sweeps.evaluation import Figures
from sim.sweeps.job import Job
from sim.timeline.critical_path import CAUSE_GROUPS, CAUSE_LABELS, WEIGHT_COPIES, Waterfall, waterfall

MIN_SHARE = 0.005
"""Causes and gains below this share of the step are not mentioned."""
MAX_HIDDEN_SHARE = 0.02
"""Copies hide if they are at most this share of the critical path and lengthen the step by no more than it."""


class Facts(NamedTuple):
    """What the sentences follow from (s, B)."""

    by_cause: dict[str, float]
    waterfall: Waterfall
    offloads: bool
    """Whether weights are copied or gathered."""
    copies_else: bool
    """Whether blocks copy anything else."""
    peak: int
    capacity: float
    """Device memory."""
    step_time: float
    """The median step, which variants are compared with."""


def what_binds(job: Job, figures: Figures, resident_causes_s: dict[str, float]) -> list[str]:
    """What binds, and whether the weights hide: sentences from figures with causes, and the resident step's causes."""
    return list(verdict(facts_of(job, figures, waterfall(figures.causes_s, resident_causes_s))))


def facts_of(job: Job, figures: Figures, fall: Waterfall) -> Facts:
    """Of figures with causes, and the waterfall from the resident step."""
    metrics = figures.metrics
    return Facts(
        figures.causes_s,
        fall,
        bool(metrics["h2d_bytes_per_step"] or figures.gathers),
        metrics["block_copy_bytes_per_step"] > 0,
        metrics["peak_memory_bytes"],
        job.profile.memory_of(job.scenario.gpus),
        metrics["step_time_s"],
    )


def verdict(facts: Facts) -> Iterator[str]:
    """What binds, the largest group of causes, and whether the weights hide behind it."""
    step, resident = facts.waterfall.step_s, facts.waterfall.resident_s
    shares = {name: sum(facts.by_cause[c] for c in group) for name, group in CAUSE_GROUPS.items()}
    gathers = facts.by_cause["exposed_gather"]
    weights = shares[WEIGHT_COPIES]
    transfers = {"copies": weights - gathers, "gathers of weights": gathers}
    by_time = sorted(transfers, key=lambda kind: -transfers[kind])
    what = " and ".join(kind for kind in by_time if transfers[kind] >= MIN_SHARE * step > 0) or by_time[0]
    first, *others = sorted(shares, key=lambda name: -shares[name])
    names = {name: what if name == WEIGHT_COPIES else name for name in shares}
    if step <= 0:
        yield "The step takes no time: nothing binds."
        return
    rest = [f"{names[n]} {100 * shares[n] / step:.0f} %" for n in others if shares[n] >= MIN_SHARE * step]
    binds = "binds: it is" if first == "host issue" else "bind: they are"
    also = f" ({', '.join(rest)})" if rest else ""
    named = names[first][0].upper() + names[first][1:]
    yield f"{named} {binds} {100 * shares[first] / step:.0f} % of the critical path{also}."
    if not facts.offloads:
        yield "No weights are copied." if facts.copies_else else "Nothing is copied."
        return
    longer = step - resident
    than = f"{100 * longer / resident:.1f} % longer" if resident and longer >= 0.0005 * resident else "no longer"
    if weights + facts.by_cause["yield_wait"] <= MAX_HIDDEN_SHARE * step and longer <= MAX_HIDDEN_SHARE * resident:
        yield f"The {what} hide behind {names[first]}: the step takes {than} than with all weights resident."
        return
    if first == WEIGHT_COPIES:
        return
    parts = [(CAUSE_LABELS[c], s) for c, s in facts.waterfall.parts if c != "hidden"]
    largest = sorted(parts, key=lambda p: -p[1])[:3]
    added = [f"{words} {show_seconds(s)}" for words, s in largest if s >= MIN_SHARE * step]
    because = f"; on its critical path, but not on the resident one, is {listed(added)}" if added else ""
    yield f"Bringing the weights is not hidden: the step takes {than} than with all weights resident{because}."


def listed(parts: list[str]) -> str:
    """Parts of a sentence, the last after "and"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
