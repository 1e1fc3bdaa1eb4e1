"""A plan in words: every sentence follows from its figures."""

from __future__ import annotations

from collections.abc import Iterator

from sim.analysis.computed_kernels import IF_COMPUTED, computes_kernels
from sim.inputs.units import show_bytes, show_seconds
from sim.planning.points import Point
from sim.planning.result import Plan
from sim.timeline.memory_components import COMPONENTS
from sim.timeline.metrics import LEFT_OUT

WORTH = 0.0005
"""Differences below this share of a step are none."""
CLOSE = 0.01
"""What is within this share of the best is close where the model's error is not known."""


def sentences(plan: Plan) -> list[str]:
    """The answer, whether to offload, what binds, and how sure it is."""
    if plan.best is None:
        return list(_nothing_fits(plan))
    best = plan.best
    answer = [*_answer(plan, best), *_offload(plan, best), *_memory(plan, best)]
    return [*answer, plan.binding, *_helps(plan), *_sure(plan, best)]


def _nothing_fits(plan: Plan) -> Iterator[str]:
    limit = show_bytes(plan.memory_limit_bytes)
    if plan.needed is None:
        yield f"Nothing fits {limit}, and no schedule could be simulated."
        return
    need = show_bytes(plan.needed.peak_memory_bytes)
    there = show_bytes(plan.host_memory_bytes or 0)
    host = f" and the host's {there}" if plan.needed.fits_memory else ""
    yield f"Nothing fits {limit}{host}: the smallest schedule, {plan.needed.words}, peaks at {need}, before {LEFT_OUT}."
    parts = sorted(plan.needed.memory_bytes.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{COMPONENTS[name]} {show_bytes(size)}" for name, size in parts if size)
    yield f"Of it are {listed}."
    if plan.needed.fits_memory:
        yield f"That would fit the GPUs, but {pinned(plan.needed)}, and the host has {there}."
    helps = [s for s in plan.suggestions if s.fits_memory]
    for tip in helps:
        yield f"It fits with {tip.words}: {show_bytes(tip.peak_memory_bytes)}, step {show_seconds(tip.step_time_s)}."
    if plan.needed.fits_memory:
        enough = -(-plan.needed.host_memory_bytes // 2**20)
        more = (
            f"It fits with --host-memory {enough}MiB or more, or with more --memory, for weights that stay on the GPUs"
        )
    else:
        enough = -(-(plan.needed.peak_memory_bytes + plan.reserve_bytes) // 2**20)
        more = f"It fits with --memory {enough}MiB or more, or with fewer frames or pixels"
    yield f"{more}." if helps else f"{more}; no change tried is enough."


def _over_floor(plan: Plan, point: Point) -> str:
    return f"{100 * (point.step_time_s / plan.floor_s - 1):.2f} % over the floor" if plan.floor_s else "no floor known"


def _answer(plan: Plan, best: Point) -> Iterator[str]:
    limit = show_bytes(plan.memory_limit_bytes)
    yield (
        f"Fastest that fits {limit}: {best.words}{plan.layout_words(best)}, step {show_seconds(best.step_time_s)}, "
        f"{_over_floor(plan, best)}, peak {show_bytes(best.peak_memory_bytes)}."
    )
    if best.decided:
        yield f"{best.policy.kind} chose {best.decided}."
    small = plan.smallest_within
    if small is None:
        return
    saved = best.peak_memory_bytes - small.peak_memory_bytes
    within = f"{100 * plan.within:g} %"
    if small is best or saved <= 0:
        yield f"No smaller schedule is within {within} of it."
        return
    longer = small.step_time_s / best.step_time_s - 1 if best.step_time_s else 0.0
    buys = f"{100 * longer:.2f} % of the step" if longer > WORTH else "nothing"
    yield (
        f"Smallest within {within}: {small.words}{plan.layout_words(small)} takes {show_bytes(small.peak_memory_bytes)}"
        f" and is {_over_floor(plan, small)}: {show_bytes(saved)} more memory buy {buys}."
    )


def _offload(plan: Plan, best: Point) -> Iterator[str]:
    resident = plan.resident
    step = show_seconds(resident.step_time_s)
    peak = show_bytes(resident.peak_memory_bytes)
    change = best.step_time_s / resident.step_time_s - 1 if resident.step_time_s else 0.0
    if not resident.fits_memory:
        longer = f"{100 * change:.2f} % longer" if change > WORTH else "no longer"
        yield f"All weights resident would need {peak}, which does not fit: offload. The step is {longer} than that."
        return
    if best.policy.kind == resident.policy.kind:
        yield f"All weights fit ({peak}): there is no need to offload; the resident step takes {step}."
        return
    yield f"All weights fit ({peak}, step {step}), but the step is {-100 * change:.2f} % shorter with this schedule."


def _helps(plan: Plan) -> Iterator[str]:
    tip = next((tip for tip in plan.suggestions if tip.fits_memory and (tip.gain or 0.0) >= WORTH), None)
    if tip is not None:
        step = show_seconds(tip.step_time_s)
        yield f"What would help most: {tip.words}, {100 * (tip.gain or 0.0):.1f} % off the step ({step})."


def pinned(point: Point) -> str:
    """What a schedule pins in host memory."""
    every = show_bytes(point.host_memory_bytes)
    if point.world_size == 1:
        return f"it pins {every} of host memory"
    each = show_bytes(point.host_memory_bytes / point.world_size)
    return f"every rank pins {each}: {point.world_size} ranks need {every}"


def _memory(plan: Plan, best: Point) -> Iterator[str]:
    if best.host_memory_bytes:
        there = plan.host_memory_bytes
        known = (
            "how much the host has is not known (--host-memory)"
            if there is None
            else f"of the host's {show_bytes(there)}"
        )
        words = pinned(best)
        yield f"{words[0].upper()}{words[1:]}{';' if there is None else ''} {known}."
    if plan.reserve_known:
        yield f"{show_bytes(plan.reserve_bytes)} of the given memory are left for {LEFT_OUT}."
    else:
        yield f"Nothing is left for {LEFT_OUT}, which were not measured on this host: give --reserve."


def _sure(plan: Plan, best: Point) -> Iterator[str]:
    rival = plan.runner_up
    if best.interval is not None:
        low, high = (show_seconds(s) for s in best.interval)
        given = f", {IF_COMPUTED}" if computes_kernels(plan.scenario, plan.profile) else ""
        yield f"The step lies within {low} to {high} (90 %, by the model's error on such hosts){given}."
    else:
        yield "The model's error on this kind of host is not known: measure before you rely on small differences."
    if rival is None:
        return
    more = rival.step_time_s / best.step_time_s - 1 if best.step_time_s else 0.0
    close = more <= CLOSE if plan.overlaps is None else plan.overlaps
    if close:
        also = "their intervals overlap" if plan.overlaps else "too close to call"
        yield f"The runner-up, {rival.words}, takes {100 * more:.2f} % longer: {also}."
