"""Runs a plan: one process a GPU, every finished case on the disk at once, what is there already not run again."""

from __future__ import annotations

import datetime
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from calibration.host import Sampler, fingerprint, inspect
from calibration.probes.plan import ProbeCase
from calibration.probes.rows import RAW, SCHEMA, Journal, Row, stats
from calibration.probes.scales import Kind

if TYPE_CHECKING:
    from calibration.probes.worker import Answer

START_S = 120.0
"""How long processes may take to start, s: contexts of several GPUs, NCCL's first connection."""

FAILURES = 3
"""So many failures of cases one after the other end the run."""

STRETCH = 3
"""How much longer the background is when a case is tried again."""

Progress = Callable[[ProbeCase, Row | None], None]
"""Called before a case with None, and after it with its row."""


class ProbeError(RuntimeError):
    """The probes cannot be run. The message says why."""


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
        ProbeError: processes cannot be started, too few GPUs, or several cases one after the other failed.
        InputError: raw.jsonl cannot be read, or another run is writing to it.
        OSError: it cannot be written.
    """
    kind = _kind(plan, device)
    with Journal(out_dir / RAW) as journal:
        missing = [case for case in plan if case.name not in journal.done()]
        if missing:
            with _Pool(plan, kind) as pool:
                journal.append(_about("host", "host", pool, 0.0, fingerprint(inspect())))
                for group, cases in groupby(missing, key=lambda case: case.group):
                    _run_group(group, list(cases), pool, journal, progress)
        return journal.rows


def _kind(plan: Sequence[ProbeCase], device: Kind | None) -> Kind:
    """The kind of device for `plan`. Raises ProbeError if there are too few: before any file is made."""
    from calibration.torch_machine import MachineError, check_ranks

    try:
        return check_ranks(max((case.ranks for case in plan), default=1), device)
    except MachineError as error:
        raise ProbeError(str(error)) from None


def _run_group(group: str, cases: list[ProbeCase], pool: _Pool, journal: Journal, progress: Progress) -> None:
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


def _about(case: str, kind: str, pool: _Pool, seconds: float, what: object) -> Row:
    """A row that says something of the host."""
    return Row(
        schema=SCHEMA,
        case=case,
        kind=kind,
        params={},
        device=pool.kind,
        gpu=pool.gpu,
        date=_now(),
        seconds=seconds,
        ranks=[],
        sampled=msgspec.to_builtins(what),
    )


def _run_case(case: ProbeCase, pool: _Pool) -> Row:
    began = time.monotonic()
    attempts = 1
    found = pool.measure(case, 1)
    if found.rejected and not found.failed:
        attempts = 2
        found = pool.measure(case, STRETCH)
    pool.failures = pool.failures + 1 if found.failed else 0
    if pool.failures >= FAILURES:
        raise ProbeError(f"{FAILURES} cases one after the other failed, the last is {case.name}: {found.rejected}")
    return Row(
        schema=SCHEMA,
        case=case.name,
        kind=case.kind,
        params=case.params,
        device=pool.kind,
        gpu=pool.gpu,
        date=_now(),
        seconds=round(time.monotonic() - began, 3),
        ranks=[stats(answer.samples) for answer in found.ranks],
        rejected=found.rejected,
        attempts=attempts,
    )


class _Pool:
    """The processes, one a GPU; started when needed, and anew after a failure."""

    def __init__(self, plan: Sequence[ProbeCase], kind: Kind) -> None:
        from calibration.probes.context import Pools

        self.kind = kind
        self.world_size = max((case.ranks for case in plan), default=1)
        self.counts = sorted({case.ranks for case in plan} - {1} | {self.world_size})
        sizes = [int(case.params[key]) for case in plan for key in ("bytes", "chunk") if key in case.params]
        collectives = [int(c.params.get("size") or c.params["bytes"]) for c in plan if "collective" in c.params]
        self.pools = Pools(max(sizes, default=0), max(collectives, default=0))
        self.gpu = ""
        self.failures = 0
        self._folder = tempfile.TemporaryDirectory(prefix="chunkflow-probes-")
        self._starts = 0
        self._pipes: list[Any] = []
        self._processes: list[Any] = []

    def __enter__(self) -> _Pool:
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(timeout=10)
        self._kill()
        self._folder.cleanup()

    def measure(self, case: ProbeCase, stretch: int) -> _Found:
        """Run `case` on all ranks that it needs."""
        from calibration.probes.worker import GRACE_S, Job

        if not self._processes:
            self._start()
        pipes = self._pipes[: case.ranks]
        try:
            for pipe in pipes:
                pipe.send_bytes(msgspec.msgpack.encode(Job(case, stretch)))
            answers = self._answers(pipes, 3 * case.seconds + GRACE_S + 5)
        except ProbeError as error:
            self._kill()  # a rank may be held for ever by one that has failed
            return _Found([], f"failed: {error}", failed=True)
        uncovered = next((answer.uncovered for answer in answers if answer.uncovered), None)
        return _Found(answers, uncovered or _outlasted(answers))

    def _start(self) -> None:
        from calibration.probes.worker import serve

        self._starts += 1
        context = multiprocessing.get_context("spawn")
        store = str(Path(self._folder.name) / f"store{self._starts}")
        barriers = {n: context.Barrier(n) for n in self.counts}
        for rank in range(self.world_size):
            mine, theirs = context.Pipe()
            args = (rank, self.world_size, store, self.kind, self.pools, barriers, theirs)
            process = context.Process(target=serve, args=args, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)
        try:
            self.gpu = self._answers(self._pipes, START_S)[0].gpu
        except ProbeError:
            self._kill()
            raise

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes.clear()
        self._pipes.clear()

    def _answers(self, pipes: Sequence[Any], timeout_s: float) -> list[Answer]:
        """One answer from each of `pipes`. Raises ProbeError with the first failure that comes."""
        from multiprocessing.connection import wait

        from calibration.probes.worker import Answer

        deadline = time.monotonic() + timeout_s
        answers: dict[int, Answer] = {}
        while len(answers) < len(pipes):
            silent = [i for i in range(len(pipes)) if i not in answers]
            ready = wait([pipes[i] for i in silent], timeout=max(deadline - time.monotonic(), 0))
            if not ready:
                raise ProbeError(f"ranks {silent} have not answered within {timeout_s:.0f} s")
            for i in (i for i in silent if pipes[i] in ready):
                try:
                    answers[i] = msgspec.msgpack.decode(pipes[i].recv_bytes(), type=Answer)
                except (EOFError, OSError):
                    raise ProbeError(f"the process of rank {i} has died") from None
                if answers[i].failure:
                    raise ProbeError(answers[i].failure)
        return [answers[i] for i in range(len(pipes))]


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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
