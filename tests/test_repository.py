"""Rules of the source tree: sizes of modules, what tests may import and touch, and paths that files of settings name."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULES = [f for package in ("sim", "calibration", "validation") for f in sorted((ROOT / package).rglob("*.py"))]
PUBLIC = {"_replace", "_asdict", "_fields", "_make", "_exit", "_repr_html_"}
"""Names that begin with an underscore and are not private: of named tuples, of `os`, of notebooks."""


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of all that is imported anywhere; the name is empty where a module is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def private_names(tree: ast.AST) -> Iterator[str]:
    """Private names that are imported, or looked up in anything but `self` and `cls`; also where text is patched."""
    yield from (name for _, name in imports(tree) if is_private(name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr":
            parts = [a.value for a in node.args[:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            yield from (word for part in parts for word in part.split(".") if is_private(word))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_no_test_imports_a_test_or_touches_private_names(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert [module for module, _ in imports(tree) if module.split(".")[0].startswith("test_")] == []
    assert list(private_names(tree)) == []


def test_private_names_are_noticed_wherever_they_are_touched() -> None:
    text = """
from sim.cli import _hidden, shown
def test_it(monkeypatch):
    found._replace(a=1), shown._inner, self._own
    monkeypatch.setattr("sim.cli._patched", 1)
    monkeypatch.setattr(shown, "_other", 1)
"""
    assert sorted(private_names(ast.parse(text))) == ["_hidden", "_inner", "_other", "_patched"]


def test_no_exception_matches_anything() -> None:
    for file in TESTS:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "match" and isinstance(node.value, ast.Constant):
                assert node.value.value, f"{file.name}:{node.value.lineno}: an empty match accepts every message"


def test_modules_are_short() -> None:
    long = {str(f.relative_to(ROOT)): lines for f in MODULES if (lines := len(f.read_text().splitlines())) > 350}
    assert long == {}


def test_the_parts_of_the_mutation_run_are_there() -> None:
    config = tomllib.loads((ROOT / "benchmarks" / "mutation.toml").read_text())
    named = [*config["left_out"], *(module for part in config["parts"] for module in part["modules"])]
    named += [f"tests/test_{test}.py" for part in config["parts"] for test in part["tests"]]
    assert [path for path in named if not (ROOT / path).exists()] == []
    modules = [module for part in config["parts"] for module in part["modules"]]
    assert len(modules) == len(set(modules)), "a module is in one part"
    # the first part that a module belongs to counts: none is hidden by one before it
    for i, module in enumerate(modules):
        assert not [before for before in modules[:i] if module.startswith(f"{before}/")], module


def test_tests_that_documents_name_are_there() -> None:
    for file in (ROOT / "CONTRIBUTING.md", ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        gone = [
            n for n in re.findall(r"`(?:tests/)?(test_\w+\.py)`", file.read_text()) if not (ROOT / "tests" / n).exists()
        ]
        assert gone == [], file.name


WITH_EXAMPLES = [f.relative_to(ROOT) for f in MODULES if ">>> " in f.read_text(encoding="utf-8")]


@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=str)
def test_examples_in_docstrings_give_what_they_show(file: Path) -> None:
    found = doctest.testmod(importlib.import_module(".".join(file.with_suffix("").parts)))
    assert found.attempted >= 1 and found.failed == 0
