"""Traces of torch.profiler: what is found in them, and the scenarios that they become."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from kineto_traces import COLLECTIVE_US, ELEMENTS, OFFLOADED, RESIDENT, WAN, WEIGHTS, Trace

from sim.cli import main
from sim.importers.trace.findings import explained
from sim.importers.trace.layers import runs
from sim.importers.trace.notes import Notes
from sim.importers.trace.passes import repeats_after
from sim.importers.trace.scenario import Imported, import_trace, read
from sim.inputs.config import InputError
from sim.run import simulate
from sim.scenario import Scenario

PUBLIC = os.environ.get("CHUNKFLOW_SIM_PUBLIC_TRACES", "")
"""The folder of public traces, which are not in the repository."""


def invoke(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def imported(*files: Path, hardware: str | None = None, weights: str | None = None) -> Imported:
    return import_trace(files, files[0].with_name("out.yaml"), hardware, weights)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with our own traces, each imported."""
    folder = tmp_path_factory.mktemp("ours")
    for file in (RESIDENT, OFFLOADED, WAN):
        more = ("--weights", "flux.1-dev") if file == RESIDENT else ()
        done = invoke("import", "trace", file, "-o", folder / f"{file.name.split('.')[0]}.yaml", *more)
        assert done.exit_code == 0, done.stderr
        assert "the nearest shipped profile is h200x2-hostpath" in done.stderr
    return folder


def step(file: Path, **policy: Any) -> float:
    """The step time of a scenario, in ms, under another policy if one is given."""
    plain = yaml.safe_load(file.read_text())
    plain["policy"] = policy or plain["policy"]
    plain["workload"]["steps"] = 2
    for holder, key in ((plain, "hardware"), (plain["workload"], "program")):
        if key in holder:
            holder[key] = str(file.parent / holder[key])
    return simulate(Scenario.from_plain(plain), settle=False).metrics["step_time_s"] * 1e3


# ---- our own traces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "reference", "bound"), [(RESIDENT, 216.7, 0.03), (OFFLOADED, 351.0, 0.05), (WAN, 187.4, 0.03)]
)
def test_our_traces_are_reproduced(ours: Path, file: Path, reference: float, bound: float) -> None:
    found = read([file], Notes())
    assert found.of.step * 1e3 == pytest.approx(reference, abs=0.1)
    assert step(ours / f"{file.name.split('.')[0]}.yaml") == pytest.approx(reference, rel=bound)


def test_what_is_in_our_traces_is_found(ours: Path) -> None:
    flux = yaml.safe_load((ours / f"{RESIDENT.name.split('.')[0]}.yaml").read_text())
    layers = [(b["repeat"], b["layer_bytes"], b.get("tensors")) for b in flux["workload"]["blocks"] if b["repeat"] > 1]
    assert layers == [(6, 679662592, 32), (12, 283183616, 8)]
    assert flux["workload"]["outside_bytes"] == 2 * 64124992
    kinds = [[next(iter(entry)) for entry in b["block"]] for b in flux["workload"]["blocks"]]
    assert kinds[1] == ["compute", *["collective"] * 3, "compute", "collective", "compute"]
    assert {
        e["collective"]["bytes"] for b in flux["workload"]["blocks"][:3] for e in b["block"] if "collective" in e
    } == {56623104}
    offloaded = json.loads((ours / f"{OFFLOADED.name.split('.')[0]}.program.json").read_text())
    copies = [op for op in offloaded["operations"] if op["op"] == "copy"]
    assert sum(op["bytes"] for op in copies if op.get("layer", -1) >= 0) == 7476178944
    assert [(op["kind"], op["memory"]) for op in copies].count(("d2h", "pageable")) == 20
    assert sum(op["op"] == "synchronise" and op["stream"] == "stream 65" for op in offloaded["operations"]) == 18
    assert not any(op["op"] == "synchronise" and op["stream"] == "stream 17" for op in offloaded["operations"])
    # as many layers as bursts of copies: each block has its own bytes
    assert {b["layer_bytes"] for b in offloaded["blocks"] if b["repeat"] > 1} == {679662592, 283183616}


