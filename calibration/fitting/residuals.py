"""What a fitted profile says of every row that it was fitted to, next to what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from calibration.fitting.collectives import KINDS, sent
from calibration.fitting.compute import flops
from calibration.fitting.copy_engines import MIN_ENGINE_SIZE, equal_trains
from calibration.fitting.selection import Rows
from sim.datasets.probe_rows import Row
from sim.fluid import FlowSpec, rates_together
from sim.hardware import CopyClass, Profile, collectives
from sim.program import HostCopyKind


class Residual(NamedTuple):
    """A row's quantity, measured and by the profile, in `unit`: "s" (a time) or "B/s" (a rate)."""

    case: str
    quantity: str
    measured: float
    fitted: float
    unit: str

    @property
    def probe(self) -> str:
        """The row's group."""
        return self.case.split("/")[0]

    @property
    def error(self) -> float:
        """Signed relative error of the fit, %."""
        return 100 * (self.fitted / self.measured - 1)


def residuals(rows: Rows, profile: Profile) -> list[Residual]:
    """A residual for every quantity that the profile predicts."""
    return [
        *_copies(rows, profile),
        *_other_copies(rows, profile),
        *_commands(rows, profile),
        *_collectives(rows, profile),
        *_contended(rows, profile),
        *_launches(rows, profile),
        *_compute(rows, profile),
    ]


def _copy_seconds(profile: Profile, direction: HostCopyKind, size: int, rate: float) -> float:
    return _class_seconds(profile.copy_class(direction), size, rate)


def _class_seconds(cls: CopyClass, size: int, rate: float | None = None) -> float:
    """Seconds of a copy at `rate` B/s, its cap unless given."""
    return max(cls.minimum.value, cls.setup.value + size / (rate or cls.cap.value))


def _copies(rows: Rows, profile: Profile) -> Iterator[Residual]:
    for row in rows.find("copy"):
        directions = row.params["directions"]
        if directions == ["d2d"]:
            fitted = _class_seconds(profile.device_copies, int(row.params["bytes"]))
            yield Residual(row.case, "d2d", rows.value(row, "d2d"), fitted, "s")
        elif row.params["count"] > 1:  # a lone copy's time holds the events around it
            flows = [profile.copy_flow(d, gpu) for gpu in range(row.params["ranks"]) for d in directions]
            rates = rates_together(flows, profile.capacities)
            for direction, rate in zip(directions, rates, strict=False):
                fitted = _copy_seconds(profile, direction, int(row.params["bytes"]), rate)
                yield Residual(row.case, direction, rows.value(row, direction), fitted, "s")


def _other_copies(rows: Rows, profile: Profile) -> Iterator[Residual]:
    """Copies on several streams, between GPUs, and of pageable memory."""
    for direction, cls in (("h2d", profile.h2d), ("d2h", profile.d2h), ("d2d", profile.device_copies)):
        for row in equal_trains(rows, direction):
            streams, size = len(row.params["trains"]), int(row.params["trains"][0]["bytes"])
            if size < MIN_ENGINE_SIZE:  # the events between them take their time too
                continue
            # those that move at once share the link: all are done when it has moved their bytes
            fitted = streams * _class_seconds(cls, size)
            yield Residual(row.case, "end", rows.value(row, f"end_{streams - 1}"), fitted, "s")
    for row in rows.find("peer_copy"):
        if profile.p2p is not None:
            fitted = _class_seconds(profile.p2p, int(row.params["bytes"]))
            yield Residual(row.case, "seconds", rows.value(row, "seconds"), fitted, "s")
    for row in rows.find("pageable", busy=0.0):
        fitted = profile.pageable_seconds(row.params["direction"], int(row.params["bytes"]))
        yield Residual(row.case, "call", rows.value(row, "call"), fitted, "s")


