"""What binds a scenario, in words, and what would help, found by simulating variants of its policy.

Every sentence follows from figures: of the critical path's causes, of the resident step, of the variants' simulations.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from sim import policies
from sim.analysis import values_first
from sim.analysis.binding import MIN_SHARE, Facts, facts_of, listed, verdict
from sim.hardware import Profile
from sim.inputs import units
from sim.inputs.config import InputError
from sim.inputs.units import Number, show_bytes, show_seconds
from sim.machine import DeadlockError
from sim.policies import Policy, Resident, describe, difference
from sim.program import ProgramError
from sim.run import Result
from sim.scenario import Scenario
from sim.sweeps.evaluation import Evaluated, Evaluator, Figures, evaluate
from sim.sweeps.job import Job
from sim.timeline.critical_path import CAUSE_LABELS, Waterfall, waterfall
from sim.timeline.metrics import LEFT_OUT, is_mean
from sim.workloads.named import remembered
from sim.workloads.recorded import Recorded

FIT_STEP = 0.01
"""Step of the search for the largest resident fraction that fits."""
_FIT_TRIES = 3
"""Fractions simulated at most: memory that is not live throughout can make the first one a little wrong."""


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
    """Sentences on what binds, the waterfall from the resident step, and the variants, best first."""

    sentences: list[str]
    waterfall: Waterfall
    changes: list[Change]


class _Run(NamedTuple):
    """A simulated job and its result."""

    job: Job
    figures: Figures

    @property
    def policy(self) -> Policy:
        return self.job.scenario.policy

    @property
    def capacity(self) -> int:
        """Memory of the smallest GPU that it ran on, B."""
        return self.job.profile.memory_of(self.job.scenario.gpus)


def resident_causes(scenario: Scenario, profile: Profile | None = None) -> dict[str, float]:
    """Causes of the step (s) with all weights on the GPU, on the scenario's own profile unless another is given."""
    return evaluate(resident(Job.of(scenario, profile))).figures().causes_s


def resident(job: Job) -> Job:
    """The scenario of `job` with all weights on the GPU, whose causes are wanted. Raises InputError."""
    return job._replace(scenario=job.scenario.with_policy(Resident()), causes=True)


def explain(result: Result, evaluator: Evaluator | None = None) -> Explanation:
    """Explain a simulated scenario. The resident step and variants of its policy are simulated by `evaluator`."""
    job = Job.of(result.scenario, result.profile)
    return _explained(job, Figures.of(result, with_causes=True), evaluator or Evaluator())


def explain_job(job: Job, evaluator: Evaluator) -> Explanation:
    """Explain a scenario: it, the resident step and variants of its policy are simulated by `evaluator`."""
    return _explained(job, None, evaluator)


def _explained(job: Job, own: Figures | None, evaluator: Evaluator) -> Explanation:
    """Of a job, with its figures and causes where they are known."""
    job = job._replace(causes=True)
    scenario = job.scenario
    with remembered(job.models):
        workload = scenario.workload.resolve(scenario.world_size)
    others = list(policies.variants(scenario.policy, scenario.world_size, workload))
    jobs = [variant for policy in others if (variant := _variant(job, policy)) is not None]
    first = [resident(job)] if own is not None else [job, resident(job)]
    found: dict[int, Evaluated] = {}
    for number, evaluated in evaluator.as_completed([*first, *jobs]):
        if number < len(first):
            evaluated.figures()  # nothing can be said without them
        found[number] = evaluated
    figures = [found[number] for number in range(len(found))]
    run = _Run(job, own or figures[0].figures())
    fall = waterfall(run.figures.causes_s, figures[len(first) - 1].figures().causes_s)
    facts = facts_of(job, run.figures, fall)
    tried = [_tried(variant, evaluated) for variant, evaluated in zip(jobs, figures[len(first) :], strict=True)]
    changes = sorted(_changes(run, [one for one in tried if one is not None], evaluator), key=lambda c: c.step_s)
    said = [*_in_trace(job), *_what_binds(run, facts), *_what_helps(facts, changes)]
    return Explanation(said, fall, changes)


def _in_trace(job: Job) -> Iterator[str]:
    """What the trace says of its pass, of a scenario that was imported from one."""
    workload = job.scenario.workload
    if isinstance(workload, Recorded):
        with remembered(job.models):
            yield from (f"In the trace: {finding}." for finding in workload.recorded().findings)


def _what_binds(run: _Run, facts: Facts) -> Iterator[str]:
    figures, fall, by_cause = run.figures.metrics, facts.waterfall, facts.by_cause
    step = fall.step_s
    mean = " in the mean" if is_mean(figures) else ""
    yield (
        f"A step takes {show_seconds(step)}{mean} under {describe(run.policy)}; with all weights resident "
        f"it would take {show_seconds(fall.resident_s)}, and no schedule with these copies takes less than "
        f"{show_seconds(figures['lower_bound_s'])}{mean}."
    )
    if facts.peak > facts.capacity:
        yield (
            f"It does not fit: its peak memory is {show_bytes(facts.peak)}, the GPU has {show_bytes(facts.capacity)}."
        )
    ranked = sorted(by_cause.items(), key=lambda item: -item[1])
    parts = [f"{CAUSE_LABELS[c]} ({100 * s / step:.0f} %)" for c, s in ranked if s and s >= MIN_SHARE * step]
    if parts:
        yield f"Its critical path is {listed(parts)}."
    yield from verdict(facts)
    yield from values_first.sentences(run.job.scenario, run.job.profile)
    delta = dict(fall.parts)
    slowed = [(c, delta.get(c, 0.0)) for c in ("copy_contention", "collective_contention")]
    if facts.offloads and sum(max(s, 0.0) for _, s in slowed) >= MIN_SHARE * step > 0:
        costs = listed([f"{CAUSE_LABELS[c]} {show_seconds(s)}" for c, s in slowed if s >= MIN_SHARE * step / 2])
        overlap = figures["h2d_collective_overlap_s"]
        overlapping = f"; copies and collectives overlap for {show_seconds(overlap)}" if overlap else ""
        yield f"Transfers share links, which costs this path: {costs}{overlapping}."
    if by_cause["yield_wait"] >= MIN_SHARE * step > 0:
        yield f"Waiting at gates takes {show_seconds(by_cause['yield_wait'])} of this path."


