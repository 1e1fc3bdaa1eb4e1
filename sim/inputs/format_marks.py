"""By what formats of other tools, and files of ours, are known: patterns of their text, first bytes, names."""

from __future__ import annotations

import re
from typing import NamedTuple

TRACE = "a profiler's trace (Kineto, Chrome trace format)"
RECORD = "record a trace with torch.profiler, which `chunkflow-sim import trace` reads"
_LSTOPO = "give `lstopo --of xml` to `chunkflow-sim import topo`"
_LINES = re.MULTILINE


class Format(NamedTuple):
    """A format: what its first bytes hold, and what to do with it."""

    name: str
    pattern: re.Pattern[str]
    command: str = ""
    """Which `chunkflow-sim import` reads it; "" for none."""
    advice: str = ""
    """What to do with it otherwise."""


def _of(name: str, pattern: str, command: str = "", advice: str = "", flags: int = 0) -> Format:
    return Format(name, re.compile(pattern, flags), command, advice)


JSON = (
    _of(
        "a trace of a simulated run of ours",
        r'"otherData"\s*:\s*\{\s*"generator"\s*:\s*"chunkflow-sim"',
        advice="open it in Perfetto",
    ),
    _of(
        "a recorded program of ours",
        r'\A\{"generator":"chunkflow-sim recorded program"',
        advice="a scenario names it as workload.program; docs/traces.md",
    ),
    _of(TRACE, r'"traceEvents"\s*:|\A\s*\[[^\]]{,400}"ph"\s*:', "trace"),
    _of(TRACE, r'"deviceProperties"\s*:\s*\[', "trace"),
    _of(
        "the output of nccl-tests (JSON)",
        r'"(?:out_of_place|average_bus_bandwidth)"\s*:|"args"\s*:\s*\[\s*"[^"]*_perf"|"inPlace"\s*:\s*\d',
        "nccl-tests",
    ),
    _of("the output of nvbandwidth (JSON)", r'\A\s*\{\s*"nvbandwidth"\s*:', "nvbandwidth"),
    _of(
        "rows of probes or measured cases of ours",
        r'\A\{"schema":\d+,"(?:case|number)"',
        advice="give its folder to `chunkflow-sim validate --data`",
    ),
    _of("what a data set's host is, of ours", r'\A\s*\{\s*"fingerprint"\s*:'),
    _of("a notebook", r'\A\s*\{\s*"cells"\s*:|"nbformat"\s*:'),
)
"""Told by keys that no scenario has. Traces are large: they are recognised before they are parsed."""

MARKUP = (
    _of(
        "a page that chunkflow-sim wrote",
        r'<meta name="generator" content="chunkflow-sim">',
        advice="open it in a browser",
    ),
    _of("a topology of lstopo (XML)", r'<!DOCTYPE topology|<topology\b|<object type="Machine"', "topo"),
    _of(
        "a topology of NCCL (XML)",
        r"<system\b[^>]{,200}>.{,2000}?<(?:cpu|pci|gpu)\b",
        "topo",
        flags=re.DOTALL,
    ),
    _of("a web page (HTML)", r"\A\s*(?:<!doctype html|<html)", flags=re.IGNORECASE),
    _of("a drawing (SVG)", r"\A\s*(?:<\?xml[^>]{,200}>\s*)?(?:<!--.{,2000}?-->\s*)?<svg\b", "", _LSTOPO, re.DOTALL),
    _of("an XML file", r"\A\s*<\?xml"),
)
"""Text that begins with `<`."""

