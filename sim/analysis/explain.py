"""What binds a scenario, in words, and what would help, found by simulating variants of its policy.

Every sentence follows from figures: of the critical path's causes, of the resident step, of the variants' simulations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from sim import policies
from sim.hardware import Profile
from sim.inputs import units
from sim.inputs.config import InputError
from sim.inputs.units import show_bytes, show_seconds
from sim.machine import DeadlockError
from sim.policies import Resident, describe, difference
from sim.program import ProgramError
from sim.run import Result, simulate
from sim.scenario import Scenario
from sim.timeline.critical_path import WORDS, Waterfall, causes, waterfall

WORTH = 0.005
"""Causes and gains below this share of the step are not worth a sentence."""
HIDDEN = 0.02
"""Copies hide if they are at most this share of the critical path and lengthen the step by no more than it."""

_COPIES = ("exposed_h2d", "copy_overhead", "copy_contention", "yield_wait")


class Change(NamedTuple):
    """A variant: what is different, and what the simulation says (s, B; a negative difference is less)."""

    words: str
    step_s: float
    gain_s: float
    memory_bytes: int
    """Its peak memory minus the scenario's."""
    peak_memory_bytes: int
    fits_memory: bool
    policy: str


class Explanation(NamedTuple):
    """Sentences on what binds, the way from the resident step, and the variants, best first."""

    sentences: list[str]
    waterfall: Waterfall
    changes: list[Change]


class _Facts(NamedTuple):
    """What the sentences are made of (s, B)."""

    by_cause: dict[str, float]
    fall: Waterfall
    brings: bool
    """Whether weights are copied or gathered at all."""
    peak: int
    capacity: float
    """Device memory."""
    step_time: float
    """The median step, which variants are compared with."""


def resident_causes(scenario: Scenario, profile: Profile | None = None) -> dict[str, float]:
    """Causes of the step (s) with all weights on the GPU, on the scenario's own profile unless another is given."""
    result = simulate(scenario.with_policy(Resident()), profile)
    return causes(result.timeline, result.profile)


def explain(result: Result) -> Explanation:
    """Explain a simulated scenario. Simulates the resident step and variants of its policy."""
    by_cause = causes(result.timeline, result.profile)
    fall = waterfall(by_cause, resident_causes(result.scenario, result.profile))
    facts = _Facts(
        by_cause,
        fall,
        bool(result.metrics["h2d_bytes_per_step"] or result.timeline.program.ranks[0].gather_streams()),
        result.metrics["peak_memory_bytes"],
        result.profile.device.memory.value,
        result.metrics["step_time_s"],
    )
    changes = sorted(_changes(result), key=lambda c: c.step_s)
    return Explanation([*_what_binds(result, facts), *_what_helps(facts, changes)], fall, changes)


def _what_binds(result: Result, facts: _Facts) -> Iterator[str]:
    figures, fall, by_cause = result.metrics, facts.fall, facts.by_cause
    step = fall.step_s
    yield (
        f"A step takes {show_seconds(step)} under {describe(result.scenario.policy)}; with all weights resident it "
        f"would take {show_seconds(fall.resident_s)}, and no schedule with these copies takes less than "
        f"{show_seconds(figures['lower_bound_s'])}."
    )
    if facts.peak > facts.capacity:
        yield (
            f"It does not fit: its peak memory is {show_bytes(facts.peak)}, the GPU has {show_bytes(facts.capacity)}."
        )
    ranked = sorted(by_cause.items(), key=lambda item: -item[1])
    parts = [f"{WORDS[c]} ({100 * s / step:.0f} %)" for c, s in ranked if s and s >= WORTH * step]
    if parts:
        yield f"Its critical path is {_listed(parts)}."
    yield _verdict(facts)
    delta = dict(fall.parts)
    slowed = [(c, delta.get(c, 0.0)) for c in ("copy_contention", "collective_contention")]
    if facts.brings and sum(max(s, 0.0) for _, s in slowed) >= WORTH * step > 0:
        costs = _listed([f"{WORDS[c]} {show_seconds(s)}" for c, s in slowed if s >= WORTH * step / 2])
        overlap = figures["h2d_collective_overlap_s"]
        beside = f"; copies and collectives overlap for {show_seconds(overlap)}" if overlap else ""
        yield f"Transfers share links, which costs this path: {costs}{beside}."
    if by_cause["yield_wait"] >= WORTH * step > 0:
        yield f"Waiting at gates takes {show_seconds(by_cause['yield_wait'])} of this path."


