"""Rows of nccl-tests and rccl-tests, in whatever form they came, and the tests that they make up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, get_args

from sim.inputs.config import InputError
from sim.program import CollectiveKind

KINDS: dict[str, CollectiveKind] = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "sendrecv": "send_recv",
}
"""Tests whose times a profile holds."""

CPU_TIMES = "gives times of the processor (--report_cputime), which are of launches: run it without"
_OTHERS = ("broadcast", "reduce", "gather", "scatter", "hypercube", "alltoallv")


class Timed(NamedTuple):
    """A row, and where it stands: bytes of the buffer, reduction, root; s of halves; bus over algorithm bandwidth."""

    where: str
    size: int
    redop: str
    root: int
    out_of_place: float | None
    in_place: float | None
    ratio: float
    wrong: bool
    unchecked: bool = False
    """Whether results are checked out of place only, as alltoall and sendrecv do, which run on one buffer wrongly."""


class Rank(NamedTuple):
    """A rank: its host and GPU, and the group of ranks that its collectives are of."""

    host: str
    gpu: str
    group: int = 0


class Run(NamedTuple):
    """One test: its kind, ranks, and times (s) by bytes of the buffer on a rank, ascending."""

    kind: CollectiveKind
    ranks: int
    times: dict[int, float]
    remarks: tuple[str, ...]
    gpu: str
    source: str


class Section(NamedTuple):
    """What an output says of one test; `name` is "" and `of`, ranks, 0 where it does not say."""

    name: str
    ranks: dict[int, Rank]
    rows: list[Timed]
    where: str
    of: int = 0
    supposed: int = 0
    """Ranks of one process, which are all there are unless there are several."""


def runs_of(sections: Sequence[Section], source: str, kind: str | None, ranks: int | None, in_place: bool) -> list[Run]:
    """The tests of an output. `kind` and `ranks` say what it does not.

    Raises:
        InputError: of `source`: rows that contradict what is said of ranks, or a test that no profile holds.
    """
    runs = []
    refused = []
    for section in sections:
        name = kind or section.name or _inferred(section, source, ranks)
        if name not in KINDS and name not in get_args(CollectiveKind):
            problem = f"is {name}_perf, of which a profile has no times: it holds {', '.join(KINDS)}"
            refused.append(f"{section.where}: {problem}")
            continue
        runs.append(_run(section, KINDS.get(name, name), source, ranks, in_place))  # type: ignore[arg-type]
    if not runs:
        raise InputError(source, "", refused[0])
    if refused:
        runs[0] = runs[0]._replace(remarks=(*runs[0].remarks, *(f"{source}: left out: {said}" for said in refused)))
    return runs


def _ratio(section: Section) -> float:
    """Bus over algorithm bandwidth, of the row where rounding matters least."""
    return max(section.rows, key=lambda row: row.size).ratio


def _inferred(section: Section, source: str, ranks: int | None) -> str:
    """The test's name, where the output does not say it. Raises InputError where two could have these rows."""
    row = max(section.rows, key=lambda row: row.size)
    ratio = _ratio(section)
    count = ranks or section.of or len(section.ranks)
    if row.root >= 0:
        return "reduce" if row.redop not in ("", "none") else "broadcast"
    if ratio > 1.01:
        return "all_reduce"
    if 0 < ratio < 0.99 and row.redop not in ("", "none"):
        return "reduce_scatter"
    if ratio >= 0.99 and count == 2 and row.redop not in ("", "none") and not row.unchecked:
        return "all_reduce"
    if row.unchecked and 0 < ratio < 0.99:
        return "alltoall"
    if row.unchecked and ratio >= 0.99 and row.redop not in ("", "none"):
        return "sendrecv"
    could = "all_gather or alltoall" if 0 < ratio < 0.99 else "all_reduce, sendrecv or another"
    raise InputError(source, "", f"{row.where}: no line says which test this is, and it could be {could}: give --kind")


def _run(section: Section, kind: CollectiveKind, source: str, given: int | None, in_place: bool) -> Run:
    remarks = []
    group = min((rank.group for rank in section.ranks.values()), default=0)
    members = [rank for rank in section.ranks.values() if rank.group == group]
    groups = Counter(rank.group for rank in section.ranks.values())
    hosts = sorted({rank.host for rank in members})
    if len(hosts) > 1:
        problem = f"ran on {len(hosts)} hosts ({', '.join(hosts[:3])}): expected the GPUs of one"
        raise InputError(source, "", f"{section.where}: {problem}")
    if len(groups) > 1:
        remarks.append(f"{source}: {len(groups)} groups of ranks ran at once: their times are no isolated ones")
    listed, implied = section.of or len(members), _implied(kind, section)
    ranks = given or listed or implied or section.supposed
    if not ranks:
        raise InputError(source, "", f"{section.where}: no line says how many ranks there were: give --ranks")
    if implied is not None and implied != ranks and (implied < 17 or ranks < 17):
        told = "--ranks" if given else "the list of ranks"
        problem = f"has rates of {kind} on {implied} ranks, but {told} says {ranks}"
        raise InputError(source, "", f"{section.rows[-1].where}: {problem}")
    if ranks < 2:
        problem = "ran on one rank: collectives of at least 2 are times of links"
        raise InputError(source, "", f"{section.where}: {problem}")
    if not given and not listed:
        said = f"busbw / algbw of {kind}" if implied else "nThread and nGpus, as of one process"
        remarks.append(f"{source}: {ranks} ranks, by {said}")
    times: dict[int, list[float]] = {}
    for row in section.rows:
        first, second = (row.in_place, row.out_of_place) if in_place else (row.out_of_place, row.in_place)
        seconds = first if first is not None else second
        if seconds is not None and row.size > 0 and not row.wrong:
            times.setdefault(row.size, []).append(seconds)
    if wrong := sum(row.wrong for row in section.rows):
        remarks.append(f"{source}: {wrong} rows with wrong results are left out")
    if not times:
        raise InputError(source, "", f"{section.where}: has no row with right results")
    gpu = next((rank.gpu for rank in members if rank.gpu), "")
    return Run(kind, ranks, {s: sorted(t)[len(t) // 2] for s, t in sorted(times.items())}, tuple(remarks), gpu, source)


def _implied(kind: CollectiveKind, section: Section) -> int | None:
    """Ranks by bus over algorithm bandwidth: 2 (n - 1) / n of an all-reduce, (n - 1) / n of the others."""
    ratio = _ratio(section)
    if kind == "send_recv" or ratio <= 0:
        return None
    share = ratio / 2 if kind == "all_reduce" else ratio
    if not 0.4 < share < 0.985:
        return None
    count = 1 / (1 - share)
    return round(count) if abs(count - round(count)) < 0.25 else None


def check_kind(kind: str | None) -> None:
    """Refuse a value of --kind that is no test's name. Raises InputError."""
    if kind is not None and kind not in (*KINDS, *get_args(CollectiveKind), *_OTHERS):
        raise InputError("--kind", "", f"is {kind!r}, expected one of {', '.join(KINDS)}")
