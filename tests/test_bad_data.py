"""Bad measured data: data sets, raw rows of probes, and measuring. As `test_bad_input`, which holds the method."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from measured_case import SCENARIO as MEASURED
from measured_case import as_measured
from strategies import Plain
from wrong_input import GONE, SCENARIO, answered, cases, changed, paths, put, values, write

from calibration.fitting import FitError, fit_rows
from sim.datasets.cases import CASES, HOST, load_cases, load_split
from sim.datasets.probe_rows import RAW, RowError, load_rows
from sim.hardware import load_profile
from sim.inputs.atomic_files import open_alone
from sim.inputs.config import InputError
from sim.inputs.overwriting import Kind
from validation.compare import compare_all, jobs
from validation.datasets import DATA, load_set, shipped_sets

RAW_LINES = (DATA / "h200x2-hostpath-20261121c" / RAW).read_text().splitlines()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@cache
def good_set() -> tuple[list[Plain], Plain]:
    """Measured cases and their host, as plain data."""
    policies = [{"kind": "resident"}, {"kind": "whole_layer"}, {"kind": "chunked", "chunk_bytes": 65536}]
    made = [as_measured(i, {**MEASURED, "policy": p}) for i, p in enumerate(policies)]
    host = {"fingerprint": {"cpu": "x"}, "date": "2026-01-01", "command": "measure", "environment": {}}
    plain = [json.loads(msgspec.json.encode(case)) for case in made]
    return [
        case | {"step_times_s": [[*run, *copy.deepcopy(run)] for run in case["step_times_s"]]} for case in plain
    ], host


@cache
def good_rows() -> list[Plain]:
    return [json.loads(line) for line in RAW_LINES]


def lines(objects: list[Plain]) -> bytes:
    return b"".join(json.dumps(o).encode() + b"\n" for o in objects)


def write_set(case: Callable[[Plain], Plain] = lambda case: case, number: int = 1) -> None:
    """A data set in the folder `set` whose case `number` is changed."""
    made, host = good_set()
    Path("set").mkdir(exist_ok=True)
    Path("set", CASES).write_bytes(lines([case(c) if i == number else c for i, c in enumerate(made)]))
    Path("set", HOST).write_text(json.dumps(host))


VALIDATE = ["validate", "--data", "set", "--hardware", "h200x2-hostpath", "--workers", "1"]
FIT = ["calibrate", "--fit-only", "--out", "set", "--name", "x"]


@pytest.fixture
def _scipy() -> None:
    pytest.importorskip("scipy", reason="the calibrate extra is not installed")


def test_the_unchanged_rows_and_cases_are_valid() -> None:
    write_set()
    assert len(list(compare_all(jobs(load_set("set"), load_profile("h200x2-hostpath"))))) == 3
    Path(RAW).write_bytes(lines(good_rows()))
    assert len(load_rows(Path(RAW))) == len(RAW_LINES)


# ---- files of lines ------------------------------------------------------------------------------------------------

GOOD_CASE = "CASE"
"""Stands for the first good line of the file."""

LINES: dict[str, tuple[bytes | str, str]] = {
    "cut in the middle": ('{"schema": 1, "num\n', "line 2: is not JSON"),
    "an empty line": ("\n", "line 2: is not JSON"),
    "binary": (bytes(range(256)) + b"\n", "line 2: is not JSON"),
    "null bytes": (b"\0" * 100 + b"\n", "line 2: is not"),
    "latin-1": (b'{"schema": 1, "gpu": "\xe9"}\n', "line 2: is not a text file (UTF-8 expected)"),
    "a lone surrogate": ('{"schema": 1, "x": "\\ud800"}\n', "line 2"),
    "a number": ("3\n", "line 2: expected a mapping of keys to values"),
    "a list": ("[]\n", "line 2: expected a mapping"),
    "nothing": ("null\n", "line 2: expected a mapping"),
    "an empty mapping": ("{}\n", "line 2: schema: is missing"),
    "two on a line": ("{} {}\n", "line 2: is not JSON"),
    "YAML": ("schema: 1\n", "line 2: is not JSON"),
    "a comment": ("// x\n", "line 2: is not JSON"),
    "not a number": ('{"schema": 1, "number": NaN}\n', "NaN is not a number"),
    "without end": ('{"schema": 1, "number": -Infinity}\n', "-Infinity is not a number"),
    "a key that is there twice": ('{"schema": 1, "schema": 1}\n', "the key 'schema' appears twice"),
    "a key that is there twice in depth": (
        '{"schema": 1, "scenario": {"a": 1, "a": 2}}\n',
        "the key 'a' appears twice",
    ),
    "nested lists": ("[" * 100_000 + "\n", "line 2: is not JSON"),
    "nested mappings": ('{"a":' * 100_000 + "\n", "line 2: is not JSON"),
    "a number of 5,000 digits": ('{"schema": ' + "9" * 5000 + "}\n", "line 2: is not JSON"),
    "a number of 40 digits": ('{"schema": 1, "number": ' + "9" * 40 + "}\n", "line 2: number: has "),
    "a newer schema": ('{"schema": 2, "of": "the future"}\n', "line 2: schema: is 2, expected 1"),
    "an older schema": ('{"schema": 0}\n', "line 2: schema: is 0, expected 1"),
    "a schema in words": ('{"schema": "1"}\n', "line 2: schema: is '1', expected 1"),
    "an unknown key": ('{"schema": 1, "spede": 1}\n', "line 2: spede: unknown key"),
    "carriage returns": ("\r\n\r\n", "line 2: is not JSON"),
}


@pytest.mark.usefixtures("_scipy")
@pytest.mark.parametrize("args", [VALIDATE, FIT], ids=["cases", "rows"])
@pytest.mark.parametrize("name", LINES)
def test_lines_of_another_type_are_refused(name: str, args: list[str]) -> None:
    content, words = LINES[name]
    write_set()
    file = Path("set", CASES if args is VALIDATE else RAW)
    first = lines(good_set()[0][:1] if args is VALIDATE else good_rows()[:1])
    file.write_bytes(first + (content if isinstance(content, bytes) else content.encode()))
    answered(args, 2, f"{file}: line 2: ", words)


@pytest.mark.usefixtures("_scipy")
@pytest.mark.parametrize("args", [VALIDATE, FIT], ids=["cases", "rows"])
@pytest.mark.parametrize("kind", ["gone", "folder", "dangling", "loop", "folder gone", "folder a file"])
def test_unreadable_jsonl_files_are_refused(kind: str, args: list[str]) -> None:
    write_set()
    file = Path("set", CASES if args is VALIDATE else RAW)
    file.unlink(missing_ok=True)
    if kind == "folder":
        file.mkdir()
    elif kind in ("dangling", "loop"):
        file.symlink_to({"dangling": "nowhere", "loop": file.name}[kind])
    elif kind != "gone":
        for other in Path("set").iterdir():
            other.unlink()
        Path("set").rmdir()
        if kind == "folder a file":
            Path("set").write_text("")
    answered(args, 2, "set: is not a data set" if args is VALIDATE and "folder " in kind else f"{file}: cannot be read")


@pytest.mark.usefixtures("_scipy")
@pytest.mark.parametrize("content", [b"", b'{"schema": 1, "half'])
def test_files_without_a_line(content: bytes) -> None:
    write_set()
    Path("set", CASES).write_bytes(content)
    answered(VALIDATE, 2, f"set/{CASES}: holds no case that ran")
    Path("set", RAW).write_bytes(content)
    answered(FIT, 2, f"set/{RAW}: there are no usable rows to fit")


# ---- data sets -----------------------------------------------------------------------------------------------------

NUMBERS = ["issue_s", "number", "simulated_memory_bytes", "memory_bytes[0]", "workspace_bytes[0]"]
NO_NUMBER = [True, "1", None, [], {}, 10**40]


@pytest.mark.parametrize(("path", "value"), [*cases(NUMBERS, NO_NUMBER), *cases(NUMBERS[1:], [-1, 1.5])])
def test_wrong_numbers_of_a_case_are_refused(path: str, value: object) -> None:
    write_set(lambda case: changed(case | {"memory_bytes": [0, 0], "workspace_bytes": [0, 0]}, path, value))
    answered(VALIDATE, 2, f"set/{CASES}: line 2: {path.split('[')[0]}")


@pytest.mark.parametrize(
    ("path", "value"), cases(["step_times_s[0][1][2]", "instrumented_step_times_s[1]"], [*NO_NUMBER, 0, -1, 1e7])
)
def test_wrong_step_times_are_refused(path: str, value: object) -> None:
    write_set(lambda case: changed(case, path, value))
    answered(VALIDATE, 2, f"set/{CASES}: line 2: {path}: ", "expected ")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        *[(key, GONE, f"{key}: is missing") for key in ("schema", "number", "scenario", "program", "date")],
        ("number", 0, "number: is 0, expected 1"),
        ("program", 3, "program: expected text"),
        ("error", None, "error: expected text"),
        ("scenario", [], "scenario: expected a mapping"),
        ("scenario", {}, "hardware: "),
        ("scenario.hardware", GONE, "hardware: "),
        ("scenario.hardware", 3, "hardware: expected text"),
        ("scenario.world_size", "2", "world_size: expected a whole number"),
        ("scenario.world_size", 10**9, "world_size: is 1000000000, at most 1024 ranks are simulated"),
        ("scenario.policy.kind", "x", "policy.kind: is 'x'"),
        ("scenario.policy", GONE, "policy: is missing"),
        ("scenario.workload.layers", 10**6, "has 1000000 layers"),
        ("scenario.workload.block[0].compute.second", 1, "unknown key"),
        ("step_times_s", [], "step_times_s: is empty, and there is no error that says why"),
        ("step_times_s", [[]], "step_times_s[0]: has 0 ranks, expected 2"),
        ("step_times_s", [[[1.0, 1.0]]], "step_times_s[0]: has 1 ranks, expected 2"),
        ("step_times_s[0][1]", [1.0], "step_times_s[0][1]: expected "),
        ("instrumented_step_times_s", [], "instrumented_step_times_s: expected two steps or more"),
        ("operations", [], "operations: is empty"),
        ("operations[0]", [], "operations[0]: expected "),
        ("operations[0]", {}, "operations[0]: expected "),
        ("operations[0][7]", "1", "operations[0][7]: expected a number"),
        ("operations[0][4]", -1, "operations[0][4]: expected "),
        ("operations[0][5]", 1e300, "operations[0][5]: expected "),
        ("operations[0][5]", 1e9, "operations[0]: start, ready and end are "),
        ("operations[0][6]", -1e9, "operations[0]: start, ready and end are "),
        ("operations[0]", ["compute", "Kernel", "a", 0, 0, 1.0, 1.0, 1.0, 1.0], "operations[0]: expected "),
    ],
)
def test_cases_that_contradict_their_scenario_are_refused(path: str, value: object, words: str) -> None:
    write_set(lambda case: changed(case, path, value))
    answered(VALIDATE, 2, f"set/{CASES}: line 2: ", words)


def no_time(case: Plain) -> Plain:
    return case | {"operations": [[*op[:5], op[5], op[5], op[5]] for op in case["operations"]]}


def no_kernel_left(case: Plain) -> Plain:
    return case | {"operations": [[*op[:2], "z", *op[3:]] for op in case["operations"]]}


@pytest.mark.parametrize(
    ("change", "number", "words"),
    [
        (no_time, 0, "set: measured case 0: operations: leave "),
        (no_kernel_left, 0, "set: the baselines: operations: have no kernel 'a' of layer 0"),
        (lambda case: case | {"error": "it failed"}, 0, "set: measured case 1: there is no baseline"),
        (lambda case: put(case, ["step_times_s"], [[[1e-9] * 3] * 2]), 0, "set: measured case 0: operations: leave "),
    ],
)
def test_unpredictable_sets_are_refused(change: Callable[[Plain], Plain], number: int, words: str) -> None:
    write_set(change, number)
    answered(VALIDATE, 2, words)


@pytest.mark.parametrize("name", ["nowhere", "", "a\0b", "x" * 5000, "set/cases.jsonl", "h200", "/proc/self/mem"])
def test_unknown_data_sets_are_refused(name: str) -> None:
    answered(["validate", "--data", name], 2, "cannot be read" if name == "" else "is not a data set; shipped are")


def test_profiles_for_sets() -> None:
    write_set()
    answered(["validate", "--data", "set"], 2, "set: has no profile of its own: give one with --hardware")
    answered([*VALIDATE[:3], "--hardware", "nowhere"], 2, "'nowhere' is not a hardware profile")
    answered([*VALIDATE[:3], "--hardware", ""], 2, "'' is not a hardware profile")
    words = "set: measured case 0: world_size: is 2, but h100x1-20261121e has 1 GPUs"
    answered([*VALIDATE[:3], "--hardware", "h100x1-20261121e", "--workers", "1"], 2, words)
    Path("set", CASES).write_text("no case\n")  # of which nothing is said: sets are read for seconds, profiles at once
    answered([*VALIDATE[:3], "--hardware", "nowhere"], 2, "'nowhere' is not a hardware profile")


def test_a_profile_of_the_host_that_was_measured_need_not_be_here() -> None:
    write_set(lambda case: changed(case, "scenario.hardware", "/there/own.yaml"))
    assert load_set("set").cases[1].load_scenario().world_size == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not JSON"),
        ("[]", "expected a mapping"),
        ("{}", "fingerprint: is missing"),
        ('{"fingerprint": 3, "date": "", "command": "", "environment": {}}', "fingerprint: expected a mapping"),
        ('{"fingerprint": {"cpu": 3}, "date": "", "command": "", "environment": {}}', "fingerprint.cpu: expected text"),
        ('{"fingerprint": {}, "date": "", "command": "", "environment": {}, "x": 1}', "x: unknown key"),
        ('{"fingerprint": {}, "fingerprint": {}}', "the key 'fingerprint' appears twice"),
        ("[" * 100_000, "is not JSON"),
        (None, "cannot be read: No such file or directory"),
        (GONE, "cannot be read: Is a directory"),
    ],
)
def test_wrong_hosts(content: object, words: str) -> None:
    write_set()
    file = Path("set", HOST)
    file.unlink()
    if content is GONE:
        file.mkdir()
    elif content is not None:
        file.write_text(str(content))
    answered(VALIDATE, 2, f"set/{HOST}: ", words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "expected a mapping"),
        ("- a", "expected a mapping"),
        ("a: some", "a: "),
        ("a: [x]", "a"),
        ("a: [-1]", "a"),
        ("a: all\na: all", "appears twice"),
    ],
)
def test_wrong_splits(content: str, words: str) -> None:
    Path("split.yaml").write_text(content)
    with pytest.raises(InputError, match="split.yaml") as found:
        load_split(Path("split.yaml"))
    assert words in str(found.value)


def test_the_split_is_of_sets_and_cases_that_are_there() -> None:
    split = load_split(DATA / "split.yaml")
    assert set(split) <= set(shipped_sets())
    for name, numbers in split.items():
        assert numbers == "all" or set(numbers) <= {case.number for case in load_set(name).cases}


def test_errors_come_back_from_workers_whole() -> None:
    for error in (InputError("file", "key", "problem"), RowError("file", "key", "problem")):
        back = pickle.loads(pickle.dumps(error))
        assert (type(back), str(back), back.path) == (type(error), "file: key: problem", "key")


# ---- raw rows ------------------------------------------------------------------------------------------------------


def number_of(kind: str) -> int:
    return next(i for i, row in enumerate(good_rows()) if row["kind"] == kind and not row["rejected"])


def write_rows(kind: str, path: str, value: object) -> int:
    """Raw rows in the folder `set` whose first of `kind` is changed; the number of its line."""
    number = number_of(kind)
    made = [changed(row, path, value) if i == number else row for i, row in enumerate(good_rows())]
    Path("set").mkdir(exist_ok=True)
    Path("set", RAW).write_bytes(lines(made))
    return number + 1


@pytest.mark.usefixtures("_scipy")
@pytest.mark.parametrize(
    ("kind", "path", "value", "words"),
    [
        *[("copy", key, GONE, f"{key}: is missing") for key in ("case", "kind", "params", "device", "ranks")],
        *[("copy", "ranks[0].h2d.median", v, "ranks[0].h2d.median: expected ") for v in (None, "1", True, [], 1e30)],
        *[("copy", "ranks[0].h2d.spread", v, "ranks[0].h2d.spread: expected ") for v in (None, -0.1, 1e30)],
        *[("copy", "ranks[0].h2d.repeats", v, "ranks[0].h2d.repeats: expected ") for v in (0, -1, 1.5, "1")],
        ("copy", "ranks[0].h2d.mean", 1, "ranks[0].h2d.mean: unknown key"),
        ("copy", "ranks[0].h2d", GONE, "not every rank has 'h2d'"),
        ("copy", "ranks[0].h2d.median", 0, "h2d is 0, expected more than 0"),
        ("copy", "ranks[0].h2d.median", -1, "h2d is -1, expected more than 0"),
        ("copy", "ranks[0].h2d.median", 1e18, "copy/h2d/1/train"),
        ("copy", "ranks", {}, "ranks: expected a list"),
        ("copy", "ranks", [], "ranks: has 0, expected 1"),
        ("copy", "kind", "kopy", "kind: is 'kopy', expected one of attention, "),
        ("copy", "device", "tpu", "device: "),
        ("copy", "device", "cpu", "the rows come from more than one device: cpu, cuda"),
        ("copy", "gpu", "NVIDIA A100", "the rows come from more than one GPU"),
        ("copy", "gpu", 3, "gpu: expected text"),
        ("copy", "date", "yesterday", "date: expected "),
        ("copy", "seconds", -1, "seconds: expected "),
        ("copy", "attempts", 0, "attempts: expected "),
        ("copy", "rejected", 3, "rejected: expected text"),
        ("copy", "params.directions", [], "params: directions: expected "),
        ("copy", "params.directions", ["up"], "params: directions[0]: "),
        ("copy", "params.bytes", 0, "params: bytes: expected "),
        ("copy", "params.bytes", "1 MiB", "params: bytes: expected "),
        ("copy", "params.bytes", GONE, "params: bytes: is missing"),
        ("copy", "params.ranks", 0, "params: ranks: expected "),
        ("commands", "params.pattern", GONE, "params: pattern: is missing"),
        ("commands", "params.beside", "all", "params: beside: "),
        ("collective", "params.collective", "broadcast", "params: collective: "),
        ("collective", "params.ranks", 1, "params: ranks: expected "),
        ("collective", "params.ranks", 4, "ranks: has 2, expected 4"),
        ("beside", "params.events_every", 0, "params: events_every: expected "),
        ("beside", "params.chunk", None, "params: chunk: expected "),
        ("beside", "params.direction", "both", "params: direction: "),
        ("gemm", "params.m", 0, "params: m: expected "),
        ("attention", "params.head", -1, "params: head: expected "),
        ("launch", "params.work", 3, "params: work: expected text"),
        ("sm_copy", "params.ranks", None, "params: ranks: expected "),
        ("wake", "params.by", [], "params: by: expected text"),
        ("depth", "params.call", {}, "params: call: expected text"),
        ("host", "sampled", 3, "sampled: expected a mapping"),
        ("host", "sampled.cpu", 3, "sampled: cpu: expected text"),
        ("sampled", "sampled", [1], "sampled: expected a mapping"),
    ],
)  # fmt: skip
def test_rows_that_contradict_their_parameters_are_refused(kind: str, path: str, value: object, words: str) -> None:
    number = write_rows(kind, path, value)
    part = "" if value in (0, -1, 1e18, GONE, "cpu", "NVIDIA A100") and path != "params.bytes" else f"line {number}: "
    answered(FIT, 2, f"set/{RAW}: {part}", words)


@pytest.mark.usefixtures("_scipy")
@pytest.mark.parametrize(
    ("kind", "key", "value", "words"),
    [
        *[("pair", key, GONE, f"params: {key}: is missing") for key in ("collective", "bytes", "other", "other_bytes")],
        *[("crowd", key, GONE, f"params: {key}: is missing") for key in ("count", "other", "other_bytes")],
        ("pair", "ranks", 1, "params: ranks: expected "),
        ("pair", "other", "broadcast", "params: other: "),
        ("crowd", "other", 3, "params: other: "),
        ("pair", "other_bytes", 0, "params: other_bytes: expected "),
        ("crowd", "other_bytes", "1 MiB", "params: other_bytes: expected "),
        ("crowd", "count", 0, "params: count: expected "),
    ],
)
def test_interference_rows_with_wrong_parameters_are_refused(kind: str, key: str, value: object, words: str) -> None:
    row = good_rows()[number_of("collective")]
    params = row["params"] | {"other": "all_gather", "other_bytes": 1024, "work": "block"}
    Path("set").mkdir()
    Path("set", RAW).write_bytes(lines([changed(row | {"kind": kind, "params": params}, f"params.{key}", value)]))
    answered(FIT, 2, f"set/{RAW}: line 1: ", words)


@pytest.mark.usefixtures("_scipy")
@pytest.mark.parametrize("kind", ["copy", "h2d", "collective of one size", "host"])
def test_too_few_rows_for_a_fit_are_refused(kind: str) -> None:
    left = {
        "copy": [r for r in good_rows() if r["kind"] != "copy"],
        "h2d": [r for r in good_rows() if r["params"].get("directions") != ["h2d"]],
        "collective of one size": [
            r for r in good_rows() if r["kind"] != "collective" or r["case"].endswith("all_to_all/2/1048576")
        ],
        "host": [r for r in good_rows() if r["kind"] in ("host", "sampled")],
    }[kind]
    Path("set").mkdir()
    Path("set", RAW).write_bytes(lines(left))
    answered(FIT, 2, f"set/{RAW}: ", "no usable rows" if kind == "host" else "are needed")


@pytest.mark.usefixtures("_scipy")
@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/x", "-x", ".hidden", "a b", "a\0b", "x" * 300])
def test_invalid_profile_names_are_refused(name: str) -> None:
    Path("set").mkdir()
    Path("set", RAW).write_bytes(lines(good_rows()))
    answered([*FIT[:-1], name], 2, "--name: ", "expected ")


@pytest.mark.usefixtures("_scipy")
def test_a_failed_fit_leaves_the_earlier_profile_unchanged() -> None:
    Path("set").mkdir()
    Path("set", "x.yaml").write_bytes(Kind.PROFILE.value)
    Path("set", "residuals.html").write_bytes(Kind.PAGE.value)
    write_rows("copy", "ranks[0].h2d.median", -1)
    answered(FIT, 2, RAW)


# ---- measuring -----------------------------------------------------------------------------------------------------


@pytest.fixture
def _torch(_scipy: None) -> None:
    pytest.importorskip("torch", reason="the torch extra is not installed")


MEASURE = ["measure", "s.yaml", "--device", "cpu", "--out", "new"]


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("policy.kind", "x", "s.yaml: policy.kind: is 'x'"),
        ("workload.layers", 0, "s.yaml: workload"),
        ("workload.layers", 10**9, "s.yaml: workload"),
        ("hardware", "nowhere", "s.yaml: hardware: 'nowhere' is not a hardware profile"),
        ("world_size", -1, "s.yaml: world_size"),
        ("workload", [], "s.yaml: workload: expected a mapping"),
        ("scenario", {}, "s.yaml"),
        ("policy.chunk_bytes", 1, None),
    ],
)
def test_scenarios_that_cannot_be_measured(path: str, value: object, words: str | None) -> None:
    write("s.yaml", changed(SCENARIO | {"workload": SCENARIO["workload"] | {"layer_bytes": 10**12}}, path, value))
    answered(MEASURE, 2, words or "commands on 2 ranks, at most 10000000 are simulated")


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("settings", [["x"], ["world_size=1", "world_size=2"], ["policy.kind=x"], ["nothing.x=1"]])
def test_wrong_axes_of_measure_are_refused(settings: list[str]) -> None:
    write("s.yaml", MEASURED)
    answered([*MEASURE, *(part for s in settings for part in ("--set", s))], 2)


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("name", ["nothing.yaml", "folder", "loop", "/proc/self/mem", "x" * 5000])
def test_files_that_cannot_be_measured(name: str) -> None:
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    answered(["measure", name, "--out", "new"], 2, name[:100])


OUT = {
    "measure": (MEASURE, CASES),
    "calibrate": (["calibrate", "--quick", "--gpus", "1", "--out", "new"], RAW),
}


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("command", OUT)
@pytest.mark.parametrize("name", ["/dev/full", "s.yaml", "/proc/nothing", "x" * 300, "loop", "new"])
def test_folders_that_cannot_be_written(name: str, command: str) -> None:
    args, file = OUT[command]
    write("s.yaml", MEASURED)
    Path("loop").symlink_to("loop")
    Path("new", file).mkdir(parents=True)
    answered([*args, "--out", name], 1, "Error: ", name, "cannot be written: ")


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("command", OUT)
def test_one_run_a_folder(command: str) -> None:
    args, file = OUT[command]
    write("s.yaml", MEASURED)
    with open_alone(Path("new", file)):
        answered(args, 2, f"new/{file}: another run is writing to it")


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("command", OUT)
@pytest.mark.parametrize("content", [b"notes\n", b"\0" * 99 + b"\n", b'{"schema": 2}\n', b'{"schema":2}\n'], ids=repr)
def test_results_of_another_sweep_are_refused(content: bytes, command: str) -> None:
    args, file = OUT[command]
    write("s.yaml", MEASURED)
    Path("new").mkdir()
    Path("new", file).write_bytes(content + b"half a li")
    ours = content.startswith(b'{"schema":')
    answered(args, 2, f"new/{file}: " + ("line 1: " if ours else "--out would overwrite a file that is not an earlier"))


@pytest.mark.usefixtures("_torch")
@pytest.mark.parametrize("args", [["--runs", "0"], ["--runs", "nan"], ["--device", "tpu"], ["-x"], *(["--timeout", t] for t in ("0", "-5", "x", "nan", "inf", "1e300"))], ids=" ".join)  # fmt: skip
def test_wrong_options(args: list[str]) -> None:
    write("s.yaml", MEASURED)
    answered([*MEASURE, *args], 2)


@pytest.mark.usefixtures("_torch")
def test_asking_for_missing_gpus_fails_before_measuring() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    write("s.yaml", MEASURED)
    answered([*MEASURE, "--device", "cuda"], 1, "2 ranks need as many GPUs, there are 0")


# ---- anything ------------------------------------------------------------------------------------------------------

junk = st.binary(max_size=60) | st.text(max_size=30).map(str.encode) | st.sampled_from([b"{", b'"', b"}", b"\n", b"9", b"NaN"])  # fmt: skip


@given(st.data())
def test_no_bytes_get_more_than_a_message_out_of_the_readers_of_lines(data: st.DataObject) -> None:
    """Good lines with a piece cut out and junk in its place."""
    whole = data.draw(st.sampled_from([lines(good_set()[0][:1]), lines(good_rows()[:5])]))
    start = data.draw(st.integers(0, len(whole)))
    end = start + data.draw(st.integers(0, 40))
    for name in (CASES, RAW, HOST):
        Path(name).write_bytes(whole[:start] + data.draw(junk) + whole[end:])
    for reader, name in ((load_cases, CASES), (lambda folder: load_rows(folder / RAW), RAW)):
        try:
            reader(Path())
        except InputError as error:
            assert name in str(error)


@given(st.data())
def test_no_value_gets_more_than_a_message_out_of_a_data_set(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, 2))
    case = good_set()[0][number]
    path = data.draw(st.sampled_from(list(paths(case))))
    # few layers and steps, or it takes long
    assume(not {"layers", "steps", "world_size", "chunk_bytes", "layer_bytes"} & set(path))
    write_set(lambda case: put(case, path, data.draw(values | measured_numbers)), number)
    try:
        list(compare_all(jobs(load_set("set"), load_profile("h200x2-hostpath"))))
    except InputError as error:
        assert "set" in str(error) and "`" not in error.problem


measured_numbers = st.sampled_from([0, 1, 1e-9, 1e-3, 1.0, 1e6, -1, 10**15, 1e-300, 1e18, 1e300])


@given(st.data())
def test_no_value_gets_more_than_a_message_out_of_raw_rows(data: st.DataObject) -> None:
    pytest.importorskip("scipy", reason="the calibrate extra is not installed")
    made = list(good_rows())
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(made) - 1))
        path = data.draw(st.sampled_from([(), *paths(made[number])]))
        if path:
            made[number] = put(made[number], path, data.draw(values | measured_numbers))
        else:
            del made[number]
    Path(RAW).write_bytes(lines(made))
    try:
        fit_rows(load_rows(Path(RAW)), "x")
    except InputError as error:
        assert RAW in str(error) and "`" not in error.problem
    except FitError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"timed_ranks": 3}, "step_times_s[0]: has 2 ranks, expected 3"),
        ({"timed_ranks": 0}, "timed_ranks: expected at least 1, got 0"),
        ({"window": "layers", "instrumented_step_times_s": []}, "instrumented_step_times_s: expected one step or more"),
        ({"window": "blocks"}, "window: "),
        ({"kernel_times": "profile"}, "kernel_times: "),
        ({"workload": 3}, "workload: expected text"),
    ],
)
def test_wrong_descriptions_of_a_measurement_are_refused(change: Plain, words: str) -> None:
    write_set(lambda case: case | change)
    answered(VALIDATE, 2, f"set/{CASES}: line 2: {words}")


def test_cases_of_one_rank_and_a_few_layers_are_compared() -> None:
    timed = {"timed_ranks": 1, "window": "layers", "kernel_times": "scenario", "workload": "blocks of mine"}

    def one_rank(case: Plain) -> Plain:
        steps = [run[:1] for run in case["step_times_s"]]
        return (
            case | timed | {"step_times_s": steps, "instrumented_step_times_s": case["instrumented_step_times_s"][:1]}
        )

    write_set()
    made, _ = good_set()
    Path("set", CASES).write_bytes(lines([one_rank(case) for case in made]))
    found = load_set("set")
    assert set(found.workloads.values()) == {"blocks of mine"} and found.baselines() == {}
    compared = list(compare_all(jobs(found, load_profile("h200x2-hostpath"))))
    assert [c.workload for c in compared] == ["blocks of mine"] * 3
    for c, case in zip(compared, found.cases, strict=True):
        assert c.measured.step_s == case.step_time_s
        window = max(op.end for op in case.operations) - min(op.start for op in case.operations)
        assert c.measured.window_s == pytest.approx(window * 1e-6)
