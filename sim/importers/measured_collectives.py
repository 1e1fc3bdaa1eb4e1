"""Times of nccl-tests in a profile: tables of isolated times, latencies, and what bytes take of the links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sim.hardware import CollectiveClass, Profile
from sim.hardware.collectives import isolated_time, sent_per_rank
from sim.hardware.profile_check import check_profile
from sim.importers.host_profile import profile_of
from sim.importers.host_topology import number, quantity
from sim.importers.nccl_runs import Run
from sim.importers.scaled_tables import fit_tables, is_scaled, scale, table_of, tables
from sim.inputs.config import InputError
from sim.program import CollectiveKind

Plain = dict[str, Any]

SMALL = 2**16
"""Bytes that a rank sends up to which a time is mostly latency."""
_LIKE: dict[str, CollectiveKind] = {"reduce_scatter": "all_gather", "send_recv": "all_to_all"}
_ROUNDS = 4
CLOSE = 0.005
"""Measured times are met within this, relative, where the links are what keeps them from it."""


def fill_nccl_tests(plain: Plain, runs: Sequence[Run]) -> list[str]:
    """Put times into `plain`. Returns what contradicts, was left out or assumed, in sentences.

    Kinds that were not measured keep their tables; where those are scaled from another host, they are scaled by what
    was measured instead.

    Raises:
        InputError: of the run's source: more ranks than the profile has GPUs.
    """
    before = profile_of(plain, runs[0].source)
    remarks = [remark for run in runs for remark in run.remarks]
    for run in runs:
        if run.ranks > before.gpus:
            problem = f"has {run.ranks} ranks, but {before.name} has {before.gpus} GPUs: is it of another host?"
            raise InputError(run.source, "", problem)
    together: dict[tuple[CollectiveKind, int], list[Run]] = {}
    for run in runs:
        together.setdefault((run.kind, run.ranks), []).append(run)
    counts = sorted({run.ranks for run in runs})
    if len(counts) > 1:
        remarks.append(f"times of {', '.join(map(str, counts))} ranks: each number has a table of its own")
    for kind in dict.fromkeys(kind for kind, _ in together):
        tables = {ranks: found for (of, ranks), found in together.items() if of == kind}
        _fill_kind(plain, before, kind, tables)
    remarks += _scale_others(plain, before, together)
    remarks += reconcile(plain, runs[0].source)
    fit_tables(plain, profile_of, runs[0].source)
    return list(dict.fromkeys(remarks))


def _table(kind: CollectiveKind, ranks: int, runs: Sequence[Run], latency: float) -> tuple[list[int], list[float], str]:
    """(bytes that a rank sends, s, source), both ascending. A row that a larger one undercuts was disturbed."""
    times: dict[int, list[float]] = {}
    for run in runs:
        for size, seconds in run.times.items():
            if (sent := round(sent_per_rank(kind, size, ranks))) > 0:
                times.setdefault(sent, []).append(seconds)
    rows: list[tuple[int, float]] = []
    for sent in sorted(times, reverse=True):
        seconds = min(times[sent])
        if not rows or seconds < rows[-1][1] * (1 - 1e-6):
            rows.append((sent, seconds))
    rows.reverse()
    names = ", ".join(dict.fromkeys(run.source for run in runs))
    source = f"{names}, {ranks} ranks"
    sent, seconds = rows[0]
    if sent > 4 * SMALL and seconds > 1.05 * latency:  # below its first row a table says that all takes as long
        below = latency + (seconds - latency) * SMALL / sent
        rows.insert(0, (SMALL, below))
        source += f"; the first row by the second one's rate and {latency * 1e6:.3g} us"
    return [s for s, _ in rows], [float(f"{t:.7g}") for _, t in rows], source


def _latency(sizes: Sequence[int], seconds: Sequence[float], usual: float) -> float:
    """Seconds before the first byte: what small rows take beyond their bytes at the rate of the largest ones."""
    if len(sizes) < 2 or sizes[0] > SMALL:
        return min(usual, 0.5 * seconds[0])
    rate = (sizes[-1] - sizes[-2]) / (seconds[-1] - seconds[-2])
    late = min(t - s / rate for s, t in zip(sizes, seconds, strict=True))
    return min(max(late, 0.3 * seconds[0]), 0.98 * seconds[0])


def _fill_kind(plain: Plain, before: Profile, kind: CollectiveKind, tables: Mapping[int, Sequence[Run]]) -> None:
    like = before.collective_class(kind)
    given: Plain = plain.setdefault("collectives", {}).setdefault(kind, {})
    if getattr(before.collectives, kind) is None:
        given |= _whole(like, _LIKE.get(kind, kind), before.name)
    by_ranks: dict[int, Plain] = {}
    late: dict[int, float] = {}
    for ranks, runs in sorted(tables.items()):
        usual = like.latency_of(ranks)
        sizes, seconds, source = _table(kind, ranks, runs, usual)
        late[ranks] = _latency(sizes, seconds, usual)
        by_ranks[ranks] = {"bytes": sizes, "seconds": seconds, "source": source}
    fewest = min(by_ranks)
    if fewest == 2:
        given["alone"] = by_ranks.pop(2)
    elif "alone" not in given and getattr(before.collectives, kind) is None:
        given["alone"] = by_ranks[fewest] | {"source": f"{by_ranks[fewest]['source']}; not measured with fewer"}
    kept = {int(n): t for n, t in (given.get("alone_by_ranks") or _plain_tables(like)).items()}
    if by_ranks or kept:
        given["alone_by_ranks"] = {**kept, **by_ranks}
    _set_latency(given, late, like)


def _plain_tables(like: CollectiveClass) -> dict[int, Plain]:
    return {
        n: {"bytes": [int(b) for b in t.bytes], "seconds": [float(s) for s in t.seconds], "source": t.source}
        for n, t in like.alone_by_ranks.items()
    }


def _whole(like: CollectiveClass, kind: str, name: str) -> Plain:
    """What a class of collectives needs beside its tables, as another kind."""
    said = f"as {kind} of {name}"
    shares = {key: number(float(getattr(like, key).value), said) for key in ("weight", "overhead")}
    return shares | {"copy_start": number(f"{float(like.copy_start.value) * 1e6:.4g} us", said)}


def _set_latency(given: Plain, late: Mapping[int, float], like: CollectiveClass) -> None:
    """One latency and what each rank beyond two adds, both below the first row of every table."""
    first = min(late)
    most = max(late)
    per_rank = (
        max((late[most] - late[first]) / (most - first), 0.0) if most > first else float(like.latency_per_rank.value)
    )
    base = late[first] - per_rank * (first - 2)
    if base <= 0:
        base, per_rank = late[first], 0.0
    firsts = {2: given["alone"]["seconds"][0]} if "alone" in given else {2: float(like.alone.seconds[0])}
    firsts |= {n: t["seconds"][0] for n, t in given.get("alone_by_ranks", {}).items()}
    base = min(base, 0.98 * firsts[2])
    per_rank = min([per_rank, *((0.98 * t - base) / (n - 2) for n, t in firsts.items() if n > 2)])
    if per_rank < 0:
        base, per_rank = min(0.98 * t for t in firsts.values()), 0.0
    said = "small rows of the tables, less their bytes at the rate of the largest"
    given["latency"] = number(f"{base * 1e6:.4g} us", said)
    given["latency_per_rank"] = number(f"{per_rank * 1e6:.4g} us", said)


def _scale_others(
    plain: Plain, before: Profile, together: Mapping[tuple[CollectiveKind, int], Sequence[Run]]
) -> list[str]:
    """Scale tables that are another host's by how much slower what was measured is than they said of it.

    A kind that was measured with another number of ranks goes by itself, the others by all-to-all, or what there is.
    """
    factors: dict[str, tuple[float, str]] = {}
    for (kind, ranks), runs in sorted(together.items(), key=lambda item: item[0][1], reverse=True):
        size, seconds = max(runs[0].times.items())
        factor = seconds / isolated_time(before, kind, size, range(ranks))
        factors[kind] = factor, f"as {kind} of {ranks} ranks in {runs[0].source} is to what was assumed"
    reference = factors.get("all_to_all") or next(iter(factors.values()))
    others = []
    for other, ranks, table in tables(plain):
        if is_scaled(table):
            factor, said = factors.get(other, reference)
            scale(table, before.collective_class(other).latency_of(ranks), factor, said)
            others += [other] if other not in factors else []
    if not others:
        return []
    said = ", ".join(dict.fromkeys(others))
    return [f"{said}: no times are given; scaled by {reference[0]:.3g}, {reference[1]}"]


def reconcile(plain: Plain, source: str) -> list[str]:
    """Lower what a byte takes of links where a measured time is shorter than they allow; say where that is a lot."""
    remarks = []
    for _ in range(_ROUNDS):
        profile = profile_of(plain, source)
        worst: dict[tuple[CollectiveKind, int], tuple[float, Any]] = {}
        for check in check_profile(profile):
            late = profile.collective_class(check.kind).latency_of(check.ranks)
            room = max(check.table_s - late, 1e-9) / max(check.isolated_s - late, 1e-9)
            table = table_of(plain, check)
            own = bool(table) and not is_scaled(table) and not table.get("inherited_from")
            slow = own and (check.contradicts or check.error > CLOSE)
            if slow and room < worst.get((check.kind, check.ranks), (1.0, None))[0]:
                worst[check.kind, check.ranks] = room, check
        if not worst:
            break
        for (kind, ranks), (room, check) in worst.items():
            cls = getattr(profile.collectives, kind)
            share = cls.contention(ranks)
            held = float((share.isolated_overhead or share.overhead).value)
            taken = float(f"{held * room * 0.995:.4g}")
            remarks += _above(profile, check, taken) if taken < 0.95 else []
            _set_overhead(plain["collectives"].setdefault(kind, {}), profile, kind, ranks, taken, source)
    return list({remark.partition(" moves ")[0]: remark for remark in remarks}.values())


def _above(profile: Profile, check: Any, taken: float) -> list[str]:
    sent = sent_per_rank(check.kind, check.buffer, check.ranks)
    full = ", ".join(
        f"{name} ({quantity(dict(zip(profile.resource_names, profile.capacities, strict=True))[name])})"
        for name in check.bottlenecks[:2]
    )
    return [
        f"contradiction: {check.kind} on {check.ranks} ranks moves {quantity(sent / check.table_s)} a rank, above what "
        f"{full or 'the links'} would let it: taken as measured, a byte takes {taken:.2g} of the links; "
        "they are wider, or GPUs reach each other another way (NVLink, --peers)"
    ]


def _set_overhead(given: Plain, profile: Profile, kind: CollectiveKind, ranks: int, taken: float, source: str) -> None:
    """What a byte takes while no copy is in flight; also beside copies where that is clearly less than a byte."""
    share = profile.collective_class(kind).contention(ranks)
    told = number(taken, f"{source}: {ranks} ranks reach their measured times with it")
    values = {
        "weight": number(float(share.weight.value), share.weight.source),
        "overhead": told if taken < 0.9 else number(float(share.overhead.value), share.overhead.source),
        "isolated_overhead": told,
    }
    if ranks == 2:
        given |= {key: values[key] for key in ("overhead", "isolated_overhead")}
        return
    known = given.get("contention_by_ranks")
    if known is None:
        known = given["contention_by_ranks"] = {}
        for n, one in profile.collective_class(kind).contention_by_ranks.items():
            known[n] = {
                "weight": number(float(one.weight.value), one.weight.source),
                "overhead": number(float(one.overhead.value), one.overhead.source),
            }
            if one.isolated_overhead is not None:
                known[n]["isolated_overhead"] = number(float(one.isolated_overhead.value), one.isolated_overhead.source)
    known[ranks] = values
