"""Damaged outputs of other tools are imported or refused: exit code 0 or 2, one line that names the file, no traceback."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import nccl_topologies as nccl
import pytest
import topo_dumps as dumps
from benchmark_outputs import (
    line_times,
    nccl_json,
    nccl_output,
    nvbandwidth_json,
    nvbandwidth_text,
    p2p_output,
    rccl_json,
)
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.cli import main

RATES = {
    "host_to_device_memcpy_ce": [25.0] * 4,
    "host_to_device_bidirectional_memcpy_ce": [11.0] * 4,
    "host_to_all_memcpy_ce": [12.0] * 4,
}
SIZES = (2**14, 2**20, 2**26)
GOOD = {
    "topo": [
        dumps.DGX_A100,
        dumps.NESTED,
        dumps.NO_AFFINITY,
        dumps.WIDE,
        nccl.SWITCHES,
        nccl.DGX_H200,
        nccl.RCCL,
        dumps.rocm(4, "0011"),
    ],
    "nvbandwidth": [nvbandwidth_json(RATES), nvbandwidth_text(RATES)],
    "nccl-tests": [
        nccl_output("all_reduce", 4, line_times(20, 9, SIZES)),
        nccl_output("alltoall", 2, line_times(20, 9, SIZES), root=False),
        nccl_json("all_reduce", 2, line_times(20, 9, SIZES)),
        rccl_json("AllGather", 2, line_times(20, 9, SIZES), 0.5),
    ],
    "p2p": [p2p_output([[600.0, 20.0], [20.0, 600.0]], [[1, 1], [1, 1]])],
}
GOOD["host"] = [one for group in list(GOOD.values()) for one in group]
COUNT = 14


def cut(random: Random, text: str) -> bytes:
    return text[: random.randrange(len(text))].encode()


def shuffled(random: Random, text: str) -> bytes:
    lines = text.splitlines()
    random.shuffle(lines)
    return "\n".join(lines).encode()


def mixed(random: Random, text: str) -> bytes:
    other = random.choice([one for group in GOOD.values() for one in group])
    lines = text.splitlines()
    at = random.randrange(len(lines))
    return "\n".join([*lines[:at], *other.splitlines(), *lines[at:]]).encode()


def odd_bytes(random: Random, text: str) -> bytes:
    content = bytearray(text.encode())
    for _ in range(random.randrange(1, 9)):
        content[random.randrange(len(content))] = random.randrange(256)
    return bytes(content)


def odd_words(random: Random, text: str) -> bytes:
    words = text.split(" ")
    for _ in range(random.randrange(1, 6)):
        words[random.randrange(len(words))] = random.choice(
            ["nan", "inf", "-1", "1e999", "0", "GPU99", "9" * 30, "N/A", "\x1b[31m", "💥", ""]
        )
    return " ".join(words).encode()


def huge_line(random: Random, text: str) -> bytes:
    return (text + random.choice(["1 ", "GPU0\t", "x"]) * 200_000).encode()


def twice(random: Random, text: str) -> bytes:
    lines = text.splitlines()
    at = random.randrange(len(lines))
    return "\n".join([*lines[: at + 1], *lines[at:], *lines]).encode()


DAMAGE: tuple[Callable[[Random, str], bytes], ...] = (cut, shuffled, mixed, odd_bytes, odd_words, huge_line, twice)


def judged(command: str, content: bytes) -> None:
    """Import `content` of a file here: it becomes a profile, or is refused in one line that names it."""
    Path("given.txt").write_bytes(content)
    Path("out.yaml").unlink(missing_ok=True)
    done = CliRunner().invoke(main, ["import", command, "given.txt", "-o", "out.yaml"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code in (0, 2), done.output
    assert Path("out.yaml").exists() == (done.exit_code == 0)
    if done.exit_code == 2:
        assert done.stderr.startswith("Error: given.txt: "), done.stderr


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with contextlib.chdir(tmp_path_factory.mktemp("fuzz")):
        yield


@pytest.mark.parametrize("command", GOOD)
@settings(max_examples=max(COUNT, settings().max_examples // 4))
@given(data=st.data())
def test_damaged_outputs_are_imported_or_refused(command: str, data: st.DataObject) -> None:
    random = Random(data.draw(st.integers(0, 2**32)))
    damage = data.draw(st.sampled_from(DAMAGE))
    content = damage(random, data.draw(st.sampled_from(GOOD[command])))
    if data.draw(st.booleans()):
        content = damage(random, content.decode(errors="replace"))
    judged(command, gzip.compress(content, mtime=0) if data.draw(st.integers(0, 4)) == 0 else content)


@pytest.mark.parametrize("command", GOOD)
def test_bytes_of_no_format_are_refused(command: str) -> None:
    blank = (b" " * 150_000, b"\t" * 150_000, b"\n" * 150_000, b" \n" * 80_000, b"\r\n" * 80_000)
    for content in (b"", b"\x00" * 9000, b"\x1f\x8b", b"\xff\xfe\x00", b"<" * 5000, b"[" * 100_000, *blank):
        judged(command, content)
    judged(command, b"GPU0 GPU1\n" * 5_000)
    judged(command, b"<system>" + b"<!-- -->" * 10_000)


def odd_json(random: Random, value: object) -> object:
    """`value` with some of what is in it replaced by what does not belong there."""
    if random.random() < 0.15:
        return random.choice([None, [], {}, "x", -1, 1e300, True, [[]], "1e400"])
    if isinstance(value, dict):
        return {key: odd_json(random, inner) for key, inner in value.items()}
    return [odd_json(random, inner) for inner in value] if isinstance(value, list) else value


JSONS = {
    "nvbandwidth": nvbandwidth_json(RATES),
    "nccl-tests": nccl_json("all_reduce", 2, line_times(20, 9, SIZES)),
    "nccl-tests of AMD": rccl_json("AllReduce", 2, line_times(20, 9, SIZES), 1.0),
}


@pytest.mark.parametrize("name", JSONS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_odd_json_is_imported_or_refused_with_its_path(name: str, seed: int) -> None:
    good = json.loads(JSONS[name])
    odd = odd_json(Random(seed), good) if name != "nvbandwidth" else {name: odd_json(Random(seed), good[name])}
    judged(name.removesuffix(" of AMD"), json.dumps(odd).encode())
