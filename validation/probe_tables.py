"""Tables of what hosts, links and commands did on their own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import median

from sim.datasets.cases import MeasuredCase, load_cases, load_origin
from sim.datasets.probe_rows import Row
from sim.hardware import load_profile
from validation.datasets import load_set, probed_sets
from validation.markdown import maybe, span, table
from validation.step_statistics import (
    CHUNKS,
    FOUR,
    LARGE,
    MIB,
    NVLINK,
    TWO,
    crosses_nvlink,
    folder,
    kernel_to_collective_gaps,
    probes,
    rates,
    short,
    value,
    yields,
)

H200 = "NVIDIA H200"
"""As CUDA names it, and rows of probes with it."""


def hosts() -> str:
    """One row a set: where, when, what, and how the GPUs were."""
    rows = []
    for name in probed_sets():
        everything, chosen = load_cases(folder(name)), load_set(name)
        host = load_origin(folder(name)).fingerprint
        path = "none" if host["peers"] == "none" else "NVLink" if crosses_nvlink(name) else "host memory"
        dates = [case.date[11:16] for case in everything]
        baselines = sum(c.scenario["policy"]["kind"] == "resident" for c in chosen.cases)
        spreads = [100 * c.spread for c in chosen.cases]
        rows.append(
            (
                short(name),
                host["host"],
                host["gpu"].replace("NVIDIA ", ""),
                path,
                f"{min(dates)} to {max(dates)}",
                f"{len(chosen.cases) - baselines} + {baselines}",
                _sampled(chosen.cases, "sm_mhz", "{:.0f}"),
                _sampled(chosen.cases, "power_w", "{:.0f}"),
                _sampled(chosen.cases, "temperature_c", "{:.0f}"),
                f"{median(spreads):.2f} ({max(spreads):.2f})",
            )
        )
    headers = ("session", "host", "GPUs", "collectives cross", "UTC", "cases", "SM MHz", "W", "C", "spread %")
    return table(headers, rows, 5)


def _sampled(cases: Sequence[MeasuredCase], quantity: str, form: str) -> str:
    found = [s for case in cases for key, s in case.sampled.items() if key.endswith(quantity)]
    return span([s[k] for s in found for k in ("min", "max")], form)


def host_limits() -> str:
    """GB/s of each GPU by direction and number of GPUs that copy."""
    rows = []
    for name in probed_sets():
        for directions in (("h2d",), ("d2h",), ("h2d", "d2h")):
            for ranks in (1, 2, 4):
                row = probes(name).get(f"copy/{'+'.join(directions)}/{ranks}/train/{512 * MIB}")
                if row is not None:
                    each = [span((r / 1e9 for r in rates(row, d)), "{:.1f}") for d in directions]
                    total = sum(sum(rates(row, d)) for d in directions) / 1e9
                    rows.append(
                        (short(name), " and ".join(directions).upper(), str(ranks), " and ".join(each), f"{total:.0f}")
                    )
    return table(("session", "direction", "GPUs", "each GB/s", "all GB/s"), rows, 2)


def contention() -> str:
    """Rates of copies by chunk, isolated and during collectives, and how much longer those take."""
    rows = []
    for name in (TWO, NVLINK, FOUR):
        ranks = 4 if name == FOUR else 2
        isolated = [rates(probes(name)[f"copy/h2d/{ranks}/train/{chunk}"], "h2d") for chunk in CHUNKS]
        rows.append((short(name), "isolated copies", "", "", *(f"{sum(r) / len(r) / 1e9:.1f}" for r in isolated)))
        for kind in ("all_to_all", "all_reduce"):
            for direction in ("h2d", "d2h"):
                beside = [probes(name).get(f"beside/{kind}/{LARGE}/{direction}/{chunk}") for chunk in CHUNKS]
                if not any(beside):
                    continue
                seconds = median(value(row, "alone_seconds") for row in beside if row)
                cells = [f"{value(r, 'rate') / 1e9:.1f}, x{_slower(r):.2f}" if r else "" for r in beside]
                rows.append((short(name), kind, direction.upper(), f"{1e3 * seconds:.2f}", *cells))
    sizes = [f"{chunk // MIB} MiB" for chunk in CHUNKS]
    return table(("session", "collective of 160 MiB", "copies", "isolated ms", *sizes), rows, 3)


def _slower(row: Row) -> float:
    return value(row, "seconds") / value(row, "alone_seconds")


def sm_copies() -> str:
    """Copies by a kernel's CTAs and by the DMA engine, during all-to-alls of 40 MiB."""
    rows = []
    for name in (TWO, NVLINK, FOUR):
        for ctas in (1, 2, 3, 4, 6, 8):
            row = probes(name)[f"sm_copy/{ctas}"]
            seen = "seconds" in row.ranks[0]
            beside = f"{value(row, 'copy_beside') / 1e9:.1f}" if seen else "not seen"
            slower = f"x{_slower(row):.2f}" if seen else ""
            rows.append((short(name), f"{ctas} CTAs", f"{value(row, 'copy_alone') / 1e9:.1f}", beside, slower))
        ranks = 4 if name == FOUR else 2
        engine = rates(probes(name)[f"copy/h2d/{ranks}/train/{64 * MIB}"], "h2d")
        row = probes(name)[f"beside/all_to_all/{40 * MIB}/h2d/{64 * MIB}"]
        cells = f"{sum(engine) / len(engine) / 1e9:.1f}", f"{value(row, 'rate') / 1e9:.1f}", f"x{_slower(row):.2f}"
        rows.append((short(name), "DMA, 64 MiB", *cells))
    return table(("session", "copies by", "isolated GB/s", "concurrent GB/s", "all-to-all"), rows, 2)


