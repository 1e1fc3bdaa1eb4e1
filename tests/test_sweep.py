"""Sweeps: axes, points, rows in order, files that are continued wherever they were cut."""

from __future__ import annotations

import copy
import csv
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from conftest import Command, shared_folder
from html_reader import Reader, table_rows
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import Plain
from sweep_scenario import BASE, MIB

from sim import simulate
from sim.hardware import load_profile, to_plain
from sim.inputs.config import InputError, convert
from sim.report.sweep_page import write_experiment, write_page
from sim.scenario import Scenario
from sim.sweeps.axes import parse_axis
from sim.sweeps.evaluation import Evaluated, Figures, evaluate
from sim.sweeps.experiments import Experiment
from sim.sweeps.grid import Setting, points, sweep
from sim.sweeps.results_file import METRICS, Point, Row

# ---- axes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "path", "values"),
    [
        ("policy.kind=chunked,yielding", "policy.kind", ["chunked", "yielding"]),
        ("a.b = 1 MiB , 2MiB", "a.b", ["1 MiB", "2MiB"]),
        ("a=1,2.5,true,x,1e3", "a", [1, 2.5, True, "x", "1e3"]),
        ("a=1MiB..8MiB:x2", "a", [MIB, 2 * MIB, 4 * MIB, 8 * MIB]),
        ("a=1MiB..15MiB:x2", "a", [MIB, 2 * MIB, 4 * MIB, 8 * MIB]),
        ("a=1 MiB..9 MiB:+4 MiB", "a", [MIB, 5 * MIB, 9 * MIB]),
        ("a=1KiB..1MiB:x32", "a", [1024, 32768, MIB]),
        ("a=1GB..3GB:+1GB", "a", [10**9, 2 * 10**9, 3 * 10**9]),
        ("a=0..1:+0.25", "a", [0, 0.25, 0.5, 0.75, 1]),
        ("a=0.1..0.7:+0.1", "a", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
        ("a=1ms..4ms:x2", "a", [0.001, 0.002, 0.004]),
        ("a=100us..1ms:x10", "a", [0.0001, 0.001]),
        ("a=10GB/s..40GB/s:x2", "a", [10**10, 2 * 10**10, 4 * 10**10]),
        ("a=5..5:x2", "a", [5]),
        ("a=1,4..16:x2,100", "a", [1, 4, 8, 16, 100]),
        ("a=[1,2],3", "a", [[1, 2], 3]),
        ("a=[[1, 2], [3]],{b: 1, c: 2}", "a", [[[1, 2], [3]], {"b": 1, "c": 2}]),
        ("workload.block[0].compute.seconds=1 ms", "workload.block[0].compute.seconds", ["1 ms"]),
    ],
)
def test_axes_are_read(text: str, path: str, values: list[object]) -> None:
    found = parse_axis(text)
    assert found == (path, values)
    assert [type(v) for v in found[1]] == [type(v) for v in values], "true is not 1, 1.0 is not 1"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("policy.kind", "expected key.path=value"),
        ("=1", "expected key.path=value"),
        ("a=", "expected key.path=value"),
        ("  = 1", "expected key.path=value"),
        ("a=  ", "expected key.path=value"),
        ("a=3..1:x2", "expected a range that ascends"),
        ("a=1..3:x1", "expected a range that ascends"),
        ("a=1..3:x0.5", "expected a range that ascends"),
        ("a=1..3:+0", "expected a range that ascends"),
        ("a=0..3:x2", "expected a range that ascends"),
        ("a=1 MiB..1 KiB:x2", "expected a range that ascends"),
        ("a=1..many:x2", "'many' is not a number with a unit"),
        ("a=1..3:+-1", "'-1' is not a number with a unit"),
        ("a=1 MiX..3 MiB:x2", "'1 MiX' is not a number with a unit"),
        ("a=0..1:+1e-9", "more than 1000000 values"),
    ],
)
def test_a_wrong_axis_is_named(text: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_axis(text)
    assert str(caught.value).startswith(f"--set: {text}: ")
    assert problem in caught.value.problem


# ---- points --------------------------------------------------------------------------------------------------------


def test_the_first_axis_is_the_slowest_and_the_scenario_stays_as_it_is() -> None:
    before = copy.deepcopy(BASE)
    axes = {"policy.chunk_bytes": ["1 MiB", "2 MiB"], "workload.block[0].compute.seconds": ["1 ms", "3 ms", "2 ms"]}
    made = points(BASE, axes)
    assert [tuple(p.values.values()) for p in made] == [
        (size, seconds) for size in ("1 MiB", "2 MiB") for seconds in ("1 ms", "3 ms", "2 ms")
    ]
    assert all(list(p.values) == list(axes) for p in made)
    for point in made:
        assert point.data["policy"]["chunk_bytes"] == point.values["policy.chunk_bytes"]
        first, *others = point.data["workload"]["block"]
        assert first["compute"] == {"name": "a", "seconds": point.values["workload.block[0].compute.seconds"]}
        assert others == BASE["workload"]["block"][1:]
    assert before == BASE


def test_kinds_of_policy_lose_the_keys_they_do_not_have_and_points_that_say_the_same() -> None:
    kinds = ["resident", "whole_layer", "chunked", "yielding"]
    axes = {"policy.chunk_bytes": ["1 MiB", "2 MiB"], "policy.kind": kinds, "policy.drain": [False, True]}
    made = points(BASE, axes, "s.yaml")
    none = None
    assert [tuple(p.values.values()) for p in made] == [
        (none, "resident", none),
        (none, "whole_layer", none),
        ("1 MiB", "chunked", none),
        ("1 MiB", "yielding", False),
        ("1 MiB", "yielding", True),
        ("2 MiB", "chunked", none),
        ("2 MiB", "yielding", False),
        ("2 MiB", "yielding", True),
    ]
    assert made[0].data["policy"] == {"kind": "resident"}
    assert made[1].data["policy"] == {"kind": "whole_layer"}, "the scenario's own chunk_bytes went too"


def test_a_key_that_only_other_policies_have_is_noted_once() -> None:
    told: list[str] = []
    axes = {"policy.kind": ["resident", "chunked", "yielding"], "policy.drain": [True, False], "world_size": [1, 2]}
    points(BASE, axes, "s.yaml", told.append)
    assert told == [
        "policy.chunk_bytes is left out where policy.kind is resident, which has no such key",
        "policy.drain is left out where policy.kind is resident or chunked, which has no such key",
    ]


@pytest.mark.parametrize("kinds", [["chunked"], ["resident", "yielding"], ["sharded", "whole_layer", "chunked"]])
@pytest.mark.parametrize(
    ("key", "hint"),
    [("prefetch_layer", "did you mean 'prefetch_layers'? "), ("xyz", ""), ("Drain", "did you mean 'drain'? ")],
)
def test_a_key_that_no_policy_has_is_wrong_whatever_kinds_are_swept(kinds: list[str], key: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        points(BASE, {"policy.kind": kinds, f"policy.{key}": [1, 2, 3]}, "s.yaml")
    told = f"policy.{key}: unknown key, which no policy has; {hint}expected one of "
    start, _, keys = str(caught.value).partition(told)
    assert start == f"s.yaml, policy.kind={kinds[0]}, policy.{key}=1: "
    listed = keys.split(", ")
    assert listed == sorted({*listed}), "those of all policies, each once"
    assert {"chunk_bytes", "drain", "prefetch_layers", "resident_fraction"} <= set(listed) and key not in listed


def test_more_ranks_than_gpus_are_refused_before_anything_runs(chunkflow: Command, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(BASE | {"world_size": 3}))
    told = "world_size: is 3, but h200x2-hostpath has 2 GPUs\n"
    run = chunkflow("run", "s.yaml", cwd=tmp_path)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"Error: s.yaml: {told}")
    swept = chunkflow("sweep", "s.yaml", "--set", "world_size=1,2,3", "--out", "rows.csv", cwd=tmp_path)
    assert (swept.returncode, swept.stdout, swept.stderr) == (2, "", f"Error: s.yaml, world_size=3: {told}")
    assert not (tmp_path / "rows.csv").exists()
    assert len(points(BASE, {"world_size": [3]}, check_gpu_count=False)) == 1


def test_ranks_that_domains_do_not_hold_evenly_are_refused_before_anything_runs(tmp_path: Path) -> None:
    host: Any = to_plain(load_profile("h100x8-pcie-2switch"))
    host["collectives"]["all_to_all"]["algorithm"] = "hierarchical"
    (tmp_path / "host.yaml").write_text(yaml.safe_dump(host))
    base = BASE | {"hardware": str(tmp_path / "host.yaml")}
    assert len(points(base, {"world_size": [1, 2, 4, 8]})) == 4
    with pytest.raises(InputError, match="a hierarchical collective needs 5 ranks in domains of one size"):
        points(base, {"world_size": [5]})
    lone = base | {"workload": BASE["workload"] | {"block": [{"compute": {"name": "a", "seconds": 1}}]}}
    assert len(points(lone, {"world_size": [5]})) == 1


def test_without_a_sweep_over_kinds_a_key_that_the_policy_has_not_is_wrong() -> None:
    with pytest.raises(InputError, match=r"drain: unknown key; expected one of chunk_bytes"):
        points(BASE | {"policy": {"kind": "chunked", "chunk_bytes": 1}}, {"policy.drain": [True]})


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("policy.chunk_byte", 1, "s.yaml, policy.chunk_byte=1: policy.chunk_byte: unknown key; did you mean 'chunk_b"),
        ("policy.chunk_bytes", "1 ms", "s.yaml, policy.chunk_bytes=1 ms: policy.chunk_bytes: expected a size"),
        ("policy.kind", "all", "s.yaml, policy.kind=all: policy.kind: is 'all'; expected one of"),
        ("workload.blocks[0].repeat", 1, "s.yaml: workload.blocks[0].repeat: there is no 'blocks' in the scenario"),
        ("workload.block[3].compute", 1, "s.yaml: workload.block[3].compute: there is no '[3]' in the scenario"),
        ("workload.block[9]", {}, "s.yaml: workload.block[9]: there is no '[9]' in the scenario"),
        ("workload.block[x].compute", 1, "s.yaml: workload.block[x].compute: there is no '[x]' in the scenario"),
        ("workload[0].block", 1, "s.yaml: workload[0].block: there is no '[0]' in the scenario"),
        ("workload.layers.x", 1, "s.yaml: workload.layers.x: leads into something that has no keys"),
        ("hardware", "nowhere", "s.yaml, hardware=nowhere: hardware: 'nowhere' is not a hardware profile"),
    ],
)
def test_a_wrong_key_is_named_with_its_axis(path: str, value: object, told: str) -> None:
    with pytest.raises(InputError) as caught:
        points(BASE, {"world_size": [2], path: [value]}, "s.yaml")
    assert str(caught.value).replace("s.yaml, world_size=2, ", "s.yaml, ").startswith(told)


