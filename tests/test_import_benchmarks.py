"""`import nvbandwidth`, `nccl-tests` and `p2p`: what was measured is in the profile, and what contradicts is said."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import benchmark_outputs as outputs
import pytest
import topo_dumps as dumps
from benchmark_outputs import SIZES, line_times, nccl_json, nccl_output, nvbandwidth_json, nvbandwidth_text, p2p_output
from click.testing import CliRunner, Result

from sim.cli import main
from sim.fluid import rates_together
from sim.hardware import Profile, load_profile
from sim.hardware.collectives import isolated_time, sent_per_rank
from sim.hardware.profile_check import contradictions
from sim.importers.nccl_runs import KINDS
from sim.importers.nccl_tests import read_file, read_nccl_tests
from sim.importers.nvbandwidth import read_nvbandwidth_json, read_nvbandwidth_text
from sim.importers.text_lines import lines_of
from sim.inputs.config import InputError

H2D, D2H = "host_to_device_memcpy_ce", "device_to_host_memcpy_ce"
BOTH = {"host_to_device_bidirectional_memcpy_ce": "h2d", "device_to_host_bidirectional_memcpy_ce": "d2h"}
PAIRS = {
    H2D: [25.0] * 8,
    D2H: [26.0] * 8,
    "host_to_device_bidirectional_memcpy_ce": [11.0] * 8,
    "device_to_host_bidirectional_memcpy_ce": [25.0] * 8,
    "host_to_all_memcpy_ce": [12.6] * 8,
}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("topo.txt").write_text(dumps.PXB_PAIRS)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def done(*args: str) -> Result:
    result = run(*args)
    assert result.exit_code == 0, result.output
    return result


def filled(command: str, text: str | bytes, *options: str, base: str = "a100x8.yaml") -> tuple[Profile, str]:
    """The profile with an output put into the one of the dump, and what was said."""
    Path("given.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    if not Path(base).exists():
        done("import", "topo", "topo.txt", "-o", base, "--gpu", "A100")
    said = done("import", command, "given.txt", "--into", base, "-o", "out.yaml", *options).stderr
    return load_profile("out.yaml"), said


def together(of: Profile, *copies: tuple[str, int]) -> list[float]:
    specs = [of.copy_flow(kind, gpu) for kind, gpu in copies]  # type: ignore[arg-type]
    return [rate / 1e9 for rate in rates_together(specs, of.capacities)]


@pytest.mark.parametrize("form", ["json", "numbers", "text", "gzip"])
def test_rates_of_copies_alone_together_and_behind_a_switch(form: str) -> None:
    text = nvbandwidth_text(PAIRS) if form == "text" else nvbandwidth_json(PAIRS, text=form != "numbers")
    made, said = filled("nvbandwidth", gzip.compress(text.encode()) if form == "gzip" else text)
    assert together(made, ("h2d", 5)) == [pytest.approx(25)]
    assert together(made, ("d2h", 5)) == [pytest.approx(26)]
    for other in (0, 1):  # one GPU both ways; down to one of a pair, up from the other
        assert together(made, ("h2d", 0), ("d2h", other)) == [pytest.approx(11, rel=1e-3), pytest.approx(25, rel=1e-3)]
    assert together(made, ("h2d", 6), ("h2d", 7)) == [pytest.approx(12.6)] * 2
    assert sum(together(made, *(("h2d", g) for g in range(8)))) == pytest.approx(8 * 12.6)
    assert "given.txt, host_to_device_memcpy_ce" in made.h2d.cap.source
    assert "contradiction" not in said and not contradictions(made)


def test_all_gpus_at_once_are_limited_by_their_memory_where_no_uplink_explains_it() -> None:
    Path("topo.txt").write_text(dumps.ALL_SYS)
    rates = {H2D: [55.0] * 8, D2H: [55.0] * 8, "host_to_all_memcpy_ce": [26.0] * 8, "all_to_host_memcpy_ce": [54.0] * 8}
    made, _ = filled("nvbandwidth", nvbandwidth_json(rates), base="sys.yaml")
    assert together(made, *(("h2d", g) for g in range(8))) == [pytest.approx(26)] * 8
    assert together(made, *(("d2h", g) for g in range(8))) == [pytest.approx(55)] * 8
    assert together(made, ("h2d", 0), ("h2d", 4)) == [pytest.approx(55)] * 2


def test_a_memory_that_is_slower_than_its_uplinks_limits_all_of_its_gpus() -> None:
    made, _ = filled("nvbandwidth", nvbandwidth_json({H2D: [25.0] * 8, "host_to_all_memcpy_ce": [6.0] * 8}))
    assert together(made, *(("h2d", g) for g in range(8))) == [pytest.approx(6)] * 8
    assert together(made, ("h2d", 0), ("h2d", 4)) == [pytest.approx(24)] * 2  # what each memory gives four GPUs


def test_gpus_of_different_links_keep_their_own_rates() -> None:
    made, said = filled("nvbandwidth", nvbandwidth_json({H2D: [25, 25, 25, 25, 25, 25, 25, 12.4]}))
    assert [together(made, ("h2d", g))[0] for g in (0, 7)] == [pytest.approx(25), pytest.approx(12.4)]
    assert "GPUs differ, 12.4 GB/s to 25 GB/s" in said


def test_tables_of_another_host_follow_the_measured_link() -> None:
    Path("topo.txt").write_text(dumps.NODE_4)
    slow, _ = filled("nvbandwidth", nvbandwidth_json({H2D: [6.25] * 4, D2H: [6.25] * 4}), base="node.yaml")
    assumed, size = load_profile("node.yaml"), 2**28
    for kind in ("all_to_all", "all_reduce"):
        ratio = isolated_time(slow, kind, size, range(2)) / isolated_time(assumed, kind, size, range(2))  # type: ignore[arg-type]
        assert ratio == pytest.approx(4, rel=0.01)
    assert not contradictions(slow)


def test_a_benchmark_above_its_link_is_said_and_taken() -> None:
    made, said = filled("nvbandwidth", nvbandwidth_json({H2D: [55.0] * 8}))
    assert "contradiction" in said and "above its link, PCIe Gen4 x16" in said and "31.51 GB/s" in said
    assert together(made, ("h2d", 3)) == [pytest.approx(55)]


def test_files_of_different_numbers_of_gpus_are_said() -> None:
    _, said = filled("nvbandwidth", nvbandwidth_json({H2D: [25.1, 25.2]}))
    assert "has 2 of 8 GPUs" in said
    Path("four.json").write_text(nvbandwidth_json({H2D: [25.0] * 4}))
    both = done("import", "nvbandwidth", "given.txt", "four.json", "-o", "new.yaml").stderr
    assert "contradiction: given.txt has 2 GPUs, another file 4" in both
    refused = run("import", "nvbandwidth", "four.json", "--hardware", "h200x2-hostpath", "-o", "x.yaml")
    assert (refused.exit_code, "has rates of 4 GPUs, but h200x2-hostpath has 2" in refused.stderr) == (2, True)


def test_measurements_are_put_into_a_shipped_profile_or_a_host_of_their_own() -> None:
    Path("b.json").write_text(nvbandwidth_json({H2D: [50.0, 50.0]}, gpu="NVIDIA GeForce RTX 4090"))
    done("import", "nvbandwidth", "b.json", "--hardware", "h200x2-hostpath", "-o", "like.yaml")
    like, base = load_profile("like.yaml"), load_profile("h200x2-hostpath")
    assert together(like, ("h2d", 0)) == [pytest.approx(50)]
    assert like.collectives == base.collectives and like.streams == base.streams
    said = done("import", "nvbandwidth", "b.json", "-o", "own.yaml").stderr
    own = load_profile("own.yaml")
    assert (own.gpus, own.device.name, own.topology.peers) == (2, "NVIDIA GeForce RTX 4090", "host")
    assert "nothing tells how the 2 GPUs are joined" in said
    refused = run("import", "nvbandwidth", "b.json", "--into", "own.yaml", "--hardware", "h200x1", "-o", "x.yaml")
    assert refused.exit_code == 2 and run("import", "nvbandwidth", "b.json").exit_code == 2


def test_a_profile_is_filled_in_place_if_an_import_wrote_it() -> None:
    Path("b.json").write_text(nvbandwidth_json({H2D: [20.0, 20.0]}))
    Path("topo.txt").write_text(dumps.BRIDGED_3090)
    done("import", "topo", "topo.txt", "-o", "mine.yaml")
    done("import", "nvbandwidth", "b.json", "--into", "mine.yaml")
    assert together(load_profile("mine.yaml"), ("h2d", 0)) == [pytest.approx(20)]
    Path("hand.yaml").write_text("name: hand\nlike: h200x2-hostpath\n")
    refused = run("import", "nvbandwidth", "b.json", "--into", "hand.yaml")
    assert (refused.exit_code, Path("hand.yaml").read_text()) == (2, "name: hand\nlike: h200x2-hostpath\n")


@pytest.mark.parametrize(
    ("test", "ranks"),
    [("all_reduce", 2), ("all_reduce", 8), *((test, 4) for test in sorted(KINDS) if test != "all_reduce")],
)
def test_times_of_every_kind_are_the_profiles_isolated_times(test: str, ranks: int) -> None:
    times = line_times(20, 9.0, SIZES)
    made, _ = filled("nccl-tests", nccl_output(test, ranks, times))
    kind = KINDS[test]
    for size, micros in times.items():
        if size >= 2**15:
            assert isolated_time(made, kind, size, range(ranks)) == pytest.approx(micros * 1e-6, rel=0.01), size
    cls = getattr(made.collectives, kind)
    table = cls.alone if ranks == 2 else cls.alone_by_ranks[ranks]
    assert table.source.startswith(f"given.txt, {ranks} ranks")
    assert table.bytes[-1] == round(sent_per_rank(kind, SIZES[-1], ranks))
    assert cls.latency_of(ranks) == pytest.approx(20e-6, rel=0.05)
    assert not contradictions(made)


def test_several_tests_in_one_file_and_several_files() -> None:
    first = nccl_output("all_reduce", 4, line_times(20, 8, SIZES)) + nccl_output(
        "alltoall", 4, line_times(25, 5, SIZES)
    )
    Path("more.txt").write_text(nccl_output("all_reduce", 8, line_times(30, 6, SIZES)))
    done("import", "topo", "topo.txt", "-o", "a100x8.yaml", "--gpu", "A100")
    Path("first.txt").write_text(first)
    done("import", "nccl-tests", "first.txt", "more.txt", "--into", "a100x8.yaml", "-o", "out.yaml")
    made = load_profile("out.yaml")
    assert sorted(made.collectives.all_reduce.alone_by_ranks) == [4, 8]
    assert sorted(made.collectives.all_to_all.alone_by_ranks) == [4]
    big = SIZES[-1]
    assert isolated_time(made, "all_to_all", big, range(4)) == pytest.approx(big / 5e9, rel=0.02)
    assert isolated_time(made, "all_reduce", big, range(8)) == pytest.approx(big / 6e9, rel=0.02)


def test_the_order_of_imports_does_not_matter_to_whether_a_profile_holds() -> None:
    done("import", "topo", "topo.txt", "-o", "host.yaml", "--gpu", "A100")
    Path("n.txt").write_text(nccl_output("all_reduce", 8, line_times(20, 10, SIZES)))
    Path("b.json").write_text(nvbandwidth_json({H2D: [13.0] * 8, D2H: [13.0] * 8}))
    done("import", "nccl-tests", "n.txt", "--into", "host.yaml")
    said = done("import", "nvbandwidth", "b.json", "--into", "host.yaml").stderr
    made = load_profile("host.yaml")
    assert not contradictions(made) and "contradiction: all_reduce on 8 ranks" in said
    assert isolated_time(made, "all_reduce", SIZES[-1], range(8)) == pytest.approx(SIZES[-1] / 10e9, rel=0.01)


def test_kinds_that_were_not_measured_follow_the_one_that_was() -> None:
    base, said = filled("nccl-tests", nccl_output("all_reduce", 2, line_times(20, 9, SIZES)))
    slow, _ = filled("nccl-tests", nccl_output("all_reduce", 2, line_times(20, 3, SIZES)))
    assert "all_to_all, all_gather, reduce_scatter: no times are given" in said
    size = 2**28
    ratio = isolated_time(slow, "all_to_all", size, range(2)) / isolated_time(base, "all_to_all", size, range(2))
    assert ratio == pytest.approx(3, rel=0.02)


def test_what_an_output_does_not_say_is_inferred_or_asked_for() -> None:
    rows = line_times(20, 9, SIZES)

    def runs(test: str, gpus: int, **more: object) -> list[tuple[str, int]]:
        text = nccl_output(test, gpus, rows, named=False, listed=False)
        return [(r.kind, r.ranks) for r in read_nccl_tests(lines_of(text.encode(), "f"), "f", **more)]  # type: ignore[arg-type]

    assert runs("all_reduce", 4) == [("all_reduce", 4)]
    assert runs("reduce_scatter", 8) == [("reduce_scatter", 8)]
    assert runs("alltoall", 8, kind="alltoall") == [("all_to_all", 8)]
    assert runs("sendrecv", 2, kind="sendrecv", ranks=2) == [("send_recv", 2)]
    for test, told in (
        ("alltoall", "could be all_gather or alltoall: give --kind"),
        ("broadcast", "of which a profile has no times"),
    ):
        with pytest.raises(InputError, match=told):
            runs(test, 4)
    with pytest.raises(InputError, match="has rates of all_reduce on 4 ranks, but --ranks says 8"):
        runs("all_reduce", 4, ranks=8)
    for test, gpus, kind in (("alltoall", 4, "all_to_all"), ("sendrecv", 2, "send_recv")):
        text = nccl_output(test, gpus, rows, named=False, listed=False).replace("      0\n", "    N/A\n")
        (found,) = read_nccl_tests(lines_of(text.encode(), "f"), "f")
        assert (found.kind, found.ranks) == (kind, gpus)  # of two ranks of one process: nGpus 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (nccl_json("all_reduce", 8, line_times(20, 9, SIZES)), ("all_reduce", 8, "NVIDIA H200")),
        (nccl_json("sendrecv", 4, line_times(20, 9, SIZES), 2, unchecked=True), ("send_recv", 4, "NVIDIA H200")),
        (nccl_json("alltoall", 2, line_times(20, 9, SIZES), 2), ("all_to_all", 2, "NVIDIA H200")),
        (outputs.rccl_json("AllGather", 8, line_times(20, 9, SIZES), 7 / 8), ("all_gather", 8, "")),
    ],
)
def test_json_of_nccl_tests_is_read(text: str, expected: tuple[str, int, str]) -> None:
    Path("a.json").write_text(text)
    (found,) = read_file(Path("a.json"))
    assert (found.kind, found.ranks, found.gpu) == expected
    assert found.times == pytest.approx({s: t * 1e-6 for s, t in line_times(20, 9, SIZES).items()})
    assert read_file(Path("a.json"), in_place=True)[0].times[SIZES[0]] > 0
    made, _ = filled("nccl-tests", text)
    if found.ranks <= 8:
        kind: Any = found.kind
        size = SIZES[-2]
        assert isolated_time(made, kind, size, range(found.ranks)) == pytest.approx(found.times[size], rel=0.01)


def test_several_objects_of_json_are_several_tests() -> None:
    both = [nccl_json(test, 4, line_times(20, 9, SIZES)) for test in ("all_gather", "reduce_scatter")]
    Path("a.json").write_text("\n".join(both))
    assert [run.kind for run in read_file(Path("a.json"))] == ["all_gather", "reduce_scatter"]


def changed(text: str, *path: Any, value: Any) -> str:
    data = json.loads(text)
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(data)


GOOD_JSON = nccl_json("all_reduce", 2, line_times(20, 9, SIZES))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD_JSON[:-900], "is it cut off?"),
        (changed(GOOD_JSON, "results", value=3), "results: expected a list of rows"),
        (changed(GOOD_JSON, "results", value=[]), "results: has no row"),
        (changed(GOOD_JSON, "results", 1, "size", value="big"), "results[1].size: is 'big', expected bytes"),
        (changed(GOOD_JSON, "results", 2, "out_of_place", "alg_bw", value=900.0), "results[2].out_of_place: does not add"),
        (changed(GOOD_JSON, "results", 0, "in_place", value={"cpu_time": 9.0}), "gives times of the processor"),
        (changed(GOOD_JSON, "config", "devices", 0, "rank", value=3), "on 2 ranks, but the list of ranks says 1"),
        (changed(GOOD_JSON, "args", value=["./build/broadcast_perf"]), "is broadcast_perf, of which a profile has no"),
        (nccl_output("all_reduce", 2, line_times(9, 9, SIZES)).replace("time   algbw", "cputime   algbw"), "processor"),
    ],
)  # fmt: skip
def test_json_that_is_cut_off_or_odd_is_refused_with_its_path(text: str, told: str) -> None:
    Path("given.json").write_text(text)
    refused = run("import", "nccl-tests", "given.json", "-o", "x.yaml")
    assert (refused.exit_code, refused.stderr.count("\n"), Path("x.yaml").exists()) == (2, 1, False), refused.output
    assert refused.stderr.startswith("Error: given.json: ") and told in refused.stderr


def with_iterations(text: str) -> str:
    """With a report of each iteration, and the time of day."""
    rows = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0].isdecimal():
            extra = ["90.1", "120.5", "119.9", "4.2"]
            line = " ".join([*words[:5], *words[5:9], *extra, *words[9:], *extra, "2026-01-02 03:04:05"])
        rows.append(line)
    return "\n".join(rows)


SHAPES = {
    "no check": lambda text: re.sub(r"      0(?= |$)", "    N/A", text, flags=re.MULTILINE),
    "errors of floating point": lambda text: re.sub(r"      0\b", "  5e-07", text),
    "iterations": with_iterations,
    "groups": lambda text: text.replace("#  Rank", "#   Rank").replace(" Group  0", ""),
    "windows": lambda text: text.replace("\n", "\r\n"),
    "a build's log before it": lambda text: (
        "Linking  reduce.o > build/reduce_perf\nalltoall_perf sendrecv_perf\n"
        + text.replace("# Collective test", "# A")
    ),
    "rccl": lambda text: text.replace("# nccl-tests version 2", "rccl-tests: Version develop:83d38d9\n# 2"),
    "two runs": lambda text: text + text,
    "older settings": lambda text: re.sub(r"# nThread.*", "# nThreads: 1 nGpus: 2 minBytes: 8", text),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_columns_and_headers_of_all_versions_say_the_same(shape: str) -> None:
    rows = {size: time for size, time in line_times(20, 9, SIZES).items() if size > 2**20}
    text = SHAPES[shape](nccl_output("all_reduce", 2, rows))
    found = read_nccl_tests(lines_of(text.encode(), "f"), "f")
    assert {(run.kind, run.ranks) for run in found} == {("all_reduce", 2)}
    assert all(run.times == pytest.approx({s: t * 1e-6 for s, t in rows.items()}, rel=1e-4) for run in found)


def test_groups_of_ranks_are_collectives_of_their_own() -> None:
    text = nccl_output("all_reduce", 4, line_times(20, 9, SIZES)).replace("   6.00", "   6.00")
    split = re.sub(r"Rank  (\d) Group  0", lambda m: f"Rank  {m[1]} Group  {int(m[1]) % 2}", text)
    with pytest.raises(InputError, match="on 4 ranks, but the list of ranks says 2"):
        read_nccl_tests(lines_of(split.encode(), "f"), "f")
    pairs = nccl_output("all_reduce", 2, line_times(20, 9, SIZES))
    more = [
        line.replace("Group  0", "Group  1").replace("Rank  ", "Rank  1")
        for line in pairs.splitlines()
        if "Rank" in line
    ]
    (found,) = read_nccl_tests(lines_of((more[0] + "\n" + more[1] + "\n" + pairs).encode(), "f"), "f")
    assert found.ranks == 2 and "2 groups of ranks ran at once" in found.remarks[0]


@pytest.mark.parametrize("prefix", ["0: ", "[1,0]<stdout>:", "\x1b[0m"])
def test_prefixes_of_launchers_and_old_columns_are_read(prefix: str) -> None:
    text = nccl_output("all_reduce", 2, line_times(20, 9, SIZES), root=False)
    log = "host:12:34 [0] NCCL INFO Channel 00/02 : 0 1\n" + "".join(f"{prefix}{line}\n" for line in text.splitlines())
    (found,) = read_nccl_tests(lines_of(log.encode(), "f"), "f")
    assert (found.kind, found.ranks, found.gpu, len(found.times)) == (
        "all_reduce",
        2,
        "NVIDIA A100-SXM4-80GB",
        len(SIZES),
    )


def test_rows_with_wrong_results_are_left_out_and_in_place_can_be_taken() -> None:
    rows = [
        outputs.nccl_row(
            "all_reduce", 2, 2**k, 100.0 * 2 ** (k - 20), wrong="7" if k == 22 else "0", in_place=90.0 * 2 ** (k - 20)
        )
        for k in (20, 22, 24)
    ]
    text = nccl_output("all_reduce", 2, {}) + "\n".join(rows)
    (found,) = read_nccl_tests(lines_of(text.encode(), "f"), "f")
    assert found.times == {2**20: pytest.approx(100e-6), 2**24: pytest.approx(1600e-6)}
    assert any("1 rows with wrong results" in remark for remark in found.remarks)
    (inside,) = read_nccl_tests(lines_of(text.encode(), "f"), "f", in_place=True)
    assert inside.times[2**20] == pytest.approx(90e-6)


def test_a_collective_above_its_links_is_said_and_holds() -> None:
    made, said = filled("nccl-tests", nccl_output("all_reduce", 8, line_times(20, 120.0, SIZES)))
    assert re.search(r"contradiction: all_reduce on 8 ranks moves 2\d\d.* GB/s a rank, above what ", said)
    assert isolated_time(made, "all_reduce", 2**30, range(8)) == pytest.approx(2**30 / 120e9, rel=0.02)
    assert not contradictions(made)
    assert together(made, ("h2d", 0)) == [pytest.approx(25)]  # the link of copies stays as it was


def test_ranks_of_several_hosts_or_more_than_gpus_are_refused() -> None:
    two = nccl_output("all_reduce", 4, line_times(20, 9, SIZES)).replace(
        "on    host17 device  3", "on    host18 device  0"
    )
    Path("two.txt").write_text(two)
    refused = run("import", "nccl-tests", "two.txt", "-o", "x.yaml")
    assert refused.exit_code == 2 and "ran on 2 hosts (host17, host18)" in refused.stderr
    Path("many.txt").write_text(nccl_output("all_reduce", 4, line_times(20, 9, SIZES)))
    refused = run("import", "nccl-tests", "many.txt", "--hardware", "h200x2-hostpath", "-o", "x.yaml")
    assert refused.exit_code == 2 and "has 4 ranks, but h200x2-hostpath has 2 GPUs" in refused.stderr


def test_p2p_tells_who_reaches_whom_and_how_fast() -> None:
    Path("topo.txt").write_text(dumps.NODE_4)
    pair = [[640.0 if a == b else 22.0 for b in range(4)] for a in range(4)]
    reach = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    made, said = filled("p2p", p2p_output(pair, reach), base="node.yaml")
    assert made.topology.peers == ((0, 1), (2, 3))
    assert made.p2p is not None and (made.p2p.cap.value, made.p2p.setup.value) == (22e9, pytest.approx(1.5e-6))
    assert made.d2d is not None and made.d2d.cap.value == 320e9
    assert "contradiction" not in said and not contradictions(made)
    fast = [[640.0 if a == b else 200.0 for b in range(4)] for a in range(4)]
    _, said = filled("p2p", p2p_output(fast, [[1] * 4] * 4), base="node.yaml")
    assert "contradiction" in said and "200 GB/s between GPUs is above their PCIe links" in said
    none, said = filled("p2p", p2p_output(pair, [[int(a == b) for b in range(4)] for a in range(4)]), base="node.yaml")
    assert none.topology.peers == "host" and "collectives go through host memory" in said


def test_peers_that_a_profile_has_no_links_for_are_said(tmp_path: Path) -> None:
    Path("full.json").write_text(done("hardware", "h200x2-hostpath", "--json").stdout)
    pair = [[640.0, 22.0], [22.0, 640.0]]
    Path("p2p.txt").write_text(p2p_output(pair, [[1, 1], [1, 1]]))
    said = done("import", "p2p", "p2p.txt", "--into", "full.json", "-o", "out.yaml").stderr
    assert "contradiction: p2p.txt: GPUs access each other, but h200x2-hostpath has no links between them" in said
    assert load_profile("out.yaml").topology.peers == "host"


def test_a_link_that_is_slower_than_tables_of_a_base_is_said() -> None:
    Path("mine.yaml").write_text("name: mine\nlike: h200x2-hostpath\n")
    Path("b.json").write_text(nvbandwidth_json({H2D: [12.0] * 2}))
    said = done("import", "nvbandwidth", "b.json", "--into", "mine.yaml", "-o", "out.yaml").stderr
    assert "contradiction: collectives.all_to_all.alone: " in said and "rows contradict the resources" in said


def test_p2p_of_mixed_gpus_names_each_and_their_groups() -> None:
    cards = ["GeForce RTX 4090"] * 2 + ["GeForce RTX 5090"] * 2 + ["RTX A6000"] + ["GeForce RTX 3090"] * 2
    groups = ({0, 1}, {2, 3}, {4, 5, 6})
    near = [[int(any({a, b} <= group for group in groups)) for b in range(7)] for a in range(7)]
    rates = [[900.0 if a == b else 24.0 if near[a][b] else 6.0 for b in range(7)] for a in range(7)]
    text = p2p_output(rates, near)
    for gpu, card in enumerate(cards):
        text = text.replace(f"Device: {gpu}, NVIDIA RTX A6000,", f"Device: {gpu}, NVIDIA {card},", 1)
    Path("p2p.txt").write_text(text)
    done("import", "p2p", "p2p.txt", "-o", "mixed.yaml")
    made = load_profile("mixed.yaml")
    assert [made.device_of(g).name for g in range(7)] == [f"NVIDIA {card}" for card in cards]
    assert made.topology.peers == ((0, 1), (2, 3), (4, 5, 6)) and not contradictions(made)


def test_documentation_and_grace_outputs_of_nvbandwidth_are_read() -> None:
    rows = "memcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)\n          0         1\n0     26.03     25.94\n"
    (found,) = [read_nvbandwidth_text(lines_of(("Running host_to_device_memcpy_ce.\n" + rows).encode(), "f"), "f")]
    assert found.row(H2D) == [26.03, 25.94]
    grace = nvbandwidth_text({H2D: [359.05], D2H: [377.15]}, "NVIDIA GB300")
    grace = grace.replace("Device 0", "station-1\nDevice 0").replace(
        "CUDA Runtime", "CUDA Driver Version: 13000\nCUDA Runtime"
    )
    grace += "\nRunning device_to_device_memcpy_read_ce.\nWaived: \n"
    Path("grace.txt").write_text(grace)
    said = done("import", "nvbandwidth", "grace.txt", "-o", "grace.yaml").stderr
    assert "359.1 GB/s on gpu0 is above its link, PCIe Gen6 x16" in said
    assert together(load_profile("grace.yaml"), ("h2d", 0)) == [pytest.approx(359.1)]


def test_old_text_and_json_of_nvbandwidth_say_the_same() -> None:
    one = read_nvbandwidth_json(nvbandwidth_json(PAIRS).encode(), "f")
    other = read_nvbandwidth_text(lines_of(nvbandwidth_text(PAIRS).encode(), "f"), "f")
    assert one.tests == other.tests and other.gpus == ("NVIDIA A100-SXM4-80GB",)


@pytest.mark.parametrize(
    ("command", "text", "told"),
    [
        ("nvbandwidth", nvbandwidth_json(PAIRS)[:-300], "is not JSON"),
        (
            "nvbandwidth",
            nvbandwidth_json({H2D: [1e9]}),
            "nvbandwidth.testcases[0].bandwidth_matrix[0][0]: is '1000000000.00'",
        ),
        ("nvbandwidth", nvbandwidth_json({"host_to_device_memcpy_sm": [20.0]}), "has no test that a profile holds"),
        ("nvbandwidth", '{"nvbandwidth": {"error": "no GPU"}}', "nvbandwidth.testcases: is missing: no GPU"),
        (
            "nvbandwidth",
            nvbandwidth_text(PAIRS).replace("     25.00     25.00\n", "     25.00\n", 1),
            "has 7 of 8 rates of",
        ),
        ("nvbandwidth", "some text\n", "has no matrix of nvbandwidth"),
        ("nccl-tests", nccl_output("all_reduce", 2, line_times(20, 9, SIZES)).replace("4.56", "45.6"), ""),
        (
            "nccl-tests",
            nccl_output("all_reduce", 2, {2**20: 100.0}).replace("   10.49", "   99.49"),
            "algbw is not size / time",
        ),
        ("nccl-tests", nccl_output("all_reduce", 1, {2**20: 100.0}), "ran on one rank"),
        ("nccl-tests", "# nThread 1 nGpus 2\n", "has no row of nccl-tests"),
        (
            "p2p",
            p2p_output([[9.0, 8.0], [8.0, 9.0]], [[1, 1], [1, 1]]).split("Bidirectional")[0][:-20],
            "has 1 rows of 2",
        ),
        ("p2p", "P2P Connectivity Matrix\n", "has no matrix of p2pBandwidthLatencyTest"),
    ],
)
def test_outputs_that_are_cut_off_or_odd_are_refused(command: str, text: str, told: str) -> None:
    Path("given.txt").write_text(text)
    refused = run("import", command, "given.txt", "-o", "x.yaml")
    if told:
        assert (refused.exit_code, refused.stderr.count("\n"), Path("x.yaml").exists()) == (2, 1, False), refused.output
        assert refused.stderr.startswith("Error: given.txt: ") and told in refused.stderr