def collectives() -> str:
    """Isolated times by size and number of ranks, us."""
    rows = []
    for size in (64 * 2**10, 256 * 2**10, MIB, 4 * MIB, 16 * MIB, LARGE):
        shown = f"{size // MIB} MiB" if size >= MIB else f"{size // 2**10} KiB"
        cells = [
            f"{1e6 * value(probes(name)[f'collective/{kind}/{ranks}/{size}'], 'seconds'):.1f}"
            for kind in ("all_to_all", "all_reduce", "all_gather")
            for name, ranks in ((TWO, 2), (FOUR, 2), (FOUR, 4), (NVLINK, 2))
        ]
        rows.append((shown, *cells))
    places = ("2 GPUs of a", "2 GPUs of d", "4 GPUs of d", "2, NVLink")
    headers = (
        "buffer",
        *(f"{kind}, {place}" for kind in ("all-to-all", "all-reduce", "all-gather") for place in places),
    )
    return table(headers, rows)


def _less(one: str, other: str) -> Callable[[dict[str, Row]], float | None]:
    return lambda rows: value(rows[one], "seconds") - value(rows[other], "seconds") if one in rows else None


def _plain(case: str, quantity: str = "seconds") -> Callable[[dict[str, Row]], float | None]:
    return lambda rows: value(rows[case], quantity) if case in rows else None


def _slowdown(case: str) -> Callable[[dict[str, Row]], float | None]:
    return lambda rows: value(rows[case], "beside") - value(rows[case], "alone")


_TRAIN = f"alone/{MIB}"
COMMANDS: tuple[tuple[str, Callable[[dict[str, Row]], float | None]], ...] = (
    ("copy of 64 KiB, back to back", _plain(f"copy/h2d/1/train/{2**16}", "h2d")),
    ("copy of 64 KiB, isolated between events", _plain(f"copy/h2d/1/lone/{2**16}", "h2d")),
    ("event without timing", _less(f"commands/copy+event/{_TRAIN}", f"commands/copy/{_TRAIN}")),
    ("event with timing", _less(f"commands/copy+timed/{_TRAIN}", f"commands/copy/{_TRAIN}")),
    ("satisfied flag wait before a copy", _less(f"commands/wait+copy/{_TRAIN}", f"commands/copy/{_TRAIN}")),
    ("two flag writes around a copy", _less(f"commands/write+copy+write/{_TRAIN}", f"commands/copy/{_TRAIN}")),
    ("flag write between kernels", _less("commands/kernel+write/alone", "commands/kernel/alone")),
    ("satisfied flag wait between kernels", _less("commands/kernel+wait/alone", "commands/kernel/alone")),
    ("record to kernel behind the event", _plain("wake/event/kernel")),
    ("record to copy behind the event", _plain("wake/event/copy")),
    ("flag write to the kernel that it blocked, with the write", _plain("wake/flag/kernel")),
    ("flag write to the copy that it blocked, with the write", _plain("wake/flag/copy")),
    ("400 elementwise launches, longer by concurrent H2D", _slowdown("launch/elementwise/h2d")),
    ("40 launches of a block, 2048 tokens, longer by H2D", _slowdown("launch/block/2048")),
    ("issue of a GEMM, host", _plain("issue/gemm")),
    ("issue of an elementwise kernel, host", _plain("issue/elementwise")),
    ("issue of a copy, host", _plain("issue/copy")),
    ("issue of an event, host", _plain("issue/event")),
    ("issue of a flag write, host", _plain("issue/write_flag")),
    ("issue of a collective, host", _plain("issue/collective")),
)
"""What it is and how it is read from a set's rows, s."""


