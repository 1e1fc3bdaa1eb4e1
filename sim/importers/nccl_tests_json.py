"""JSON of nccl-tests (`-J FILE`) and of rccl-tests (`-Z json -x FILE`): the rows that their text has, as objects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from sim.importers.json_text import json_values
from sim.importers.nccl_runs import CPU_TIMES, Rank, Run, Section, Timed, runs_of
from sim.inputs.config import InputError

_RCCL_NAMES = {
    "allreduce": "all_reduce",
    "allgather": "all_gather",
    "reducescatter": "reduce_scatter",
    "alltoall": "alltoall",
    "alltoallv": "alltoallv",
    "sendrecv": "sendrecv",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "gather": "gather",
    "scatter": "scatter",
    "hypercube": "hypercube",
}


def read_nccl_tests_json(
    content: bytes, source: str, kind: str | None = None, ranks: int | None = None, in_place: bool = False
) -> list[Run]:
    """The tests of a file of JSON, one object after another. Raises InputError of `source`, with the key's path."""
    sections: list[Section] = []
    for number, data in enumerate(json_values(content, source)):
        path = f"[{number}]." if number else ""
        if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
            sections += _rccl(data, source)
        elif isinstance(data, dict) and "results" in data:
            sections.append(_nccl(data, source, path))
        elif isinstance(data, dict) and "inPlace" in data:
            sections += _rccl([data], source)
        else:
            raise InputError(source, f"{path}results", "is missing, expected what `nccl-tests -J FILE` writes")
    sections = [section for section in sections if section.rows]
    if not sections:
        raise InputError(source, "results", "has no row")
    return runs_of(sections, source, kind, ranks, in_place)


def _nccl(data: Mapping[str, Any], source: str, path: str) -> Section:
    rows = data["results"]
    if not isinstance(rows, list):
        raise InputError(source, f"{path}results", "expected a list of rows")
    config = data.get("config") if isinstance(data.get("config"), dict) else {}
    assert isinstance(config, dict)
    devices = config.get("devices", data.get("devices"))
    ranks: dict[int, Rank] = {}
    for device in devices if isinstance(devices, list) else ():
        if isinstance(device, dict) and (rank := _whole(device.get("rank"))) is not None:
            host, gpu = str(device.get("hostname", ""))[:80], str(device.get("device_info", ""))[:80]
            ranks[rank] = Rank(host, gpu, _whole(device.get("group")) or 0)
    each = (_whole(config.get("nthreads")) or 1) * (_whole(config.get("ngpus")) or 1)
    # each process lists its first GPU only
    count = each * len(ranks) if each > 1 and ranks and all(rank % each == 0 for rank in ranks) else 0
    timed = [_row(row, source, f"{path}results[{i}]") for i, row in enumerate(rows)]
    return Section(_program(data.get("args")), ranks, timed, f"{path}results", count, each if each > 1 else 0)


def _program(args: Any) -> str:
    """The test that the arguments of its process name."""
    for word in args if isinstance(args, list) else ():
        name = PurePosixPath(word).name if isinstance(word, str) else ""
        if name.removesuffix(".exe").endswith("_perf"):
            return name.removesuffix(".exe").removesuffix("_perf")
    return ""


def _row(row: Any, source: str, path: str) -> Timed:
    if not isinstance(row, dict):
        raise InputError(source, path, "expected a row")
    size = _whole(row.get("size"))
    if size is None:
        raise InputError(source, f"{path}.size", f"is {str(row.get('size'))[:40]!r}, expected bytes")
    halves = [_half(row.get(key), size, source, f"{path}.{key}") for key in ("out_of_place", "in_place")]
    whole = [half for half in halves if half is not None]
    if not whole:
        raise InputError(source, path, "has no time, out of place or in place")
    out, inside = (None if half is None else half[0] for half in halves)
    root = str(row.get("root", "")).strip()
    place = int(root) if root.isdecimal() and len(root) < 6 else -1
    redop = str(row.get("redop", "")).strip()
    return Timed(path, size, redop, place, out, inside, whole[-1][1], any(half[2] for half in whole))


def _half(half: Any, size: int, source: str, path: str) -> tuple[float, float, bool] | None:
    """(s, busbw / algbw, whether results were wrong); None where a half was not run."""
    if not isinstance(half, dict):
        return None
    if "cpu_time" in half and "time" not in half:
        raise InputError(source, f"{path}.cpu_time", CPU_TIMES)
    return _times(half.get("time"), half.get("alg_bw"), half.get("bus_bw"), half.get("nwrong"), size, source, path)


def _times(
    time: Any, algorithm: Any, bus: Any, wrong: Any, size: int, source: str, path: str
) -> tuple[float, float, bool] | None:
    micros, alg_bw, bus_bw = _number(time), _number(algorithm), _number(bus)
    if time is None or micros == 0 or math.isnan(micros):
        return None
    if not 0 < micros < 1e12:
        raise InputError(source, f"{path}.time", f"is {str(time)[:40]!r}, expected us")
    if not math.isnan(alg_bw) and abs(alg_bw - size / micros * 1e-3) > max(0.0101, 0.02 * alg_bw):
        raise InputError(source, path, "does not add up: alg_bw is not size / time")
    failed = _number(wrong)
    return micros * 1e-6, bus_bw / alg_bw if alg_bw >= 0.001 and bus_bw >= 0 else 0.0, failed >= 1


def _rccl(rows: list[Any], source: str) -> list[Section]:
    """Rows of rccl-tests: each says its test and ranks, and is of one half."""
    sections: dict[tuple[str, int], Section] = {}
    for i, row in enumerate(rows):
        path = f"[{i}]"
        name = _RCCL_NAMES.get(str(row.get("name", row.get("collective", ""))).lower().replace("_", ""), "")
        count, size = _whole(row.get("ranks")), _whole(row.get("size"))
        if size is None or count is None:
            raise InputError(source, path, "has no size and ranks, expected a row of rccl-tests or nccl-tests")
        if (_whole(row.get("nodes")) or 1) > 1:
            raise InputError(source, f"{path}.nodes", f"ran on {row['nodes']} hosts: expected the GPUs of one")
        half = _times(row.get("time"), row.get("algBw"), row.get("busBw"), row.get("wrong"), size, source, path)
        if half is None:
            continue
        inside = _number(row.get("inPlace")) == 1
        section = sections.setdefault((name, count), Section(name, {}, [], path, count))
        redop = str(row.get("redop", ""))
        out, own = (None, half[0]) if inside else (half[0], None)
        section.rows.append(Timed(path, size, redop, -1, out, own, half[1], half[2]))
    return [_paired(section) for section in sections.values()]


def _paired(section: Section) -> Section:
    """Rows of both halves as one where their size is the same: a half of another row is no time of its own."""
    both: dict[int, Timed] = {}
    for row in section.rows:
        held = both.get(row.size, row)
        both[row.size] = held._replace(
            out_of_place=held.out_of_place if row.out_of_place is None else row.out_of_place,
            in_place=held.in_place if row.in_place is None else row.in_place,
            wrong=held.wrong or row.wrong,
        )
    return section._replace(rows=list(both.values()))


def _whole(value: Any) -> int | None:
    """A count that is not negative."""
    number = _number(value)
    return int(number) if 0 <= number < 1e15 and number == int(number) else None


def _number(value: Any) -> float:
    """A number, also as a string; NaN for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
