"""The model's error by kind of host, from the measured cases, as the file that `sim.analysis.model_error` reads.

`python -m validation.model_error` writes the file; with `--check` it only says whether it is as it would be made now.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from statistics import NormalDist

from sim.analysis.model_error import FILE, ModelError, host_kind
from sim.inputs.atomic_files import write_atomically
from sim.inputs.units import Number
from sim.sweeps.worker_pool import Workers
from validation.compare import Compared, Job, compare_all, jobs
from validation.datasets import load_set, shipped_sets

SHARE = 0.9
"""The share of the errors that lies in an interval of that level."""

ABOUT = (
    "Made by python -m validation.model_error from the data sets named. Errors are |measured / predicted - 1| of step "
    "times of offloaded cases, each set predicted with the profile fitted to probes of the same hour and with kernel "
    "times of its baselines. deviation: the 90th percentile of the errors, over that of a normal variable."
)


def chosen(sets: Iterable[str]) -> list[Job]:
    """The offloaded cases of some data sets whose measurement was not disturbed."""
    found = [job for name in sets for job in jobs(load_set(name), steps_only=True)]
    return [job for job in found if job.group != "resident" and not job.case.disturbed]


def errors_by_host(asked: Sequence[Job], compared: Iterable[Compared]) -> list[ModelError]:
    """The model's error on each kind of host; `compared` is what came of `asked`."""
    found: dict[str, list[Compared]] = defaultdict(list)
    for job, case in zip(asked, compared, strict=True):
        found[host_kind(job.profile, job.case.scenario["world_size"])].append(case)
    return [_error(host, cases) for host, cases in sorted(found.items())]


def _error(host: str, cases: Sequence[Compared]) -> ModelError:
    errors = sorted(abs(case.measured.step_s / case.predicted.step_s - 1) for case in cases)
    deviation = errors[min(int(SHARE * len(errors)), len(errors) - 1)] / NormalDist().inv_cdf((1 + SHARE) / 2)
    return ModelError(
        host=host,
        deviation=Number(round(deviation, 5)),
        largest=Number(round(errors[-1], 5)),
        cases=len(cases),
        sets=tuple(sorted({case.set for case in cases})),
    )


def made(
    sets: Iterable[str], executor: Executor | None = None, progress: Callable[[int], None] = lambda done: None
) -> list[ModelError]:
    """The model's errors from some data sets. `progress` is called with the number of finished cases."""
    asked = chosen(sets)
    compared: list[Compared] = []
    for case in compare_all(asked, executor):
        compared.append(case)
        progress(len(compared))
    return errors_by_host(asked, compared)


def to_yaml(errors: Sequence[ModelError]) -> str:
    """The content of the file."""
    import yaml

    plain = [
        {
            "host": e.host,
            "deviation": float(e.deviation),
            "largest": float(e.largest),
            "cases": e.cases,
            "sets": [*e.sets],
        }
        for e in errors
    ]
    return yaml.safe_dump({"about": ABOUT, "errors": plain}, sort_keys=False, width=118)


def main() -> None:
    """Write the file, or check that it is as it would be made now."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 unless the file is as made now")
    parser.add_argument("--file", type=Path, default=FILE, help="the file; the shipped one unless given")
    parser.add_argument("--sets", nargs="+", default=shipped_sets(), help="data sets; all shipped ones unless given")
    given = parser.parse_args()
    with Workers() as executor:
        content = to_yaml(made(given.sets, executor))
    if not given.check:
        write_atomically(given.file, content)
    elif given.file.read_text(encoding="utf-8") != content:
        sys.exit(f"{given.file}: not as made from the data today")


if __name__ == "__main__":
    main()
