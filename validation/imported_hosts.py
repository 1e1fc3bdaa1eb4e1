"""How much worse a profile of four outputs of common tools is than a calibrated one, on hosts where both exist.

For each data set with probes, the outputs are written as those tools would have: `nvidia-smi topo -m` from the host's
fingerprint, nvbandwidth, nccl-tests and p2pBandwidthLatencyTest from the probes' rates and times. They are imported as
a user would, and the measured cases of the set are predicted on what comes out, on its own calibrated profile, and on
what the topology alone gives.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple

from sim.datasets.cases import load_origin
from sim.datasets.probe_rows import Row
from sim.hardware import Profile, load_profile
from sim.hardware.collectives import sent_per_rank
from sim.importers import nccl_runs
from sim.importers.cards import card_of
from sim.importers.host_profile import Wanted, profile_of
from sim.importers.whole_host import sorted_files, whole_host
from sim.program import CollectiveKind
from validation.compare import compare_all, jobs
from validation.datasets import load_set, session
from validation.error_statistics import Errors, errors, step_errors
from validation.markdown import table
from validation.step_statistics import Detailed, crosses_nvlink, folder, probes

SETS = (
    "h100x1-20261121e",
    "h200x1-20261121f",
    "h200x2-hostpath-20261121a",
    "h200x2-hostpath-20261121i",
    "h200x2-nvlink-20261121a",
    "h200x4-hostpath-20261121g",
)
"""Data sets of the table: a session to each kind of host, two to the kind with most cases."""

TESTS = {kind: name for name, kind in nccl_runs.KINDS.items()}
"""Kind of collective -> its test."""


def gpus_of(name: str) -> int:
    """How many GPUs the host of a set has."""
    return load_profile(name).gpus


def outputs(name: str) -> dict[str, str]:
    """What the four tools would have printed on the host of a set: file name -> text; those that measure something."""
    rows = [row for row in probes(name).values() if row.rejected is None]
    count = gpus_of(name)
    found = {"topo.txt": _topology(name, count), "nvbandwidth.json": _nvbandwidth(rows, count)}
    for kind, test in TESTS.items():
        ranks = sorted(
            {int(r.params["ranks"]) for r in rows if r.kind == "collective" and r.params["collective"] == kind}
        )
        for n in ranks:
            found[f"{test}_{n}.txt"] = _nccl_tests(rows, kind, test, n)
    if count > 1:
        found["p2p.txt"] = _peers(count, crosses_nvlink(name))
    return found


def _topology(name: str, count: int) -> str:
    said = load_origin(folder(name)).fingerprint.get("peers", "")
    heads = [f"GPU{g}" for g in range(count)]
    lines = ["\t" + "\t".join([*heads, "CPU Affinity", "NUMA Affinity", "GPU NUMA ID"])]
    for a, head in enumerate(heads):
        cells = [" X " if a == b else said for b in range(count)]
        lines.append("\t".join([head, *cells, "0-31", "0", "N/A"]))
    return "\n".join(lines) + "\n"


def _nvbandwidth(rows: Sequence[Row], count: int) -> str:
    """Rates of the longest copies in trains, GB/s."""

    def rates(directions: Sequence[str], ranks: int, way: str) -> list[float] | None:
        held = [r for r in rows if r.kind == "copy" and r.params["directions"] == list(directions)]
        held = [r for r in held if r.params["ranks"] == ranks and "/train/" in r.case]
        if not held:
            return None
        longest = max(held, key=lambda r: int(r.params["bytes"]))
        return [longest.params["bytes"] / rank[way].median / 1e9 for rank in longest.ranks]

    tests: dict[str, list[float] | None] = {
        "host_to_device_memcpy_ce": rates(["h2d"], 1, "h2d"),
        "device_to_host_memcpy_ce": rates(["d2h"], 1, "d2h"),
        "host_to_device_bidirectional_memcpy_ce": rates(["h2d", "d2h"], 1, "h2d"),
        "device_to_host_bidirectional_memcpy_ce": rates(["h2d", "d2h"], 1, "d2h"),
    }
    every = {test: row * count if row is not None else None for test, row in tests.items()}
    if count > 1:
        every |= {
            "host_to_all_memcpy_ce": rates(["h2d"], count, "h2d"),
            "all_to_host_memcpy_ce": rates(["d2h"], count, "d2h"),
        }
    local = [r.ranks[0]["rate"].median / 2e9 for r in rows if r.kind == "device_copy"]
    every["device_local_copy"] = local * count or None
    cases = [
        {"name": test, "status": "Passed", "bandwidth_matrix": [[f"{rate:.2f}" for rate in row]]}
        for test, row in every.items()
        if row is not None
    ]
    return json.dumps({"nvbandwidth": {"git_version": "v0.8", "testcases": cases}})


def _nccl_tests(rows: Sequence[Row], kind: CollectiveKind, test: str, ranks: int) -> str:
    held = [r for r in rows if r.kind == "collective" and (r.params["collective"], r.params["ranks"]) == (kind, ranks)]
    lines = [f"# Collective test starting: {test}_perf", "# nThread 1 nGpus 1 minBytes 65536", "#", "# Using devices"]
    lines += [
        f"#  Rank {n:2d} Group  0 Pid   100 on box device {n:2d} [0000:0{n}:00] NVIDIA H200" for n in range(ranks)
    ]
    lines.append("#       size         count      type   redop    root     time   algbw   busbw #wrong")
    for row in sorted(held, key=lambda r: int(r.params["bytes"])):
        size = int(row.params["bytes"])
        micros = median(rank["seconds"].median for rank in row.ranks) * 1e6
        algorithm = size / micros / 1e3
        bus = algorithm * sent_per_rank(kind, 1, ranks)
        whole = kind in ("all_reduce", "send_recv")
        redop = "sum" if kind in ("all_reduce", "reduce_scatter") else "none"
        count = size // 4 if whole else size // 4 // ranks
        lines.append(f"{size:12d} {count:12d} float {redop:>6} -1 {micros:10.2f} {algorithm:7.2f} {bus:7.2f} 0")
    return "\n".join(lines) + "\n"


def _peers(count: int, direct: bool) -> str:
    """Only who reaches whom: the probes measured no copies between GPUs."""
    lines = [
        "[P2P (Peer-to-Peer) GPU Bandwidth Latency Test]",
        "P2P Connectivity Matrix",
        "     D\\D" + "".join(f"{g:6d}" for g in range(count)),
    ]
    lines += [f"{a:6d}\t" + "".join(f"{int(a == b or direct):6d}" for b in range(count)) for a in range(count)]
    return "\n".join(lines) + "\n"


class Imported(NamedTuple):
    """Profiles of the host of a set: by its topology alone, and with all outputs; and what importing said."""

    topology: Profile
    all: Profile
    remarks: tuple[str, ...]


def imported(name: str) -> Imported:
    """The profiles that a user imports of the outputs of a set's host, as `chunkflow-sim import host` does."""
    gpu = load_origin(folder(name)).fingerprint["gpu"].partition(" x ")[2]
    with TemporaryDirectory() as temporary:
        files = {file: Path(temporary, file) for file in outputs(name)}
        for file, text in outputs(name).items():
            files[file].write_text(text)
        found = sorted_files(list(files.values()))
        peers: Literal["host"] | None = None if crosses_nvlink(name) or gpus_of(name) == 1 else "host"
        wanted = Wanted(card=card_of(gpu), peers=peers)
        topology = whole_host({"topo": found["topo"]}, wanted, f"{name}-imported")
        everything = whole_host(found, wanted, f"{name}-imported")
    return Imported(profile_of(topology.plain, name), profile_of(everything.plain, name), everything.remarks)


def offloaded_errors(name: str, profile: Profile, executor: Executor | None) -> Errors:
    """Errors of the step times of a set's offloaded cases on a profile."""
    chosen = [job for job in jobs(load_set(name), profile, steps_only=True) if job.group != "resident"]
    return errors(step_errors(compare_all(chosen, executor)))


def imported_hosts(found: Sequence[Detailed], executor: Executor | None, names: Sequence[str] = SETS) -> str:
    """The table: errors of offloaded cases of each set on its own profile (from `found`) and on the imported ones."""
    rows = []
    for name in names:
        made = imported(name)
        own = [e.compared for e in found if e.compared.set == name and e.compared.group != "resident"]
        compared = [errors(step_errors(own)), *(offloaded_errors(name, p, executor) for p in (made.all, made.topology))]
        figures = [f"{100 * value:.2f}" for one in compared for value in (one.median, one.p95)]
        rows.append((session(name), str(compared[0].cases), *figures))
    headers = (
        "host and session", "cases", "calibrated: median %", "95th %", "four outputs: median %", "95th %",
        "topology alone: median %", "95th %",
    )  # fmt: skip
    return table(headers, rows, 1)
