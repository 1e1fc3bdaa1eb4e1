"""Damaged outputs of other tools are imported or refused: exit code 0 or 2, one line that names the file, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import topo_dumps as dumps
from benchmark_outputs import line_times, nccl_output, nvbandwidth_json, nvbandwidth_text, p2p_output
from click.testing import CliRunner

from sim.cli import main

RATES = {
    "host_to_device_memcpy_ce": [25.0] * 4,
    "host_to_device_bidirectional_memcpy_ce": [11.0] * 4,
    "host_to_all_memcpy_ce": [12.0] * 4,
}
SIZES = (2**14, 2**20, 2**26)
GOOD = {
    "topo": [dumps.DGX_A100, dumps.NESTED, dumps.NO_AFFINITY, dumps.WIDE],
    "nvbandwidth": [nvbandwidth_json(RATES), nvbandwidth_text(RATES)],
    "nccl-tests": [
        nccl_output("all_reduce", 4, line_times(20, 9, SIZES)),
        nccl_output("alltoall", 2, line_times(20, 9, SIZES), root=False),
    ],
    "p2p": [p2p_output([[600.0, 20.0], [20.0, 600.0]], [[1, 1], [1, 1]])],
}
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


@pytest.mark.parametrize("command", GOOD)
def test_damaged_outputs_are_imported_or_refused(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(COUNT):
        random = Random(f"{command}:{number}")
        content = DAMAGE[number % len(DAMAGE)](random, random.choice(GOOD[command]))
        Path("given.txt").write_bytes(content)
        Path("out.yaml").unlink(missing_ok=True)
        done = CliRunner().invoke(main, ["import", command, "given.txt", "-o", "out.yaml"])
        assert done.exception is None or isinstance(done.exception, SystemExit), (number, done.exception)
        assert done.exit_code in (0, 2), (number, done.output)
        assert Path("out.yaml").exists() == (done.exit_code == 0), number
        if done.exit_code == 2:
            assert done.stderr.startswith("Error: given.txt: "), (number, done.stderr)


def odd_json(random: Random, value: object) -> object:
    """`value` with some of what is in it replaced by what does not belong there."""
    if random.random() < 0.15:
        return random.choice([None, [], {}, "x", -1, 1e300, True, [[]], "1e400"])
    if isinstance(value, dict):
        return {key: odd_json(random, inner) for key, inner in value.items()}
    return [odd_json(random, inner) for inner in value] if isinstance(value, list) else value


def test_odd_json_is_imported_or_refused_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = json.loads(nvbandwidth_json(RATES))
    for number in range(30):
        Path("given.json").write_text(json.dumps({"nvbandwidth": odd_json(Random(number), good["nvbandwidth"])}))
        done = CliRunner().invoke(main, ["import", "nvbandwidth", "given.json", "-o", "out.yaml"])
        assert done.exit_code in (0, 2), (number, done.exception)
        assert done.exit_code == 0 or done.stderr.startswith("Error: given.json: "), (number, done.stderr)
    Path("given.json").write_text('{"nvbandwidth": ' + "[" * 100_000)
    assert CliRunner().invoke(main, ["import", "nvbandwidth", "given.json", "-o", "out.yaml"]).exit_code == 2
