"""Outputs of nvbandwidth, nccl-tests and p2pBandwidthLatencyTest, in the shapes of their versions; values are our own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

SHARE = {"all_reduce": 2.0, "sendrecv": 0.0}


def nvbandwidth_json(tests: Mapping[str, Sequence[float]], text: bool = True, gpu: str = "") -> str:
    """Rates between the host and each GPU by test; as strings, or as numbers."""
    cases = [
        {
            "name": name,
            "status": "Passed",
            "bandwidth_description": "memcpy CE CPU(row) <-> GPU(column) bandwidth (GB/s)",
            "bandwidth_matrix": [[f"{r:.2f}" if text else r for r in rates]],
            "sum": sum(rates),
        }
        for name, rates in tests.items()
    ]
    about: dict[str, object] = {"CUDA Runtime Version": 12080, "Driver Version": "570.1", "git_version": "v0.8"}
    if gpu:
        count = max(map(len, tests.values()))
        about["GPU Device list"] = [f"{g}: {gpu} (00000000:0{g}:00)" for g in range(count)]
    return json.dumps({"nvbandwidth": {**about, "testcases": cases}}, indent=1)


def nvbandwidth_text(tests: Mapping[str, Sequence[float]], gpu: str = "NVIDIA A100-SXM4-80GB") -> str:
    count = max(map(len, tests.values()))
    lines = [
        "nvbandwidth Version: v0.5",
        "Built from Git version: v0.5",
        "",
        "CUDA Runtime Version: 12040",
        "Driver Version: 550.1",
        "",
    ]
    lines += [f"Device {g}: {gpu} (00000000:0{g}:00)" for g in range(count)]
    for name, rates in tests.items():
        lines += ["", f"Running {name}.", "memcpy CE CPU(row) -> GPU(column) bandwidth (GB/s)"]
        lines += ["".join(f"{i:10d}" for i in range(len(rates))), " 0" + "".join(f"{r:10.2f}" for r in rates), ""]
        lines += [f"SUM {name} {sum(rates):.2f}", "COEFFICIENT_OF_VARIATION 0.00", "Waived: "]
    return "\n".join(lines) + "\n"


def nccl_row(
    test: str, ranks: int, size: int, micros: float, root: bool = True, wrong: str = "0", in_place: float | None = None
) -> str:
    full = test in ("all_reduce", "sendrecv", "broadcast")
    redop = "sum" if test in ("all_reduce", "reduce_scatter", "sendrecv") else "none"
    share = 1.0 if test in ("sendrecv", "broadcast") else (ranks - 1) / ranks * (2 if test == "all_reduce" else 1)
    count = size // 4 if full else size // 4 // ranks

    def half(time: float) -> str:
        return f"{time:10.2f} {size / time / 1e3:7.2f} {size / time / 1e3 * share:7.2f} {wrong:>6}"

    place = "0" if test == "broadcast" else "-1"
    return f"{size:12d} {count:14d} {'float':>9} {redop:>7} {place + '  ' if root else ''}{half(micros)} {half(in_place or micros)}"


def nccl_output(
    test: str,
    ranks: int,
    times: Mapping[int, float],
    named: bool = True,
    listed: bool = True,
    root: bool = True,
    gpu: str = "NVIDIA A100-SXM4-80GB",
) -> str:
    """A test's output; `times` are us by bytes."""
    lines = (
        [
            "# nccl-tests version 2.17.6 nccl-headers=22807 nccl-library=22807",
            f"# Collective test starting: {test}_perf",
        ]
        if named
        else []
    )
    lines += [
        f"# nThread 1 nGpus {ranks} minBytes 1024 maxBytes 1073741824 step: 2(factor) warmup iters: 5 iters: 20",
        "#",
    ]
    if listed:
        lines.append("# Using devices")
        lines += [
            f"#  Rank {n:2d} Group  0 Pid   4711 on    host17 device {n:2d} [0000:{n:02x}:00] {gpu}"
            for n in range(ranks)
        ]
    head = "#       size         count      type   redop " + ("   root " if root else "")
    lines += [
        "#",
        "#                                 out-of-place                       in-place",
        head + "    time   algbw   busbw #wrong     time   algbw   busbw #wrong",
    ]
    lines.append(
        "#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)"
    )
    lines += [nccl_row(test, ranks, size, time, root) for size, time in times.items()]
    return "\n".join([*lines, "# Out of bounds values : 0 OK", "# Avg bus bandwidth    : 12.3", "#"]) + "\n"


