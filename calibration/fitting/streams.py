"""Costs of commands on streams and host threads, and how copies slow kernels."""

from __future__ import annotations

from statistics import median

from calibration.fitting.estimators import FitError, Fitted, borrowed, median_and_spread
from calibration.fitting.selection import Rows
from sim.datasets.probe_rows import Row
from sim.hardware import Profile

HOST_WRITE, HOST_WAIT = "host_write+copy+host_write", "host_wait+copy"
"""Patterns with flags in host memory."""

NOISE_S = 1e-6
"""A fitted cost may be negative down to this; more is an error."""


def fit_streams(rows: Rows, copies: dict[str, Fitted], fallback: Profile) -> dict[str, Fitted]:
    """`streams` and `host` by key path; what was not measured has the value of `fallback`."""
    costs = {"event": "copy+event", "wait_flag": "wait+copy", "write_flag": "write+copy+write"}
    found = {f"streams.{name}": _extra(rows, f"streams.{name}", pattern, fallback) for name, pattern in costs.items()}
    found["streams.wake"] = _wake(rows, found["streams.event"].value, fallback)
    found["streams.flag_wake"] = _flag_wake(rows, found["streams.write_flag"].value, fallback)
    found |= _host_flags(rows, fallback)
    found["streams.beside_kernel"] = _beside_kernel(rows, fallback)
    found["streams.launch_delay"] = _launch_delay(rows, copies["h2d.cap"].value, fallback)
    calls = {"kernel": "gemm", "copy": "copy", "collective": "collective", "event": "event", "memop": "write_flag"}
    for name, call in calls.items():
        issued = rows.find("issue", call=call)
        found[f"host.{name}"] = (
            Fitted(rows.value(issued[0], "seconds"), rows.spread(issued, "seconds"), issued[0].case)
            if issued
            else _from_fallback(fallback, f"host.{name}")
        )
    for name, call in (("device_copy", "device_copy"), ("point_to_point", "exchange")):
        if issued := rows.find("issue", call=call):
            taken = Fitted(rows.value(issued[0], "seconds"), rows.spread(issued, "seconds"), issued[0].case)
            found[f"host.{name}"] = taken
    found["host.wake"] = _host_wake(rows, fallback)
    found["host.sync"] = _from_fallback(fallback, "host.sync")
    found["host.queue_depth"] = _depth(rows, fallback)
    return found


def _from_fallback(fallback: Profile, path: str) -> Fitted:
    group, name = path.split(".")
    return borrowed(getattr(getattr(fallback, group), name), fallback.name)


def turn(rows: Rows, pattern: str, size: int, beside: str | None) -> Row | None:
    """The row of a train of `pattern`."""
    found = rows.find("commands", pattern=pattern, bytes=size, beside=beside)
    return found[0] if found else None


def _sizes(rows: Rows) -> list[int]:
    return sorted({int(r.params["bytes"]) for r in rows.find("commands") if r.params["bytes"]})


def _not_negative(seconds: float, path: str, where: str, rows: Rows) -> float:
    if rows.strict and seconds < -NOISE_S:
        raise FitError(f"{path} comes out as {seconds * 1e6:.2f} us from {where}: a cost cannot be negative")
    return max(seconds, 0.0)


def _extra(rows: Rows, path: str, pattern: str, fallback: Profile) -> Fitted:
    """Seconds of one command that a turn has more than a bare copy, over all sizes."""
    more = pattern.count("+")
    values = []
    for size in _sizes(rows):
        plain, row = turn(rows, "copy", size, None), turn(rows, pattern, size, None)
        if plain and row:
            values.append((rows.value(row, "seconds") - rows.value(plain, "seconds")) / more)
    if not values:
        return _from_fallback(fallback, path)
    seconds, spread = median_and_spread(values)
    where = f"{'host_flag' if pattern.startswith('host_') else 'commands'}/{pattern} less commands/copy"
    if pattern == "copy+event" and not (timed := _extra(rows, path, "copy+timed", fallback)).inherited_from:
        where += f"; {timed.value * 1e6:.2f} us with timing"
    return Fitted(_not_negative(seconds, path, where, rows), spread if seconds > 0 else None, where)


def _wake(rows: Rows, event: float, fallback: Profile) -> Fitted:
    """Behind a copy: this is what kernels wait for when weights are late."""
    found = rows.find("wake", by="event")
    chosen = [row for row in found if row.params["work"] == "copy"] or found
    if not chosen:
        return _from_fallback(fallback, "streams.wake")
    where = f"{chosen[0].case}, less streams.event"
    for row in found:
        if row is not chosen[0]:
            where += f"; {rows.value(row, 'seconds') * 1e6:.2f} us in {row.case}"
    seconds = _not_negative(rows.value(chosen[0], "seconds") - event, "streams.wake", where, rows)
    return Fitted(seconds, rows.spread(chosen[:1], "seconds"), where)