def test_an_item_of_a_list_can_be_an_axis() -> None:
    items = [{"compute": {"name": "c", "seconds": 1}}, {"collective": {"kind": "all_reduce", "bytes": 8}}]
    made = points(BASE, {"workload.block[1]": items})
    assert [p.data["workload"]["block"][1] for p in made] == items


def test_endless_sweeps_are_refused_before_they_are_made() -> None:
    with pytest.raises(InputError, match=r"1000002000000 points, at most"):
        points(BASE, {"workload.layers": range(1, 10**6 + 1), "workload.steps": range(2, 10**6 + 4)})


# ---- runs ----------------------------------------------------------------------------------------------------------

AXES = {"policy.kind": ["whole_layer", "chunked", "yielding"], "policy.chunk_bytes": ["1 MiB", "3 MiB"], "world_size": [1, 2]}  # fmt: skip
"""Points with and without a chunk size."""


@pytest.fixture(scope="module")
def chosen() -> list[Point]:
    return points(BASE, AXES)


@pytest.fixture(scope="module")
def whole(chosen: list[Point], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Row], bytes]:
    """The rows, and the file, of a sweep that nothing interrupts."""
    file = tmp_path_factory.mktemp("whole") / "rows.csv"
    return sweep(chosen, output=file), file.read_bytes()


