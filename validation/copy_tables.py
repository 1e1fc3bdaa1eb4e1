"""Tables of copies on several streams, of pageable memory and within a GPU, and of flags in host memory."""

from __future__ import annotations

from collections.abc import Sequence

from sim.datasets.probe_rows import RAW, Row
from validation.datasets import DATA
from validation.markdown import table
from validation.step_statistics import MIB, probes, short, value

BETWEEN = {
    "nothing": "nothing",
    "events": "an event without timing",
    "timed": "an event with timing",
    "eventwaits": "a satisfied event wait",
    "waits": "a satisfied flag wait",
    "writes": "a flag write before and behind",
}


def copy_sets() -> tuple[str, ...]:
    """Names of data sets with such rows; some have no cases."""
    names = sorted(file.parent.name for file in DATA.glob(f"*/{RAW}"))
    return tuple(name for name in names if any(row.kind == "engine" for row in probes(name).values()))


def _found(kind: str) -> list[tuple[str, Row]]:
    return [(name, row) for name in copy_sets() for row in probes(name).values() if row.kind == kind]


def _size(size: int) -> str:
    return f"{size // MIB} MiB" if size >= MIB else f"{size // 2**10} KiB"


def _words(train: dict[str, int | str]) -> str:
    """Such as "16 H2D of 4 MiB"."""
    count = f"{train['count']} " if train["count"] != 1 else ""
    return f"{count}{str(train['direction']).upper()} of {_size(int(train['bytes']))}"


def engines() -> str:
    """When equal copies end that are posted together, one a stream, as a multiple of one's isolated time."""
    rows = []
    for name, row in _found("engine"):
        trains = row.params["trains"]
        if row.params["posted"] == "together" and trains == [trains[0]] * len(trains) and trains[0]["count"] == 1:
            isolated = value(row, "alone_0")
            ends = [f"x{value(row, f'end_{i}') / isolated:.2f}" for i in range(len(trains))]
            shown = f"{len(trains)} x {_words(trains[0])}"
            rows.append((short(name), shown, f"{1e6 * isolated:.1f}", *ends, *[""] * (3 - len(ends))))
    return table(("session", "copies", "isolated us", "first ends", "second", "third"), rows, 2)


def engine_turns() -> str:
    """What ends when of two trains on two streams, by what is between their copies."""
    rows = []
    for between, words in BETWEEN.items():
        for name, row in _found("engine"):
            trains = row.params["trains"]
            if row.params["between"] == between and row.params["posted"] == "together" and trains[0]["count"] > 1:
                if trains[0] != trains[1]:
                    continue
                isolated = value(row, "alone_0")
                ends = [f"x{value(row, f'end_{i}') / isolated:.2f}" for i in (0, 1)]
                rows.append((short(name), f"2 x {_words(trains[0])}", words, f"{1e6 * isolated:.0f}", *ends))
    return table(("session", "trains", "between copies", "isolated us", "first ends", "second"), rows, 3)


def copies_in_flight() -> str:
    """How long a copy takes that is posted while those of another stream are in flight, and what it does to them."""
    rows = []
    for name, row in _found("engine"):
        if row.params["posted"] != "in_flight" or len(row.params["trains"]) != 2:
            continue
        first, late = row.params["trains"]
        between = f", {BETWEEN[row.params['between']]} between" if first["count"] > 1 else ""
        left, took = value(row, "end_0") - value(row, "posted"), value(row, "end_1") - value(row, "posted")
        times = (value(row, "alone_1"), left, took)
        slower = f"x{value(row, 'end_0') / value(row, 'alone_0'):.3f}"
        rows.append((short(name), _words(first) + between, _words(late), *(f"{1e6 * t:.0f}" for t in times), slower))
    headers = (
        "session",
        "in flight",
        "posted meanwhile",
        "isolated us",
        "others end after us",
        "it ends after us",
        "others",
    )
    return table(headers, rows, 3)


