"""Serving scenarios of stated step times, strategies for them, and what must hold of every run."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from strategies import Plain

from sim.serving import Served, ServingScenario, serve
from sim.serving.host import Segment

KINDS = (
    "contention_aware",
    "edf",
    "fcfs",
    "genserve",
    "load_adaptive",
    "srtf",
    "static_partition",
    "static_sp",
    "step_demote",
    "step_pause",
    "tetriserve",
)
ALWAYS = (0.0, float("inf"))


def stated(**changes: Any) -> Plain:
    """One class of ten steps of 1 s on one GPU, and 0.5 s on two; a request every 100 s on the average, on two GPUs."""
    a = {"steps": 10, "degrees": [1, 2], "step_times": {1: 1.0, 2: 0.5}, "deadline": {"seconds": 20.0}}
    return {
        "gpus": 2,
        "duration": 1000.0,
        "classes": {"a": a},
        "arrivals": {"kind": "poisson", "rate": 0.01},
        "scheduler": {"kind": "fcfs"},
    } | changes


@st.composite
def serving_scenarios(draw: st.DrawFn) -> Plain:
    """Up to three classes on up to eight GPUs under any scheduler, with costs, memory, batches and any arrivals."""
    gpus = draw(st.sampled_from([1, 2, 4, 8]))
    degrees = [degree for degree in (1, 2, 4, 8) if degree <= gpus]
    classes: Plain = {}
    for number in range(draw(st.integers(1, 3))):
        mine = sorted(draw(st.sets(st.sampled_from(degrees), min_size=1)))
        step = draw(st.floats(0.01, 2.0))
        speed = draw(st.floats(0.3, 1.0))
        batches = draw(st.sampled_from([[1], [1, 2], [1, 2, 4]]))
        classes[f"c{number}"] = {
            "steps": draw(st.integers(1, 12)),
            "degrees": mine,
            "degree": draw(st.sampled_from(mine)),
            "step_times": {degree: step / degree**speed for degree in mine},
            "batches": batches,
            "batch_factors": {batch: draw(st.floats(1.0, float(batch))) for batch in batches[1:]},
            "deadline": {"scale": draw(st.floats(0.5, 4.0))},
            "encode": draw(st.sampled_from([0.0, 0.05])),
            "decode": draw(st.sampled_from([0.0, 0.3])),
            "preemptible": draw(st.booleans()),
            "priority": draw(st.integers(0, 2)),
            "weights": draw(st.integers(0, 50)),
            "memory": draw(st.integers(0, 50)),
            "state": draw(st.integers(0, 10)),
            "share": draw(st.floats(0.1, 1.0)),
        }
    rate = draw(st.floats(0.05, 20.0))
    kinds = [{"kind": "poisson", "rate": rate}, {"kind": "bursts", "rate": rate, "period": 5.0, "length": 1.0}]
    scheduler = {"kind": draw(st.sampled_from(KINDS))}
    if scheduler["kind"] in ("edf", "srtf"):
        scheduler["preemptive"] = draw(st.booleans())
    cost = st.sampled_from([0.0, 0.01, 0.5])
    return {
        "gpus": gpus,
        "memory": 100,
        "duration": draw(st.integers(2, 50)) / rate,
        "classes": classes,
        "arrivals": draw(st.sampled_from(kinds)),
        "scheduler": scheduler,
        "costs": {name: draw(cost) for name in ("pause", "resume", "reshard", "group")} | {"load_rate": 100.0},
        "placement": draw(st.sampled_from(["aligned", "any"])),
        "seed": draw(st.integers(0, 5)),
    }


def run(plain: Plain, seed: int | None = None) -> Served:
    """Serve a scenario from plain data, all segments recorded."""
    return serve(ServingScenario.from_plain(plain), seed, record=ALWAYS)


def check(served: Served) -> None:
    """What must hold of every run."""
    segments = sorted(served.segments, key=lambda segment: segment.start)
    _one_at_a_time(served, segments)
    _all_work_done_once(served, segments)
    assert all(peak <= served.prepared.memory for peak in served.peak_memory)
    busy = sum((segment.end - segment.start) * len(segment.gpus) for segment in segments)
    assert abs(busy - sum(served.busy.values())) <= 1e-6 * max(busy, 1.0)
    for request in served.requests:
        parts = request.queued + request.paused + request.switching + request.isolated + request.contention
        assert abs(parts - request.latency) < 1e-6
        assert min(request.queued, request.paused, request.switching) >= -1e-9
        assert request.met == (request.reason() == "")


def _one_at_a_time(served: Served, segments: list[Segment]) -> None:
    """No GPU has two jobs at a time, and no request is in two places; groups are of sizes that the class has."""
    last: dict[object, float] = {}
    for segment in segments:
        cls = served.prepared.classes[segment.cls]
        assert len(set(segment.gpus)) == len(segment.gpus)
        assert all(0 <= gpu < served.prepared.gpus for gpu in segment.gpus)
        assert len(segment.gpus) in (cls.degrees if segment.stage == "denoise" else (1,))
        for owner in (*segment.gpus, *(("request", number) for number in segment.requests)):
            assert segment.start >= last.get(owner, 0.0) - 1e-9
            last[owner] = segment.end
        assert segment.start <= segment.steps_from <= segment.end + 1e-9


def _all_work_done_once(served: Served, segments: list[Segment]) -> None:
    """Each request goes through its stages in order, goes on where it was, and takes each step once."""
    done: dict[int, dict[str, float]] = {}
    for segment in segments:
        for number in segment.requests:
            mine = done.setdefault(number, {})
            mine[segment.stage] = mine.get(segment.stage, 0.0) + segment.steps
            assert list(mine)[-1] == segment.stage, "no stage begins again once the next one has begun"
            assert abs(segment.steps - round(segment.steps)) < 1e-6, "it stops between two steps"
            assert segment.steps > 0
    for request in served.requests:
        assert request.finish >= request.arrival
        assert done.pop(request.number) == dict(request.cls.stages(request.steps))
    assert not done
