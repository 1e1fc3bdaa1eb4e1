"""What wrong input is told: every fault at once with its path, what is allowed, the form to write, a way out."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from strategies import Plain, plain_data
from wrong_input import SCENARIO, put

from sim.cli import main
from sim.hardware import Profile, load_profile, shipped, to_plain
from sim.hardware.collectives import phases
from sim.hardware.topology import Capacity, Node, Sourced
from sim.inputs.config import MAX_FAULTS, Config, InputError, convert
from sim.inputs.faults import find
from sim.inputs.units import Bandwidth
from sim.inputs.yaml_files import parse_yaml
from sim.program import COLLECTIVES, Copy, RankBuilder
from sim.scenario import Scenario
from sim.sweeps.axes import parse_axis
from sim.sweeps.grid import points
from sim.timeline import accesses
from sim.workloads.named import load_model

NAMED: Plain = {
    **SCENARIO,
    "workload": {"model": "flux.1-dev", "height": 512, "width": 512, "parallelism": "ulysses", "steps": 1, "layers": 2},
}
WRONG: list[tuple[tuple[str | int, ...], object, str, str]] = [
    (("hardware",), "h200x2-hostpth", "hardware", "is not a hardware profile; did you mean 'h200x2-hostpath'"),
    (("world_size",), 1.5, "world_size", "expected a whole number, got the number 1.5"),
    (("workload", "layers"), 0, "workload.layers", ""),
    (("workload", "steps"), "two", "workload.steps", "expected a whole number, got text 'two'"),
    (("workload", "block", 1, "collective", "kind"), "broadcast", "workload.block[1].collective.kind", "expected one of all_to_all, all_reduce, all_gather, reduce_scatter, send_recv"),
    (("workload", "block", 0, "compute", "secnds"), 1, "workload.block[0].compute.secnds", "did you mean 'seconds'?"),
    (("policy", "kind"), "chunkd", "policy.kind", "is 'chunkd'; did you mean 'chunked'? expected one of adaptive, chunked, "),
    (("policy",), None, "policy", "expected a mapping of keys to values, got nothing; write {kind: "),
]  # fmt: skip


@given(st.sets(st.sampled_from(range(len(WRONG) - 1)), min_size=1))
def test_every_fault_is_told_with_its_path(chosen: set[int]) -> None:
    data = SCENARIO
    for number in chosen:
        data = put(data, *WRONG[number][:2])
    with pytest.raises(InputError) as caught:
        Scenario.from_plain(data, "s.yaml")
    told = dict(caught.value.faults)
    for number in chosen - {2}:  # a number that is too small is seen once all are numbers
        _, _, path, words = WRONG[number]
        assert words in told[path]
    assert set(told) <= {WRONG[number][2] for number in chosen}
    assert str(caught.value).splitlines() == [f"s.yaml: {path}: {problem}" for path, problem in caught.value.faults]
    assert (caught.value.path, caught.value.problem) == caught.value.faults[0]
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.faults, str(again)) == (caught.value.faults, str(caught.value))


@pytest.mark.parametrize(("keys", "value", "path", "words"), WRONG)
def test_one_fault_is_one_line(keys: tuple[str | int, ...], value: object, path: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        Scenario.from_plain(put(SCENARIO, keys, value), "s.yaml")
    assert caught.value.path == path and words in caught.value.problem
    assert str(caught.value).count("\n") == 0


def test_faults_that_checks_of_a_struct_find_are_told_together() -> None:
    plain: Any = to_plain(load_profile("h200x2-hostpath"))
    for key in ("cap", "weight"):
        plain["h2d"][key]["value"] = 0
    plain["host"]["wake_spread"] = {"value": 2, "source": "x"}
    plain["topology"]["links"] = plain["topology"]["links"][:-1]
    with pytest.raises(InputError) as caught:
        convert(plain, Profile, "p.yaml")
    assert {"h2d.cap", "h2d.weight", "host.wake_spread", "topology"} <= {path for path, _ in caught.value.faults}


def test_a_command_prints_a_line_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(json.dumps({**SCENARIO, "world_size": "2", "policy": {"kind": "chunked"}, "x": 1}))
    done = CliRunner().invoke(main, ["run", "s.yaml"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "Error: s.yaml: x: unknown key; expected one of hardware, placement, policy, workload, world_size",
        "s.yaml: world_size: expected a whole number, got text '2'",
        "s.yaml: policy.chunk_bytes: is missing",
    ]


def test_only_the_first_of_very_many_faults_are_reported() -> None:
    with pytest.raises(InputError) as caught:
        Scenario.from_plain({**SCENARIO, **{f"key{i}": 1 for i in range(10_000)}}, "s.yaml")
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-1]) == (MAX_FAULTS + 1, "s.yaml: has more faults")


# ---- what is allowed, and what to write ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind", "problem"),
    [
        ("56 GB/s", Capacity, "expected a mapping of keys to values, got text '56 GB/s'; write {value: 56 GB/s, source: ...}"),
        ("56 GB", Capacity, "got text '56 GB'; write {value: 55.4 GB/s, source: ...}"),
        (3, Sourced[Bandwidth], "got the number 3; write {value: 3, source: ...}"),
        ({"kind": "root_port"}, Node, "is 'root_port'; expected one of memory, root_complex, switch, socket, "),
        ({"kind": "swich"}, Node, "is 'swich'; did you mean 'switch'? expected one of memory, "),
        ([], Node, "got a list; write {kind: memory}"),
        (True, int, "expected a whole number, got true"),
        ("", float, "expected a number, got empty text"),
        ({"a": 1}, str, "expected text, got a mapping of keys to values"),
        ([1, 2], tuple[int, int, int], "expected 3 values, got 2"),
        ({"x": 1}, dict[Literal["a", "b"], int], "unknown key; expected one of a, b"),
        (5, Literal["a", "b"] | list[int], "expected one of a, b or a list, got the number 5"),
        ("hots", Literal["host", "direct"] | list[int], "did you mean 'host'? expected one of host, direct or a list, got text 'hots'"),
        ([1, "x"], Literal["a"] | list[int], "expected a whole number, got text 'x'"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_told_what_goes_there(data: object, kind: Any, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        convert(data, kind, "x")
    assert problem in caught.value.problem


@pytest.mark.parametrize("value", ["ring", "Ulysses", "", 3, None, ["tensor"]])
def test_a_wrong_kind_of_parallelism_is_told_what_is_allowed(value: object) -> None:
    with pytest.raises(InputError, match=r"workload\.parallelism: .*expected one of ulysses, tensor or a mapping"):
        Scenario.from_plain(put(NAMED, ("workload", "parallelism"), value))


def test_gpus_without_a_way_between_them_are_told_of_peers_host() -> None:
    plain: Any = to_plain(load_profile("h200x2-hostpath"))
    cap = {"value": 50e9, "source": "x"}
    plain["topology"] = {
        "nodes": {"memory": {"kind": "memory"}},
        "links": [{"ends": ["memory", "gpu{gpu}"], "each_way": cap}],
    }
    with pytest.raises(InputError, match="no route from gpu0 to gpu1: add links, or `peers: host`"):
        convert(plain, Profile, "p.yaml")
    plain["topology"]["peers"] = "host"
    assert convert(plain, Profile, "p.yaml").gpus == 2


@pytest.mark.parametrize("name", ["flux.1-dev", "FLUX.1-dev", "black-forest-labs/FLUX.1-dev", "a/b/Flux.1-DEV"])
def test_a_model_goes_by_its_name_on_a_hub_and_in_any_case(name: str) -> None:
    assert load_model(name).name == "flux.1-dev"
    named = Scenario.from_plain(put(NAMED, ("workload", "model"), name))
    assert named.workload.resolve(2) == Scenario.from_plain(NAMED).workload.resolve(2)


@pytest.mark.parametrize("name", ["flux/", "flux.1-dev/", "/", "", "FLUX.1-dev/x"])
def test_an_unknown_model_is_told_how_to_list_models(name: str) -> None:
    with pytest.raises(InputError, match="is not a known model; .*`chunkflow-sim models` lists all"):
        load_model(name)


def test_messages_list_no_more_than_what_is_close() -> None:
    for name in ("h200", "nothing", "h100x2", "", "x" * 10_000):
        with pytest.raises(InputError) as caught:
            load_profile(name)
        assert sum(f"{known!r}" in str(caught.value) for known in shipped()) <= 2
        assert "`chunkflow-sim hardware` lists all" in caught.value.problem


# ---- independent of libraries' words -------------------------------------------------------------------------------


class _Inner(Config, frozen=True):
    size: int
    name: str = ""


class _Outer(Config, frozen=True):
    inner: _Inner
    several: tuple[_Inner, ...] = ()
    by_name: dict[str, float] = msgspec.field(default_factory=dict)
    choice: Literal["a", "b"] | None = None


@given(plain_data())
def test_faults_are_found_just_where_conversion_fails(data: object) -> None:
    """And their words are ours: no backtick of msgspec's."""
    for kind in (_Outer, _Inner, Node, dict[str, int], list[float]):
        faults = list(find(data, kind))
        try:
            msgspec.convert(data, kind)
            assert not faults
        except (msgspec.ValidationError, ValueError):
            assert faults
            assert not any("`" in fault.problem.replace(repr(data), "") for fault in faults)


