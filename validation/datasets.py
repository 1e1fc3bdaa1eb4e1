"""Data sets: measured cases of one session to a host, and which of them constants may be fitted on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sim.datasets.cases import CASES, MeasuredCase, load_cases, load_origin, load_split, references, workload_key
from sim.datasets.probe_rows import RAW
from sim.hardware import SESSION, Profile, load_profile, shipped
from sim.inputs.config import InputError
from sim.inputs.shipped_files import is_there
from sim.policies import describe
from sim.workloads.named import Named, load_model

DATA = Path(__file__).resolve().with_name("data")


class DataSet(NamedTuple):
    """The cases of a session that ran."""

    name: str
    cases: tuple[MeasuredCase, ...]
    fitted: frozenset[int]
    """Numbers of the cases that constants may be fitted on."""
    workloads: dict[str, str]
    """Workload key -> what the workload is called."""

    def profile(self) -> Profile:
        """The host's profile, fitted to probes of the same hour. Raises InputError where none was shipped with it."""
        if self.name not in shipped():
            raise InputError(self.name, "", "has no profile of its own: give one with --hardware")
        return load_profile(self.name)

    def baselines(self) -> dict[str, list[MeasuredCase]]:
        """Workload key -> the cases that kernels take their times from; none where scenarios hold those times."""
        return references([case for case in self.cases if case.kernel_times == "resident"])

    def sibling(self) -> str | None:
        """The shipped profile of the next session to a host of this kind; after the last one comes the first."""
        measured = set(shipped_sets())  # plain names stand for one of them
        sessions = [name for name in shipped() if name in measured and kind(name) == kind(self.name)]
        if sessions in ([], [self.name]):
            return None
        return sessions[(sessions.index(self.name) + 1) % len(sessions)] if self.name in sessions else sessions[0]


def kind(name: str) -> str:
    """What a data set's or profile's name says of its host, without the session."""
    return SESSION.sub("", name)


def session(name: str) -> str:
    """A data set's or profile's name in short: the kind of host and the letter of the session."""
    return re.sub(r"-\d{8}([a-z])$", r" \1", name)


def shipped_sets() -> tuple[str, ...]:
    """Names of all data sets that come with the package."""
    return tuple(sorted(f.parent.name for f in DATA.glob(f"*/{CASES}")))


NOT_INSTALLED = "the measured data sets come with the source tree, not with the package: run this in a clone of it"


def named_sets(given: Sequence[str]) -> list[str]:
    """The data sets that `given` names, each once; all that come with the source tree for none, or for "all".

    Raises:
        InputError: all are wanted, and there are none here.
    """
    if given and "all" not in given:
        return list(dict.fromkeys(given))
    if not (names := shipped_sets()):
        raise InputError("--data", "", f"{NOT_INSTALLED}, or give a folder that `measure` wrote")
    return list(names)


def probed_sets() -> tuple[str, ...]:
    """Names of those with rows of probes of the same host and hour."""
    return tuple(name for name in shipped_sets() if (DATA / name / RAW).is_file())


def load_set(name: str) -> DataSet:
    """A shipped data set by name, or a folder like those; its profile is the one of the folder's name.

    Raises:
        InputError: there is neither, or it cannot be read, or a workload was not measured without offload.
    """
    folder = DATA / name if name in shipped_sets() else Path(name)
    if not (is_there(folder) and folder.is_dir()):
        names = shipped_sets()
        listed = f"shipped are {', '.join(names)}" if names else NOT_INSTALLED
        raise InputError(name, "", f"is not a data set; {listed} (or give a folder)")
    cases = [c for c in load_cases(folder) if not c.error]
    if not cases:
        raise InputError(str(folder / CASES), "", "holds no case that ran")
    load_origin(folder)
    name = folder.resolve().name
    allowed = load_split(DATA / "split.yaml").get(name, [])
    fitted = {c.number for c in cases} if allowed == "all" else set(allowed)
    known = references(cases)
    for case in cases:
        if case.kernel_times == "resident" and workload_key(case) not in known:
            problem = "there is no baseline of its workload, which shows the times of its kernels"
            raise InputError(name, f"measured case {case.number}", problem)
    first = {workload_key(case): case for case in reversed(cases)}
    workloads = {key: _workload(case) for key, case in first.items()}
    return DataSet(name, tuple(cases), frozenset(fitted), workloads)


def _workload(case: MeasuredCase) -> str:
    """What it is called, or its model, parallelism and tokens a rank."""
    scenario = case.load_scenario()
    workload = scenario.workload
    if case.workload:
        return case.workload
    if not isinstance(workload, Named):
        return f"{scenario.world_size} ranks"
    tokens = workload.tokens(load_model(workload.model))
    if workload.parallelism == "tensor":
        return f"{workload.model} tensor {tokens}"
    return f"{workload.model} {-(-tokens // scenario.world_size)}"


def case_name(case: MeasuredCase) -> str:
    """Workload and schedule of a case in a few words."""
    return f"{_workload(case)} {schedule_name(case)}"


def schedule_name(case: MeasuredCase) -> str:
    """The policy of a case in a few words, and whether copy engines run collectives."""
    return describe(case.load_scenario().policy, short=True) + ", copy engines" * case.by_copy_engines