class Counting(Executor):
    """Runs in this thread, and counts what it runs. What has `failing` ranks does not run, but fails with `failure`."""

    def __init__(self, failing: int = 0, failure: Exception | Evaluated | None = None) -> None:
        self.runs = 0
        self.failing = failing
        self.failure = failure

    def submit(self, function: Callable[..., Any], /, *given: Any, **_: Any) -> Future[Any]:
        self.runs += 1
        future: Future[Any] = Future()
        if given[0].scenario.world_size != self.failing:
            future.set_result(function(*given))
        elif isinstance(self.failure, Exception):
            future.set_exception(self.failure)
        else:
            future.set_result(self.failure)
        return future


WRONG = Evaluated(None, RuntimeError("deadlock at 3 s"))
"""What a point gives that fails in its simulation."""


def test_rows_are_what_single_runs_give(chosen: list[Point], whole: tuple[list[Row], bytes]) -> None:
    rows, content = whole
    lines = list(csv.DictReader(content.decode().splitlines()))
    assert len(rows) == len(lines) == len(chosen) == 10
    for point, row, line in zip(chosen, rows, lines, strict=True):
        assert row.values == point.values
        assert [line[axis] for axis in AXES] == ["" if v is None else str(v) for v in row.values.values()]
        metrics: Any = simulate(Scenario.from_plain(point.data)).metrics
        assert row.error == line["error"] == row.failure == line["failure"] == ""
        assert row.metrics == {name: metrics[name] for name in METRICS} == {n: json.loads(line[n]) for n in METRICS}
    assert len({line["scenario_v1"] for line in lines}) == len(lines)


