"""Mutation testing of the simulator's core: how many small faults the test suite notices.

    python benchmarks/mutation.py [--sample N] [--results FILE]

makes one fault at a time in a copy of the tree (a comparison, an operator, a constant, a condition, a statement, a
returned value), runs the tests that are closest to the core, and writes each outcome to FILE as it comes; a run that
was stopped goes on with what FILE does not hold. The sample is drawn with a fixed seed. docs/testing.md has the score.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TARGETS = ("sim/fabric.py", "sim/collectives.py", "sim/topology.py", "sim/machine", "sim/policies")
TESTS = (
    "fabric",
    "collectives",
    "topology",
    "policies",
    "sharded",
    "machine",
    "golden",
    "metrics",
    "scenario",
    "why",
    "fabric_properties",
    "invariants",
    "relations",
    "oracles",
)
SEED = 7
PATIENCE_S = 60
MEMORY_BYTES = 4 * 2**30
"""A loop without end may also fill the memory."""

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}


class Mutant(NamedTuple):
    """One fault: where, what, and the whole module that has it."""

    file: str
    line: int
    what: str
    source: str

    @property
    def name(self) -> str:
        """What tells it from all others."""
        return f"{self.file}:{self.line}: {self.what}"


def mutants(file: Path) -> Iterator[Mutant]:
    """All mutants of a module."""
    tree = ast.parse(file.read_text())
    counts: Counter[str] = Counter()
    for number, node in enumerate(list(ast.walk(tree))):
        for variant in range(len(list(_changes(copy.deepcopy(node))))):
            changed = copy.deepcopy(tree)
            parents = _parents(changed)
            target = list(ast.walk(changed))[number]
            if _is_told(target, parents):
                continue
            new = list(_changes(target))[variant]
            before, after = ast.unparse(target), ast.unparse(new)
            parents[target].__setattr__(*_place(parents[target], target, new))
            what = " ".join(f"{before} -> {after}".split())
            where = f"{file.relative_to(ROOT)}"
            key = f"{where}:{node.lineno}:{what}"  # type: ignore[attr-defined]
            counts[key] += 1
            again = f" (no. {counts[key]})" if counts[key] > 1 else ""
            yield Mutant(where, node.lineno, what + again, ast.unparse(changed))  # type: ignore[attr-defined]


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of `node`."""
    match node:
        case ast.Compare(ops=[op]):
            for other in _COMPARISONS[type(op)]:
                yield ast.Compare(node.left, [other()], node.comparators)
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            yield ast.BinOp(node.left, _OPERATORS[type(op)](), node.right)
        case ast.AugAssign(op=op) if type(op) in _OPERATORS:
            yield ast.AugAssign(node.target, _OPERATORS[type(op)](), node.value)
        case ast.BoolOp():
            yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.If() | ast.IfExp() | ast.While():
            for value in (True, False) if not isinstance(node, ast.While) else (False,):
                new = copy.copy(node)
                new.test = ast.Constant(value)
                yield new
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Call(func=ast.Name(id=name)) if name in _FUNCTIONS:
            yield ast.Call(ast.Name(_FUNCTIONS[name], ast.Load()), node.args, node.keywords)
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield ast.Pass()
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None))


def _parents(tree: ast.AST) -> dict[ast.AST, ast.AST]:
    return {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}


def _is_told(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether a node is only in words for people or for type checkers: errors, texts, annotations."""
    while node in parents:
        parent = parents[node]
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert):
            return True
        if isinstance(parent, ast.arg | ast.AnnAssign) and parent.annotation is node:
            return True
        if isinstance(parent, ast.FunctionDef) and parent.returns is node:
            return True
        node = parent
    return False


def _place(parent: ast.AST, old: ast.AST, new: ast.AST) -> tuple[str, object]:
    """The field of `parent` that holds `old`, and its value with `new` instead."""
    for field, value in ast.iter_fields(parent):
        if value is old:
            return field, new
        if isinstance(value, list) and any(item is old for item in value):
            return field, [new if item is old else item for item in value]
    raise AssertionError("a node is in its parent")


def outcome(mutant: Mutant, tree: Path) -> str:
    """ "killed", "survived" or "timeout" of the tests in `tree` with `mutant` in it."""
    file = tree / mutant.file
    kept = file.read_text()
    file.write_text(mutant.source)
    tests = [f"tests/test_{name}.py" for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    environment = os.environ | {"HYPOTHESIS_PROFILE": "mutation", "PYTHONPATH": str(tree)}
    try:
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, timeout=PATIENCE_S, preexec_fn=_limit_memory
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        file.write_text(kept)
    return "killed" if done.returncode else "survived"


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def main() -> None:
    """Run the sample and print the score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=400, help="mutants to run, drawn from all (%(default)s)")
    parser.add_argument("--results", type=Path, default=ROOT / "out" / "mutation.jsonl", help="(%(default)s)")
    options = parser.parse_args()
    files = [f for t in TARGETS for f in ([ROOT / t] if t.endswith(".py") else sorted((ROOT / t).glob("*.py")))]
    every = [mutant for file in files for mutant in mutants(file)]
    chosen = random.Random(SEED).sample(every, min(options.sample, len(every)))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in options.results.read_text().splitlines()] if options.results.exists() else []
    found = {record["mutant"]: record["outcome"] for record in known}
    with tempfile.TemporaryDirectory() as folder, options.results.open("a") as out:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "out", "*.egg-info", "__pycache__"))
        if outcome(chosen[0]._replace(source=(ROOT / chosen[0].file).read_text()), tree) != "survived":
            sys.exit("the tests fail without any mutant")
        for number, mutant in enumerate(chosen, 1):
            if mutant.name not in found:
                found[mutant.name] = outcome(mutant, tree)
                out.write(json.dumps({"mutant": mutant.name, "outcome": found[mutant.name]}) + "\n")
                out.flush()
                print(f"{number}/{len(chosen)} {found[mutant.name]}: {mutant.name}", flush=True)
    outcomes = Counter(found[m.name] for m in chosen)
    caught = len(chosen) - outcomes["survived"]
    print(f"{len(every)} mutants, {len(chosen)} run: {dict(outcomes)}; score {100 * caught / len(chosen):.1f} %")


if __name__ == "__main__":
    main()
