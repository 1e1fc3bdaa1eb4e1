"""The kinds of random input, and how many of each there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzzing.changes import odd_text, to_yaml
from fuzzing.data import of_data, of_rows, of_sets
from fuzzing.judge import Found, command
from fuzzing.scenarios import (
    FILE,
    SMALL,
    of_bytes,
    of_extremes,
    of_processes,
    of_profiles,
    of_scenarios,
    of_topologies,
)
from fuzzing.sweeps import of_experiments, of_settings

WORDS = [
    "nan",
    "inf",
    "-inf",
    "0",
    "-1",
    "1e400",
    "1e-400",
    "5%",
    "x",
    "",
    "5e-324",
    "1_0",
    "٣",
    "[/x]",
    "\x1b[31m",
    "\0",
    "9" * 400,
]

COMMANDS = [
    ["sensitivity", FILE, "--change", "?"],
    ["sensitivity", FILE, "--metric", "?"],
    ["sensitivity", FILE, "--workers", "?"],
    ["measure", FILE, "--out", "set", "--timeout", "?"],
    ["measure", FILE, "--out", "set", "--runs", "?"],
    ["calibrate", "--dry-run", "--gpus", "?"],
    ["calibrate", "--fit-only", "--out", "set", "--name", "?"],
    ["hardware", "?"],
    ["models", "?"],
    ["experiment", "?"],
    ["validate", "--data", "?"],
    ["validate", "--hardware", "?"],
    ["run", "?"],
    ["explain", "?"],
    ["sweep", FILE, "--set", "?"],
    ["sweep", FILE, "--set", "policy.kind=x", "--workers", "?"],
    ["?"],
    ["run", FILE, "?"],
]


def of_options(random: Random) -> Found:
    """Odd values of arguments and options, names that are none."""
    Path(FILE).write_bytes(to_yaml(SMALL | {"hardware": "no such host"}))
    line = random.choice(COMMANDS)
    word = random.choice(WORDS) if random.random() < 0.6 else odd_text(random)[:300]
    word = word.replace("\0", "")  # which no process can be given
    if line == ["?"] or line[-2:] == [FILE, "?"]:
        word = f"--{word}"
    names = [FILE, "--", "set", "is not a", "cannot be read", "not a path", "NAME", repr(word)]
    if word.strip():
        names.append(word[:30])
    return command([word if part == "?" else part for part in line], names)


FAMILIES: dict[str, tuple[float, Callable[[Random], Found]]] = {
    "scenarios": (30, of_scenarios),
    "bytes of files": (12, of_bytes),
    "profiles": (14, of_profiles),
    "topologies": (8, of_topologies),
    "extreme numbers": (12, of_extremes),
    "experiments": (8, of_experiments),
    "--set": (14, of_settings),
    "raw rows": (6, of_rows),
    "data sets": (4, of_sets),
    "other data": (4, of_data),
    "options": (4, of_options),
    "processes": (0.5, of_processes),
}
"""Name -> (share, what makes and judges one input)."""