@pytest.mark.parametrize("kind", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_any_executor_gives_the_same_rows_and_the_same_file(
    kind: type[ProcessPoolExecutor | ThreadPoolExecutor],
    chosen: list[Point],
    whole: tuple[list[Row], bytes],
    tmp_path: Path,
) -> None:
    with kind(2) as pool:
        assert sweep(chosen, pool, tmp_path / "rows.csv") == whole[0]
    assert (tmp_path / "rows.csv").read_bytes() == whole[1]


def test_rows_are_written_one_by_one_as_they_come(
    chosen: list[Point], whole: tuple[list[Row], bytes], tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"
    lines, seen = whole[1].splitlines(keepends=True), []

    def progress(done: int) -> None:
        assert file.read_bytes() == b"".join(lines[: done + 1])
        seen.append(done)

    sweep(chosen, None, file, progress)
    assert seen == list(range(len(chosen) + 1))


def test_an_interrupted_sweep_keeps_its_rows_and_resumes(
    chosen: list[Point], whole: tuple[list[Row], bytes], tmp_path: Path
) -> None:
    file = tmp_path / "rows.csv"

    def interrupt(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(chosen, None, file, interrupt)
    assert file.read_bytes() == b"".join(whole[1].splitlines(keepends=True)[:5])
    seen: list[int] = []
    rest, again = Counting(), Counting()
    assert sweep(chosen, rest, file, seen.append) == whole[0]
    assert (rest.runs, seen, file.read_bytes()) == (6, list(range(4, 11)), whole[1])
    assert sweep(chosen, again, file) == whole[0]
    assert (again.runs, file.read_bytes()) == (0, whole[1])


@pytest.mark.slow
@given(st.integers(0, 10**6))
@example(0)
@example(1)
def test_a_file_cut_at_any_byte_is_continued(
    whole: tuple[list[Row], bytes], chosen: list[Point], tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    rows, content = whole
    file, counting = tmp_path_factory.getbasetemp() / "cut.csv", Counting()
    at %= len(content) + 1
    file.write_bytes(content[:at])
    assert sweep(chosen, counting, file) == rows
    assert file.read_bytes() == content
    kept = max(content[:at].count(b"\n") - 1, 0)
    assert counting.runs == len(chosen) - kept, "whole rows are kept, others run"


@pytest.mark.parametrize("line", range(11))
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_a_file_cut_at_the_end_of_a_line_is_continued(
    line: int, offset: int, whole: tuple[list[Row], bytes], chosen: list[Point], tmp_path: Path
) -> None:
    rows, content = whole
    end = len(b"".join(content.splitlines(keepends=True)[: line + 1]))
    (tmp_path / "rows.csv").write_bytes(content[: end + offset])
    assert sweep(chosen, output=tmp_path / "rows.csv") == rows
    assert (tmp_path / "rows.csv").read_bytes() == content


MICRO = {"workload.block[0].compute.seconds": ["100 \N{MICRO SIGN}s", "150 \N{MICRO SIGN}s", "90 us"]}


@pytest.mark.parametrize(
    "inside",
    [
        False,
        pytest.param(True),
    ],
)
def test_a_file_with_more_than_ascii_is_continued(inside: bool, tmp_path: Path) -> None:
    made, file = points(BASE, MICRO), tmp_path / "rows.csv"
    rows = sweep(made, output=file)
    content = file.read_bytes()
    assert [v for r in rows for v in r.values.values()] == [v for vs in MICRO.values() for v in vs]
    file.write_bytes(content[: content.rindex("\N{MICRO SIGN}".encode()) + inside])
    assert sweep(made, output=file) == rows
    assert file.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda c: c.replace(b"policy.kind", b"policy.kin"), id="other axes"),
        pytest.param(lambda c: c.replace(b"scenario_v1", b"scenario_v0"), id="other figures"),
        pytest.param(lambda c: c.split(b"\n", 1)[1], id="no header"),
        pytest.param(lambda c: c + c.splitlines(keepends=True)[-1], id="a row too many"),
        pytest.param(lambda c: c.replace(b",yielding,", b",yield,ing,", 1), id="a cell too many"),
        pytest.param(lambda c: c.replace(b",12582912,", b",many,", 1), id="no number"),
        pytest.param(lambda c: re.sub(rb"(?m)^([0-9a-f]{12}-)", rb"\1\1", c), id="five digests"),
        pytest.param(lambda c: re.sub(rb"(?m)^[0-9a-f]{12}-", b"", c), id="three digests"),
        pytest.param(lambda c: b"notes", id="something else"),
        pytest.param(lambda c: b"\n", id="an empty line"),
    ],
)
def test_a_file_of_another_sweep_is_refused_and_left_alone(
    change: Callable[[bytes], bytes], whole: tuple[list[Row], bytes], chosen: list[Point], tmp_path: Path
) -> None:
    file, counting = tmp_path / "rows.csv", Counting()
    file.write_bytes(change(whole[1]))
    with pytest.raises(InputError, match=r"rows\.csv: is not the result of this sweep"):
        sweep(chosen, counting, file)
    assert (counting.runs, file.read_bytes()) == (0, change(whole[1]))


def test_a_file_of_the_same_axes_on_another_scenario_is_refused(whole: tuple[list[Row], bytes], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(whole[1])
    other = copy.deepcopy(BASE)
    other["workload"]["block"][0]["compute"]["seconds"] = "201 us"
    with pytest.raises(InputError, match="is not the result of this sweep"):
        sweep(points(other, AXES), output=tmp_path / "rows.csv")


def test_a_file_with_a_blank_line_is_refused(
    whole: tuple[list[Row], bytes], chosen: list[Point], tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_bytes(whole[1].splitlines(keepends=True)[0] + b"\n")
    with pytest.raises(InputError, match="is not the result of this sweep"):
        sweep(chosen, output=tmp_path / "rows.csv")


def test_a_file_that_cannot_be_written_fails_before_anything_runs(chosen: list[Point], tmp_path: Path) -> None:
    counting = Counting()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/rows.csv"):
        sweep(chosen, counting, tmp_path / "file" / "rows.csv")
    assert counting.runs == 0


def test_rows_in_any_order_are_taken_and_put_in_order(
    chosen: list[Point], whole: tuple[list[Row], bytes], tmp_path: Path
) -> None:
    file, counting = tmp_path / "new" / "rows.csv", Counting()
    file.parent.mkdir()
    header, *lines = whole[1].splitlines(keepends=True)
    file.write_bytes(header + b"".join(lines[i] for i in (7, 2, 5)))
    assert sweep(chosen, counting, file) == whole[0]
    assert (counting.runs, file.read_bytes()) == (len(chosen) - 3, whole[1])


@pytest.mark.parametrize("change", ["h2d:\n", "h2d:\n  # checked again\n"])
def test_a_changed_profile_makes_another_sweep_and_a_comment_does_not(change: str, tmp_path: Path) -> None:
    host: Any = to_plain(load_profile("h200x2-hostpath"))
    file, rows = tmp_path / "host.yaml", tmp_path / "rows.csv"
    file.write_text(yaml.safe_dump(host))
    base, axes = BASE | {"hardware": str(file)}, {"world_size": [1, 2]}
    done = sweep(points(base, axes), output=rows)
    file.write_text(yaml.safe_dump(host).replace("h2d:\n", change, 1))
    counting = Counting()
    assert sweep(points(base, axes), counting, rows) == done and counting.runs == 0
    host["h2d"]["cap"]["value"] /= 2
    file.write_text(yaml.safe_dump(host))
    with pytest.raises(
        InputError, match=r"rows\.csv: 2 of its 2 rows were made with another hardware profile: --recom"
    ):
        sweep(points(base, axes), counting, rows)
    assert counting.runs == 0
    told: list[str] = []
    again = sweep(points(base, axes), counting, rows, recompute=True, note=told.append)
    assert told == [f"{rows}: 2 of its 2 rows were made with another hardware profile: they are made again"]
    assert counting.runs == 2 and again == sweep(points(base, axes)) != done
    assert sweep(points(base, axes), counting, rows) == again and counting.runs == 2


# ---- what rows are kept -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [MemoryError(), OSError(5, "gone"), Evaluated(None, OSError("full")), BrokenExecutor()])  # fmt: skip
def test_failures_of_the_environment_are_tried_again(
    failure: Exception | Evaluated, chosen: list[Point], whole: tuple[list[Row], bytes], tmp_path: Path
) -> None:
    file, again = tmp_path / "rows.csv", Counting()
    rows = sweep(chosen, Counting(1, failure), file)
    assert [(r.failure, bool(r.error)) for r in rows] == [
        ("environment", True) if r.values["world_size"] == 1 else ("", False) for r in rows
    ]
    assert file.read_text().count(",environment,") == 5
    assert sweep(chosen, again, file) == whole[0]
    assert (again.runs, file.read_bytes()) == (5, whole[1])


def test_failures_of_the_scenario_are_kept(chosen: list[Point], tmp_path: Path) -> None:
    file, again = tmp_path / "rows.csv", Counting()
    rows = sweep(chosen, Counting(1, WRONG), file)
    before = file.read_bytes()
    assert before.count(b",scenario,deadlock at 3 s\n") == 5
    assert sweep(chosen, again, file) == rows
    assert (again.runs, file.read_bytes()) == (0, before)


def test_a_process_with_other_code_gives_no_row(chosen: list[Point]) -> None:
    [row] = sweep([chosen[0]._replace(job=chosen[0].job._replace(code="other"))])
    assert (row.failure, row.error) == ("environment", "the code of chunkflow-sim was changed while this ran")


ODD = ["a\rb", "a\nb", "a\r\nb", "\n", "a\x1b[1m", "a\u2028b", '"', "'", ",", "=1+1", "@x", "+1 x", "-", "n" * 200_000]
"""Names that a line, a CSV reader or a spreadsheet could take for something else."""


@pytest.mark.parametrize("failing", [0, 2])
@pytest.mark.parametrize("name", [*ODD, pytest.param(None, id="all")])
def test_any_value_is_resumed_with_the_same_bytes(name: str | None, failing: int, tmp_path: Path) -> None:
    made = points(BASE, {"workload.block[0].compute.name": ODD if name is None else [name]})
    file, again = tmp_path / "rows.csv", Counting()
    wrong = Evaluated(None, RuntimeError("=no\x1b"))
    rows = sweep(made, Counting(failing, wrong), file)
    before = file.read_bytes()
    assert before.count(b"\n") == 1 + len(made)
    assert [r.metrics for r in sweep(made, again, file)] == [r.metrics for r in rows]
    assert (again.runs, file.read_bytes()) == (0, before)
    if name is not None and len(name) < 100_000:  # else longer than csv usually reads
        cells = [cell for line in csv.reader(before.decode().splitlines()) for cell in line]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    for end in (before.rindex(b"\n", 0, -1) + 1, len(before) - 1):
        file.write_bytes(before[:end])
        sweep(made, Counting(failing, wrong), file)
        assert file.read_bytes() == before


def test_an_axis_of_any_name_is_resumed(tmp_path: Path) -> None:
    case = Setting(name="one", set={})
    made, file, again = points(BASE, {"a\r\n,b": [case], "c" * 200_000: [case]}), tmp_path / "rows.csv", Counting()
    rows = sweep(made, output=file)
    assert sweep(made, again, file) == rows and again.runs == 0


def test_a_metric_can_be_true_or_false(chosen: list[Point], tmp_path: Path) -> None:
    file, again = tmp_path / "rows.csv", Counting()
    figures: Any = dict.fromkeys(METRICS, 1.5) | {METRICS[0]: True, METRICS[1]: False}
    yes = Evaluated(Figures(figures, 0, 0, ""))
    rows = sweep(chosen[:1], Counting(1, yes), file)
    found = sweep(chosen[:1], again, file)
    assert found == rows and [found[0].metrics[name] for name in METRICS[:3]] == [True, False, 1.5]
    assert [type(found[0].metrics[name]) for name in METRICS[:3]] == [bool, bool, float]
    assert b",true,false,1.5," in file.read_bytes() and again.runs == 0


@pytest.mark.parametrize("change", ["removed", "moved", "replaced", "its folder"])
def test_a_file_that_goes_away_during_a_sweep_is_an_error(change: str, chosen: list[Point], tmp_path: Path) -> None:
    file = tmp_path / "new" / "rows.csv"

    def progress(done: int) -> None:
        if done != 3:
            return
        if change == "removed":
            file.unlink()
        elif change == "its folder":
            file.parent.rename(tmp_path / "old")
        else:
            file.rename(file.with_name("old.csv"))
            if change == "replaced":
                file.write_text("other\n")

    with pytest.raises(OSError, match="it was moved, removed or replaced while the sweep ran"):
        sweep(chosen, None, file, progress)
    assert not file.exists() or file.read_text() == "other\n"


def test_a_pipe_takes_rows(chosen: list[Point], whole: tuple[list[Row], bytes], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.csv")
    reader = os.open(tmp_path / "rows.csv", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(tmp_path / "rows.csv", os.O_WRONLY)
    sweep(chosen, output=Path(f"/dev/fd/{writer}"))
    assert os.read(reader, 10**6) == whole[1]
    os.close(writer)
    os.close(reader)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of this package, that can be changed."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("sim", "scenarios", "validation", "calibration"):
        source = Path(__file__).parents[1] / name
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "data"))
    return folder


MODEL: Plain = {"model": "wan2.2-5b", "frames": 5, "height": 704, "width": 1280, "steps": 2, "layers": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("scenarios/models/wan2.2-5b.yaml", "heads: 24", "heads: 12", "model"),
        ("sim/machine/host.py", "import annotations", "import annotations  # !", "version or code of chunkflow-sim"),
        ("sim/report/tables.py", "import annotations", "import annotations  # !", ""),
    ],
)
def test_rows_of_another_content_are_refused_or_made_again(
    file: str, old: str, new: str, changed: str, chunkflow: Command, package: Path, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(BASE | {"workload": MODEL}))
    environment = chunkflow.environment | {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    command = ("sweep", "s.yaml", "--set", "policy.chunk_bytes=16MiB,32MiB", "--workers", "1", "--out")

    def run(out: str, *more: str) -> subprocess.CompletedProcess[str]:
        return chunkflow(*command, out, *more, cwd=tmp_path, env=environment)

    assert run("rows.csv").returncode == 0
    before, text = (tmp_path / "rows.csv").read_bytes(), (package / file).read_text()
    assert old in text
    (package / file).write_text(text.replace(old, new, 1))
    try:
        refused, again, fresh = run("rows.csv"), run("rows.csv", "--recompute"), run("fresh.csv")
    finally:
        (package / file).write_text(text)
    assert (again.returncode, fresh.returncode) == (0, 0)
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()
    assert ((tmp_path / "rows.csv").read_bytes() != before) == bool(changed)
    if changed:
        told = f"rows.csv: 2 of its 2 rows were made with another {changed}: "
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == f"Error: {told}--recompute makes them again, or give another --out\n"
        assert again.stderr == f"note: {told}they are made again\n"
    else:
        assert (refused.returncode, refused.stderr, again.stderr) == (0, "", "") and "note" not in again.stdout


def test_a_point_runs_with_the_model_that_was_read_with_it() -> None:
    [point] = points(BASE | {"workload": MODEL}, {"world_size": [2]})
    [[name, model]] = point.job.models.items()
    assert name == model.name == MODEL["model"]
    small = msgspec.structs.replace(model, transformer=msgspec.structs.replace(model.transformer, ffn=512))
    jobs = [point.job._replace(models={name: shapes}) for shapes in (model, small)]
    figures: list[Any] = [evaluate(job).figures().metrics for job in jobs]
    assert {name: figures[0][name] for name in METRICS} == dict(sweep([point])[0].metrics)
    assert figures[1]["h2d_bytes_per_step"] < figures[0]["h2d_bytes_per_step"]


def test_a_sweep_interrupted_while_recomputing_resumes(chosen: list[Point], tmp_path: Path) -> None:
    file, counting = tmp_path / "rows.csv", Counting()
    old = [point._replace(identity=point.identity._replace(code="older")) for point in chosen]
    sweep(old, output=file)

    def interrupt(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(chosen, None, file, interrupt, recompute=True)
    with pytest.raises(InputError, match="6 of its 14 rows were made with another version or code of chunkflow-sim"):
        sweep(chosen, None, file)
    assert sweep(chosen, counting, file, recompute=True) == sweep(chosen)
    assert counting.runs == 6
    assert file.read_text().count("\n") == 11 and "older" not in file.read_text()


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(chunkflow: Command, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What `chunkflow-sim sweep` prints, and its page, for a sweep in which some points fail."""

    def make(folder: Path) -> None:
        (folder / "<s>.yaml").write_text(yaml.safe_dump(BASE))
        more = AXES | {"policy.resident_fraction": [0, 0.5]}
        sweep(points(BASE, more), Counting(1, WRONG), folder / "rows.csv")
        axes = [f"--set={path}={','.join(map(str, values))}" for path, values in more.items()]
        done = chunkflow("sweep", "<s>.yaml", *axes, "--workers", "2", "--out", "rows.csv", "--html", "new/page.html", cwd=folder)  # fmt: skip
        (folder / "out").write_text(done.stdout)
        note = "note: policy.chunk_bytes is left out where policy.kind is whole_layer, which has no such key\n"
        assert (done.returncode, done.stderr) == (1, f"{note}page: new/page.html\nError: 10 of 20 points failed\n")

    folder = shared_folder(tmp_path_factory, "finished", make)
    return (folder / "out").read_text(), (folder / "new" / "page.html").read_text(encoding="utf-8")


def test_points_that_fail_are_reported_and_the_others_finish(finished: tuple[str, str]) -> None:
    why = [line for line in finished[0].splitlines() if line.startswith("failed: ")]
    assert len(why) == 10
    assert why[0] == "failed: policy.kind=whole_layer, world_size=1, policy.resident_fraction=0: deadlock at 3 s"
    assert len([line for line in finished[0].splitlines() if line.rstrip().endswith(" yes")]) == 10


def test_the_page_of_a_sweep_has_every_point_and_loads_nothing(finished: tuple[str, str]) -> None:
    read = Reader(finished[1])
    assert [u for u in read.loads if not u.startswith(("#", "data:"))] == []
    assert len(read.data) == 5  # why the fastest is, chunk sizes, memory, and two heat maps
    assert "Sweep of <s>.yaml" in read.text
    assert table_rows(finished[1], "All points") == 20
    assert len([t for t in read.text if "deadlock at 3 s" in t]) == 10


def test_the_page_needs_only_the_points_to_be_valid(chunkflow: Command, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(BASE | {"world_size": 4}))
    done = chunkflow("sweep", "s.yaml", "--set", "world_size=1,2", "--html", "page.html", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "page: page.html\n")


@pytest.mark.parametrize("ranks", [[1, 2], [1]])
@pytest.mark.parametrize("plot", ["sweep", "curves", "bars", "chunk"])
def test_the_page_of_points_of_which_the_first_ones_fail(plot: str, ranks: list[int], tmp_path: Path) -> None:
    made = points(BASE, {"world_size": ranks})
    rows = sweep(made, Counting(1, WRONG))
    if plot == "sweep":
        write_page(tmp_path / "page.html", "s.yaml", made, rows)
    else:
        axes = {"world_size": ranks}
        plain = {"title": "t", "about": "a", "x": "world_size", "plot": plot, "scenario": BASE, "axes": axes}
        write_experiment(tmp_path / "page.html", convert(plain, Experiment, "e.yaml"), made, rows)
    page = Reader((tmp_path / "page.html").read_text())
    assert [text for text in page.text if "deadlock" in text] == ["deadlock at 3 s"]
    assert sum(text.endswith(" ms") for text in page.text) == 4 * (len(ranks) - 1)
    if plot == "sweep":
        assert ("all resident" in str(page.data)) == (2 in ranks)


def test_an_axis_given_twice_is_refused(chunkflow: Command, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(BASE))
    done = chunkflow("sweep", "s.yaml", "--set", "world_size=1", "--set", "world_size=2", cwd=tmp_path)
    assert done.returncode == 2 and "world_size" in done.stderr