def test_a_measured_offloaded_pass_is_explained() -> None:
    done = invoke("explain", OFFLOADED)
    assert done.exit_code == 0
    first = done.stdout.splitlines()[1]
    # 51 ms in the first pass: the figure is of the last one
    assert "of 351 ms: weights of no block are copied back to pageable memory in every pass" in first
    assert "20 copies, 122.3 MiB" in first and "50 to 62 ms in 2 passes" in first
    plain = json.loads(invoke("explain", OFFLOADED, "--json").stdout)
    assert sum(plain["causes_s"].values()) == pytest.approx(0.380235, abs=1e-5)
    assert plain["pageable_copies_s"]["d2h"] == pytest.approx(0.062, abs=0.001)
    parts = plain["waterfall"]["resident_s"] + sum(seconds for _, seconds in plain["waterfall"]["parts"])
    assert parts == pytest.approx(plain["waterfall"]["step_s"])
    assert plain["waterfall"]["resident_s"] == pytest.approx(0.2128, abs=0.001)


def test_a_resident_pass_has_no_copies_to_explain() -> None:
    notes = Notes()
    of = explained(read([RESIDENT], notes), notes)
    assert of.breakdown.causes["exposed_h2d"] == of.breakdown.causes["exposed_copy"] == 0
    assert sum(of.breakdown.causes.values()) == pytest.approx(of.breakdown.seconds)
    assert of.breakdown.idle["launches"] == 0


def test_group_offload_predicts_the_measured_step(ours: Path) -> None:
    flux = ours / f"{RESIDENT.name.split('.')[0]}.yaml"
    # without a profiler, two GPUs: 375.1 370.5 370.6 364.1 382.2 368.6 ms
    assert step(flux, kind="diffusers_group_offload") == pytest.approx(370.5, rel=0.10)


@pytest.mark.slow
def test_a_replay_says_what_habits_cost(ours: Path) -> None:
    file = ours / f"{OFFLOADED.name.split('.')[0]}.yaml"
    as_it_was = step(file)
    pinned = step(file, kind="replay", memory="pinned")
    assert 55 < as_it_was - pinned < 80  # the pageable copies of weights of no block
    best = step(file, kind="replay", memory="pinned", copies="layer", synchronise=False)
    assert best < pinned
    assert step(file, kind="whole_layer") == pytest.approx(best, rel=0.1)


# ---- forms of traces -----------------------------------------------------------------------------------------------

NAMES = [
    "ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
    "ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm*, unsigned long, ncclWork*)",
    "ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)",
]