@given(plain_data())
def test_data_convert_exactly_if_they_have_no_fault(data: object) -> None:
    try:
        assert convert(data, _Outer, "x") is not None
    except InputError as error:
        assert error.faults


# ---- nesting, and the one reader -----------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [51, 500, 999, 1000, 1001, 100_000])
@pytest.mark.parametrize("unit", ["[", "{a: ", "- ", "? ", "[{a: ", '"[" : [', "[ # ]\n"])
def test_nesting_is_refused_in_our_words_whatever_the_parser_takes(unit: str, depth: int) -> None:
    if depth > 1001 and unit in ("- ", "? "):
        depth = 1001
    with pytest.raises(InputError, match=r"^x: line \d+: is nested too deeply$"):
        parse_yaml(unit * depth, "x")


@pytest.mark.parametrize("text", ["'" + "[" * 60 + "'", '"' + "{" * 60 + '"', "a # " + "[" * 60, "a: |\n  " + "[" * 60])
def test_brackets_in_text_are_no_nesting(text: str) -> None:
    assert parse_yaml(text, "x")


VALUES = ["!!bool x", "!!timestamp x", "!!python/name:os.system", "&a {x: *a}", "*a", "{a: 1, a: 2}", "{~: 1}", "{on: 1}", "{1.5: 1}", "{[1]: 2}", "{<<: {a: 1}}", "[" * 60, "{a: " * 2000, "0x" + "f" * 5000, "9" * 5000, "0x_", "a: b: c", "[1", "'", "\x07", "\ud800", "- 1\n- &b 2\n- *b"]  # fmt: skip


