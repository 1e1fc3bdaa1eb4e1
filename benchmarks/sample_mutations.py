"""Make small faults with cosmic-ray, one at a time, and see whether the tests notice them.

    python benchmarks/sample_mutations.py [--sample N] [--seed SEED] [--first FILES] [--results FILE]

A module is drawn by its size, one of cosmic-ray's mutations of it evenly; mutation.toml says which tests cover it. They
run in a copy of the tracked files: the quick ones, and the slow ones if none of those fails. Each outcome is written to
FILE as it comes, and a run that was stopped resumes with what FILE does not hold. A run with --first, which is quick,
leaves what a second run without it has to decide. docs/testing.md has the results.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import mutate_and_test
from cosmic_ray.plugins import get_operator, operator_names
from cosmic_ray.work_item import MutationSpec, WorkResult

ROOT = Path(__file__).parents[1]
CONFIG = tomllib.loads((ROOT / "benchmarks" / "mutation.toml").read_text())
ANNOTATIONS = "core/ReplaceBinaryOperator_BitOr"
"""Operators on `int | None` and the like: annotations are never evaluated."""


def covering(module: str) -> list[str]:
    """Names of the tests that are to notice a fault in `module`."""
    for part in CONFIG["parts"]:
        if any(module == m or module.startswith(f"{m}/") for m in part["modules"]):
            return [f"tests/test_{name}.py" for name in part["tests"]]
    return []


def missing() -> list[str]:
    """Paths in the configuration that do not exist."""
    parts = CONFIG["parts"]
    tests = [f"tests/test_{name}.py" for part in parts for name in part["tests"]]
    named = [*CONFIG["left_out"], *(module for part in parts for module in part["modules"]), *tests]
    return [path for path in named if not (ROOT / path).exists()]


@cache
def mutations(module: str) -> list[MutationSpec]:
    """All mutations of a module of the working directory."""
    tree, found = get_ast_from_path(Path(module)), []
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments() or name.startswith(ANNOTATIONS):
            continue
        places = (place for node in ast_nodes(tree) for place in operator().mutation_positions(node))
        found += [MutationSpec(module, name, n, start, end) for n, (start, end) in enumerate(places)]
    return found


def draw(count: int, seed: int, modules: list[str]) -> Iterator[MutationSpec]:
    """`count` different mutations."""
    chance, sizes = random.Random(seed), [Path(m).stat().st_size for m in modules]
    drawn: list[MutationSpec] = []
    while len(drawn) < count:
        module = chance.choices(modules, sizes)[0]
        if (every := mutations(module)) and (one := chance.choice(every)) not in drawn:
            drawn.append(one)
            yield one


def run(one: MutationSpec, first: int | None) -> dict[str, Any]:
    """Make a fault, run its tests, the quick ones first, and take it back; or only the quick ones of the `first` files.

    A test that fails without the fault too says nothing, and is left out from then on.
    """
    tests, result, by = covering(str(one.module_path))[:first], None, []
    for marks in ("not slow", "slow") if first is None else ("not slow",):
        while chosen := selected(marks, tests):
            result = mutate_and_test([one], pytest_line(marks, chosen), CONFIG["timeout_s"])
            by = re.findall(r"^(?:FAILED|ERROR) ([^\s[]+)", result.output, re.MULTILINE)[:1]
            if named(result) != "killed" or not by or passes(by[0]):
                break
            USELESS.add(by[0])
        if result and named(result) != "survived":
            break
    if result is None:
        raise SystemExit(f"{one.module_path}: none of its tests can be run: {', '.join(tests)}")
    outcome = "error" if named(result) == "killed" and not by else named(result)
    if first is not None and outcome == "survived":
        outcome = OPEN
    return {"key": key(one), "outcome": outcome, "by": by, "diff": result.diff}


def named(result: WorkResult) -> str:
    """Killed, survived, timeout, or what kept a fault from being made."""
    outcome = "timeout" if result.output == "timeout" else str(result.test_outcome or result.worker_outcome)
    return outcome.rsplit(".")[-1].lower()


OPEN = "open"
"""The outcome where only the first tests have been run, and none failed."""
USELESS: set[str] = set()
"""Tests and files that fail without any fault."""


@cache
def passes(test: str) -> bool:
    """Whether a test passes without any fault; of a file that a fault stops from being read, whether it can be read."""
    line = pytest_line("", [test] if "::" in test else [test, "--collect-only"])
    return subprocess.run(shlex.split(line), stdout=subprocess.DEVNULL).returncode == 0


def selected(marks: str, tests: list[str]) -> list[str]:
    """Arguments of pytest: those files of `tests` that have a test of these marks, less what is useless."""
    files = [file for file in tests if file not in USELESS]
    if marks == "slow":
        files = [file for file in files if "mark.slow" in Path(file).read_text()]
    return files and [*files, *(f"--deselect={test}" for test in sorted(USELESS) if "::" in test)]


def pytest_line(marks: str, args: list[str]) -> str:
    """The command line that runs tests of these marks, in the order given."""
    line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    line += [f"--timeout={CONFIG['test_timeout_s']}", *(["-m", marks] if marks else [])]
    return shlex.join([*line, *args])


def key(one: MutationSpec) -> str:
    """What a mutation is known by in the file of results."""
    return f"{one.module_path} {one.operator_name} {one.occurrence}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=60)
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--first", type=int, metavar="FILES", help="leave what the first test files do not notice open")
    parser.add_argument("--results", type=Path, default=ROOT / "out" / "mutations.jsonl")
    given = parser.parse_args()
    if gone := missing():
        parser.error(f"mutation.toml names what is not there: {', '.join(gone)}")
    results = given.results.resolve()
    results.parent.mkdir(parents=True, exist_ok=True)
    rows = map(json.loads, results.read_text().splitlines()) if results.exists() else ()
    done: dict[str, str] = {row["key"]: row["outcome"] for row in rows}  # the last row of a fault counts
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    with tempfile.TemporaryDirectory(prefix="chunkflow-mutations-") as folder:
        for file in files:
            if (ROOT / file).exists():
                (Path(folder) / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, Path(folder) / file)
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": folder, "HYPOTHESIS_PROFILE": "mutation"}
        modules = sorted(f for f in files if f.endswith(".py") and covering(f) and f not in CONFIG["left_out"])
        for one in draw(given.sample, given.seed, modules):
            if done.get(key(one), OPEN) == OPEN and (given.first is None or key(one) not in done):
                row = run(one, given.first)
                done[key(one)] = row["outcome"]
                with results.open("a") as out:
                    out.write(json.dumps(row) + "\n")
                print(f"{len(done)} of {given.sample}: {row['outcome']}: {key(one)}", flush=True)


if __name__ == "__main__":
    main()