@pytest.mark.parametrize("form", [{}, {"whole": True}, {"metadata": "host"}, {"calls": False}])
@pytest.mark.parametrize("name", NAMES)
def test_forms_of_traces_give_the_same_blocks(form: dict[str, Any], name: str, tmp_path: Path) -> None:
    if form == {"metadata": "host"} and "Generic" in name:
        form = {"metadata": "host"}
    blocks = imported(Trace(name=name, **form).write(tmp_path / "t.json.gz")).scenario["workload"]["blocks"]
    assert [b["repeat"] for b in blocks] == [1, 3, 1]
    layer = blocks[1]["block"]
    assert layer[1] == {"collective": {"kind": "all_to_all", "bytes": 2 * ELEMENTS}}
    assert layer[0]["compute"]["seconds"] == pytest.approx(1.1e-3, rel=0.01)
    assert layer[2]["compute"]["seconds"] == pytest.approx(1.0e-3, rel=0.01)


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ("allreduce", "all_reduce"),
        ("_allgather_base", "all_gather"),
        ("reduce_scatter", "reduce_scatter"),
        ("all_to_allv", "all_to_all"),
        ("broadcast", "all_gather"),
        ("send", "send_recv"),
    ],
)
def test_collectives_are_named_by_their_metadata(told: str, kind: str, tmp_path: Path) -> None:
    made = imported(Trace(collective=told).write(tmp_path / "t.json"))
    assert made.scenario["workload"]["blocks"][1]["block"][1]["collective"]["kind"] == kind
    assert (told == "broadcast") == any("is taken as" in note for note in made.notes.assumed)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all_reduce"),
        ("ncclSymkDevKernel_AllReduce_RSxLDMC_AGxSTMC_sum_bf16(ncclSymkDevWorkArgs4K)", "all_reduce"),
        ("ncclSymDevKernel_AllGather_STMC(ncclSymDevArgs)", "all_gather"),
        ("ncclKernel_ReduceScatter_RING_SIMPLE_Sum_half(ncclDevComm*, unsigned long, ncclWork*)", "reduce_scatter"),
        ("void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>(vllm::RankData*, vllm::RankSignals)", "all_reduce"),
        ("void sglang::cross_device_reduce_2stage<half, 4>(sglang::RankData*)", "all_reduce"),
        ("void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<1>(Params)", "all_reduce"),
        ("two_shot_all_reduce_kernel", "all_reduce"),
        ("multimem_all_gather_kernel", "all_gather"),
    ],
)
def test_collectives_are_named_by_their_kernels(kernel: str, kind: str, tmp_path: Path) -> None:
    made = imported(Trace(name=kernel, metadata="none").write(tmp_path / "t.json"))
    assert made.scenario["workload"]["blocks"][1]["block"][1]["collective"]["kind"] == kind


def test_collectives_without_metadata_take_their_time(tmp_path: Path) -> None:
    done = invoke("import", "trace", Trace(metadata="none").write(tmp_path / "t.json"), "-o", tmp_path / "s.yaml")
    assert "3 collectives of unknown bytes" in done.stderr
    assert step(tmp_path / "s.yaml") == pytest.approx(11.93, rel=0.03)


def test_order_of_events_is_of_no_account(tmp_path: Path) -> None:
    trace = Trace(offload=True)
    before = imported(trace.write(tmp_path / "a.json"))
    random.Random(1).shuffle(trace.events)
    after = imported(trace.write(tmp_path / "a.json"))
    assert (before.program, before.scenario) == (after.program, after.scenario)


def test_several_ranks_tell_how_long_collectives_take(tmp_path: Path) -> None:
    late = Trace(rank=1)
    for event in late.events:  # rank 1 comes 0.7 ms late to each, and then waits for nobody
        if event.get("cat") == "kernel" and "nccl" in event["name"]:
            event["ts"] += 700
            event["dur"] -= 700
    folder = tmp_path / "ranks"
    folder.mkdir()
    Trace().write(folder / "0.json.gz")
    late.write(folder / "1.json")
    made = imported(folder)
    assert "3 all_to_all of 38.15 MiB, 1 ms each" in made.notes.found
    assert not any("all ranks do the same" in note for note in made.notes.assumed)


