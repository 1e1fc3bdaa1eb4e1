"""Runs a plan: one process a GPU, every finished case is written at once; finished cases are skipped."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from calibration.host import Sampler, fingerprint, inspect, now
from calibration.probes.case import ProbeCase
from calibration.probes.plan import LONG
from calibration.probes.scales import Kind
from calibration.processes import MachineError, Ranks
from sim.datasets.probe_rows import RAW, SCHEMA, Journal, Row, stats

if TYPE_CHECKING:
    from calibration.probes.worker import Answer

MAX_CONSECUTIVE_FAILURES = 3
"""Consecutive failures before the run aborts."""

RETRY_SCALE = 3
"""Factor by which the background is longer when a case is tried again."""

MIN_RELATIVE_RATE = 0.99
"""Long copies slower than this share of the fastest on the same route were disturbed and are retried."""

Progress = Callable[[ProbeCase, Row | None], None]
"""Called before a case with None, and after it with its row."""


class ProbeError(RuntimeError):
    """Consecutive probes failed. The message says why."""


class _Found(NamedTuple):
    ranks: list[Answer]
    rejected: str | None
    failed: bool = False


def run(
    plan: Sequence[ProbeCase],
    out_dir: Path,
    progress: Progress = lambda case, row: None,
    device: Kind | None = None,
) -> list[Row]:
    """Run the cases of `plan` that `out_dir`'s raw.jsonl has no usable row of, and append theirs.

    A case whose background did not cover what was measured is tried once more with a longer one and then written as
    rejected, as is one that fails. `device`: what there is, unless given.

    Raises:
        MachineError: processes cannot be started, or there are too few GPUs.
        ProbeError: several consecutive cases failed.
        InputError: raw.jsonl cannot be read, or another run is writing to it.
        OSError: it cannot be written.
    """
    from calibration.torch_machine import check_ranks

    kind = check_ranks(max((case.ranks for case in plan), default=1), device)  # before any file is made
    with Journal(out_dir / RAW) as journal:
        missing = [case for case in plan if case.name not in journal.done()]
        if missing:
            with Pool(plan, kind) as pool:
                journal.append(_about("host", "host", pool, 0.0, fingerprint(inspect())))
                for group, cases in groupby(missing, key=lambda case: case.group):
                    _run_group(group, list(cases), pool, journal, progress)
                again = disturbed(journal.rows)
                for case in missing:
                    if case.name in again:
                        run_again(case, pool, journal, progress)
        return journal.rows


def disturbed(rows: Sequence[Row]) -> set[str]:
    """Names of long copies that took longer, byte by byte, than others in the same directions on as many GPUs.

    Other users of the host can slow a row, nothing can make it faster: such rows are measured again some time later.
    """
    rates: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        if row.kind != "copy" or row.params["directions"] == ["d2d"]:  # those cross no link
            continue
        if row.rejected is None and row.params["count"] > 1 and row.params["bytes"] >= LONG:
            way = (*row.params["directions"], str(len(row.ranks)))
            rates.setdefault(way, {})[row.case] = _rate(row)
    return {name for r in rates.values() for name, rate in r.items() if rate < MIN_RELATIVE_RATE * max(r.values())}


def _rate(row: Row) -> float:
    """B/s of all GPUs and directions of a row of copies."""
    return sum(float(row.params["bytes"]) / stat.median for found in row.ranks for stat in found.values())


def run_again(case: ProbeCase, pool: Pool, journal: Journal, progress: Progress) -> None:
    """Measure a disturbed case once more; the faster row counts."""
    before = next(row for row in journal.rows if row.case == case.name)
    progress(case, None)
    row = _run_case(case, pool)
    journal.append(row)
    if row.rejected is not None or _rate(row) < _rate(before):
        journal.append(before)
        row = before
    progress(case, row)


def _run_group(group: str, cases: list[ProbeCase], pool: Pool, journal: Journal, progress: Progress) -> None:
    began = time.monotonic()
    with _sampler(pool.kind) as sampler:
        for case in cases:
            progress(case, None)
            row = _run_case(case, pool)
            journal.append(row)
            progress(case, row)
    if sampler is not None:
        seconds = round(time.monotonic() - began, 3)
        journal.append(_about(f"sampled/{group}", "sampled", pool, seconds, sampler.summary()))


def _about(case: str, kind: str, pool: Pool, seconds: float, what: object) -> Row:
    """A row that says something of the host."""
    return Row(
        schema=SCHEMA,
        case=case,
        kind=kind,
        params={},
        device=pool.kind,
        gpu=pool.gpu,
        date=now(),
        seconds=seconds,
        ranks=[],
        sampled=msgspec.to_builtins(what),
    )


def _run_case(case: ProbeCase, pool: Pool) -> Row:
    began = time.monotonic()
    attempts = 1
    found = pool.measure(case, 1)
    if found.rejected and not found.failed:
        attempts = 2
        found = pool.measure(case, RETRY_SCALE)
    pool.failures = pool.failures + 1 if found.failed else 0
    if pool.failures >= MAX_CONSECUTIVE_FAILURES:
        raise ProbeError(
            f"{MAX_CONSECUTIVE_FAILURES} consecutive cases failed, the last is {case.name}: {found.rejected}"
        )
    return Row(
        schema=SCHEMA,
        case=case.name,
        kind=case.kind,
        params=case.params,
        device=pool.kind,
        gpu=pool.gpu,
        date=now(),
        seconds=round(time.monotonic() - began, 3),
        ranks=[stats(answer.samples) for answer in found.ranks],
        rejected=found.rejected,
        attempts=attempts,
    )


class Pool:
    """The processes, one a GPU; started when needed, and anew after a failure."""

    def __init__(self, plan: Sequence[ProbeCase], kind: Kind) -> None:
        from calibration.probes.context import Pools

        self.kind = kind
        self.world_size = max((case.ranks for case in plan), default=1)
        self.counts = sorted({case.ranks for case in plan} - {1} | {self.world_size})
        sizes = [int(case.params[key]) for case in plan for key in ("bytes", "chunk") if key in case.params]
        sizes += [int(train["bytes"]) for case in plan for train in case.params.get("trains", ())]
        collectives = [int(c.params.get("size") or c.params["bytes"]) for c in plan if "collective" in c.params]
        self.pools = Pools(max(sizes, default=0), max(collectives, default=0))
        self.gpu = ""
        self.failures = 0
        self._ranks: Ranks[Answer] | None = None

    def __enter__(self) -> Pool:
        self._started()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._ranks:
            self._ranks.close(10 if kind is None else 0)

    def measure(self, case: ProbeCase, background_scale: int) -> _Found:
        """Run `case` on all ranks that it needs."""
        from calibration.probes.worker import GRACE_S, Job

        ranks = self._started()
        try:
            answers = ranks.ask([Job(case, background_scale)] * case.ranks, 3 * case.seconds + GRACE_S + 5)
        except MachineError as error:
            ranks.close(0)  # a rank may be blocked for ever by one that has failed
            self._ranks = None
            return _Found([], f"failed: {error}", failed=True)
        too_short = next((answer.too_short for answer in answers if answer.too_short), None)
        return _Found(answers, too_short or _outlasted(answers))

    def _started(self) -> Ranks[Answer]:
        from calibration.probes.worker import Answer, serve

        if self._ranks is None:
            context = multiprocessing.get_context("spawn")
            barriers = {n: context.Barrier(n) for n in self.counts}
            self._ranks = Ranks(self.world_size, serve, (self.kind, self.pools, barriers), Answer, _failure)
            self.gpu = self._ranks.first.gpu
        return self._ranks


def _failure(answer: Answer) -> Exception | None:
    return MachineError(answer.failure) if answer.failure else None


def _outlasted(answers: Sequence[Answer]) -> str | None:
    """Why ranks that were to run at once did not: one's traffic ended before another's measurement."""
    windows = [answer.window for answer in answers if answer.window]
    measured = max((end for end, _ in windows), default=0.0)
    active = min((end for _, end in windows), default=math.inf)
    if measured <= active:
        return None
    return f"traffic of a rank ended at {active * 1e3:.3g} ms, another's measurement at {measured * 1e3:.3g} ms"


@contextmanager
def _sampler(kind: Kind) -> Iterator[Any]:
    """Samples clocks, power and temperature of GPUs; None on a CPU."""
    with Sampler() as sampler:
        yield sampler if kind == "cuda" else None
