"""What Python users see: names in `dir`, short reprs, tables in notebooks, and names that no module shadows."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from strategies import Case, Plain, cases

import sim
from sim import Result, Scenario, simulate
from sim.inputs.notebook_html import MAX_ROWS, html_table, html_text
from sim.inputs.units import show_seconds
from sim.sweeps.grid import points, sweep
from sim.sweeps.results_file import Rows

PLAIN: Plain = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {
        "layers": 40,
        "steps": 4,
        "layer_bytes": "64 MiB",
        "block": [
            {"compute": {"name": "<qkv>", "seconds": "1 ms"}},
            {"collective": {"kind": "all_to_all", "bytes": 2**20}},
        ],
    },
    "policy": {"kind": "yielding", "chunk_bytes": "1 MiB"},
}


@pytest.fixture(scope="module")
def result() -> Result:
    return simulate(Scenario.from_plain(PLAIN))


class Parsed(HTMLParser):
    """Text and tags of HTML; every tag must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_public_names_are_listed() -> None:
    assert set(sim.__all__) <= set(dir(sim))
    assert {"Scenario", "simulate", "Timeline", "load_profile"} <= set(dir(sim))


def test_reprs_are_a_line(result: Result) -> None:
    shown = {
        "result": repr(result),
        "timeline": repr(result.timeline),
        "program": repr(result.timeline.program),
        "rank": repr(result.timeline.program.ranks[0]),
        "scenario": repr(result.scenario),
        "profile": repr(result.profile),
    }
    assert all(len(text) < 120 and "\n" not in text for text in shown.values()), shown
    assert "yielding, chunk_bytes: 1 MiB on h200x2-hostpath, 2 ranks" in shown["result"]
    assert f"step {show_seconds(result.metrics['step_time_s'])}," in shown["result"]
    assert f"{len(result.timeline.spans)} spans" in shown["timeline"] and "4 steps" in shown["timeline"]
    assert str([result]) == f"[{shown['result']}]"


@given(cases())
def test_every_run_has_a_short_repr_and_tables(case: Case) -> None:
    result = case.run()
    for shown in (result, result.timeline, result.timeline.program, result.scenario):
        assert len(repr(shown)) < 200
    for notebook in (result, result.timeline, result.scenario):
        Parsed(notebook._repr_html_())


def test_a_result_is_a_table_of_its_figures(result: Result) -> None:
    read = Parsed(result._repr_html_())
    assert "step time" in read.text and "peak memory" in read.text
    assert any("fits the GPU's" in text for text in read.text)


def test_a_timeline_is_a_table_of_its_streams(result: Result) -> None:
    read = Parsed(result.timeline._repr_html_())
    assert read.tags.count("tr") == 1 + len({(s.rank, s.command.stream, s.kind) for s in result.timeline.spans})
    assert {"compute", "copy", "Kernel", "Copy", "Collective"} <= set(read.text)


def test_a_scenario_is_shown_as_its_file_would_be(result: Result) -> None:
    read = Parsed(result.scenario._repr_html_())
    text = "".join(read.text)
    assert "name: <qkv>" in text and "chunk_bytes: 1048576" in text and "null" not in text


def test_the_rows_of_a_sweep_are_a_table() -> None:
    small = PLAIN | {"workload": PLAIN["workload"] | {"layers": 1, "steps": 2}}
    rows = sweep(points(small, {"world_size": [1, 2], "policy.kind": ["resident", "yielding"]}))
    read = Parsed(rows._repr_html_())
    assert read.tags.count("tr") == 1 + 4
    assert read.text.count("yes") == 4
    failed = Rows([rows[0]._replace(metrics={}, error="deadlock at 3 s")])
    assert "deadlock at 3 s" in Parsed(failed._repr_html_()).text


@given(st.text(max_size=20), st.integers(0, MAX_ROWS + 20))
def test_tables_are_escaped_and_bounded(text: str, count: int) -> None:
    read = Parsed(html_table(text, [text], [[text]] * count))
    assert read.tags.count("tr") == 1 + min(count, MAX_ROWS)
    assert set(read.tags) <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
    assert ("p" in read.tags) == (count > MAX_ROWS)
    assert set(Parsed(html_text(text, text)).tags) == {"p", "pre"}


def test_no_module_has_the_name_of_a_public_object() -> None:
    modules = {module.name for module in pkgutil.iter_modules(sim.__path__)}
    assert modules.isdisjoint(sim.__all__), "importing it would put the module in the object's place"


@pytest.mark.parametrize("order", ["modules first", "names first", "one by one"])
def test_names_stay_what_they_are_whatever_is_imported(order: str, chunkflow: Command) -> None:
    found = (module.name for module in pkgutil.iter_modules(sim.__path__))
    modules = sorted(f"sim.{name}" for name in found if name != "__main__")
    imports = "\n".join(f"import {module}" for module in modules)
    names = f"from sim import {', '.join(sim.__all__)}"
    check = "assert callable(sim.simulate) and sim.simulate is simulate and sim.Scenario is Scenario"
    if order == "one by one":
        check = "\n".join(f"import {m}\nassert callable(__import__('sim').simulate), '{m}'" for m in modules)
        names = "from sim import Scenario"
    program = "\n".join(["import sim", *((imports, names) if order == "modules first" else (names, imports)), check])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=chunkflow.environment)
    assert (done.returncode, done.stderr) == (0, "")
