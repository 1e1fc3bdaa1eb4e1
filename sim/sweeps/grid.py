"""Sweeps: one scenario, some of its keys over ranges, one row of metrics a point.

Points are the product of all axes, the first axis slowest, without duplicates. They run on any
`concurrent.futures.Executor`; rows are written as they come, so that a sweep that was stopped in any way resumes
with the points that its file lacks.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, cast

from sim.hardware import Profile, load_profile
from sim.inputs.config import Config, InputError
from sim.inputs.faults import unreadable
from sim.policies import all_fields, fields_of
from sim.scenario import Scenario
from sim.sweeps.axes import MAX_POINTS
from sim.sweeps.evaluation import Evaluated, Evaluator, Store
from sim.sweeps.job import (
    Identity,
    Job,
    StaleCodeError,
    canonical,
    code_digest,
    models_digest,
    profile_digest,
    scenario_digest,
)
from sim.sweeps.results_file import DIED, METRICS, Failure, Point, ResultsFile, Row, Rows
from sim.workloads.named import Model, remembered

Axes = Mapping[str, Sequence[object]]
"""Key path -> values, as they would stand in the YAML file."""


class Setting(Config, frozen=True):
    """Keys that change together, under one name."""

    name: str
    set: dict[str, Any]


def points(
    data: Mapping[str, Any],
    axes: Axes,
    source: str = "scenario",
    note: Callable[[str], None] = lambda text: None,
    check_gpu_count: bool = True,
) -> list[Point]:
    """All points of a sweep over plain scenario data, each checked. Raises `InputError` for a wrong one.

    A value of any axis may be a `Setting`: several keys that change together, shown by its name. Where kinds of policy
    are swept, a key that only others of them have is left out of a point, and `note` is told so once a key. Hardware
    profiles and models are read here, once each, and go with the points. Without `check_gpu_count`, a point may have
    more ranks than the profile has GPUs: such points are measured, not simulated.
    """
    if not isinstance(data, Mapping):
        raise InputError(source, "", "holds no scenario: expected a mapping of keys to values")
    made: list[Point] = []
    seen: set[bytes] = set()
    dropped: dict[str, dict[str, None]] = {}
    read = _Read({}, {}, {})
    count = 1
    for path, values in axes.items():
        if not values:
            raise InputError(source, path, "has no values")
        count *= len(values)
    if count > MAX_POINTS:
        raise InputError(source, "", f"the sweep has {count} points, at most {MAX_POINTS} are run")
    for values in itertools.product(*axes.values()):
        point = copy.deepcopy(dict(data))
        chosen = dict(zip(axes, values, strict=True))
        for path, value in list(chosen.items()):
            if isinstance(value, Setting):
                chosen[path] = value.name
                for inner, setting in value.set.items():
                    _set(point, inner, setting, source)
            else:
                _set(point, path, value, source)
        where = ", ".join([source, *(f"{k}={_as_yaml(v)}" for k, v in chosen.items())])
        for path in _inapplicable(point, where) if "policy.kind" in axes else ():
            chosen[path] = None
            dropped.setdefault(path, {})[str(point["policy"]["kind"])] = None
        key = canonical(point)
        if key in seen:
            continue
        seen.add(key)
        identity, job = read.job(point, where, check_gpu_count)
        identity = identity._replace(scenario=scenario_digest(point))
        made.append(Point({k: chosen.get(k) for k in axes}, point, identity, job))
    for path, kinds in dropped.items():
        note(f"{path} is left out where policy.kind is {' or '.join(kinds)}, which has no such key")
    return made


def _as_yaml(value: object) -> object:
    """A value for a message, as a file or `--set` would give it."""
    return "null" if value is None else value


class _Read(NamedTuple):
    """What has been read, by the names that scenarios give: profiles, their digests, models. Each is read once."""

    profiles: dict[str, Profile]
    digests: dict[str, str]
    models: dict[str, dict[str, Model]]

    def job(self, data: dict[str, Any], source: str, check_gpu_count: bool) -> tuple[Identity, Job]:
        """What is run for plain scenario data, and of which content it is. Raises `InputError`."""
        workload = data.get("workload")
        model = repr(workload.get("model")) if isinstance(workload, Mapping) else ""
        with remembered(self.models.setdefault(model, {})) as used:
            scenario = Scenario.from_plain(data, source)
        name = scenario.hardware
        if name not in self.profiles:
            self.profiles[name] = load_profile(name)
            self.digests[name] = profile_digest(self.profiles[name])
        if check_gpu_count:
            scenario.check(self.profiles[name], source)
        job = Job(scenario, self.profiles[name], used, code_digest())
        return Identity("", self.digests[name], models_digest(used), code_digest()), job


def _set(data: dict[str, Any], path: str, value: object, source: str) -> None:
    at: Any = data
    if faults := list(unreadable(value, path)) + list(unreadable(path, path)):
        raise InputError.of(source, faults)
    *parents, last = re.split(r"\.|(?=\[)", path)
    for key in parents:
        at = _step(at, key, path, source)
    if last.startswith("[") and isinstance(at, list):
        _step(at, last, path, source)
        at[int(last[1:-1])] = value
    elif isinstance(at, dict):
        at[last] = value
    else:
        raise InputError(source, path, f"leads into something that has no keys{_hint(at, last, path)}")


def _step(at: Any, key: str, path: str, source: str) -> Any:
    try:
        return at[int(key[1:-1])] if key.startswith("[") and isinstance(at, list) else at[key]
    except (KeyError, IndexError, TypeError, ValueError):
        hint = _hint(at, key, path)
        raise InputError(source, path, f"there is no {key!r} in the scenario{hint}") from None


def _hint(at: Any, key: str, path: str) -> str:
    """How an entry of a list is named, where `key` is the number of one."""
    if not (isinstance(at, list) and key.isdecimal()):
        return ""
    return f": an entry of a list is written {re.sub(rf'[.]{key}(?=[.]|$)', f'[{key}]', path, count=1)}"


def _inapplicable(data: dict[str, Any], source: str) -> list[str]:
    """Drop the keys that the point's kind of policy does not have, but others do; returns their paths.

    Raises:
        InputError: no policy has such a key.
    """
    policy = data.get("policy")
    if not isinstance(policy, dict) or (known := fields_of(policy.get("kind"))) is None:
        return []  # wrong, and said so where the point is read
    every = all_fields()
    for key in policy:
        if key not in every:
            close = difflib.get_close_matches(str(key), every, 1, 0.6)
            hint = f"did you mean {close[0]!r}? " if close else ""
            expected = f"unknown key, which no policy has; {hint}expected one of {', '.join(sorted(every))}"
            raise InputError(source, f"policy.{key}", expected)
    dropped = [key for key in policy if key not in known]
    data["policy"] = {k: v for k, v in policy.items() if k in known}
    return [f"policy.{key}" for key in dropped]


class Outcome(NamedTuple):
    """What became of one point: its metrics, or its error and what made it."""

    metrics: dict[str, Any]
    error: str = ""
    failure: Failure = ""


def outcome(evaluated: Evaluated) -> Outcome:
    """The metrics of a row, or its error: any error, expected or not, concerns one point; the others still run."""
    error = evaluated.raised
    if error is None:
        metrics = cast(Mapping[str, Any], evaluated.figures().metrics)
        return Outcome({name: metrics[name] for name in METRICS})
    if isinstance(error, MemoryError):
        return Outcome({}, "the memory is full", "environment")
    if isinstance(error, BrokenExecutor):
        return Outcome({}, DIED, "environment")
    if evaluated.of_executor or isinstance(error, (OSError, StaleCodeError)):
        return Outcome({}, _line(str(error)) or type(error).__name__, "environment")
    if isinstance(error, (InputError, ValueError, RuntimeError)):
        return Outcome({}, _line(str(error)), "scenario")
    return Outcome({}, _line(f"{type(error).__name__}: {error}"), "scenario")


def _line(text: str) -> str:
    return " ".join(text.split())


def sweep(
    chosen: Sequence[Point],
    executor: Executor | None = None,
    output: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
    recompute: bool = False,
    note: Callable[[str], None] = lambda text: None,
    cache: Store | None = None,
) -> Rows:
    """Run all points, on `executor` if given; rows in the order of the points. Results in `cache` are taken from it.

    With `output`, a CSV file, each row is written as it comes, and rows that the file already holds are not run again,
    but for those that failed by their environment. With `recompute` those are run again, too, that were made with
    another hardware profile, model or version of this package, and `note` is told how many; without it, such a file is
    refused. `progress` is called with the number of finished points.

    Raises:
        InputError: `output` belongs to another sweep.
        OSError: `output` cannot be written, or was moved or removed.
        NoWorkersError: `executor` has no processes.
    """
    rows: dict[int, Row] = {}
    with ExitStack() as stack:
        results = stack.enter_context(ResultsFile(output, chosen, recompute)) if output else None
        if results:
            rows |= results.done
            if results.outdated:
                note(results.outdated)
        progress(len(rows))
        todo = [number for number in range(len(chosen)) if number not in rows]
        evaluator = Evaluator(executor, cache)
        for i, evaluated in evaluator.as_completed((chosen[number].job for number in todo), len(todo)):
            number = todo[i]
            rows[number] = Row(chosen[number].values, *outcome(evaluated))
            if results:
                results.add(number, rows[number])
            progress(len(rows))
        if results:
            results.finish(rows)
    return Rows(rows[i] for i in range(len(chosen)))
