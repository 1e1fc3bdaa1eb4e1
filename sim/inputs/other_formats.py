"""What a file is that was given in place of another kind: formats of other tools, and our own kinds of files."""

from __future__ import annotations

import re
import shlex
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sim.inputs.config import InputError

_HEAD = 2**18
"""Bytes at a file's start that are looked at; compressed ones are unpacked up to this size."""
_GZIP = b"\x1f\x8b"
_RECORD = "record a trace with torch.profiler, which `chunkflow-sim import trace` reads"


class _Format(NamedTuple):
    name: str
    pattern: re.Pattern[str]
    """What its first bytes hold."""
    command: str = ""
    """Which `chunkflow-sim import` reads it; "" for none."""
    advice: str = ""
    """What to do with it instead."""


def _of(name: str, pattern: str, command: str = "", advice: str = "", flags: int = 0) -> _Format:
    return _Format(name, re.compile(pattern, flags), command, advice)


_TRACE = "a profiler's trace (Kineto, Chrome trace format)"
_JSON = (
    _of("a trace of a simulated run of ours", r'"otherData"\s*:\s*\{\s*"generator"\s*:\s*"chunkflow-sim"', "", "open it in Perfetto"),
    _of(_TRACE, r'"traceEvents"\s*:|\A\s*\[[^\]]{,400}"ph"\s*:', "trace"),
    _of(_TRACE, r'"deviceProperties"\s*:\s*\[', "trace"),
    _of("the output of nvbandwidth (JSON)", r'\A\s*\{\s*"nvbandwidth"\s*:', "nvbandwidth"),
    _of("rows of probes or measured cases of ours", r'\A\{"schema":\d+,"(?:case|number)"', "", "give its folder to `chunkflow-sim validate --data`"),
    _of("what a data set's host is, of ours", r'\A\s*\{\s*"fingerprint"\s*:'),
    _of("the result of `chunkflow-sim plan --json`", r'\A\s*\{[^[]{,2000}"(?:smallest_within|evaluated)"\s*:|\A\s*\{\s*"best"\s*:'),
    _of("the result of `chunkflow-sim run --json`", r'\A\s*\{(?=.{,6000}"step_time_s"\s*:)(?=.{,60000}"step_times_s"\s*:)', flags=re.DOTALL),
    _of("the configuration of a published model or pipeline", r'\A\s*\{[^{]{,2000}"(?:_class_name|_diffusers_version|architectures|model_type)"\s*:'),
    _of("a notebook", r'\A\s*\{\s*"cells"\s*:|"nbformat"\s*:'),
)  # fmt: skip
"""Told by keys that no scenario has. Traces are large: they are recognised before they are parsed."""

_MARKUP = (
    _of(
        "a page that chunkflow-sim wrote",
        r'<meta name="generator" content="chunkflow-sim">',
        "",
        "open it in a browser",
    ),
    _of("a topology of lstopo (XML)", r'<!DOCTYPE topology|<topology\b|<object type="Machine"', "topo"),
    _of("a web page (HTML)", r"\A\s*(?:<!doctype html|<html)", flags=re.IGNORECASE),
    _of(
        "a drawing (SVG)",
        r"\A\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?<svg\b",
        "",
        "lstopo: give `lstopo --of xml`",
        re.DOTALL,
    ),
    _of("an XML file", r"\A\s*<\?xml"),
)
"""Text that begins with `<`."""