def _commands(rows: Rows, profile: Profile) -> Iterator[Residual]:
    streams = profile.streams
    costs = {"event": streams.event.value, "write": streams.write_flag.value, "wait": streams.wait_flag.value}
    costs |= {"host_write": streams.host_flag_write.value, "host_wait": streams.host_flag_wait.value}
    for row in rows.find("commands"):
        size = int(row.params["bytes"])
        if size and "timed" not in row.params["pattern"]:
            parts = row.params["pattern"].split("+")
            fitted = _copy_seconds(profile, "h2d", size, profile.h2d.cap.value)
            fitted += sum(costs.get(part, 0.0) for part in parts)
            fitted += len(parts) * streams.beside_kernel.value if row.params["beside"] else 0.0
            yield Residual(row.case, "seconds", rows.value(row, "seconds"), fitted, "s")
    for row in rows.find("wake", by="event"):
        fitted = streams.wake.value + streams.event.value
        yield Residual(row.case, "seconds", rows.value(row, "seconds"), fitted, "s")


class _Moving(NamedTuple):
    """A collective's parts: its latency (s), the bytes of its slowest flow, and that flow's and a copy's rates, B/s."""

    latency: float
    size: float
    rate: float
    copy: float


def _moving(profile: Profile, row: Row, copies: HostCopyKind | None) -> _Moving:
    """The collective of `row`, with a copy in direction `copies` on every rank."""
    kind, ranks = row.params["collective"], int(row.params["ranks"])
    (phase,) = collectives.flows(profile, kind, int(row.params["bytes"]), range(ranks))
    flows: list[FlowSpec] = [flow for flow, _ in phase.flows]
    if copies:
        flows += [profile.copy_flow(copies, gpu) for gpu in range(ranks)]
    rates = rates_together(flows, profile.capacities)
    _, size, rate = max((p.size / rate, p.size, rate) for (_, p), rate in zip(phase.flows, rates, strict=False))
    return _Moving(phase.latency, size, rate, rates[-1])


def _collectives(rows: Rows, profile: Profile) -> Iterator[Residual]:
    for row in rows.find("collective"):
        if row.params["collective"] in KINDS:
            fitted = collectives.isolated_time(
                profile, row.params["collective"], int(row.params["bytes"]), range(row.params["ranks"])
            )
            yield Residual(row.case, "seconds", rows.value(row, "seconds"), fitted, "s")


def _contended(rows: Rows, profile: Profile) -> Iterator[Residual]:
    for row in rows.find("beside"):
        kind, chunk, direction = row.params["collective"], int(row.params["chunk"]), row.params["direction"]
        if kind in KINDS and sent(row):
            isolated, found = _moving(profile, row, None), _moving(profile, row, direction)
            start = profile.copy_class(direction).setup.value + profile.collective_class(kind).copy_start.value
            start += profile.streams.event.value / int(row.params["events_every"])
            moving = chunk / found.copy
            # while a copy starts the collective has the link to itself
            rate = (found.rate * moving + isolated.rate * start) / (moving + start)
            fitted = found.latency + found.size / rate
            yield Residual(row.case, "seconds", rows.value(row, "seconds"), fitted, "s")
            yield Residual(row.case, "rate", rows.value(row, "rate"), chunk / (moving + start), "B/s")


def _launches(rows: Rows, profile: Profile) -> Iterator[Residual]:
    for row in rows.find("launch", direction="h2d"):
        if rows.has(row, "beside"):
            full = rows.value(row, "rate") / profile.h2d.cap.value
            delay = profile.streams.launch_delay.value * rows.value(row, "launches") * full
            fitted = rows.value(row, "alone") + delay
            yield Residual(row.case, "beside", rows.value(row, "beside"), fitted, "s")


def _compute(rows: Rows, profile: Profile) -> Iterator[Residual]:
    device = profile.device
    attention = rows.find("attention")
    if attention:  # slower backends would be chosen by nobody
        fastest = max(attention, key=lambda row: flops(row) / rows.value(row, "seconds")).params["backend"]
        attention = [row for row in attention if row.params["backend"] == fastest]
    for row in [*rows.find("gemm"), *attention]:
        efficiency = device.compute_efficiency
        if row.kind == "attention" and device.attention_efficiency is not None:
            efficiency = device.attention_efficiency
        fitted = flops(row) / (device.peak_flops.value * efficiency.value)
        yield Residual(row.case, "seconds", rows.value(row, "seconds"), fitted, "s")