def commands() -> str:
    """Costs of single commands by set, us."""
    sets = probed_sets()
    rows = [(what, *(maybe(of(probes(name)), 1e6, "{:.2f}") for name in sets)) for what, of in COMMANDS]
    depths = ("elementwise", "write_flag", "copy", "write_flag+copy")
    pending = [span((value(probes(n)[f"depth/{d}"], "commands") for d in depths), "{:.0f}") for n in sets]
    rows.append(("commands that a parked stream takes", *pending))
    return table(("us", *map(short, sets)), rows)


def released() -> str:
    """What stands between a kernel and a collective on the compute stream, by whether a copy is in flight."""
    rows = []
    for what, window_ in (("flag write, event", "device_gate"), ("event", "launch")):
        for name in probed_sets():
            cases = [c for c in load_set(name).cases if yields(c) == window_ and not c.by_copy_engines]
            seen = [pair for case in cases for pair in kernel_to_collective_gaps(case)]
            cells: list[str] = []
            for flying in (False, True):
                times = sorted(1e6 * s for f, s in seen if f == flying)
                tenth = len(times) // 10
                few = [f"{times[k]:.1f}" for k in (tenth, len(times) // 2, -1 - tenth)] if times else ["-"] * 3
                cells += [str(len(times)), *few]
            if seen:
                rows.append((what, short(name), *cells))
    columns = ("seen", "p10 us", "median us", "p90 us")
    headers = ("what", "session", *(f"{c}, {w}" for w in ("no copy", "copy in flight") for c in columns))
    return table(headers, rows, 2)


def events() -> str:
    """By how much events around every command lengthen a step, by policy and chunk."""
    longer: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name in probed_sets():
        for case in load_set(name).cases:
            policy = case.scenario["policy"]
            longer[policy["kind"], policy.get("chunk_bytes", "")].append(100 * case.event_overhead)
    rows = [
        (*key, str(len(v)), f"{median(v):+.1f}", span(v, "{:+.1f}")) for key, v in sorted(longer.items(), key=_size)
    ]
    return table(("policy", "chunk", "cases", "median %", "least, most %"), rows, 2)


def _size(item: tuple[tuple[str, str], list[float]]) -> tuple[str, int]:
    (policy, chunk), _ = item
    return policy, int(chunk.split()[0]) if chunk else 0


def slow_copies() -> str:
    """Rows of copies that took over 2 % longer than the fastest host of several H200 did with the same row."""
    wanted = re.compile(r"copy/(h2d|d2h)/1/(train|lone)/\d+|commands/[+a-z]*copy[+a-z]*/(alone|beside)/\d+")
    everything = {name: probes(name) for name in probed_sets()}
    slow = []
    for case in dict.fromkeys(c for rows in everything.values() for c in rows if wanted.fullmatch(c)):
        here = {
            n: found[case] for n, found in everything.items() if case in found and found[case].params["bytes"] >= MIB
        }
        times = {n: value(r, "seconds" if r.kind == "commands" else r.params["directions"][0]) for n, r in here.items()}
        # machines of one GPU have quicker commands
        alike = {n: t for n, t in times.items() if here[n].gpu == H200 and load_profile(n).gpus > 1}
        for name, seconds in alike.items():
            if seconds > 1.02 * min(alike.values()):
                date = here[name].date[11:19]
                slow.append((short(name), date, case, f"{1e6 * seconds:.1f}", f"{1e6 * min(alike.values()):.1f}"))
    return table(("session", "UTC", "row of raw.jsonl", "us", "fastest us"), sorted(slow), 3)


def stream_interference() -> str:
    """How many times as long collectives and kernels take during collectives of another communicator."""
    rows = []
    for name in probed_sets():
        for row in probes(name).values():
            if row.kind == "pair" and row.rejected is None:
                kinds = row.params["collective"], row.params["other"]
                shown = f"{kinds[0]} of {row.params['bytes'] // MIB} MiB during {kinds[1]}s of 160 MiB"
                slower = _slower(row), value(row, "other_seconds") / value(row, "other_alone_seconds")
                rows.append((short(name), shown, f"x{slower[0]:.2f}", f"x{slower[1]:.2f}"))
            elif row.kind == "crowd" and row.rejected is None:
                shown = f"blocks of {row.params['tokens']} tokens during {row.params['other']}s of 160 MiB"
                rows.append((short(name), shown, f"x{value(row, 'beside') / value(row, 'alone'):.2f}", ""))
    return table(("session", "what", "takes", "the others take"), rows, 2)
