"""Random input of every kind, judged: `python tests/fuzz.py --inputs 20000 --seed 1 --minutes 30`.

An input is known by the seed and its number: `--only NUMBER` makes it again, in a folder that stays. Exit code 1 if anything that is promised
of all input (docs/testing.md) did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import NamedTuple

from fuzzing.families import FAMILIES
from fuzzing.judge import Found
from fuzzing.kills import killed

MEMORY = 6 * 2**30
"""Address space of this process, B: what fills it is a fault."""


class Ended(NamedTuple):
    """An input and what became of it."""

    number: int
    family: str
    found: Found


def one(seed: int, number: int, folder: Path) -> Ended:
    """Make and judge the input `number`, in `folder`."""
    random = Random(f"{seed}:{number}")
    (family,) = random.choices(list(FAMILIES), [share for share, _ in FAMILIES.values()])
    os.chdir(folder)
    try:
        return Ended(number, family, FAMILIES[family][1](random))
    finally:
        os.chdir("/")


def campaign(seed: int, first: int, inputs: int, kills: int, until: float, out: Path | None) -> list[Ended]:
    """Judge inputs, with a sweep that is killed after every so many of them; faults are printed as they are found."""
    ended: list[Ended] = []
    every = inputs // kills if kills else 0
    for number in range(first, first + inputs):
        with tempfile.TemporaryDirectory() as folder:
            try:
                ended.append(one(seed, number, Path(folder)))
            except KeyboardInterrupt:
                break
            if every and (number - first) % every == every - 1:
                ended.append(Ended(number, "kills", killed(Random(f"{seed}:{number}:kill"), Path(folder) / "sweep")))
        for done in ended[-2:]:
            if done.number == number and done.found.faults:
                told = json.dumps({"seed": seed, **done._asdict(), "found": done.found._asdict()}, ensure_ascii=True)
                print(told, flush=True)
                if out is not None:
                    with out.open("a") as lines:
                        lines.write(f"{told}\n")
        if time.monotonic() > until:
            break
    return ended


def table(ended: list[Ended]) -> str:
    """How many inputs of each kind ended how, as Markdown."""
    columns = ["0", "1", "2", "read", "refused", "too large to run here"]
    lines = [f"| inputs | number | {' | '.join(columns)} | faults |", "|---|" + "---:|" * (len(columns) + 2)]
    for family in [*FAMILIES, "kills"]:
        of = [e.found for e in ended if e.family == family]
        ends = Counter(found.ended for found in of)
        counts = [len(of), *(ends[column] for column in columns), sum(bool(found.faults) for found in of)]
        lines.append(f"| {family} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def main() -> int:
    options = argparse.ArgumentParser(description="Random input of every kind, judged.")
    options.add_argument("--inputs", type=int, default=20_000)
    options.add_argument("--first", type=int, default=0, help="number of the first input")
    options.add_argument("--only", type=int, help="make this one input in ./fuzzed, and say what was found")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--kills", type=int, default=20, help="sweeps that are killed and resumed")
    options.add_argument("--minutes", type=float, default=60.0)
    options.add_argument("--out", type=Path, help="file to which faults are added, one a line")
    given = options.parse_args()
    warnings.simplefilter("ignore")
    if given.only is not None:
        folder = Path("fuzzed").resolve()
        folder.mkdir(exist_ok=True)
        done = one(given.seed, given.only, folder)
        print(done.family, done.found.ended, *done.found.faults, sep="\n")
        return bool(done.found.faults)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    out = given.out and given.out.resolve()
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    ended = campaign(given.seed, given.first, given.inputs, given.kills, began + 60 * given.minutes, out)
    print(table(ended))
    faults = sum(bool(e.found.faults) for e in ended)
    print(f"{len(ended)} inputs, {faults} with faults, seed {given.seed}, {time.monotonic() - began:.0f} s")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