_TEXT = (
    _of("the output of nccl-tests", r"^(?:\s*\d+:|\[\d+,\d+\]<stdout>:)?\s*#.*(?:\balgbw\b|\bbusbw\b|\bnccl-tests\b|\bnThread\b|Avg bus bandwidth)", "nccl-tests", flags=re.MULTILINE),
    _of("the output of p2pBandwidthLatencyTest", r"P2P \(Peer-to-Peer\) GPU Bandwidth Latency Test|P2P=(?:Disabled|Enabled) (?:Bandwidth|Latency)|^P2P Connectivity Matrix", "p2p", flags=re.MULTILINE),
    _of("the output of nvbandwidth (text)", r"^(?:nvbandwidth Version:|memcpy .*bandwidth \(GB/s\)|SUM \w+_memcpy_\w+ |Running \w+_(?:memcpy|copy)_?\w*\.)", "nvbandwidth", flags=re.MULTILINE),
    _of("the output of nvidia-smi topo -m", r"^[\s>|]*(?:\x1b\[4m)?\s*GPU0\s+(?:GPU\d|CPU Affinity|NIC\d|NUMA|mlx\d|X\s)", "topo", flags=re.MULTILINE),
    _of("the output of lspci -tv", r"\A\s*-(?:\+-|-)?\[[0-9a-f:]+\]-|^ [+\\|]-\[[0-9a-f]{4}:[0-9a-f]{2}\]-", "topo", flags=re.MULTILINE),
    _of("the output of lspci", r"^(?:[0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7] \S.*(?:bridge|controller|accelerators|Device)\b.*:", "topo", "", re.MULTILINE),
    _of("the text output of lstopo", r"\A\s*Machine \([^)]*(?:total|MB|GB|MiB|GiB)\b", "", "give `lstopo --of xml` to `chunkflow-sim import topo`"),
    _of("the output of rocm-smi", r"ROCm System Management Interface", "", "give `lstopo --of xml` to `chunkflow-sim import topo`"),
    _of("the output of nvidia-smi", r"^\|? ?NVIDIA-SMI \d|^=+NVSMI LOG=+|^\| NVIDIA-SMI|^GPU \d+: .*\(UUID", "", "give `nvidia-smi topo -m` to `chunkflow-sim import topo`", re.MULTILINE),
    _of("a log of NCCL", r"^\S+:\d+:\d+ \[\d+\] NCCL (?:INFO|WARN)", "", "nccl-tests print times: `chunkflow-sim import nccl-tests`", re.MULTILINE),
    _of("a table of the PyTorch profiler", r"Self CUDA time total:|Self CUDA %|Self CPU time total:", "", "export it with export_chrome_trace, for `chunkflow-sim import trace`"),
    _of("the output of bandwidthTest", r"\[CUDA Bandwidth Test\]", "", "nvbandwidth measures more: `chunkflow-sim import nvbandwidth`"),
    _of("rows of a sweep of ours (CSV)", r"\Ascenario_v\d+", "", "resume it with `chunkflow-sim sweep SCENARIO --out FILE`"),
    _of("a project's settings (TOML)", r"^\[(?:build-system|project|tool\.[\w.]+|package|dependencies)\]\s*$", flags=re.MULTILINE),
    _of("a table (CSV)", r"\A[\w .%()/-]+(?:[,;\t][\w .%()/-]+){3,}\r?\n[^\n]*[,;\t]"),
    _of("a Python program", r"^(?:import \w|from [\w.]+ import |def \w+\(|class \w+)", flags=re.MULTILINE),
    _of("a script", r"\A#!"),
)  # fmt: skip
"""May stand in comments of a scenario: looked for only in what is no scenario's mapping."""

_BINARY: tuple[tuple[bytes, int, str, str], ...] = (
    (b"SQLite format 3\0", 0, "a database (SQLite), perhaps of nsys export", f"it cannot be imported: {_RECORD}"),
    (b"PK\x03\x04", 0, "a zip archive, or a checkpoint of PyTorch", "unpack it and give the file inside"),
    (b"ustar", 257, "a tar archive", "unpack it and give the file inside"),
    (b"PAR1", 0, "a table (Parquet)", "it cannot be imported"),
    (b"\x89HDF", 0, "an HDF5 file", "it cannot be imported"),
    (b"\x93NUMPY", 0, "an array of NumPy", "it cannot be imported"),
    (b"%PDF", 0, "a PDF document", "it cannot be imported"),
    (b"\x89PNG", 0, "an image (PNG)", "give the text that it shows"),
    (b"\xff\xd8\xff", 0, "an image (JPEG)", "give the text that it shows"),
    (b"\x7fELF", 0, "a program (ELF)", "give what it prints"),
    (b"\x80\x02", 0, "a pickle of Python", f"it is not opened; {_RECORD}"),
    (b"\x80\x04", 0, "a pickle of Python", f"it is not opened; {_RECORD}"),
    (b"\x80\x05", 0, "a pickle of Python", f"it is not opened; {_RECORD}"),
    (b"BZh", 0, "packed with bzip2", "unpack it"),
    (b"\xfd7zXZ", 0, "packed with xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", 0, "packed with zstd", "unpack it"),
)  # fmt: skip
"""Bytes, where they stand, the name, what to do."""

_SUFFIXES = {
    ".nsys-rep": f"a report of Nsight Systems: it cannot be imported: {_RECORD}",
    ".qdrep": f"a report of Nsight Systems: it cannot be imported: {_RECORD}",
    ".ncu-rep": "a report of Nsight Compute, of single kernels: it cannot be imported",
    ".pftrace": f"a trace of Perfetto (protobuf): it cannot be imported: {_RECORD}",
    ".perfetto-trace": f"a trace of Perfetto (protobuf): it cannot be imported: {_RECORD}",
    ".safetensors": "weights (safetensors): name the model as workload.model, or write its shapes as docs/models.md shows",
}
"""Binary files that are known by their names."""

_SCENARIO = {"workload", "policy", "world_size"}
_PROFILE = {"topology", "like", "gpus"}