def _what_helps(facts: Facts, changes: list[Change]) -> Iterator[str]:
    step, capacity = facts.step_time, show_bytes(facts.capacity)
    fitting = [c for c in changes if c.fits_memory]
    if facts.peak > facts.capacity:
        if fitting:
            best = fitting[0]
            share = _change(best.gain_s, step)
            peak = f"{show_bytes(best.peak_memory_bytes)} (before {LEFT_OUT})"
            yield f"The fastest variant that fits is {best.words}: {peak}, {share}."
        elif changes:
            yield f"None of the variants tried fits into {capacity} either."
        return
    faster = [c for c in changes if c.gain_s >= MIN_SHARE * step > 0]
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
        yield f"Of the variants tried, none is faster by more than {100 * MIN_SHARE:g} %."


def _change(gain: float, step: float) -> str:
    share = 100 * abs(gain) / step if step else 0.0
    return f"{share:.1f} % {'less' if gain >= 0 else 'more'} time"


def _changes(run: _Run, tried: Sequence[_Run], evaluator: Evaluator) -> Iterator[Change]:
    """What each variant of the policy changes; those that make a program that was seen before are left out.

    Of a scenario that does not fit its GPU, also the largest resident fraction that does: of its own policy, or, where
    that copies nothing, of the other kinds.
    """
    seen = {run.figures.program}
    for found in tried:
        if found.figures.program not in seen:
            seen.add(found.figures.program)
            yield _change_to(run, found)
    if run.figures.metrics["peak_memory_bytes"] <= run.capacity:
        return
    others = policies.variants(run.policy, run.job.scenario.world_size)
    for policy in [run.policy] if _has_fraction(run.policy) else filter(_has_fraction, others):
        for found in _largest_fit(run, policy, evaluator):
            if found.figures.program not in seen:
                seen.add(found.figures.program)
                yield _change_to(run, found)


def _variant(job: Job, policy: Policy) -> Job | None:
    """The scenario under `policy`; None if it is too large to simulate: nobody could choose it."""
    try:
        return job._replace(scenario=job.scenario.with_policy(policy))
    except InputError:
        return None


def _tried(job: Job, evaluated: Evaluated) -> _Run | None:
    """A run, or None of a scenario that cannot run."""
    if isinstance(evaluated.raised, (InputError, ProgramError, DeadlockError)):
        return None
    return _Run(job, evaluated.figures())


def _change_to(run: _Run, found: _Run) -> Change:
    """What the run `found` changes of `run`."""
    before, after = run.figures.metrics, found.figures.metrics
    return Change(
        difference(run.policy, found.policy),
        after["step_time_s"],
        before["step_time_s"] - after["step_time_s"],
        after["peak_memory_bytes"] - before["peak_memory_bytes"],
        after["peak_memory_bytes"],
        after["peak_memory_bytes"] <= run.capacity,
        describe(found.policy),
    )


def _has_fraction(policy: Policy) -> bool:
    return "resident_fraction" in policy.__struct_fields__


def _largest_fit(run: _Run, policy: Policy, evaluator: Evaluator) -> Iterator[_Run]:
    """Runs of `policy` with the largest resident fraction whose peak memory fits the GPU, the last one the surest.

    Found by bisection over the sizes of the buffers. Of those that are not live throughout, the same share is taken to
    be live at the peak as in the last run. Where that was wrong, the next run sets it right.
    """
    known, tried = run, set[int]()
    count = round(1 / FIT_STEP)
    while len(tried) < _FIT_TRIES:
        always, sometimes = _buffer_bytes(known.job.scenario)
        live = (known.figures.metrics["peak_memory_bytes"] - always) / sometimes if sometimes else 1.0

        def too_large(part: int, live: float = live) -> bool:
            try:
                scenario = run.job.scenario.with_steps(1).with_policy(_with_fraction(policy, part / count))
                always, sometimes = _buffer_bytes(scenario)
                return always + live * sometimes >= run.capacity + 1  # whole bytes, but for the product's rounding
            except (InputError, ProgramError):
                return True

        # slots shrink as more is resident, and with everything resident there are none
        part = bisect_left(range(count), True, key=too_large) - 1 if too_large(count) else count
        if part < 0 or part in tried:
            return
        tried.add(part)
        variant = _variant(run.job, _with_fraction(policy, part / count))
        found = None if variant is None else _tried(variant, evaluator.one(variant))
        if found is None:
            return
        yield found
        known = found


def _with_fraction(policy: Policy, fraction: float) -> Policy:
    """`policy` with so much resident. Raises `InputError` where it refuses that."""
    for changed in policy.changed(resident_fraction=Number(fraction)):
        return changed
    raise InputError("policy", "resident_fraction", f"cannot be {fraction:g}")


def _buffer_bytes(scenario: Scenario) -> tuple[int, int]:
    """Bytes of rank 0's buffers that are live throughout, and of the others; one step has the same as many."""
    buffers = scenario.with_steps(1).program().ranks[0].buffers
    always = sum(buffer.bytes for buffer in buffers if buffer.static)
    return always, sum(buffer.bytes for buffer in buffers) - always


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