def nccl_json(
    test: str,
    ranks: int,
    times: Mapping[int, float],
    processes: int = 1,
    in_place: float = 1.0,
    unchecked: bool = False,
) -> str:
    """What `-J FILE` writes: each process lists its first GPU only."""
    each = ranks // processes
    share = {"all_reduce": 2 * (ranks - 1) / ranks, "sendrecv": 1.0}.get(test, (ranks - 1) / ranks)

    def half(size: int, time: float, wrong: float | None = 0.0) -> dict[str, float | None]:
        return {"time": time, "alg_bw": size / time / 1e3, "bus_bw": size / time / 1e3 * share, "nwrong": wrong}

    device = {"group": 0, "pid": 4711, "hostname": "host17", "device_hex": "0000:18:00", "device_info": "NVIDIA H200"}
    rows = [
        {"size": size, "count": size // 4, "type": "float", "redop": "sum", "root": "    -1"}
        | {
            "out_of_place": half(size, time),
            "in_place": half(size, time * in_place, None if unchecked else 0.0),
            "actual_iterations": 20,
            "experiment_name": test,
        }
        for size, time in times.items()
    ]
    data = {
        "version": 2,
        "start_time": "2026-01-02 03:04:05",
        "args": [f"./build/{test}_perf", "-b", "8K"],
        "env": ["PATH=/bin", "NAME={[}"],
        "nccl_version": 22809,
        "config": {
            "nthreads": 1,
            "ngpus": each,
            "minimum_bytes": 8192,
            "blocking_collectives": "false",
            "devices": [{"rank": p * each, "device": p * each, **device} for p in range(processes)],
        },
        "results": rows,
        "out_of_bounds": {"count": 0, "okay": "true"},
        "average_bus_bandwidth": {"bandwidth": 12.5, "okay": "unchecked"},
        "end_time": "2026-01-02 03:04:15",
        "errors": [],
    }
    return json.dumps(data, separators=(",", ":"))


def rccl_json(name: str, ranks: int, times: Mapping[int, float], share: float) -> str:
    """What `-Z json` of rccl-tests writes: a record each for out of place and in place."""
    rows = [
        {
            "numCycle": 0,
            "name": name,
            "nodes": 1,
            "ranks": ranks,
            "ranksPerNode": ranks,
            "gpusPerRank": 1,
            "size": size,
            "type": "float",
            "redop": "sum",
            "inPlace": inside,
            "time": time * (1 + inside),
            "algBw": size / time / (1 + inside) / 1e3,
            "busBw": share * size / time / (1 + inside) / 1e3,
            "wrong": 0,
        }
        for size, time in times.items()
        for inside in (0, 1)
    ]
    return json.dumps(rows)


def line_times(latency: float, rate: float, sizes: Sequence[int], factor: float = 1.0) -> dict[int, float]:
    """us by bytes of something that takes `latency` us and then moves `factor` times its bytes at `rate` GB/s."""
    return {size: latency + factor * size / rate / 1e3 for size in sizes}


SIZES = tuple(2**k for k in range(13, 31, 2))


def p2p_output(
    one_way: Sequence[Sequence[float]], reach: Sequence[Sequence[int]], gpu: str = "NVIDIA RTX A6000"
) -> str:
    count = len(one_way)

    def matrix(title: str, head: str, rows: Sequence[Sequence[float]], form: str) -> list[str]:
        cells = ["".join(f"{value:{form}} " for value in row) for row in rows]
        return [
            title,
            f"   {head}" + "".join(f"{g:6d} " for g in range(count)),
            *(f"{g:6d} {row}" for g, row in enumerate(cells)),
        ]

    lines = ["[P2P (Peer-to-Peer) GPU Bandwidth Latency Test]"]
    lines += [f"Device: {g}, {gpu}, pciBusID: {g:x}, pciDeviceID: 0, pciDomainID:0" for g in range(count)]
    lines += [
        f"Device={a} {'CAN' if reach[a][b] else 'CANNOT'} Access Peer Device={b}"
        for a in range(count)
        for b in range(count)
        if a != b
    ]
    lines += ["", "P2P Connectivity Matrix", "     D\\D" + "".join(f"{g:6d}" for g in range(count))]
    lines += [f"{g:6d}\t" + "".join(f"{value:6d}" for value in row) for g, row in enumerate(reach)]
    lines += matrix(
        "Unidirectional P2P=Disabled Bandwidth Matrix (GB/s)",
        "D\\D",
        [[v if a == b else 9.5 for b, v in enumerate(row)] for a, row in enumerate(one_way)],
        "6.2f",
    )
    lines += matrix("Unidirectional P2P=Enabled Bandwidth (P2P Writes) Matrix (GB/s)", "D\\D", one_way, "6.2f")
    lines += matrix(
        "Bidirectional P2P=Enabled Bandwidth Matrix (GB/s)", "D\\D", [[2 * v for v in row] for row in one_way], "6.2f"
    )
    lines += matrix(
        "P2P=Enabled Latency (P2P Writes) Matrix (us)",
        "GPU",
        [[2.1 if a == b else 1.5 for b in range(count)] for a in range(count)],
        "6.2f",
    )
    lines += [
        "",
        *matrix("", "CPU", [[3.0] * count] * count, "6.2f")[1:],
        "",
        "NOTE: The CUDA Samples are not meant for performance measurements.",
    ]
    return "\n".join(lines) + "\n"
