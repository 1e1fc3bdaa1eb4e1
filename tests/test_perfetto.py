"""The Chrome trace of a run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from strategies import Case, Plain, cases, collective, compute

from sim.timeline.perfetto import trace_events, write_trace

GATED = Case(
    {
        "layers": 1,
        "steps": 2,
        "layer_bytes": 16,
        "block": [compute(1.25, "gemm"), collective(32), compute(1.25, "mlp")],
    },
    {"kind": "yielding", "chunk_bytes": 4},
)


def of(events: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [e for e in events if all(e.get(key) == value for key, value in wanted.items())]


def test_commands_are_complete_events_in_microseconds() -> None:
    events = trace_events(GATED.run().timeline)
    (first, *_) = of(events, ph="X", name="gemm", pid=1)
    assert (first["cat"], first["ts"], first["dur"]) == ("Kernel", 2e6, 1.25e6)
    (call, *_) = of(events, ph="X", cat="Collective", pid=0)
    assert (call["name"], call["ts"], call["dur"]) == ("all_to_all", 3.25e6, 2.25e6)
    assert call["args"].items() >= {"alone_s": 2.0, "bytes": 32, "kind": "all_to_all", "peer_wait_s": 0.0}.items()
    (chunk, *_) = of(events, ph="X", cat="Copy", pid=0)
    assert (chunk["name"], chunk["ts"], chunk["dur"]) == ("layer 0 chunk 0", 0, 0.5e6)
    assert [(e["name"], e["ts"], e["dur"]) for e in of(events, cat="Step", pid=0)] == [
        ("step 0", 0, 6.75e6),
        ("step 1", 6.75e6, 4.75e6),
    ]


def test_processes_and_threads_have_names() -> None:
    events = trace_events(GATED.run().timeline)
    assert [e["args"]["name"] for e in of(events, name="process_name")] == ["rank 0", "rank 1"]
    threads = {e["tid"]: e["args"]["name"] for e in of(events, name="thread_name", pid=1)}
    assert sorted(threads.values()) == ["compute stream", "copy stream", "steps"]
    assert {threads[e["tid"]] for e in of(events, ph="X", cat="Copy")} == {"copy stream"}
    assert {threads[e["tid"]] for e in of(events, ph="X", cat="Step")} == {"steps"}


def test_memory_is_a_counter() -> None:
    result = GATED.run()
    counters = of(trace_events(result.timeline), ph="C", pid=0)
    levels = result.timeline.memory(0)
    assert [e["ts"] / 1e6 for e in counters] == pytest.approx([time for time, _ in levels])
    assert [e["args"]["bytes"] for e in counters] == [level for _, level in levels]


@given(cases())
def test_every_trace_is_json_with_each_span_once_and_none_astride(case: Case) -> None:
    timeline = case.run().timeline
    events: list[Plain] = json.loads(json.dumps(trace_events(timeline), allow_nan=False))
    rows: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for e in of(events, ph="X"):
        assert e["dur"] >= 0
        rows.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
    assert len([e for e in of(events, ph="X") if e["cat"] != "Step"]) == len(timeline.spans)
    for spans in rows.values():  # viewers draw spans of one thread that overlap in part as if nested
        spans.sort()
        assert all(a[1] <= b[0] * (1 + 1e-9) + 1e-3 for a, b in itertools.pairwise(spans))


def test_the_file_is_what_viewers_open(tmp_path: Path) -> None:
    timeline = GATED.run().timeline
    write_trace(timeline, tmp_path / "trace.json")
    document = json.loads((tmp_path / "trace.json").read_text())
    assert document["displayTimeUnit"] == "ms"
    assert document["traceEvents"] == json.loads(json.dumps(trace_events(timeline)))
    with pytest.raises(OSError, match="trace.json/t.json"):
        write_trace(timeline, tmp_path / "trace.json" / "t.json")
    assert [p.name for p in tmp_path.iterdir()] == ["trace.json"]
