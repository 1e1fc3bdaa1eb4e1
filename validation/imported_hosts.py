"""How much worse a profile of four outputs of common tools is than a calibrated one, on hosts where both exist.

For each data set with probes, the outputs are written as those tools would have: `nvidia-smi topo -m` from the host's
fingerprint, nvbandwidth, nccl-tests and p2pBandwidthLatencyTest from the probes' rates and times. They are imported as
a user would, and the measured cases of the set are predicted on what comes out, on its own calibrated profile, and on
what the topology alone gives.

`python -m validation.imported_hosts` prints the table; with `--document docs/importing.md` it is put there, with
`--check docs/importing.md` compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from sim.datasets.cases import load_origin
from sim.datasets.probe_rows import Row
from sim.hardware import Profile, load_profile
from sim.hardware.collectives import sent_per_rank
from sim.importers import measured_collectives, measured_copies, nccl_runs, nccl_tests, nvbandwidth, p2p
from sim.importers.cards import card_of
from sim.importers.host_profile import Wanted, host_profile, profile_of
from sim.importers.topo_files import read_topologies
from sim.inputs.atomic_files import write_atomically
from sim.program import CollectiveKind
from sim.sweeps.worker_pool import Workers
from validation.compare import compare_all, jobs
from validation.datasets import load_set, session
from validation.error_statistics import Errors, errors, step_errors
from validation.markdown import differences, placed, table
from validation.step_statistics import crosses_nvlink, folder, probes

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
    """The profiles that a user imports of the outputs of a set's host."""
    gpu = load_origin(folder(name)).fingerprint["gpu"].partition(" x ")[2]
    with TemporaryDirectory() as temporary:
        files = {file: Path(temporary, file) for file in outputs(name)}
        for file, text in outputs(name).items():
            files[file].write_text(text)
        tree = read_topologies([files["topo.txt"]])
        wanted = Wanted(card=card_of(gpu), peers=None if crosses_nvlink(name) or len(tree.places) == 1 else "host")
        made = host_profile(tree, wanted, f"{name}-imported", "topo.txt")
        topology = profile_of(made.plain, "topo.txt")
        plain = made.plain
        remarks = [*made.remarks]
        remarks += measured_copies.fill_nvbandwidth(
            plain, nvbandwidth.read_file(files["nvbandwidth.json"]), "nvbandwidth.json"
        )
        runs = [
            run
            for file, at in files.items()
            if file.endswith(".txt") and "_" in file
            for run in nccl_tests.read_file(at)
        ]
        if "p2p.txt" in files:
            remarks += measured_copies.fill_p2p(plain, p2p.read_file(files["p2p.txt"]), "p2p.txt")
        if runs:
            remarks += measured_collectives.fill_nccl_tests(plain, runs)
    return Imported(topology, profile_of(plain, name), tuple(remarks))


def offloaded_errors(name: str, profile: Profile, executor: Executor | None) -> Errors:
    """Errors of the step times of a set's offloaded cases on a profile."""
    chosen = [job for job in jobs(load_set(name), profile, steps_only=True) if job.group != "resident"]
    return errors(step_errors(compare_all(chosen, executor)))


def imported_hosts(names: Sequence[str], executor: Executor | None = None) -> str:
    """The table: errors of offloaded cases of each set on the three profiles."""
    rows = []
    for name in names:
        made = imported(name)
        found = [offloaded_errors(name, p, executor) for p in (load_profile(name), made.all, made.topology)]
        figures = [f"{100 * value:.2f}" for one in found for value in (one.median, one.p95)]
        rows.append((session(name), str(found[0].cases), *figures))
    headers = (
        "host and session", "cases", "calibrated: median %", "95th %", "four outputs: median %", "95th %",
        "topology alone: median %", "95th %",
    )  # fmt: skip
    return table(headers, rows, 1)


def main(given: Sequence[str] | None = None) -> None:
    """Print the table, put it into documents, or compare it with theirs."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--document", type=Path, help="put the table between its markers in this file")
    parser.add_argument("--check", type=Path, help="exit with 1 unless this file has today's table")
    parser.add_argument("sets", nargs="*", help="data sets; those of the table unless given")
    options = parser.parse_args(given)
    with Workers() as executor:
        made = {"imported hosts": imported_hosts(options.sets or SETS, executor)}
    print(made["imported hosts"])
    path = options.check or options.document
    if path is None:
        return
    texts: Mapping[Path, str] = {path: path.read_text(encoding="utf-8")}
    if options.check and (wrong := differences(texts, made)):
        sys.exit("\n".join(wrong))
    if options.document:
        write_atomically(path, placed(texts, made)[path])


if __name__ == "__main__":
    main()
