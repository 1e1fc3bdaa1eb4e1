"""Reading scenarios and profiles: what is accepted, and what each mistake is told."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from strategies import Plain, policies, workloads

from sim.hardware import Profile, load_profile, shipped, to_plain
from sim.inputs import units
from sim.inputs.config import InputError, convert
from sim.policies import kinds
from sim.scenario import Scenario

DOCUMENTED = """
hardware: h200x2-hostpath
world_size: 2
workload:
  layers: 10
  steps: 4
  layer_bytes: 702545920
  block:
    - compute: {name: qkv, seconds: 2.08e-3}
    - collective: {kind: all_to_all, bytes: 79872000}
policy: {kind: yielding, chunk_bytes: 16 MiB, resident_fraction: 0.0, prefetch_layers: 1}
"""
SEVERAL_KINDS = """
hardware: h200x2-hostpath
world_size: 1
workload:
  passes_per_step: 2
  activation_bytes: 1.5 GB
  blocks:
    - {repeat: 3, layer_bytes: 1e6, block: [{compute: {name: a, seconds: "2 ms", launches: 4}}]}
    - {repeat: 1, layer_bytes: 10 MiB, block: [{compute: {name: b, flops: 1 TFLOP, bytes: 1e9}}]}
policy: {kind: whole_layer, issue: after_compute}
"""


def load(tmp_path: Path, text: str | bytes, name: str = "s.yaml") -> Scenario:
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return Scenario.load(file)


def test_the_documented_shape_is_read(tmp_path: Path) -> None:
    scenario = load(tmp_path, DOCUMENTED)
    workload = scenario.workload.resolve(2)
    assert (scenario.hardware, scenario.world_size, len(workload.layers), workload.steps) == (
        "h200x2-hostpath",
        2,
        10,
        4,
    )
    (compute, collective) = workload.layers[0].block
    assert (workload.layers[0].bytes, compute.seconds, collective.bytes) == (702545920, 2.08e-3, 79872000)  # type: ignore[union-attr]
    assert scenario.policy.chunk_bytes == 16 * 2**20  # type: ignore[union-attr]


def test_several_kinds_of_layer_and_quantities_with_units(tmp_path: Path) -> None:
    workload = load(tmp_path, SEVERAL_KINDS).workload.resolve(1)
    assert [layer.bytes for layer in workload.layers] == [10**6] * 3 + [10 * 2**20]
    assert (workload.steps, workload.passes_per_step, workload.activation_bytes) == (4, 2, 1.5e9)
    first, last = workload.layers[0].block[0], workload.layers[3].block[0]
    assert (first.seconds, first.launches, last.flops, last.bytes) == (2e-3, 4, 1e12, 1e9)  # type: ignore[union-attr]


def test_a_profile_beside_the_scenario_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = to_plain(load_profile("h200x2-hostpath"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile | {"name": "mine"}))
    scenario = load(tmp_path, DOCUMENTED.replace("h200x2-hostpath", "mine.yaml"))
    monkeypatch.chdir("/")
    assert scenario.profile().name == "mine"


@pytest.mark.parametrize("name", shipped())
def test_shipped_profiles_load_and_survive_writing(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(to_plain(profile)))
    assert load_profile(str(tmp_path / "again.yaml")) == profile


@given(workloads(), policies, st.integers(1, 8))
def test_what_is_read_can_be_written_and_read_again(workload: Plain, policy: Plain, ranks: int) -> None:
    plain = {"hardware": "h200x2-hostpath", "world_size": ranks, "workload": workload, "policy": policy}
    read = Scenario.from_plain(plain)
    again = msgspec.to_builtins(read, enc_hook=units.plain)
    assert Scenario.from_plain(yaml.safe_load(yaml.safe_dump(again))) == read


# ---- mistakes ------------------------------------------------------------------------------------------------------

REMOVED = object()
POLICIES = ", ".join(sorted(kinds()))


def changed(path: str, value: object) -> Plain:
    """The documented scenario with the value at a path such as `workload.block[0].compute` replaced or removed."""
    data: Plain = copy.deepcopy(yaml.safe_load(DOCUMENTED))
    at: Any = data
    *keys, last = path.replace("[", ".").replace("]", "").split(".")
    for key in keys:
        at = at[int(key)] if isinstance(at, list) else at[key]
    if value is REMOVED:
        del at[last]
    elif isinstance(at, list):
        at[int(last)] = value
    else:
        at[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "where", "problem"),
    [
        # keys
        ("world_sise", 2, "world_sise", "unknown key; did you mean 'world_size'? expected one of hardware, placement, policy, w"),
        ("zzz", 2, "zzz", "unknown key; expected one of hardware, placement, policy, workload, world_size"),
        ("world_size", REMOVED, "world_size", "is missing"),
        ("policy", REMOVED, "policy", "is missing"),
        ("workload.layer", 1, "workload.layer", "unknown key; did you mean 'layers'?"),
        ("workload.layers", REMOVED, "workload", "layers missing: expected layers, layer_bytes and block, or blocks"),
        ("workload.blocks", [], "workload", "expected either layers, layer_bytes and block, or blocks, not both"),
        ("workload.block[0].compute.second", 1, "workload.block[0].compute.second", "did you mean 'seconds'?"),
        ("workload.block[1].colective", {}, "workload.block[1].colective", "did you mean 'collective'?"),
        # types
        ("world_size", "two", "world_size", "expected a whole number, got "),
        ("world_size", True, "world_size", "expected a whole number, got "),
        ("world_size", 2.5, "world_size", "expected a whole number, got "),
        ("world_size", None, "world_size", "expected a whole number, got "),
        ("hardware", 3, "hardware", "expected text, got "),
        ("workload", [1], "workload", "expected a mapping of keys to values, got a list"),
        ("workload", None, "workload", "expected a mapping of keys to values, got "),
        ("workload.block", {"compute": {}}, "workload.block", "expected a list, got a mapping of keys to values"),
        ("workload.block[1]", "compute", "workload.block[1]", "expected a mapping of keys to values, got text"),
        ("policy", "resident", "policy", "expected a mapping of keys to values, got text"),
        # ranges
        ("world_size", 0, "world_size", "is 0, at least 1 is needed"),
        ("workload.steps", 0, "workload.steps", "is 0, at least 1 is needed"),
        ("workload.layers", -1, "workload.layers", "is -1, at least 1 is needed"),
        ("workload.passes_per_step", 0, "workload.passes_per_step", "is 0, at least 1 is needed"),
        ("workload.block", [], "workload.block", "is empty"),
        ("policy.prefetch_layers", -1, "policy.prefetch_layers", "is -1, expected 0 or more"),
        ("policy.resident_fraction", 1.5, "policy.resident_fraction", "is 1.5, expected 0 to 1"),
        ("policy.resident_fraction", math.nan, "policy.resident_fraction", "expected a number, such as 0.5"),
        ("policy.chunk_bytes", 0, "policy.chunk_bytes", "is 0, at least 1 is needed"),
        ("policy.chunk_bytes", "0.5 B", "policy.chunk_bytes", "is 0, at least 1 is needed"),
        ("workload.block[1].collective.bytes", 0, "workload.block[1].collective.bytes", "is 0, at least 1 is needed"),
        ("workload.block[0].compute.launches", 0, "workload.block[0].compute.launches", "is 0, at least 1 is needed"),
        # quantities
        ("workload.layer_bytes", "7 GB/s", "workload.layer_bytes", 'expected a size, such as 16777216 (bytes) or "16 M'),
        ("workload.layer_bytes", -1, "workload.layer_bytes", "expected a size, such as 16777216 (bytes) or"),
        ("workload.layer_bytes", True, "workload.layer_bytes", "got True"),
        ("workload.layer_bytes", math.nan, "workload.layer_bytes", "got nan"),
        ("workload.layer_bytes", math.inf, "workload.layer_bytes", "got inf"),
        ("workload.layer_bytes", "1e999", "workload.layer_bytes", "got '1e999'"),
        ("workload.layer_bytes", [1], "workload.layer_bytes", "got [1]"),
        ("policy.chunk_bytes", "16 MIB", "policy.chunk_bytes", "got '16 MIB'"),
        ("workload.block[0].compute.seconds", "2 m", "workload.block[0].compute.seconds", "expected a duration, such as"),
        ("workload.block[0].compute.seconds", False, "workload.block[0].compute.seconds", "got False"),
        ("workload.block[1].collective.bytes", "x", "workload.block[1].collective.bytes", "got 'x'"),
        # one of
        ("policy.kind", "yielding_", "policy.kind", f"is 'yielding_'; did you mean 'yielding'? expected one of {POLICIES}"),
        ("policy.kind", 7, "policy.kind", f"is 7; expected one of {POLICIES}"),
        ("policy.kind", [], "policy.kind", f"is []; expected one of {POLICIES}"),
        ("policy.kind", REMOVED, "policy.kind", f"is missing; one of {POLICIES}"),
        ("policy.issue", "async", "policy.issue", "unknown key; expected one of chunk_bytes, drain, kind, lock, poll, prefetch_counts, prefetch_layers"),
        ("policy.window", "kernal", "policy.window", "kernal"),
        ("policy", {"kind": "chunked"}, "policy.chunk_bytes", "is missing"),
        ("policy", {"kind": "resident", "chunk_bytes": 1}, "policy.chunk_bytes", "unknown key; expected one of kind"),
        ("workload.block[1].collective.kind", "all_too_all", "workload.block[1].collective.kind", "all_too_all"),
        # exactly one of compute, collective, copy and wait
        ("workload.block[0]", {}, "workload.block[0]", "expected exactly one of compute, collective, copy and wait"),
        (
            "workload.block[0].collective",
            {"kind": "all_reduce", "bytes": 1},
            "workload.block[0]",
            "expected exactly one of compute, collective, copy and wait",
        ),
        ("workload.block[0].compute", {"name": "x"}, "workload.block[0].compute", "compute needs seconds, or flops or bytes"),
        ("workload.block[0].compute.flops", 1, "workload.block[0].compute", "either seconds or flops and bytes, not both"),
        # lists of lists
        (
            "workload",
            {"blocks": [{"repeat": 1, "layer_bytes": 1, "block": [{"compute": {"name": "a", "seconds": 1}}]}] * 2
             + [{"repeat": 1, "layer_bytes": 1, "block": [{"compute": {"name": "a", "seconds": 1}}, {"compute": {}}]}]},
            "workload.blocks[2].block[1].compute.name",
            "is missing",
        ),
        (
            "workload",
            {"blocks": [{"repeat": 0, "layer_bytes": 1, "block": [{"compute": {"name": "a", "seconds": 1}}]}]},
            "workload.blocks[0].repeat",
            "is 0, at least 1 is needed",
        ),
        ("workload", {"blocks": []}, "workload.blocks", "is empty"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_path_and_what_was_expected(
    path: str, value: object, where: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.dump(changed(path, value)).replace("&id", "#id"))
    with pytest.raises(InputError) as caught:
        Scenario.from_plain(changed(path, value), str(file))
    assert caught.value.source == str(file)
    assert caught.value.path == where
    assert problem in caught.value.problem
    assert str(caught.value) == f"{file}: {where}: {caught.value.problem}".replace(": : ", ": ")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected a mapping of keys to values, got nothing"),
        ("# only a comment\n", "expected a mapping of keys to values, got nothing"),
        ("- a\n- b\n", "expected a mapping of keys to values, got a list"),
        ("just text", "expected a mapping of keys to values, got text"),
        (b"\x7fELF\x02\x01\x01\x00\xff\xfe", "is a program (ELF), no scenario: give what it prints"),
        (b"\x7fELVES\x01\x00\xff\xfe", "is not a text file (UTF-8 expected)"),
        (b"a: \x00", "is not YAML"),
        ("a: [1, 2", "line 2, column 1: is not YAML"),
        ("a: 1\n b: 2\n", "line 2, column 3: is not YAML"),
        ("\ta: 1", "is not YAML"),
        ("a: 1\n---\nb: 1\n", "is not YAML"),
        ("!!python/object/apply:os.system ['true']", "line 1: YAML tags are not supported"),
        (DOCUMENTED + "world_size: 3\n", "line 12: the key 'world_size' appears twice"),
        (DOCUMENTED.replace("steps: 4", "steps: 4\n  steps: 5"), "line 7: the key 'steps' appears twice"),
        (
            DOCUMENTED.replace("world_size: 2", "world_size: &two 2\nother: *two"),
            "line 4: YAML aliases are not supported",
        ),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_file_that_holds_no_scenario_is_named(text: str | bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text, "broken.yaml")
    assert str(caught.value).startswith(str(tmp_path / "broken.yaml"))
    assert problem in str(caught.value)


def test_deep_nesting_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text("[" * 100_000)  # in a process of its own: a fault would end this one
    load = "import sys; from sim.scenario import Scenario; Scenario.load(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", load, tmp_path / "deep.yaml"], capture_output=True, text=True)
    assert "InputError" in done.stderr
    assert "is nested too deeply" in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("? [a, b]\n: 1\n", id="a list as a key"),
        pytest.param("? {a: b}\n: 1\n", id="a mapping as a key"),
        pytest.param("world_size: 2001-13-45\n", id="a date that does not exist"),
        pytest.param(f"world_size: {'9' * 5000}\n", id="a number of 5,000 digits"),
        pytest.param(
            'hardware: "a\\0.yaml"\n' + DOCUMENTED.replace("hardware: h200x2-hostpath\n", ""), id="a null in a path"
        ),
        pytest.param("1: 2\n", id="a number as a key"),
        pytest.param("world_size: !!binary aGk=\n", id="binary data"),
        pytest.param("world_size: 2024-01-01\n", id="a date"),
        pytest.param("world_size: !!set {a}\n", id="a set"),
        pytest.param("<<: {world_size: 2}\n", id="a merge"),
    ],
)
def test_odd_yaml_is_an_input_error_too(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="odd.yaml"):
        load(tmp_path, text, "odd.yaml").profile()


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_file_makes_the_loader_crash(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "junk.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"junk\.yaml"):
        Scenario.load(file)


plain_text = st.text(st.characters(exclude_characters="`"), max_size=5)  # messages repeat what was given
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | plain_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_text, inner, max_size=3),
)
paths = st.sampled_from(
    [
        "hardware",
        "world_size",
        "workload",
        "policy",
        "workload.layers",
        "workload.layer_bytes",
        "workload.block",
        "workload.block[0]",
        "workload.block[0].compute",
        "workload.block[1].collective",
        "workload.block[1].collective.bytes",
        "policy.kind",
        "policy.chunk_bytes",
        "policy.resident_fraction",
        "policy.prefetch_layers",
        "workload.blocks",
        "policy.drain",
    ]
)


@given(paths, junk)
def test_no_value_anywhere_makes_the_loader_crash(path: str, value: object) -> None:
    try:
        Scenario.from_plain(changed(path, value), "junk.yaml")
    except InputError as error:
        assert error.source == "junk.yaml"
        assert "`" not in error.problem, "msgspec's own words are for programmers"


@pytest.mark.parametrize(
    ("name", "problem"),
    [("nothing.yaml", "cannot be read: No such file or directory"), (".", "cannot be read: Is a directory")],
)
def test_a_file_that_cannot_be_read_is_named(name: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        Scenario.load(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: {problem}"


# ---- profiles ------------------------------------------------------------------------------------------------------


def test_an_unknown_profile_is_told_close_ones_and_how_to_list_all() -> None:
    with pytest.raises(InputError) as caught:
        Scenario.from_plain(changed("hardware", "h200x3")).profile()
    assert str(caught.value).startswith("scenario: hardware: 'h200x3' is not a hardware profile; did you mean ")
    assert "`chunkflow-sim hardware` lists all" in str(caught.value)
    assert sum(name in str(caught.value) for name in shipped()) <= 3


def test_a_profile_file_that_is_missing_is_named() -> None:
    with pytest.raises(InputError, match=r"^scenario: hardware: '/nowhere/host\.yaml' is not a hardware profile"):
        Scenario.from_plain(changed("hardware", "/nowhere/host.yaml")).profile()


def test_too_many_ranks_for_the_profile() -> None:
    with pytest.raises(InputError, match=r"^scenario: world_size: is 3, but h200x2-hostpath has 2 GPUs$"):
        Scenario.from_plain(changed("world_size", 3)).profile()


@pytest.mark.parametrize(
    ("path", "value", "where", "problem"),
    [
        ("gpus", 0, "gpus", "is 0, at least 1 is needed"),
        ("h2d.cap.value", "55 GB", "h2d.cap.value", "expected a bandwidth, such as 55.4e9 (bytes a second) or"),
        ("h2d.cap.source", REMOVED, "h2d.cap.source", "is missing"),
        ("h2d.cap", 55e9, "h2d.cap", "expected a mapping of keys to values, got "),
        ("h2d.cap.value", 0, "h2d.cap", "is 0.0, expected more than 0"),
        ("d2h.weight.value", 0, "d2h.weight", "is 0.0, expected more than 0"),
        ("host.kernel.value", -1e-6, "host.kernel.value", "expected a duration"),
        ("host.kernl", {}, "host.kernl", "did you mean 'kernel'?"),
        ("streams.event", REMOVED, "streams.event", "is missing"),
        (
            "topology.links.0.ends",
            ["mem", "gpu{gpu}"],
            "topology.links[0]",
            "names 'mem', which is none of gpu0, gpu1, ",
        ),
        (
            "collectives.all_reduce.alone.seconds",
            [1e-3],
            "collectives.all_reduce.alone",
            "bytes and seconds differ in length",
        ),
        (
            "collectives.all_to_all.latency.value",
            1,
            "collectives.all_to_all",
            "latency must be shorter than the shortest",
        ),
        ("collectives.all_gather", REMOVED, "collectives.all_gather", "is missing"),
        ("device.memory.value", "141 GB/s", "device.memory.value", "expected a size"),
    ],
)
def test_a_wrong_profile_is_named_with_its_path(path: str, value: object, where: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        convert(changed_profile(path, value), Profile, "host.yaml")
    assert (caught.value.source, caught.value.path) == ("host.yaml", where)
    assert problem in caught.value.problem


@pytest.mark.parametrize("seconds", [[2e-3, 1e-3], [1e-3, 1e-3], [0, 1e-3]], ids=["descending", "equal", "zero"])
def test_isolated_times_must_ascend(seconds: list[float]) -> None:
    alone = {"bytes": [1, 2], "seconds": seconds, "source": "test"}
    with pytest.raises(InputError, match="bytes and seconds must be positive and ascend"):
        convert(changed_profile("collectives.all_to_all.alone", alone), Profile, "host.yaml")


def changed_profile(path: str, value: object) -> Plain:
    data: Any = to_plain(load_profile("h200x2-hostpath"))
    *keys, last = path.split(".")
    at = data
    for key in keys:
        at = at[int(key) if key.isdigit() else key]
    if value is REMOVED:
        del at[last]
    else:
        at[last] = value
    return data  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "change",
    [
        ("collectives.all_to_all.weight.value", 0),
        ("device.compute_efficiency.value", 0),
        ("device.peak_flops.value", 0),
        ("device.hbm_bandwidth.value", 0),
        ("topology.links.0.there.value", 0),
        ("topology.links", []),
        ("topology.nodes", {"memory{nr}": {"kind": "memory"}}),
        ("host.queue_depth.value", 0),
    ],
    ids=lambda change: change[0],
)
def test_numbers_that_no_host_has_are_refused(change: tuple[str, object]) -> None:
    with pytest.raises(InputError):
        convert(changed_profile(*change), Profile, "host.yaml")