def _verdict(facts: _Facts) -> str:
    """What binds: the copies, what they compete with, or neither alone."""
    step, resident = facts.fall.step_s, facts.fall.resident_s
    if not facts.brings:
        return "Nothing is copied: compute and collectives bind."
    longer = step - resident
    than = f"{100 * longer / resident:.1f} % longer" if resident and longer >= 0.0005 * resident else "no longer"
    copies = sum(facts.by_cause[c] for c in _COPIES)
    gathers = facts.by_cause["exposed_gather"]
    weights = copies + gathers
    work = facts.by_cause["compute"] + facts.by_cause["collective_alone"]
    what = "Gathers of weights" if gathers > copies else "Copies"
    if weights <= HIDDEN * step and longer <= HIDDEN * resident:
        what = "gathers of weights" if gathers > copies else "copies"
        return f"The {what} hide behind compute and collectives: the step takes {than} than with all weights resident."
    if weights > work:
        return (
            f"{what} bind: they and what they wait for are {100 * weights / step:.0f} % of the critical path, compute "
            f"and the blocks' collectives {100 * work / step:.0f} %."
        )
    parts = [(WORDS[c], s) for c, s in facts.fall.parts if c != "hidden"]
    named = [f"{words} {show_seconds(s)}" for words, s in sorted(parts, key=lambda p: -p[1])[:3] if s >= WORTH * step]
    because = f"; on its critical path, but not on the resident one, is {_listed(named)}" if named else ""
    return (
        "Compute and collectives are most of the critical path, but bringing the weights is not hidden: the step takes "
        f"{than} than with all weights resident{because}."
    )


def _what_helps(facts: _Facts, changes: list[Change]) -> Iterator[str]:
    step, capacity = facts.step_time, show_bytes(facts.capacity)
    fitting = [c for c in changes if c.fits_memory]
    if facts.peak > facts.capacity:
        if fitting:
            best = fitting[0]
            share = _change(best.gain_s, step)
            yield f"The fastest variant that fits is {best.words}: {show_bytes(best.peak_memory_bytes)}, {share}."
        elif changes:
            yield f"None of the variants tried fits into {capacity} either."
        return
    faster = [c for c in changes if c.gain_s >= WORTH * step]
    helps = [c for c in faster if c.fits_memory]
    free = [c for c in helps if c.memory_bytes <= 0]
    for best in dict.fromkeys([*helps[:1], *free[:1]]):
        memory = f"{show_bytes(best.memory_bytes)} more" if best.memory_bytes > 0 else "no more"
        yield f"With {best.words} the step takes {_change(best.gain_s, step)}, for {memory} memory."
    if faster and not helps:
        yield (
            f"Every faster variant needs more memory than the GPU's {capacity}: the fastest, {faster[0].words}, needs "
            f"{show_bytes(faster[0].peak_memory_bytes)}."
        )
    if changes and not faster:
        yield f"Of the variants tried, none is faster by more than {100 * WORTH:g} %."


def _change(gain: float, step: float) -> str:
    share = 100 * abs(gain) / step if step else 0.0
    return f"{share:.1f} % {'less' if gain >= 0 else 'more'} time"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _changes(result: Result) -> Iterator[Change]:
    """Simulate each variant of the scenario's policy; those that make a program that was seen before are left out.

    Variants that are too large to simulate, or that cannot run, are none that one could choose.
    """
    scenario, figures = result.scenario, result.metrics
    seen = {result.timeline.program.hash}
    for policy in policies.variants(scenario.policy, scenario.world_size):
        try:
            found = simulate(scenario.with_policy(policy), result.profile)
        except (InputError, ProgramError, DeadlockError):
            continue
        if found.timeline.program.hash in seen:
            continue
        seen.add(found.timeline.program.hash)
        peak = found.metrics["peak_memory_bytes"]
        yield Change(
            difference(scenario.policy, policy),
            found.metrics["step_time_s"],
            figures["step_time_s"] - found.metrics["step_time_s"],
            peak - figures["peak_memory_bytes"],
            peak,
            peak <= result.profile.device.memory.value,
            describe(policy),
        )


def to_plain(explanation: Explanation) -> dict[str, object]:
    """The explanation as plain data for JSON (s, B)."""
    plain: dict[str, object] = msgspec.to_builtins(
        {
            "sentences": explanation.sentences,
            "waterfall": explanation.waterfall._asdict(),
            "changes": [c._asdict() for c in explanation.changes],
        },
        enc_hook=units.plain,
    )
    return plain
