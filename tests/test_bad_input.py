"""Bad input of every kind: one line that names the file, the key and what was expected; exit code 2; nothing written.

In this process, through click's runner, as hundreds of processes would take minutes; a few are real commands.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import Plain
from wrong_input import GONE, SCENARIO, answered, cases, changed, paths, put, values, write

from sim.hardware import load_profile, shipped, to_plain
from sim.inputs.config import InputError
from sim.scenario import Scenario
from sim.sweeps.experiments import load_experiment
from sim.workloads.named import load_model

NAMED: Plain = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {"model": "wan2.1-1.3b", "frames": 5, "height": 64, "width": 64, "steps": 1, "layers": 1},
    "policy": {"kind": "resident"},
}
PROFILE: Plain = yaml.safe_load(yaml.safe_dump(to_plain(load_profile("h200x2-hostpath")), default_flow_style=False))
EXPERIMENT: Plain = {
    "title": "t",
    "about": "a",
    "x": "world_size",
    "plot": "curves",
    "scenario": SCENARIO,
    "axes": {"world_size": [1, 2]},
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# ---- scenarios -----------------------------------------------------------------------------------------------------

QUANTITIES = [
    "workload.activation_bytes",
    "workload.layer_bytes",
    "workload.block[0].compute.seconds",
    "workload.block[1].collective.bytes",
    "workload.block[2].compute.flops",
    "workload.block[2].compute.bytes",
    "policy.chunk_bytes",
    "policy.resident_fraction",
    "policy.poll",
]
NO_QUANTITY: list[Any] = [
    True,
    -1,
    "-3 MiB",
    math.nan,
    math.inf,
    -math.inf,
    "nan",
    "1e999",
    "1e999999999999999999999",
    1e31,
    10**400,
    "",
    "many",
    "5 parsecs",
    "5 W",
    "1,000",
    "0x10",
    "\N{ARABIC-INDIC DIGIT ONE}",
    [1],
    {"value": 1},
]


@pytest.mark.parametrize(("path", "value"), cases(QUANTITIES, NO_QUANTITY))
def test_wrong_quantities_are_refused(path: str, value: object) -> None:
    write("s.yaml", changed(SCENARIO, path, value))
    answered(["run", "s.yaml"], 2, f"s.yaml: {path}: ", "expected ")


WHOLE = [
    "world_size",
    "workload.layers",
    "workload.steps",
    "workload.passes_per_step",
    "workload.block[0].compute.launches",
    "policy.prefetch_layers",
    "policy.slots",
]


@pytest.mark.parametrize(("path", "value"), cases(WHOLE, [True, 1.5, "2", "two", math.nan, math.inf, [], {}, 10**31]))
def test_wrong_whole_numbers_are_refused(path: str, value: object) -> None:
    write("s.yaml", changed(SCENARIO, path, value))
    answered(["run", "s.yaml"], 2, f"s.yaml: {path}: ", "expected ")


GOOD = [("workload.block[0].compute.launches", 10**18), ("policy.prefetch_layers", 0)]


@pytest.mark.parametrize(("path", "value"), cases(WHOLE, [-1, 0, 10**18], GOOD))
def test_numbers_out_of_range(path: str, value: int) -> None:
    key = path.rsplit(".", 1)[-1]
    write("s.yaml", changed(SCENARIO, path, value))
    told = {"layers": "layers", "steps": "steps", "passes_per_step": "steps"} if value > 0 else {}
    answered(["run", "s.yaml"], 2, "s.yaml: ", told.get(key, key))


CHOICES = [
    ("workload.block[1].collective.kind", "all_gather"),
    ("policy.kind", "resident"),
    ("policy.window", "device_gate"),
]


@pytest.mark.parametrize("value", ["", "All_Gather", "resident ", 0, None, True, [], ["resident"], {}, "x" * 10**5])
@pytest.mark.parametrize(("path", "known"), CHOICES)
def test_unknown_choices_are_refused(path: str, known: str, value: object) -> None:
    write("s.yaml", changed(SCENARIO, path, value))
    answered(["run", "s.yaml"], 2, f"s.yaml: {path}: ")


@pytest.mark.parametrize("path", ["world_size", "hardware", "workload", "policy", "workload.layers", "workload.block", "policy.chunk_bytes", "policy.kind", "workload.block[1].collective.bytes", "workload.block[0].compute.name"])  # fmt: skip
def test_missing_keys_are_named(path: str) -> None:
    write("s.yaml", changed(SCENARIO, path, GONE))
    answered(["run", "s.yaml"], 2, "s.yaml: ", path.rsplit(".", 1)[-1], "missing")


@pytest.mark.parametrize("path", ["x", "World_size", "workload.layer", "workload.block[0].computes", "workload.block[0].compute.second", "policy.chunk", "policy.issue", "policy.kind.x"])  # fmt: skip
def test_unknown_keys_are_refused(path: str) -> None:
    if path == "policy.kind.x":
        write("s.yaml", changed(SCENARIO, "policy.kind", {"x": 1}))
        answered(["run", "s.yaml"], 2, "s.yaml: policy.kind: ")
        return
    write("s.yaml", changed(SCENARIO, path, 1))
    answered(["run", "s.yaml"], 2, f"s.yaml: {path}: unknown key; ", "expected one of ")


@pytest.mark.parametrize(
    ("path", "value"),
    cases(
        ["workload", "workload.block", "policy", "workload.blocks"],
        [None, 3, "x", [], {}, [[]], [{}], [{"compute": 1}], [{"compute": []}], [None]],
        [("workload.blocks", None)],
    ),
)
def test_values_of_another_type_are_refused(path: str, value: object) -> None:
    write("s.yaml", changed(SCENARIO, path, value))
    answered(["run", "s.yaml"], 2, "s.yaml: workload" if "workload" in path else "s.yaml: policy")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("hardware", "nowhere.yaml", "'nowhere.yaml' is not a hardware profile"),
        ("hardware", "", "hardware: '' is not a hardware profile"),
        ("hardware", "x" * 10**5, "is not a hardware profile"),
        ("hardware", "a\0b", "is not a hardware profile"),
        ("hardware", "../../../../../../..", "Is a directory"),
        ("hardware", 3, "hardware: expected text"),
        ("hardware", ["h200x2-hostpath"], "hardware: expected text"),
        ("world_size", 3, "world_size: is 3, but h200x2-hostpath has 2 GPUs"),
        ("policy.resident_fraction", 1.5, "resident_fraction: is 1.5, expected 0 to 1"),
        ("policy.resident_fraction", "150e-2", "resident_fraction: is 1.5, expected 0 to 1"),
        ("policy.chunk_bytes", 0, "chunk_bytes: is 0, at least 1 is needed"),
        ("policy.poll", "0.1 ns", "poll: is 1e-10 s, expected 0 or at least 1 ns"),
        ("policy.slots", 1, "slots: is for windows launch and kernel, and more than prefetch_layers"),
        ("policy.window", "device_gate", "slots: is for windows launch and kernel"),
        ("policy.drain", True, "drain: needs window: device_gate"),
        ("workload.block[0].compute.flops", 1, "either seconds or flops and bytes, not both"),
        ("workload.block[1].collective.bytes", 0, "collective.bytes: is 0, at least 1 is needed"),
        ("workload.block[1].compute", {"name": "x", "seconds": 1}, "exactly one of compute, collective, copy and wait"),
        ("workload.blocks", [{"repeat": 1, "layer_bytes": 1, "block": [{"compute": {"name": "a", "seconds": 1}}]}], "or blocks, not both"),
        ("workload.layer_bytes", 10**15, "commands on 2 ranks, at most 10000000 are simulated"),
        ("workload.layers", 10**6, "has 1000000 layers, at most 10000 are simulated"),
        ("workload.model", "wan2.1-1.3b", "workload.activation_bytes: unknown key"),
    ],
)  # fmt: skip
def test_values_that_contradict_others_are_refused(path: str, value: object, words: str) -> None:
    write("s.yaml", changed(SCENARIO, path, value))
    answered(["run", "s.yaml"], 2, words)


@pytest.mark.parametrize(("path", "value"), cases(["frames", "height", "width", "batch", "text_tokens", "steps", "layers"], [0, -4, 1.5, "4", 10**12, 10**40]))  # fmt: skip
def test_numbers_of_a_named_model(path: str, value: object) -> None:
    write("s.yaml", changed(NAMED, f"workload.{path}", value))
    answered(["run", "s.yaml"], 2, f"s.yaml: workload.{path}: ")


TEXTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "expected a mapping of keys to values, got nothing"),
    "a list": ("- 1", "expected a mapping of keys to values, got a list"),
    "a word": ("scenario", "expected a mapping of keys to values, got text"),
    "binary": (bytes(range(256)), "is not a text file (UTF-8 expected)"),
    "ELF": (Path(sys.executable).read_bytes()[:4096], "is a program (ELF), no scenario: give what it prints"),
    "no UTF-8": (b"world_size: 2 # \xe9\n", "is not a text file (UTF-8 expected)"),
    "no format that is known": (b"\x7fELVES\xff\xfe", "is not a text file (UTF-8 expected)"),
    "UTF-16": ("world_size: 2".encode("utf-16"), "is not a text file"),
    "null bytes": (b"\0" * 100, "is not YAML"),
    "control characters": (b"a: \x07", "is not YAML"),
    "unclosed": ("a: [1, 2", "is not YAML"),
    "tabs": ("\ta: 1", "is not YAML"),
    "two documents": ("a: 1\n---\nb: 1", "is not YAML"),
    "JSON cut off": ('{"world_size": 2,', "is not YAML"),
    "a duplicate key": ("world_size: 1\nworld_size: 2", "line 2: the key 'world_size' appears twice"),
    "a duplicate key in depth": ("policy: {kind: resident, kind: chunked}", "the key 'kind' appears twice"),
    "an alias": ("a: &x 1\nb: *x", "line 2: YAML aliases are not supported"),
    "a cycle": ("a: &x [*x]", "YAML aliases are not supported"),
    "a billion laughs": (
        "a: &a [x, x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(20)),
        "YAML aliases are not supported",
    ),
    "nested lists": ("[" * 100_000, "is nested too deeply"),
    "nested mappings": ("a: " + "{a: " * 100_000, "is nested too deeply"),
    "a Python object": ("!!python/object/apply:os.system ['touch owned']", "line 1: YAML tags are not supported"),
    "a Python name": ("a: !!python/name:os.system", "YAML tags are not supported"),
    "a Python module": ("a: !!python/module:os", "YAML tags are not supported"),
    "an unknown tag": ("a: !thing 1", "YAML tags are not supported"),
    "a merge": ("<<: {world_size: 2}", "line 1: YAML merges (<<) are not supported"),
    "a list as a key": ("? [1, 2]\n: 3", "a key must be a word"),
    "a mapping as a key": ("? {a: 1}\n: 3", "a key must be a word"),
    "a number as a key": ("1: 2", "1: unknown key"),
    "nothing as a key": ("~: 2", "the key '~' is read as None: put it in quotes"),
    "a date": ("world_size: 2024-01-01", "hardware: is missing"),
    "a set": ("!!set {a, b}", "YAML tags are not supported"),
    "binary data": ("world_size: !!binary aGk=", "YAML tags are not supported"),
    "an ordered map": ("a: !!omap [a: 1]", "YAML tags are not supported"),
    "a number of 5,000 digits": ("world_size: " + "9" * 5000, "holds a value that cannot be read"),
    "a hexadecimal number of 5,000 digits": ("world_size: 0x" + "f" * 5000, "expected a number below 1e30"),
    "a sexagesimal number": ("world_size: 190:20:30", "world_size: expected a whole number, got text '190:20:30'"),
    "an octal number": ("world_size: 010", "world_size: expected a whole number, got text '010'"),
    "a key that is true": ("on: 2", "the key 'on' is read as True: put it in quotes"),
    "a number as a key, twice": ("1: 2\n0x1: 3", "line 2: the key '0x1' appears twice"),
    "a key of 100,000 letters": ("x" * 100_000 + ": 1", "is not YAML"),
    "a million commas": ("[" + "," * 1_000_000, "is not YAML"),
    "a comment alone": ("# scenario", "expected a mapping of keys to values, got nothing"),
    "a byte order mark alone": ("\N{ZERO WIDTH NO-BREAK SPACE}", "expected a mapping"),
    "right to left": ("\N{RIGHT-TO-LEFT OVERRIDE}world_size: 2", "unknown key"),
    "a trace": ('{"traceEvents": []}', "is a profiler's trace"),
    "a sweep's rows": ("scenario_v1,world_size\n0123,2\n", "is rows of a sweep of ours (CSV), no scenario: resume it"),
    "a word like a table's": ("scenario_v1 of mine", "expected a mapping of keys to values, got text"),
    "a word like a file's mark": ("BZhost", "expected a mapping of keys to values, got text"),
    "a key like a table's": ("scenario_v1: 2", "scenario_v1: unknown key"),
    "a key like a file's mark": ("PAR1: 2", "PAR1: unknown key"),
}


@pytest.mark.parametrize("command", ["run", "explain", "sweep", "hardware", "experiment"])
@pytest.mark.parametrize("name", TEXTS)
def test_files_that_hold_no_mapping_are_refused(name: str, command: str) -> None:
    content, words = TEXTS[name]
    Path("bad.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    args = [command, "bad.yaml", *(["--set", "policy.drain=true"] if command == "sweep" else [])]
    if (name, command) == ("a trace", "explain"):  # which takes traces
        words = "is a trace in which nothing ran on a GPU"
    # what a mapping must hold depends on what it is to be
    answered(args, 2, "bad.yaml", *([words] if command in ("run", "explain") else []))
    assert not Path("owned").exists()


@pytest.mark.parametrize("command", ["run", "explain", "sweep", "hardware", "experiment"])
@pytest.mark.parametrize("name", ["nothing.yaml", "folder", "folder/x/y.yaml", "link", "loop", "/proc/self/mem", "\udce9.yaml", " ", "x" * 5000])  # fmt: skip
def test_files_that_cannot_be_read(name: str, command: str) -> None:
    Path("folder").mkdir()
    Path("link").symlink_to("gone.yaml")
    Path("loop").symlink_to("loop")
    args = [command, name, *(["--set", "world_size=1"] if command == "sweep" else [])]
    answered(args, 2, "" if "\udce9" in name else name[:57])


# ---- profiles ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *cases(["h2d.cap.value", "streams.wake.value", "host.kernel.value", "device.memory.value", "h2d.cap.uncertainty"], [-1, math.nan, math.inf, "5 parsecs", None, [], 1e40], [("h2d.cap.uncertainty", None)]),
        *cases(["h2d", "h2d.cap", "streams", "collectives.all_to_all.alone", "topology", "topology.nodes", "topology.links"], [None, 1, "x"]),
        *cases(["gpus"], [0, -1, 1.5, "2", 10**9, None]),
        *cases(["device.peak_flops.value", "topology.links[0].there.value", "collectives.all_gather.weight.value", "collectives.all_reduce.overhead.value", "host.queue_depth.value"], [0, 1e-31]),
    ],
)  # fmt: skip
def test_wrong_profiles(path: str, value: object) -> None:
    write("host.yaml", changed(PROFILE, path, value))
    answered(["hardware", "host.yaml"], 2, "host.yaml: ", path.removesuffix(".value").split(".")[0])
    write("s.yaml", SCENARIO | {"hardware": "host.yaml"})
    answered(["run", "s.yaml"], 2, "host.yaml: ")


def sourced(value: object) -> Plain:
    return {"value": value, "source": "x"}


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("h2d.cap.source", GONE, "h2d.cap.source: is missing"),
        ("h2d.kap", {}, "h2d.kap: unknown key; did you mean 'cap'?"),
        ("topology.links", [], "there is no route from gpu0 to a memory"),
        (
            "topology.links[0].ends",
            ["nowhere", "gpu{gpu}"],
            "topology.links[0]: names 'nowhere', which is none of gpu0, ",
        ),
        ("topology.links[0].ends", ["memory", "memory"], "topology.links[0]: joins memory to itself"),
        ("topology.links[0].mesh", [[0], [1]], "topology.links[0]: expected exactly one of ends and mesh"),
        ("topology.links[0].each_way", {"value": 1, "source": "x"}, "expected either each_way, or there and back"),
        ("topology.links[0].gpus", [0, 2], "topology.links[0]: has GPU 2, expected 0 to 1"),
        ("topology.links[0].hops", 0, "hops is 0"),
        ("topology.links", [{"ends": ["memory", "gpu{gpu}"]}], "nothing limits the h2d copies of gpu0"),
        ("topology.nodes.memory.kind", "heap", "topology.nodes.memory.kind: "),
        ("topology.nodes.gpu0", {"kind": "switch"}, "topology.nodes: has 'gpu0', which there is already"),
        ("topology.nodes.a>b", {"kind": "switch"}, "topology.nodes: has 'a>b': expected a word"),
        ("topology.nodes.memory.write_cost", {"value": 1, "source": "x"}, "write_cost is for a memory with a limit"),
        ("topology.peers", "magic", "topology.peers: "),
        ("topology.peers", [[0, 1], [1]], "topology.peers[1]: is empty, or has a GPU that was named before"),
        ("topology.domains", [[]], "topology.domains[0]: is empty"),
        ("topology.pinned", {"nowhere": [0]}, "topology.pinned: names 'nowhere', which is none of memory"),
        ("topology.pinned", {"memory": [5]}, "topology.pinned.memory: has GPU 5"),
        ("collectives.all_to_all.alone.bytes", [], "bytes and seconds"),
        ("collectives.all_to_all.alone.bytes", [1], "bytes and seconds"),
        ("collectives.all_to_all.latency.value", 1e9, "latency must be shorter"),
        ("device.beside_collective", sourced(0.99), "device.beside_collective: is 0.99, expected at least 1"),
        ("device.beside_collective", sourced(0), "device.beside_collective: is 0.0, expected at least 1"),
        ("device.beside_collective", sourced("nan"), "device.beside_collective.value: expected "),
        ("device.beside_collective", 2, "device.beside_collective: expected a mapping"),
        ("device.beside_collectives", sourced(2), "device.beside_collectives: unknown key; did you mean "),
        ("topology.nodes.{}", {"kind": "switch"}, "topology.nodes: has '{}': expected a word"),
        ("topology.nodes.{gpu!r}", {"kind": "switch"}, "topology.nodes: has '{gpu!r}': expected a word"),
        ("fingerprint", {"cpu": 3}, "fingerprint.cpu: expected text"),
        ("name", None, "name: expected text"),
    ],
)
def test_profiles_that_do_not_fit(path: str, value: object, words: str) -> None:
    write("host.yaml", changed(PROFILE, path, value))
    answered(["hardware", "host.yaml"], 2, "host.yaml: ", words)


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        *[
            ({"all_reduce": sourced(value)}, f".beside.all_reduce: is {said}, expected 0.01 to 1")
            for value, said in ((0, "0.0"), (0.0099, "0.0099"), (1.001, "1.001"), ("150e-2", "1.5"))
        ],
        ({"all_reduce": sourced(-1)}, ".beside.all_reduce.value: expected "),
        ({"all_reduce": sourced("1 GB/s")}, ".beside.all_reduce.value: expected "),
        ({"all_reduce": {"value": 0.5}}, ".beside.all_reduce.source: is missing"),
        ({"all_reduce": 0.5}, ".beside.all_reduce: expected a mapping"),
        ({"all_to_all": sourced(0.5)}, ".beside: has all_to_all: two of a kind share as their weights say"),
        ({"send_recv": sourced(0.5)}, ".beside: has send_recv: two of a kind share"),  # it is as an all_to_all
        (
            {"broadcast": sourced(0.5)},
            ".beside.broadcast: unknown key; expected one of all_gather, all_reduce, all_to_all, ",
        ),
        ({"": sourced(0.5)}, ".beside.: unknown key; expected one of "),
        ([], ".beside: expected a mapping"),
        (0.5, ".beside: expected a mapping"),
    ],
)
def test_wrong_numbers_beside_collectives(beside: object, words: str) -> None:
    write("host.yaml", changed(PROFILE, "collectives.all_to_all.beside", beside))
    answered(["hardware", "host.yaml"], 2, f"host.yaml: collectives.all_to_all{words}")


@pytest.mark.parametrize("name", ["", "h200", "h200x2-hostpath.yaml", "H200x2_hostpath", "x" * 10**5, "../hardware"])
def test_unknown_profiles_are_refused(name: str) -> None:
    answered(["hardware", name], 2, name[:57], "is not a hardware profile", "`chunkflow-sim hardware` lists all")
    answered(["models", name], 2, "is not a known model", "`chunkflow-sim models` lists all")


# ---- sweeps and experiments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ("", "expected key.path=value"),
        ("x", "expected key.path=value"),
        ("=1", "expected key.path=value"),
        ("world_size=", "expected key.path=value"),
        ("world_size=[1", "is not a YAML value"),
        ("world_size={", "is not a YAML value"),
        ("world_size=!!python/name:os.system", "is not a YAML value"),
        ("world_size=*x", "is not a YAML value"),
        ("world_size=1,,2", "world_size: expected a whole number"),
        ("world_size=1..2:+1,x", "world_size: expected a whole number"),
        ("world_size=2..1:+1", "a range that ascends"),
        ("world_size=1..2:x1", "a range that ascends"),
        ("world_size=1..2:x0.5", "a range that ascends"),
        ("world_size=1..2:+0", "a range that ascends"),
        ("world_size=1..nan:+1", "not a number with a unit"),
        ("world_size=1..1e9:+1", "more than 1000000 values"),
        ("world_size=1e30..1e30:+1", "has the step 1, which is too small beside 1e30"),
        ("world_size=1..1e999:x2", "not a number with a unit"),
        ("world_size=1 MiB..2 ms:x2", "world_size"),
        ("policy.chunk_byte=1", "policy.chunk_byte: unknown key"),
        ("policy.chunk_bytes=1 W", "policy.chunk_bytes: expected a size"),
        ("policy.kind=x", "policy.kind: is 'x'"),
        ("policy.kind=[resident]", "policy.kind: is ['resident']"),
        ("policy=3", "policy: expected a mapping"),
        ("workload=3", "workload: expected a mapping"),
        ("workload.block=[]", "workload.block: is empty"),
        ("workload.block[9].compute=1", "there is no '[9]'"),
        ("workload.block[-1].compute=1", "workload.block[2].compute: expected a mapping"),
        ("workload.block[a].compute=1", "there is no '[a]'"),
        ("workload.block[0]=1", "workload.block[0]: expected a mapping"),
        ("workload.nothing.x=1", "there is no 'nothing'"),
        ("workload.layers.x=1", "leads into something that has no keys"),
        ("hardware=nowhere", "'nowhere' is not a hardware profile"),
        ("hardware=[a]", "hardware: expected text"),
        ("world_size=2000-01-01", "world_size: expected a whole number"),
        ("world_size=.nan", "world_size: expected a whole number"),
        ("world_size=99999999999999999999999999999999", "world_size"),
        ("case=x", "case: unknown key"),
        ("case={name: a}", "case: unknown key"),
        ("..=1", "there is no ''"),
        ("[0]=1", "there is no ''"),
    ],
)
def test_wrong_axes(axis: str, words: str) -> None:
    write("s.yaml", SCENARIO)
    answered(["sweep", "s.yaml", "--set", axis, "--out", "rows.csv", "--html", "page.html"], 2, words)


@pytest.mark.parametrize("content", [b"notes", b"\0" * 999, b"scenario_v1,x\n", bytes(range(256)), b'"', b"\n\n"])
def test_results_of_another_sweep_are_refused(content: bytes) -> None:
    write("s.yaml", SCENARIO)
    Path("rows.csv").write_bytes(content)
    ours = content.startswith(b"scenario_v")
    words = "is not the result" if ours else "--out would overwrite a file that is not an earlier"
    answered(["sweep", "s.yaml", "--set", "world_size=1", "--out", "rows.csv"], 2, f"rows.csv: {words}")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("title", GONE, "title: is missing"),
        ("plot", "pie", "plot: "),
        ("x", "step_time", "x: is 'step_time', which is none of the axes: world_size"),
        ("scenario", 3, "scenario: expected a mapping"),
        ("scenario", {}, "hardware: is missing"),
        ("axes", [], "axes: expected a mapping"),
        ("axes", {}, "x: is 'world_size', which is none of the axes"),
        ("axes", {"world_size": []}, "world_size: has no values"),
        ("axes", {"world_size": "1..x:+1"}, "not a number with a unit"),
        ("axes", {"world_size": ["a"]}, "world_size: expected a whole number"),
        ("axes", {"world_size": {"a": 1}}, "world_size: expected a whole number"),
        ("axes", {"case": [1], "world_size": [1]}, "case: unknown key"),
        ("cases", [{"name": "a"}], "cases[0].set: is missing"),
        ("cases", [{"name": "a", "set": {"nowhere.x": 1}}], "there is no 'nowhere'"),
        ("cases", [{"name": "a", "set": {"policy.slots": "x"}}], "policy.slots: expected a whole number"),
        ("cases", 3, "cases: expected a list"),
    ],
)
def test_wrong_experiments(path: str, value: object, words: str) -> None:
    write("e.yaml", changed(EXPERIMENT, path, value))
    answered(["experiment", "e.yaml", "--out", "rows.csv", "--html", "page.html"], 2, "e.yaml", words)


@pytest.mark.parametrize("name", ["", "nothing", "chunk-size", "x" * 10**5, "a\0b"])
def test_unknown_experiments_are_refused(name: str) -> None:
    answered(["experiment", name or "."], 2, "is not an experiment" if name else "Is a directory")


# ---- output --------------------------------------------------------------------------------------------------------

OUTPUTS = {
    "trace": ["run", "s.yaml", "--json", "--trace"],
    "out": ["sweep", "s.yaml", "--set", "world_size=1", "--workers", "1", "--out"],
}


@pytest.mark.parametrize("option", OUTPUTS)
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/dev/full", "No space left on device"),
        ("folder", "Is a directory"),
        ("s.yaml/x", ""),
        ("/proc/nothing/x", ""),
        ("/sys/x", ""),
        ("x" * 300, "File name too long"),
        ("loop/x", ""),
    ],
)
def test_output_that_cannot_be_written(name: str, reason: str, option: str) -> None:
    write("s.yaml", SCENARIO)
    Path("folder").mkdir()
    Path("loop").symlink_to("loop")
    answered([*OUTPUTS[option], name], 1, f"Error: {name}: cannot be written: ", reason)


@pytest.mark.parametrize("args", [["--workers", "0"], ["--workers", "x"], ["--trace"], ["--nothing"], ["--json"]])
def test_wrong_options(args: list[str]) -> None:
    write("s.yaml", SCENARIO)
    answered(["sweep", "s.yaml", "--set", "world_size=1", *args], 2)


# ---- as a user meets it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["binary", "nested lists", "a billion laughs", "a Python object", "UTF-16"])
def test_real_commands_answer_alike(name: str, chunkflow: Command, tmp_path: Path) -> None:
    content, words = TEXTS[name]
    Path("bad.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    done = chunkflow("run", "bad.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("Error: bad.yaml: ") and words in done.stderr
    assert os.listdir() == ["bad.yaml"]  # noqa: PTH208


# ---- anything ------------------------------------------------------------------------------------------------------

words = st.sampled_from(["world_size", "policy", "kind", "resident", "workload", "block", "compute", "seconds", "h2d"])
tokens = st.sampled_from(
    [*"[]{}:,-?&*!|>'\"%@`#\n\t ", ": ", "- ", "<<", "!!python/name:os.system", "0x1f", "1e9", "~"]
)
texts = st.lists(words | tokens | st.text(max_size=3), max_size=40).map("".join)


@given(texts | st.binary(max_size=100).map(lambda b: b.decode("latin-1")))
@example("a: !!timestamp x")
@example("a: !!int x")
@example("a: !!float x")
@example("!!binary x: 1")
def test_no_text_gets_more_than_a_message_out_of_the_loaders(text: str) -> None:
    file = Path("any.yaml")
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    for loader in (Scenario.load, load_profile, load_experiment):
        with pytest.raises(InputError, match=r"any\.yaml"):
            loader(str(file))


@pytest.mark.parametrize(
    "whole", [SCENARIO, NAMED, PROFILE, EXPERIMENT], ids=["scenario", "named", "profile", "experiment"]
)
@given(st.data())
def test_no_value_gets_more_than_a_message_out_of_the_loaders(whole: Plain, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(list(paths(whole))))
    write("any.yaml", put(whole, path, data.draw(values)))
    try:
        if whole is PROFILE:
            load_profile("any.yaml")
        elif whole is EXPERIMENT:
            load_experiment("any.yaml").points("any.yaml")
        else:
            Scenario.load("any.yaml")
    except InputError as error:
        assert "any.yaml" in str(error) and "`" not in error.problem


def test_every_shipped_file_is_good_input() -> None:
    from sim.sweeps import experiments
    from sim.workloads import named

    assert all(load_profile(name) for name in shipped())
    assert all(load_model(name) for name in named.shipped())
    assert all(load_experiment(name).points(name) for name in experiments.shipped())