@pytest.mark.parametrize(
    ("axis", "told"),
    [
        ("world_size=1..1e9", "'1..1e9' has no factor or step: expected a range that ascends, with a factor or step"),
        ("world_size=8..1", "'8..1' has no factor or step"),
        (
            "world_size=8..1:x2",
            "expected a range that ascends, with a factor or step, such as 1MiB..256MiB:x2 or 0..1:+0.25; this one begins above",
        ),
        ("world_size=1..inf", "'1..inf' has no factor or step"),
        ("world_size=1..inf:x2", "'inf' is not a number with a unit, up to 1e+"),
        ("world_size=1..8:2", "'1..8:2' has no factor or step"),
        ("world_size=1..8:x1", "has the factor 1, which must be above 1"),
        ("world_size=1..8:+0", "has the step 0, which must be above 0"),
        ("world_size=0..8:x2", "multiplies from 0, which must be above 0"),
        ("world_size=1..1e300:x1.0000001", "'1e300' is not a number with a unit, up to 1e+"),
        ("world_size=1..1e12:x1.0000001", "has more than 1000000 values: take a larger factor"),
        ("world_size=0..1000000:+1", "has more than 1000000 values: take a larger step"),
        ("world_size=null", "world_size: expected a whole number, got nothing"),
        ("policy.kind=null", "policy.kind: is nothing; expected one of"),
        ("policy.chunk_bytes=null", 'or "16 MiB", got nothing'),
        ("policy.chunk_bytes=0", "policy.chunk_bytes: is 0, at least 1 is needed"),
        ("policy.resident_fraction=2", "policy.resident_fraction: is 2.0, expected 0 to 1"),
        ("policy.prefetch_layers=-1", "policy.prefetch_layers: is -1, expected 0 or more"),
        ("workload.block.0.compute.seconds=1", "an entry of a list is written workload.block[0].compute.seconds"),
        ("workload.block.1=1", "an entry of a list is written workload.block[1]"),
    ],
)
def test_axes_are_told_what_they_need(axis: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SCENARIO))
    done = CliRunner().invoke(main, ["sweep", str(tmp_path / "s.yaml"), "--set", axis])
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert told in done.stderr and "None" not in done.stderr


@pytest.mark.parametrize("name", ["x..y", "1../2.yaml", "../1..2", "a..1:b"])
def test_text_with_dots_is_no_range(name: str) -> None:
    assert parse_axis(f"hardware={name}") == ("hardware", [parse_yaml(name, "")])


def test_all_faults_of_a_policy_have_their_paths() -> None:
    wrong = SCENARIO | {"policy": {"kind": "yielding", "chunk_bytes": 0, "prefetch_layers": -1, "lock": "landed"}}
    with pytest.raises(InputError) as caught:
        Scenario.from_plain(wrong)
    assert [fault.path for fault in caught.value.faults] == [
        "policy.prefetch_layers",
        "policy.chunk_bytes",
        "policy.lock",
    ]


