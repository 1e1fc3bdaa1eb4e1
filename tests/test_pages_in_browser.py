"""Every page in a real Chromium: no errors, every figure drawn, legible on a desk and on a phone, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import CHROMIUM, NO_CHROMIUM, Browser
from click.testing import CliRunner
from strategies import collective, compute

from sim.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)]

MIB = 2**20
SCENARIO: dict[str, Any] = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": {
        "layers": 6,
        "steps": 3,
        "layer_bytes": 160 * MIB,
        "block": [compute(1e-3), collective(40 * MIB), compute(2e-3)],
    },
    "policy": {"kind": "yielding", "chunk_bytes": 16 * MIB},
}
AXES = [
    "--set", "policy.kind=whole_layer,chunked,yielding",
    "--set", "policy.chunk_bytes=4MiB,16MiB",
    "--set", "policy.resident_fraction=0,0.5",
]  # fmt: skip
SERVING: dict[str, Any] = {
    "gpus": 2,
    "duration": 600.0,
    "classes": {
        "short": {"steps": 4, "degrees": [1], "step_times": {1: 1.0}, "deadline": {"seconds": 8}, "share": 0.8},
        "long": {"steps": 20, "degrees": [1, 2], "step_times": {1: 2.0, 2: 1.1}, "deadline": {"seconds": 50}},
    },
    "arrivals": {"kind": "poisson", "load": 0.9},
    "scheduler": {"kind": "edf", "preemptive": True},
    "costs": {"pause": 0.1, "resume": 0.2},
}
VARY = ["--vary", "scheduler.kind=fcfs,genserve", "--vary", "arrivals.load=0.5,0.9", "--seeds", "2", "--workers", "1"]
COMMANDS = {
    "serve": ["serve", "SERVING", "--html", "PAGE"],
    "serve grid": ["serve", "SERVING", *VARY, "--html", "PAGE"],
    "sweep": ["sweep", "SCENARIO", *AXES, "--html", "PAGE"],
    "plan": ["plan", "SCENARIO", "--memory", "800MiB", "--html", "PAGE", "--workers", "1"],
    "run": ["run", "SCENARIO", "--html", "PAGE"],
    "explain": ["explain", "SCENARIO", "--html", "PAGE", "--workers", "1"],
    "validate": ["validate", "--data", "h100x1-20261121e", "--html", "PAGE", "--workers", "1"],
    "hardware": ["hardware", "h200x8-hostpath", "--html", "PAGE"],
}
FIGURES = {"serve": 3, "serve grid": 2, "sweep": 5, "plan": 2, "run": 3, "explain": 3, "validate": 5, "hardware": 4}
INK = 0.01
"""Share of a figure's pixels that a drawing covers at least."""
VIEWS = [(1280, False), (400, True)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser.started(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_is_drawn_and_legible(name: str, browser: Browser, tmp_path: Path) -> None:
    scenario, page = tmp_path / "s.yaml", tmp_path / "page.html"
    scenario.write_text(yaml.safe_dump(SCENARIO))
    (serving := tmp_path / "serving.yaml").write_text(yaml.safe_dump(SERVING))
    places = {"SCENARIO": str(scenario), "SERVING": str(serving), "PAGE": str(page)}
    done = CliRunner().invoke(main, [places.get(word, word) for word in COMMANDS[name]])
    assert done.exit_code == 0, done.output
    backgrounds = set()
    for width, dark in VIEWS:
        browser.open(page, width, dark)
        assert browser.console == []
        assert browser.run("document.documentElement.scrollWidth") == width, "the page scrolls sideways"
        boxes = browser.figures()
        assert len(boxes) == FIGURES[name]
        assert all(box.x >= 0 and box.width > 0.7 * min(width, 900) and box.height > 100 for box in boxes)
        too_small = """[...document.querySelectorAll("svg text, td, p")].filter(t => t.textContent.trim()
            && parseFloat(getComputedStyle(t).fontSize) < 8).length"""
        assert browser.run(too_small) == 0
        backgrounds.add(browser.run("getComputedStyle(document.body).backgroundColor"))
        pictures = [browser.png(box) for box in boxes]
        for ink, colours in browser.ink(pictures):
            assert ink > INK and colours > 20
    assert len(backgrounds) == 2, "light and dark look alike"


def test_memory_is_among_what_a_reader_of_a_sweep_sees_first(browser: Browser, tmp_path: Path) -> None:
    scenario, page = tmp_path / "s.yaml", tmp_path / "page.html"
    scenario.write_text(yaml.safe_dump(SCENARIO))
    done = CliRunner().invoke(main, ["sweep", str(scenario), *AXES, "--html", str(page)])
    assert done.exit_code == 0, done.output
    browser.open(page)
    right = """[...document.querySelectorAll("table.sortable th")].find(t => t.textContent === "peak memory")
        .getBoundingClientRect().right"""
    assert browser.run(right) < 1280
    # a click sorts by what numbers stand for: the largest peak has the smallest fraction copied
    order = """(() => { const heads = [...document.querySelectorAll("table.sortable th")];
        const at = heads.findIndex(t => t.textContent === "peak memory"); heads[at].firstChild.click();
        return [...document.querySelectorAll("table.sortable tbody tr")].map(r => r.cells[at].textContent); })()"""
    peaks = [float(text.split()[0]) * {"MiB": 1, "GiB": 1024}[text.split()[1]] for text in browser.run(order)]
    assert peaks == sorted(peaks) and len(set(peaks)) > 1


def test_the_browser_itself_keeps_a_page_from_the_network(browser: Browser, tmp_path: Path) -> None:
    from sim.report.html import page

    file = tmp_path / "page.html"
    source = page("t", "s", [], {})
    file.write_text(source.replace("</body>", '<script>fetch("https://example.org/").catch(e => 0)</script></body>'))
    browser.open(file)
    assert any("Content Security Policy" in line for line in browser.console)
