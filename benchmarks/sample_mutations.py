"""Make small faults with cosmic-ray, one at a time, and see whether the tests notice them.

    python benchmarks/sample_mutations.py [--sample N] [--seed SEED] [--results FILE]

A module is drawn by its size, one of cosmic-ray's mutations of it evenly; mutation.toml says which tests cover it. They
run in a copy of the tracked files. Each outcome is written to FILE as it comes, and a run that was stopped resumes with
what FILE does not hold. docs/testing.md has the results.
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
from cosmic_ray.work_item import MutationSpec

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


def run(one: MutationSpec) -> dict[str, Any]:
    """Make a fault, run its tests, take it back. What notices it must pass without it, or the outcome is an error."""
    result = mutate_and_test([one], pytest_line(covering(str(one.module_path))), CONFIG["timeout_s"])
    outcome = "timeout" if result.output == "timeout" else str(result.test_outcome or result.worker_outcome)
    outcome = outcome.rsplit(".")[-1].lower()
    by = re.findall(r"^(?:FAILED|ERROR) ([^\s[]+)", result.output, re.MULTILINE)
    if outcome == "killed" and not (by and passes(by[0])):
        outcome = "error"
    return {"key": key(one), "outcome": outcome, "by": by[:1], "diff": result.diff}


@cache
def passes(test: str) -> bool:
    """Whether a test passes without any fault; of a file that a fault stops from being read, whether it can be read."""
    line = pytest_line([test] if "::" in test else [test, "--collect-only"])
    return subprocess.run(shlex.split(line), stdout=subprocess.DEVNULL).returncode == 0


def pytest_line(tests: list[str]) -> str:
    """The command line that runs `tests`."""
    return shlex.join([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *tests])


def key(one: MutationSpec) -> str:
    """What a mutation is known by in the file of results."""
    return f"{one.module_path} {one.operator_name} {one.occurrence}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=60)
    parser.add_argument("--seed", type=int, default=14)
    parser.add_argument("--results", type=Path, default=ROOT / "out" / "mutations.jsonl")
    given = parser.parse_args()
    if gone := missing():
        parser.error(f"mutation.toml names what is not there: {', '.join(gone)}")
    results = given.results.resolve()
    results.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
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
            if key(one) not in {d["key"] for d in done}:
                done.append(run(one))
                with results.open("a") as out:
                    out.write(json.dumps(done[-1]) + "\n")
                print(f"{len(done)} of {given.sample}: {done[-1]['outcome']}: {key(one)}", flush=True)


if __name__ == "__main__":
    main()