def test_names_of_profiles_go_in_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_profile("H200x2-HostPath") == load_profile("h200x2-hostpath")
    monkeypatch.chdir(tmp_path)
    Path("H200X1").write_text(yaml.safe_dump(to_plain(load_profile("h200x1")) | {"name": "mine"}))
    assert (load_profile("H200X1").name, load_profile("H200x1").name) == ("mine", "h200x1")


def test_one_gpu_has_no_tables_to_check() -> None:
    done = CliRunner().invoke(main, ["hardware", "h200x1", "--check"])
    told = "note: h200x1 has one GPU, so no tables of collectives: there is nothing to check\n"
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", told)


def test_json_says_why_there_is_no_interval(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SCENARIO | {"hardware": "aurora-12tiles"}))
    found = json.loads(CliRunner().invoke(main, ["run", str(tmp_path / "s.yaml"), "--json", "--interval"]).stdout)
    assert found["step_time_interval_s"] is None
    assert found["step_time_interval_reason"].startswith("how far the model is off is not known for aurora-12tiles")


@pytest.mark.parametrize("text", VALUES)
@pytest.mark.parametrize("path", ["policy", "policy.chunk_bytes", "hardware[0]", "workload.block[0]", "policy.kind", "x"])  # fmt: skip
def test_values_of_set_are_read_as_files_are(text: str, path: str) -> None:
    """What a file cannot hold is not a value of --set either, and neither leaves anything but a message."""
    with pytest.raises(InputError, match=r"^--set|^s\.yaml"):
        axis, values = parse_axis(f"{path}={text}")
        points(SCENARIO, {axis: values}, "s.yaml")


@pytest.mark.parametrize(
    "axes",
    [
        ["hardware[0]=x"],
        ["policy.kind=resident", "policy=3"],
        ["policy=3", "policy.kind=resident"],
        ["policy.kind=chunked", "policy={~: 1}"],
        ["policy.prefetch_layers=null,.nan"],
        ["policy.resident_fraction=0,.inf"],
        ["world_size=1:30"],
        ["world_size=010"],
        ["workload.block=[]", "workload.block[0]=1"],
        ["policy[0]=1"],
        ["workload.\udce9=1"],
        ["workload=null"],
        ["policy=null", "policy.kind=resident"],
    ],
)
def test_odd_axes_are_reported(axes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text(json.dumps(SCENARIO))
    done = CliRunner().invoke(main, ["sweep", "s.yaml", *(part for axis in axes for part in ("--set", axis))])
    assert isinstance(done.exception, SystemExit), done.exception
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: ")


def test_numbers_that_are_not_finite_are_no_values_of_an_axis() -> None:
    for value in (float("nan"), float("inf"), [1.0, float("nan")], {"a": float("nan")}):
        with pytest.raises(InputError, match="expected a finite number"):
            points(SCENARIO, {"policy.prefetch_layers": [1, value]}, "s.yaml")


@given(plain_data())
def test_the_reader_gives_back_what_was_written(data: object) -> None:
    plain = type("Plain", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    try:
        assert parse_yaml(yaml.dump(data, Dumper=plain), "x") == data
    except InputError as error:
        assert "key" in error.problem or "deeply" in error.problem or "read" in error.problem


# ---- kinds that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", COLLECTIVES)
def test_an_unknown_algorithm_is_an_error(kind: Any) -> None:
    algorithm: Any = "tree"
    if kind != "send_recv":  # which has one way alone
        with pytest.raises(AssertionError, match="tree"):
            phases(kind, 64, 4, algorithm)


@pytest.mark.parametrize("algorithm", ["direct", "ring", "hierarchical"])
def test_an_unknown_kind_of_collective_is_an_error(algorithm: Any) -> None:
    kind: Any = "broadcast"
    with pytest.raises(AssertionError, match="broadcast"):
        phases(kind, 64, 4, algorithm, ((0, 1), (2, 3)))


def test_an_unknown_kind_of_copy_is_an_error() -> None:
    kind: Any = "nvlink"
    profile = load_profile("h200x2-hostpath")
    rank = RankBuilder()
    buffer = rank.buffer("b", 8, "weights")
    for call in (
        lambda: profile.copy_class(kind),
        lambda: profile.graph.copy(0, kind),
        lambda: rank.copy("s", "c", 8, buffer, kind=kind),
        lambda: list(accesses(Copy("s", "c", 8, "b", kind))),
    ):
        with pytest.raises(AssertionError, match="nvlink"):
            call()