def test_archives_hold_traces(tmp_path: Path) -> None:
    content = json.dumps(Trace().plain()).encode()
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        for name, data in (("run/0.json", content), ("run/notes.txt", b"-")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert imported(tmp_path / "t.tar.gz").scenario["world_size"] == 2


def test_steps_of_the_profiler_are_passes(tmp_path: Path) -> None:
    trace = Trace(passes=3)
    begin = min(e["ts"] for e in trace.events if e.get("cat") == "cuda_runtime")
    half = [e["ts"] for e in trace.events if e["name"] == "cudaLaunchKernel"]
    for number, (a, b) in enumerate(((begin, half[len(half) // 3 - 1]), (half[len(half) // 3], half[-1] + 1))):
        about = {"ph": "X", "cat": "user_annotation", "name": f"ProfilerStep#{number}", "pid": 1, "tid": 1}
        trace.events.append(about | {"ts": a, "dur": b - a + 0.5})
    found = read([trace.write(tmp_path / "t.json")], Notes())
    assert found.passes.how.startswith("2 steps of the profiler")
    assert len(found.of.operations) == 2 * 14


def test_a_cut_pass_at_the_start_is_left_out(tmp_path: Path) -> None:
    trace = Trace(passes=3)
    gpu = [e for e in trace.events if e.get("cat") == "kernel"]
    for event in gpu[:5]:
        trace.events.remove(event)
    found = read([trace.write(tmp_path / "t.json")], Notes())
    assert "9 before the first complete pass are left out" in found.passes.how
    assert found.of.step == pytest.approx(11.93e-3, rel=0.01)


def test_weights_in_bytes_go_to_the_layers(tmp_path: Path) -> None:
    made = imported(Trace().write(tmp_path / "t.json"), weights="300 MB")
    assert [b["layer_bytes"] for b in made.scenario["workload"]["blocks"]] == [0, 100_000_000, 0]
    assert made.scenario["policy"] == {"kind": "resident"}


def test_an_offloaded_trace_is_a_recorded_program(tmp_path: Path) -> None:
    done = invoke("import", "trace", Trace(offload=True).write(tmp_path / "t.json"), "-o", tmp_path / "s.yaml")
    assert done.exit_code == 0
    program = json.loads((tmp_path / "s.program.json").read_text())
    assert program["outside_bytes"] == 20_000_000
    assert [b["layer_bytes"] for b in program["blocks"]] == [0, WEIGHTS, 0]
    ops = program["operations"]
    assert [op["layer"] for op in ops if op["op"] == "copy" and "layer" in op] == [0, 1, 2]
    # the all-to-all waits for the kernels before it, and the kernels after it for the all-to-all
    waits = [(op["stream"], ops[i + 1]["op"]) for i, op in enumerate(ops) if op["op"] == "wait"]
    assert waits.count(("stream 17", "collective")) == 3
    assert sum(stream == "compute" for stream, _ in waits) == 3
    assert step(tmp_path / "s.yaml") == pytest.approx(17.79, rel=0.05)


def test_a_profiler_that_tells_of_synchronisations_is_believed(tmp_path: Path) -> None:
    guessed = imported(Trace(offload=True).write(tmp_path / "t.json"))
    told = imported(Trace(offload=True, syncs=True).write(tmp_path / "t.json"))
    assert guessed.program == told.program
    trace = Trace(offload=True, syncs=True)
    for event in trace.events:  # each all-to-all waits for the copies, which no guess would say
        if event.get("cat") == "cuda_sync" and event["args"].get("wait_on_stream") == 7:
            event["args"]["wait_on_stream"] = 65
    plain = json.loads(imported(trace.write(tmp_path / "t.json")).program or b"")
    records = {op["event"]: op["stream"] for op in plain["operations"] if op["op"] == "record"}
    waits = [records[op["event"]] for op in plain["operations"] if op["op"] == "wait" and op["stream"] == "stream 17"]
    assert waits == ["stream 65"] * 3


def test_traces_of_amd_gpus(tmp_path: Path) -> None:
    trace = Trace(offload=True, name="ncclDevKernel_Generic_4(ncclDevKernelArgsStorage<4096ul>)")
    for event in trace.events:
        event["name"] = event["name"].replace("cuda", "hip").replace("(Pinned -> Device)", "(Host -> Device)")
        if event.get("cat") in ("kernel", "gpu_memcpy"):
            event["args"].pop("External id", None)
    plain = trace.plain()
    plain["deviceProperties"] = [{"id": i, "name": "AMD Instinct MI300X", "totalGlobalMem": 2**37} for i in range(2)]
    (tmp_path / "t.json").write_text(json.dumps(plain))
    made = imported(tmp_path / "t.json")
    assert "host memory of copies, which the trace does not name, is pinned" in made.notes.assumed
    assert any("no shipped profile of as many GPUs is of AMD Instinct MI300X" in note for note in made.notes.assumed)
    operations = json.loads(made.program or b"")["operations"]
    assert [op["layer"] for op in operations if op["op"] == "copy" and "layer" in op] == [0, 1, 2]
    assert sum(op["op"] == "synchronise" for op in operations) == 3


def test_rates_of_the_trace_are_in_the_profile(tmp_path: Path) -> None:
    made = imported(Trace(offload=True).write(tmp_path / "t.json"))
    assert made.profile is not None
    assert made.profile["pageable"]["h2d"]["rate"]["value"] == pytest.approx(8e9, rel=0.01)
    assert made.profile["collectives"]["all_to_all"]["alone"]["source"].startswith("from t.json")
    assert pytest.approx(1.7e-3) == COLLECTIVE_US * 1e-6


# ---- refusals ------------------------------------------------------------------------------------------------------


def test_refusals_say_exactly_what_is_wrong(tmp_path: Path) -> None:
    whole = json.dumps(Trace().plain()).encode()
    host_only = {"traceEvents": [e for e in Trace().events if e.get("cat") == "cuda_runtime"]}
    wrong_field = {"traceEvents": [{"ph": "X", "ts": 1}, {"ph": "X", "ts": [1]}]}
    large = Trace(world=2).plain() | {"distributedInfo": {"rank": 0, "world_size": 4096}}
    (tmp_path / "empty folder").mkdir()
    given: dict[str, tuple[bytes, str]] = {
        "cut.json": (whole[: len(whole) // 2], "is cut off: its JSON ends before it is complete"),
        "cut.json.gz": (gzip.compress(whole)[:-500], "is cut off: its compressed data end before they are complete"),
        "none.json": (b"", "is empty"),
        "text.json": (b"GPU0 X", "is not JSON: "),
        "other.json": (b'{"a": 1}', "has no traceEvents"),
        "host.json": (json.dumps(host_only).encode(), "is a trace in which nothing ran on a GPU"),
        "field.json": (json.dumps(wrong_field).encode(), "traceEvents[1].ts: expected"),
        "large.json": (json.dumps(large).encode(), "distributedInfo.world_size: is 4096, but no shipped profile has"),
        "empty.tar": (bytes(257) + b"ustar" + bytes(250), "cannot be unpacked"),
    }
    for name, (content, problem) in given.items():
        (tmp_path / name).write_bytes(content)
        done = invoke("import", "trace", tmp_path / name, "-o", tmp_path / "out.yaml")
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1), name
        assert problem in done.stderr and name in done.stderr
    done = invoke("import", "trace", tmp_path / "empty folder", "-o", tmp_path / "out.yaml")
    assert done.exit_code == 2 and "holds no trace" in done.stderr
    assert not (tmp_path / "out.yaml").exists()


def test_traces_of_different_runs_are_refused(tmp_path: Path) -> None:
    first = Trace().write(tmp_path / "a.json")
    for other, problem in ((Trace(), "is 0, as in"), (Trace(rank=1, world=4), "is 4, but")):
        done = invoke("import", "trace", first, other.write(tmp_path / "b.json"), "-o", tmp_path / "out.yaml")
        assert done.exit_code == 2 and problem in done.stderr


def test_too_small_a_profile_is_refused(tmp_path: Path) -> None:
    file = Trace().write(tmp_path / "a.json")
    done = invoke("import", "trace", file, "-o", tmp_path / "out.yaml", "--hardware", "h200x1")
    assert done.exit_code == 2 and "--hardware: h200x1: has 1 GPUs, but the trace is of 2 ranks" in done.stderr


def test_nothing_is_overwritten_that_others_wrote(tmp_path: Path) -> None:
    file = Trace(offload=True).write(tmp_path / "a.json")
    out = tmp_path / "out.yaml"
    (tmp_path / "out.program.json").write_text("{}")
    done = invoke("import", "trace", file, "-o", out)
    assert done.exit_code == 2 and "out.program.json" in done.stderr and not out.exists()
    (tmp_path / "out.program.json").unlink()
    for _ in range(2):  # its own earlier results it may overwrite
        assert invoke("import", "trace", file, "-o", out).exit_code == 0


@pytest.mark.skipif(not PUBLIC, reason="CHUNKFLOW_SIM_PUBLIC_TRACES does not name a folder of public traces")
def test_public_traces_are_imported_or_refused(tmp_path: Path) -> None:
    refused = {}
    for file in sorted(Path(PUBLIC).iterdir()):
        done = invoke("import", "trace", file, "-o", tmp_path / f"{file.name.split('.')[0]}.yaml")
        assert done.exit_code in (0, 2), done.output
        if done.exit_code:
            refused[file.name.split(".")[0]] = done.stderr
        else:
            assert invoke("run", tmp_path / f"{file.name.split('.')[0]}.yaml").exit_code == 0
    assert refused.keys() == {"sampled_world128_rank1"} and "is 128, but no" in refused["sampled_world128_rank1"]


# ---- any input -----------------------------------------------------------------------------------------------------

_values = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=5)
_json = st.recursive(_values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
_KEYS = ("ph", "cat", "name", "ts", "dur", "tid", "pid", "args")
_ARGS = ("stream", "correlation", "bytes", "device", "In msg nelems", "Group size", "Process Group Ranks", "dtype")


@given(data=st.data())
def test_hostile_traces_are_imported_or_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    trace = Trace(
        passes=2, layers=2, offload=data.draw(st.booleans()), metadata=data.draw(st.sampled_from(["kernel", "host"]))
    )
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    for _ in range(data.draw(st.integers(1, 6))):
        event = chance.choice(trace.events)
        keys = [*((event, k) for k in _KEYS if k in event), *((event["args"], k) for k in _ARGS if "args" in event)]
        holder, key = chance.choice(keys)
        if isinstance(holder, dict):
            holder[key] = data.draw(_json)
    chance.shuffle(trace.events)
    del trace.events[: data.draw(st.integers(0, len(trace.events)))]
    document = trace.plain()
    if data.draw(st.booleans()):
        document[data.draw(st.sampled_from(["deviceProperties", "distributedInfo", "traceEvents"]))] = data.draw(_json)
    content = json.dumps(document).encode()
    file = tmp_path_factory.getbasetemp() / "hostile.json"
    file.write_bytes(content[: data.draw(st.integers(1, len(content)))] if data.draw(st.booleans()) else content)
    try:
        imported(file)
    except InputError as error:
        assert str(error).startswith(str(file))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(2, 5), st.integers(0, 5))
def test_the_period_of_a_sequence_is_found(piece: list[int], count: int, cut: int) -> None:
    tokens = ["first", *piece] * count
    tokens = tokens[min(cut, len(piece)) :] if count > 2 else tokens
    assert repeats_after(tokens) == len(piece) + 1


@given(
    st.lists(st.integers(0, 2), max_size=5),
    st.lists(st.integers(10, 12), min_size=3, max_size=8),
    st.integers(2, 6),
    st.lists(st.integers(20, 22), max_size=5),
)
def test_runs_tile_the_sequence_and_hold_equal_layers(
    head: list[int], layer: list[int], count: int, tail: list[int]
) -> None:
    tokens = [*head, *layer * count, *tail]
    found = runs(tokens, [1.0] * len(tokens))
    assert [run.start for run in found] == [0, *(run.end for run in found[:-1])] and found[-1].end == len(tokens)
    most = max(found, key=lambda run: run.length * run.repeat * (run.repeat > 1))
    assert most.repeat >= 2
    assert most.length * most.repeat >= len(layer) * count - len(layer)
    for run in found:
        first = tokens[run.start : run.start + run.length]
        for i in range(run.repeat):
            part = tokens[run.start + i * run.length : run.start + (i + 1) * run.length]
            assert sum(a == b for a, b in zip(first, part, strict=True)) >= 0.9 * run.length