def device_copies() -> str:
    """Copies within a GPU's memory, isolated and concurrent with others."""
    rows = []
    for name in copy_sets():
        for row in probes(name).values():
            if row.kind == "copy" and row.params["directions"] == ["d2d"]:
                size, seconds = row.params["bytes"], value(row, "d2d")
                cells = (f"{1e6 * seconds:.2f}", f"{size / seconds / 1e9:.0f}", "")
                rows.append((short(name), _size(size), "", *cells))
            elif row.kind == "engine" and row.params["posted"] == "together":
                trains: Sequence[dict[str, int | str]] = row.params["trains"]
                if trains[1]["direction"] == "d2d" and trains[0]["direction"] != "d2d":
                    size, count = int(trains[1]["bytes"]), int(trains[1]["count"])
                    seconds = (value(row, "end_1") - value(row, "start_1")) / count
                    other = f"x{value(row, 'end_0') / value(row, 'alone_0'):.3f}"
                    cells = (f"{1e6 * seconds:.2f}", f"{size / seconds / 1e9:.0f}", other)
                    rows.append((short(name), _size(size), _words(trains[0]), *cells))
    return table(("session", "size", "beside", "us", "GB/s", "the other takes"), rows, 3)


def pageable() -> str:
    """How long copies of pageable memory block the host thread, on an idle stream and behind a kernel."""
    rows = []
    for name in copy_sets():
        found = {
            (row.params["direction"], row.params["bytes"], bool(row.params["busy"])): row
            for row in probes(name).values()
            if row.kind == "pageable"
        }
        for size in sorted({size for _, size, _ in found}):
            cells = []
            for direction in ("h2d", "d2h"):
                row = found.get((direction, size, False))
                times = [value(row, q) for q in ("call", "seconds")] if row else []
                cells += [f"{1e6 * t:.1f}" for t in times] or ["", ""]
                cells.append(f"{size / times[0] / 1e9:.2f}" if times else "")
            behind = found.get(("h2d", size, True))
            cells.append("" if behind is None else "before" if value(behind, "ahead") == 1 else "after")
            shown = _size(size) if size % MIB == 0 or size < MIB else f"{size / MIB:g} MiB"
            rows.append((short(name), shown, *cells))
    each = ("blocked us", "complete us", "GB/s")
    headers = ("session", "size", *(f"{d}, {c}" for d in ("H2D", "D2H") for c in each), "H2D behind a kernel returns")
    return table(headers, rows, 2)


_COPY, _KERNEL = f"commands/copy/alone/{MIB}", "commands/kernel/alone"
HOST_FLAGS = (
    ("two writes around a copy of 1 MiB", f"host_write+copy+host_write/{MIB}", f"write+copy+write/alone/{MIB}", _COPY),
    ("satisfied wait before a copy of 1 MiB", f"host_wait+copy/{MIB}", f"wait+copy/alone/{MIB}", _COPY),
    ("write between kernels", "kernel+host_write", "kernel+write/alone", _KERNEL),
    ("satisfied wait between kernels", "kernel+host_wait", "kernel+wait/alone", _KERNEL),
)
"""What it is; the row with flags in host memory, that with flags in device memory, and the row without flags."""

HOST_WAKES = (
    ("write to kernel blocked by it, the write too", "host_flag/wake/kernel", "wake/flag/kernel"),
    ("write to copy blocked by it, the write too", "host_flag/wake/copy", "wake/flag/copy"),
    ("a turn between two streams of a GPU", "host_flag/turns/1", None),
    ("a turn between two GPUs", "host_flag/turns/2", None),
)


def host_flags() -> str:
    """Flags in host memory and those in device memory, us."""
    rows = []
    for name in copy_sets():
        seconds = {case: value(row, "seconds") for case, row in probes(name).items() if _has_seconds(row)}
        for what, host, device, without in HOST_FLAGS:
            costs = [seconds[case] - seconds[without] for case in (f"host_flag/{host}", f"commands/{device}")]
            rows.append((short(name), what, *(f"{1e6 * cost:.2f}" for cost in costs)))
        for what, host, like in HOST_WAKES:
            if host in seconds:
                rows.append((short(name), what, *(f"{1e6 * seconds[c]:.2f}" if c else "" for c in (host, like))))
    return table(("session", "what", "host memory us", "device memory us"), rows, 2)


def _has_seconds(row: Row) -> bool:
    return bool(row.ranks) and "seconds" in row.ranks[0]
