"""What binds a scenario, in words, and what would help, found by simulating its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from sim import units
from sim.metrics import Metrics
from sim.policies import Chunked, Policy, Resident, Sharded, WholeLayer, Yielding, label
from sim.run import Result, simulate
from sim.scenario import Scenario
from sim.units import Bytes, Number, show_bytes, show_seconds
from sim.why import WORDS, Waterfall, causes, waterfall

WORTH = 0.005
"""A change that gains less than this share of the step is not called a help."""


class Change(NamedTuple):
    """A changed policy: what is different, and what the simulation says (s, B; negative is less)."""

    words: str
    step_s: float
    gain_s: float
    memory_bytes: int


class Explanation(NamedTuple):
    """Sentences on what binds, the way from the resident step, and the neighbours, best first."""

    sentences: list[str]
    waterfall: Waterfall
    changes: list[Change]


def resident_causes(scenario: Scenario) -> dict[str, float]:
    """Causes of the step (s) with all weights on the GPU."""
    result = simulate(msgspec.structs.replace(scenario, policy=Resident()))
    return causes(result.timeline, result.profile)


def explain(result: Result) -> Explanation:
    """Explain a simulated scenario. Simulates the resident step and some neighbours of its policy."""
    scenario, figures = result.scenario, result.metrics
    by_cause = causes(result.timeline, result.profile)
    fall = waterfall(by_cause, resident_causes(scenario))
    changes = sorted(_changes(scenario, figures), key=lambda c: c.step_s)
    return Explanation(list(_sentences(result, by_cause, fall, changes)), fall, changes)


def _sentences(result: Result, by_cause: dict[str, float], fall: Waterfall, changes: list[Change]) -> Iterator[str]:
    figures, policy = result.metrics, result.scenario.policy
    step = fall.step_s
    yield (
        f"A step takes {show_seconds(step)} under {label(policy)}; with all weights resident it would take "
        f"{show_seconds(fall.resident_s)}, and no schedule with these copies takes less than "
        f"{show_seconds(figures['lower_bound_s'])}."
    )
    ranked = sorted(by_cause.items(), key=lambda item: -item[1])
    parts = [f"{WORDS[c]} ({100 * s / step:.0f} %)" for c, s in ranked if s >= WORTH * step]
    yield f"Its critical path is {_listed(parts)}."
    copies = sum(by_cause[c] for c in ("exposed_h2d", "copy_overhead", "copy_contention", "yield_wait"))
    work = by_cause["compute"] + by_cause["collective_alone"]
    contention = by_cause["collective_contention"] + by_cause["copy_contention"]
    if not figures["h2d_bytes_per_step"]:
        yield "Nothing is copied: compute and collectives bind."
    elif copies > work:
        yield (
            "Copies bind: compute waits for weights. Fewer bytes help (a larger resident_fraction), and cheaper "
            "copies; more compute per layer (frames, batch) would be free."
        )
    else:
        yield "Compute and collectives bind: the copies hide behind them, apart from what they cost the collectives."
    if contention >= WORTH * step:
        yield (
            f"Copies and collectives that share links cost {show_seconds(contention)} on this path; they overlap for "
            f"{show_seconds(figures['h2d_collective_overlap_s'])}. Yielding with smaller chunks trades that for "
            "waiting."
        )
    if by_cause["yield_wait"] >= WORTH * step and copies > work:
        yield (
            f"Yielding costs {show_seconds(by_cause['yield_wait'])} here: copies bind, and they wait while collectives "
            "run. When copies bind, not yielding is faster."
        )
    helps = [c for c in changes if c.gain_s >= WORTH * step]
    free = [c for c in helps if c.memory_bytes <= 0]
    for best in dict.fromkeys([*helps[:1], *free[:1]]):
        memory = f"{show_bytes(best.memory_bytes)} more" if best.memory_bytes > 0 else "no more"
        yield f"With {best.words} the step takes {100 * best.gain_s / step:.1f} % less, for {memory} memory."
    if changes and not helps:
        yield "Of the neighbours tried, none is faster by more than 0.5 %."


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _changes(scenario: Scenario, figures: Metrics) -> Iterator[Change]:
    """Simulate each neighbour; those that differ from the scenario in nothing are left out."""
    seen = {scenario.policy}
    for words, policy in _neighbours(scenario.policy, scenario.world_size):
        if policy in seen:
            continue
        seen.add(policy)
        found = simulate(msgspec.structs.replace(scenario, policy=policy)).metrics
        yield Change(
            words,
            found["step_time_s"],
            figures["step_time_s"] - found["step_time_s"],
            found["peak_memory_bytes"] - figures["peak_memory_bytes"],
        )


def _neighbours(policy: Policy, ranks: int) -> Iterator[tuple[str, Policy]]:
    if isinstance(policy, Resident):
        return
    fraction, ahead = policy.resident_fraction, policy.prefetch_layers
    replace = msgspec.structs.replace
    chunk = policy.chunk_bytes if isinstance(policy, Chunked) else Bytes(16 * 2**20)
    yield "copying whole layers", WholeLayer(resident_fraction=fraction, prefetch_layers=ahead)
    yield (
        f"chunks of {show_bytes(chunk)} without yielding",
        Chunked(chunk_bytes=chunk, resident_fraction=fraction, prefetch_layers=ahead),
    )
    yield (
        f"chunks of {show_bytes(chunk)} behind a device gate",
        Yielding(chunk_bytes=chunk, resident_fraction=fraction, prefetch_layers=ahead),
    )
    if ranks > 1:
        shard = f"1/{ranks} of each layer copied by each rank and gathered"
        yield shard, Sharded(resident_fraction=fraction, prefetch_layers=ahead)
    if isinstance(policy, Chunked):
        for size in (chunk * 4, chunk // 4):
            if size >= 2**16:
                yield f"chunk_bytes {show_bytes(size)}", replace(policy, chunk_bytes=Bytes(size))
    yield f"prefetch_layers {policy.prefetch_layers + 1}", replace(policy, prefetch_layers=policy.prefetch_layers + 1)
    more = Number(round(min(policy.resident_fraction + 0.25, 1.0), 6))
    yield f"resident_fraction {more:g}", replace(policy, resident_fraction=more)


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