TEXT = (
    _of(
        "the output of nccl-tests",
        r"^(?:[ \t]{,20}\d{1,6}:|\[\d+,\d+\]<stdout>:)?[ \t]{,40}#[^\n]{,300}"
        r"(?:\balgbw\b|\bbusbw\b|\bnccl-tests\b|\bnThread\b|Avg bus band)",
        "nccl-tests",
        flags=_LINES,
    ),
    _of(
        "the output of p2pBandwidthLatencyTest",
        r"P2P \(Peer-to-Peer\) GPU Bandwidth Latency Test|P2P=(?:Dis|En)abled (?:Bandwidth|Latency)|^P2P Connectivity",
        "p2p",
        flags=_LINES,
    ),
    _of(
        "the output of nvbandwidth (text)",
        r"^(?:nvbandwidth Version:|memcpy .{,60}bandwidth \(GB/s\)|SUM \w+_memcpy_\w+ |"
        r"Running \w+_(?:memcpy|copy)\w*\.)",
        "nvbandwidth",
        flags=_LINES,
    ),
    _of(
        "the output of nvidia-smi topo -m",
        r"^[ \t>|]{,99}(?:\x1b\[4m)?[ \t]{,99}GPU0(?:\x1b\[0m)?(?: \|)?\s+(?:\x1b\[4m)?"
        r"(?:GPU\d|CPU Affinity|NIC\d|NUMA|mlx\d|X\s)",
        "topo",
        flags=_LINES,
    ),
    _of(
        "the output of lspci -tv",
        r"\A\s*-(?:\+-|-)?\[[0-9a-f:]+\]-|^ [+\\|]-\[[0-9a-f]{4}:[0-9a-f]{2}\]-",
        "topo",
        flags=_LINES,
    ),
    _of(
        "the output of lspci",
        r"^(?:[0-9a-f]{4,8}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] \S.{,80}"
        r"(?:bridge|controller|accelerators|Device)\b.{,40}:",
        "topo",
        flags=_LINES,
    ),
    _of("the text output of lstopo", r"\A\s*Machine \([^)]{,60}(?:total|MB|GB|MiB|GiB)\b", advice=_LSTOPO),
    _of("the output of rocm-smi --showtopo", r"= Link Type between two GPUs =", "topo"),
    _of(
        "the output of rocm-smi",
        r"ROCm System Management Interface",
        advice="give `rocm-smi --showtopo` to `chunkflow-sim import topo`",
    ),
    _of(
        "the output of nvidia-smi",
        r"^\|? ?NVIDIA-SMI \d|^=+NVSMI LOG=+|^\| NVIDIA-SMI|^GPU \d+: .{,80}\(UUID",
        advice="give `nvidia-smi topo -m` to `chunkflow-sim import topo`",
        flags=_LINES,
    ),
    _of(
        "a log of NCCL",
        r"^\S+:\d+:\d+ \[\d+\] NCCL (?:INFO|WARN)",
        advice="it holds no times; nccl-tests print them: `chunkflow-sim import nccl-tests`",
        flags=_LINES,
    ),
    _of(
        "a table of the PyTorch profiler",
        r"Self CUDA time total:|Self CUDA %|Self CPU time total:",
        advice="export a trace with export_chrome_trace, for `chunkflow-sim import trace`",
    ),
    _of(
        "the output of bandwidthTest",
        r"\[CUDA Bandwidth Test\]",
        advice="nvbandwidth measures more: `chunkflow-sim import nvbandwidth`",
    ),
    _of(
        "rows of a sweep of ours (CSV)",
        r"\Ascenario_v\d+(?:,|\r?$)",
        advice="resume it with `chunkflow-sim sweep SCENARIO --out FILE`",
        flags=_LINES,
    ),
    _of(
        "a project's settings (TOML)",
        r"^\[(?:build-system|project|tool\.[\w.]+|package|dependencies)\]\s*$",
        flags=_LINES,
    ),
    _of("a table (CSV)", r"\A[\w .%()/-]+(?:[,;\t][\w .%()/-]+){3,}\r?\n[^\n]*[,;\t]"),
    _of("a Python program", r"^(?:import \w|from [\w.]+ import |def \w+\(|class \w+)", flags=_LINES),
    _of("a script", r"\A#!"),
)
"""May stand in comments of a scenario: looked for only in what is no scenario's mapping."""

BINARY: tuple[tuple[bytes, int, str, str], ...] = (
    (b"SQLite format 3\0", 0, "a database (SQLite), perhaps of nsys export", f"it cannot be imported: {RECORD}"),
    (b"PK\x03\x04", 0, "a zip archive, or a checkpoint of PyTorch", "unpack it and give the file inside"),
    (b"ustar", 257, "a tar archive", "unpack it and give the file inside"),
    (b"PAR1\x15", 0, "a table (Parquet)", "it cannot be imported"),
    (b"\x89HDF", 0, "an HDF5 file", "it cannot be imported"),
    (b"\x93NUMPY", 0, "an array of NumPy", "it cannot be imported"),
    (b"%PDF", 0, "a PDF document", "it cannot be imported"),
    (b"\x89PNG", 0, "an image (PNG)", "give the text that it shows"),
    (b"\xff\xd8\xff", 0, "an image (JPEG)", "give the text that it shows"),
    (b"\x7fELF", 0, "a program (ELF)", "give what it prints"),
    (b"\x80\x02", 0, "a pickle of Python", f"it is not opened; {RECORD}"),
    (b"\x80\x04", 0, "a pickle of Python", f"it is not opened; {RECORD}"),
    (b"\x80\x05", 0, "a pickle of Python", f"it is not opened; {RECORD}"),
    (b"1AY&SY", 4, "a file packed with bzip2", "unpack it"),
    (b"\xfd7zXZ", 0, "a file packed with xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", 0, "a file packed with zstd", "unpack it"),
)
"""Bytes, where they stand, the name, what to do."""

_PERFETTO = f"a trace of Perfetto (protobuf), no scenario: it cannot be imported: {RECORD}"
_NSIGHT = f"a report of Nsight Systems, no scenario: it cannot be imported: {RECORD}"
SUFFIXES = {
    ".nsys-rep": _NSIGHT,
    ".qdrep": _NSIGHT,
    ".ncu-rep": f"a report of Nsight Compute, no scenario: it cannot be imported: {RECORD}",
    ".pftrace": _PERFETTO,
    ".perfetto-trace": _PERFETTO,
    ".safetensors": "weights (safetensors), no scenario: name the model as workload.model",
}
"""Binary files that are known by their names."""
PROTOBUF = f"perhaps {_PERFETTO}"
"""A binary file that begins as a Perfetto trace does."""
