"""The measured Wan-14B cases as scenarios with expected values.

Compute times come from the resident case of the same token count: an operation's median duration over the measured
layers; a transpose is what `a2a0` to `a2a2` last beyond the bare all-to-all `a2a3`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

import msgspec

from sim import units
from sim.scenario import Scenario
from validation.measured import SCHEMA, MeasuredCase, Operation

DATASET = "h200x2-hostpath"

BLOCK = ("qkv", "transpose0", "a2a0", "transpose1", "a2a1", "transpose2", "a2a2", "attn", "a2a3", "post")
"""One layer in program order."""

OPERATIONS = {
    "qkv": ("qkv",),
    "a2a0": ("transpose0", "a2a0"),
    "a2a1": ("transpose1", "a2a1"),
    "a2a2": ("transpose2", "a2a2"),
    "attn": ("attn",),
    "a2a3": ("a2a3",),
    "post": ("post",),
}
"""What the measurement timed as one part, in items of `BLOCK`."""

LAUNCHES = {"qkv": 9, "transpose0": 1, "transpose1": 1, "transpose2": 1, "attn": 2, "post": 15}
"""Kernels per item. Their sum follows from host run-ahead: in whole_layer at 1950 tokens the host is 29.6 layers ahead
with 1,024 commands pending, 34.6 commands a layer with four collectives and two event commands among them; the split
over items is by the operators of such a block."""

FITTED = frozenset({"1950 whole_layer", "1950 chunked 4 MiB", "1950 yielding 1 MiB"})
"""Cases that constants of the profile were fitted on (docs/modelling.md); all others are predictions."""


class Part(NamedTuple):
    """An operation of the instrumented step, rank 0, times in s. `name` is "idle" between the layers."""

    layer: int
    name: str
    start: float
    end: float


class Case(NamedTuple):
    """One measured case: the scenario and what was measured (s)."""

    name: str
    scenario: Scenario
    step_times_s: tuple[float, ...]
    parts: tuple[Part, ...]
    copies: tuple[tuple[int, float, float], ...]
    """(bytes, start, end) of the copies around the measured layers in the instrumented step, rank 0."""

    def durations(self, name: str) -> list[float]:
        """How long operation `name` took in each measured layer, s."""
        return [p.end - p.start for p in self.parts if p.name == name]

    @property
    def step_time_s(self) -> float:
        """Median of all steps but the first."""
        return median(self.step_times_s[1:])


def load_cases() -> list[Case]:
    """All measured cases of the data set, resident ones first in each workload."""
    text = (files("validation") / "data" / DATASET / "wan14b.json").read_text()
    records = json.loads(text)
    resident = {r["tokens_per_rank"]: r for r in records if r["policy"] == "resident"}
    return [_case(r, resident[r["tokens_per_rank"]]) for r in records]


def _case(record: dict[str, Any], resident: dict[str, Any]) -> Case:
    policy: dict[str, Any] = {"kind": record["policy"].removesuffix("_device_gate")}
    if policy["kind"] != "resident":
        policy["resident_fraction"] = record["resident_fraction"]
    if record["chunk_mib"]:
        policy["chunk_bytes"] = record["chunk_mib"] * 2**20
    if policy["kind"] == "yielding":
        policy["drain"] = record["drain_before_collective"]
    name = f"{record['tokens_per_rank']} {policy['kind']}"
    name += f" {record['chunk_mib']} MiB" if record["chunk_mib"] else ""
    name += f" r={record['resident_fraction']}" if record["resident_fraction"] else ""
    name += " drain" if policy.get("drain") else ""
    workload = {
        "layers": record["layers"],
        "layer_bytes": record["layer_bytes"],
        "steps": 5,  # a warm-up step and the four that were timed
        "block": block(_parts(resident), record["a2a_buffer_bytes"]),
    }
    scenario = Scenario.from_plain(
        {"hardware": DATASET, "world_size": 2, "workload": workload, "policy": policy}, f"{DATASET}: {name}"
    )
    return Case(
        name=name,
        scenario=scenario,
        step_times_s=tuple(ms * 1e-3 for ms in record["step_ms"]),
        parts=_parts(record),
        copies=tuple((c["bytes"], c["start_ms"] * 1e-3, c["end_ms"] * 1e-3) for c in record["copies_rank0"]),
    )


def measured_cases() -> list[MeasuredCase]:
    """All measured cases as those of other data sets. Their kernels' times are in their scenarios.

    The instrumented run was a single step after a synchronise. The transposes before the first three all-to-alls were
    not timed apart: they are taken to last what they do in the resident case. Nor was the wait for a drained chunk:
    of cases that drain, collectives are left out.
    """
    return [_as_measured(number, case) for number, case in enumerate(load_cases())]


def _as_measured(number: int, case: Case) -> MeasuredCase:
    plain = msgspec.to_builtins(case.scenario, enc_hook=units.plain)
    items = {(i["compute"] or i["collective"])["name"]: i for i in plain["workload"]["block"]}
    operations = [
        Operation("copy", "Copy", "", -1, size, start * 1e6, start * 1e6, end * 1e6) for size, start, end in case.copies
    ]
    for part in (p for p in case.parts if p.name in OPERATIONS):
        start = part.start
        for name in OPERATIONS[part.name]:
            compute, collective = items[name]["compute"], items[name]["collective"]
            end = start + compute["seconds"] if name.startswith("transpose") else part.end
            kind, size = ("Kernel", 0) if compute else ("Collective", collective["bytes"])
            if compute or not plain["policy"].get("drain"):
                times = start * 1e6, start * 1e6, end * 1e6
                operations.append(Operation("compute", kind, name, part.layer, size, *times))
            start = end
    return MeasuredCase(
        schema=SCHEMA,
        number=number,
        scenario=plain,
        program=case.scenario.program().hash,
        date="",
        step_times_s=((case.step_times_s,),),
        instrumented_step_times_s=(case.parts[-1].end,),
        operations=tuple(operations),
    )


def block(resident: Sequence[Part], buffer_bytes: int) -> list[dict[str, Any]]:
    """One layer as scenario items, from the median durations of a resident case's operations."""
    durations = {
        name: median(p.end - p.start for p in resident if p.name == name) for name in {p.name for p in resident}
    }
    seconds = {name: durations[name] for name in ("qkv", "attn", "post")}
    seconds |= {f"transpose{i}": durations[f"a2a{i}"] - durations["a2a3"] for i in range(3)}
    return [
        {"compute": {"name": name, "seconds": seconds[name], "launches": LAUNCHES[name]}}
        if name in seconds
        else {"collective": {"name": name, "kind": "all_to_all", "bytes": buffer_bytes}}
        for name in BLOCK
    ]


def _parts(record: dict[str, Any]) -> tuple[Part, ...]:
    return tuple(
        Part(a["layer"], "idle" if a["op"] == "end" else a["op"], a["start_ms"] * 1e-3, b["start_ms"] * 1e-3)
        for a, b in pairwise(record["ops_rank0"])
    )