def foreign_content(given: Path | bytes) -> str | None:
    """What is wrong with giving a file, or content, as a scenario, if its start tells that it is another format.

    JSON of other tools, markup and binary files, also packed with gzip; None for what may be a scenario.
    """
    head = _head(given)
    if (problem := _binary(given, head)) is not None:
        return problem
    text = head.decode(errors="replace").removeprefix("\ufeff")
    start = text.lstrip()[:1]
    formats = _JSON if start in ("{", "[") else _MARKUP if start == "<" else ()
    found = _first(formats, text)
    return None if found is None else _no_scenario(found)


def foreign_text(given: Path | bytes) -> str | None:
    """The same for text of other tools; for what holds no scenario's mapping of keys."""
    found = _first(_TEXT, _head(given).decode(errors="replace").removeprefix("\ufeff"))
    return None if found is None else _no_scenario(found)


def refuse_other(content: bytes, source: str, command: str) -> None:
    """Refuse content that is known to be of another kind than `chunkflow-sim import` `command` reads.

    Raises:
        InputError: of `source`; it names the format, and the command that reads it.
    """
    head = content[:_HEAD]
    if (problem := _binary(Path(source), head)) is not None:
        raise InputError(source, "", problem.replace(", no scenario", ""))
    text = head.decode(errors="replace").removeprefix("\ufeff")
    start = text.lstrip()[:1]
    known = (*(_JSON if start in ("{", "[") else _MARKUP if start == "<" else ()), *_TEXT)
    if any(one.command == command and one.pattern.search(text) for one in known):
        return
    found = _first(known, text)
    if found is None and (ours := _ours(text)) is not None:
        raise InputError(source, "", ours)
    if found is not None:
        raise InputError(source, "", f"is {found.name}: {_advice(found)}".replace("FILE", shlex.quote(source)))


def _ours(text: str) -> str | None:
    """What a file of ours is, by its keys at the start of lines."""
    keys = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    if keys >= {"workload", "policy"} or keys >= {"hardware", "workload"}:
        return "is a scenario: run it with `chunkflow-sim run`"
    if "name" in keys and keys & _PROFILE:
        return "is a hardware profile: give it as --into, to fill it in, or as --hardware"
    return None


def other_file(data: Any) -> str | None:
    """What is wrong with giving plain data as a scenario, if they are another file of ours; else None."""
    if not isinstance(data, Mapping) or data.keys() & _SCENARIO:
        return None
    if "scenario" in data and data.keys() & {"axes", "cases", "x", "plot"}:
        return "is an experiment, no scenario: run it with `chunkflow-sim experiment FILE`"
    if "transformer" in data:
        return "is a model's shapes, no scenario: give its path as workload.model, or see `chunkflow-sim models FILE`"
    if data.keys() & _PROFILE:
        return "is a hardware profile, no scenario: give it as `hardware` in a scenario"
    return None


def is_scenario(data: Any) -> bool:
    """Whether plain data have a key that only scenarios have."""
    return isinstance(data, Mapping) and bool(data.keys() & _SCENARIO)


def other_than_model(data: Any) -> str | None:
    """What is wrong with giving plain data as a model's shapes, if they are another known kind of file; else None."""
    if not isinstance(data, Mapping) or "transformer" in data:
        return None
    if "workload" in data:
        return "is a scenario, no model's shapes"
    if data.keys() & _PROFILE:
        return "is a hardware profile, no model's shapes"
    if data.keys() & {"_class_name", "num_attention_heads", "architectures"}:
        return "is the configuration of a published model: write its shapes as docs/models.md shows"
    return None


def _first(formats: Iterable[_Format], text: str) -> _Format | None:
    return next((known for known in formats if known.pattern.search(text)), None)


def _no_scenario(found: _Format) -> str:
    return f"is {found.name}, no scenario: {_advice(found)}"


def _advice(found: _Format) -> str:
    if found.command:
        return f"import it with `chunkflow-sim import {found.command} FILE -o OUT.yaml`"
    return found.advice or "it cannot be imported"


def _binary(given: Path | bytes, head: bytes) -> str | None:
    """What a binary file is."""
    for mark, place, name, advice in _BINARY:
        if head[place : place + len(mark)] == mark:
            return f"is {name}, no scenario: {advice}"
    if isinstance(given, Path) and b"\0" in head and (known := _SUFFIXES.get(given.suffix)) is not None:
        return f"is {known}"
    if head[:1] == b"\x0a" and b"\0" in head:
        return f"is perhaps a trace of Perfetto (protobuf), no scenario: it cannot be imported: {_RECORD}"
    return None


def _head(given: Path | bytes) -> bytes:
    """What content or a regular file begins with, unpacked; nothing for what cannot be read."""
    try:
        if isinstance(given, bytes):
            content = given[:_HEAD]
        elif not given.is_file():  # opening a pipe waits for who writes to it
            return b""
        else:
            with given.open("rb") as opened:
                content = opened.read(_HEAD)
        if content.startswith(_GZIP):
            content = zlib.decompressobj(wbits=31).decompress(content, _HEAD)
    except (OSError, ValueError, zlib.error):
        return b""
    return content