def _flag_wake(rows: Rows, write: float, fallback: Profile) -> Fitted:
    found = [r for r in rows.find("wake", by="flag") if r.params["work"] == "kernel"]
    if not found:
        return _from_fallback(fallback, "streams.flag_wake")
    where = f"{found[0].case}, less streams.write_flag"
    return Fitted(max(rows.value(found[0], "seconds") - write, 0.0), rows.spread(found, "seconds"), where)


def _host_flags(rows: Rows, fallback: Profile) -> dict[str, Fitted]:
    """Flags in host memory, if they were measured."""
    if not rows.find("commands", pattern=HOST_WRITE):
        return {}
    found = {
        "streams.host_flag_write": _extra(rows, "streams.host_flag_write", HOST_WRITE, fallback),
        "streams.host_flag_wait": _extra(rows, "streams.host_flag_wait", HOST_WAIT, fallback),
    }
    woken = [r for r in rows.find("wake", by="host_flag") if r.params["work"] == "kernel"]
    if woken:
        where = f"{woken[0].case}, less streams.host_flag_write"
        for row in rows.find("host_flag_turns"):
            between = "two streams of a GPU" if row.params["ranks"] == 1 else "two GPUs"
            where += f"; {rows.value(row, 'seconds') * 1e6:.2f} us a turn between {between}"
        seconds = rows.value(woken[0], "seconds") - found["streams.host_flag_write"].value
        found["streams.host_flag_wake"] = Fitted(max(seconds, 0.0), rows.spread(woken, "seconds"), where)
    return found


def _beside_kernel(rows: Rows, fallback: Profile) -> Fitted:
    """Extra seconds a command while a kernel runs, over all trains on the copy stream."""
    values = []
    for row in rows.find("commands", beside="kernel"):
        pattern, size = row.params["pattern"], int(row.params["bytes"])
        isolated = turn(rows, pattern, size, None)
        if isolated and size:
            values.append((rows.value(row, "seconds") - rows.value(isolated, "seconds")) / (pattern.count("+") + 1))
    if not values:
        return _from_fallback(fallback, "streams.beside_kernel")
    where = "commands beside a kernel less alone, a command"
    return Fitted(_not_negative(median(values), "streams.beside_kernel", where, rows), None, where)


def launch_extra(rows: Rows, row: Row) -> float:
    """Seconds that each launch of `row` takes longer with copies in flight."""
    return (rows.value(row, "beside") - rows.value(row, "alone")) / rows.value(row, "launches")


def _launch_delay(rows: Rows, cap: float, fallback: Profile) -> Fitted:
    """From whole blocks if they were measured, weighted by what their spread leaves of it: clocks move long chains."""
    found = [row for row in rows.find("launch", direction="h2d") if rows.has(row, "beside")]
    blocks = [row for row in found if row.params["work"] == "block"]
    chosen = blocks or [row for row in found if row.params["work"] == "elementwise"]
    if not chosen:
        return _from_fallback(fallback, "streams.launch_delay")
    values, weights = [], []
    for row in chosen:
        values.append(launch_extra(rows, row) * cap / rows.value(row, "rate"))
        spread = max(rows.spread([row], "alone") or 0.0, rows.spread([row], "beside") or 0.0, 1e-4)
        weights.append((rows.value(row, "launches") / (spread * rows.value(row, "alone"))) ** 2)
    seconds = sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)
    error = sum(weights) ** -0.5 / abs(seconds) if seconds else None
    where = f"{', '.join(row.case for row in chosen)}: beside copies less alone, a launch, at the link's full rate"
    return Fitted(max(seconds, 0.0), error, where + ("" if seconds > 0 else f"; {seconds * 1e6:.2f} us taken as 0"))


def _host_wake(rows: Rows, fallback: Profile) -> Fitted:
    found = rows.find("host_wake")
    if not found:
        return _from_fallback(fallback, "host.wake")
    seconds = rows.value(found[0], "blocked") - rows.value(found[0], "polling")
    where = f"{found[0].case}: a host thread blocked on an event less one that polls it"
    return Fitted(max(seconds, 0.0), rows.spread(found, "blocked"), where)


def _depth(rows: Rows, fallback: Profile) -> Fitted:
    found = [row for row in rows.find("depth") if rows.has(row, "full") and row.ranks[0]["full"].median == 1]
    if not found:
        return _from_fallback(fallback, "host.queue_depth")
    depths = {row.params["call"]: rows.value(row, "commands") for row in found}
    where = "depth: commands that a parked stream took: " + ", ".join(f"{d:.0f} of {c}" for c, d in depths.items())
    return Fitted(depths.get("elementwise", min(depths.values())), None, where)
