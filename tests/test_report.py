"""Reports: figures carry the data they were given; pages are self-contained, escaped, and work in a browser."""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64decode
from pathlib import Path

import plotly.graph_objects as go
import pytest
from browser import CHROMIUM, NO_CHROMIUM, Browser
from html_reader import Reader

from sim import Result, Scenario, simulate
from sim.program import Copy
from sim.report import figures
from sim.report.figures import Case, Pair, Point
from sim.report.html import Badge, Section, Table, page
from sim.report.span_bars import RESOLUTION, bars
from sim.report.terminal import Console
from sim.report.theme import TEMPLATES, ms, signed

MIB = 2**20
HOSTILE = "</script><img src=x onerror=alert(1)> & \"quoted\" 'too' %{x}"

CASES = [
    Case("a", "small", "chunked", 0.100, 0.101, "unseen"),
    Case("b", "large", "yielding", 0.200, 0.190, "fitted"),
    Case("c", "large", "resident", 0.150, 0.150, "resident"),
]
POINTS = [
    Point("chunked", MIB, 0.0, 0.30, 2 * 2**30),
    Point("chunked", 16 * MIB, 0.0, 0.24, 2 * 2**30),
    Point("yielding", 256 * 2**10, 0.0, 0.26, 2 * 2**30),
    Point("yielding", 16 * MIB, 0.0, 0.20, 2 * 2**30),
    Point("whole_layer", None, 0.5, 0.19, 4 * 2**30),
]


@pytest.fixture(scope="module")
def result() -> Result:
    block = [
        {"compute": {"name": "<qkv>", "seconds": 2e-3}},
        {"collective": {"kind": "all_to_all", "bytes": 80_000_000}},
        {"compute": {"name": "attention", "seconds": 4e-3}},
    ]
    return simulate(
        Scenario.from_plain(
            {
                "hardware": "h200x2-hostpath",
                "world_size": 2,
                "workload": {"layers": 4, "steps": 6, "layer_bytes": 200_000_000, "block": block},
                "policy": {"kind": "yielding", "chunk_bytes": "1 MiB", "drain": True},
            }
        )
    )


def every_figure(result: Result) -> list[go.Figure]:
    start, end = result.timeline.steps[0][-2:]
    return [
        figures.error_against_step(CASES),
        figures.error_histogram(CASES),
        figures.error_ranges({"chunked 1 MiB": CASES[:1], "others": CASES[1:]}),
        figures.pairs([Pair("a", "chunked", 10.0, 20.0)], "share, %", str),
        figures.stacked_timelines({"measured": result.timeline.of(0), "simulated": result.timeline.of(1)}, end - start),
        figures.chunk_sweep(POINTS, 0.15, 0.18, [Point("yielding", 16 * MIB, 0.0, 0.21)]),
        figures.memory_against_step(POINTS),
        figures.heat_map(POINTS[2:]),
        figures.timeline(result.timeline, 0, start, end),
        figures.waterfall([("contention", 0.03), ("other", -0.01)], ("resident", 0.1), ("offload", 0.15)),
    ]


def trace(figure: go.Figure, name: str, kind: str = "scatter") -> go.Scatter:
    """The trace with data of this name."""
    [found] = [t for t in figure.data if t.name == name and t.type == kind and t.x and t.x[0] is not None]
    return found


def test_errors_are_drawn_in_percent_against_ms() -> None:
    figure = figures.error_against_step(CASES)
    assert trace(figure, "yielding").x == pytest.approx([200.0])
    assert trace(figure, "yielding").y == pytest.approx([-5.0])
    assert "ms" in figure.layout.xaxis.title.text and "%" in figure.layout.yaxis.title.text
    assert {(s.y0, s.y1) for s in figure.layout.shapes} == {(-5, 5), (-1, 1)}
    symbols = {p: trace(figure, p).marker.symbol[0] for p in ("chunked", "yielding", "resident")}
    assert symbols == {"chunked": "circle", "yielding": "diamond-open", "resident": "diamond-open"}
    assert "predicted 190.00 ms" in trace(figure, "yielding").hovertext[0]
    assert list(figure.layout.xaxis.ticktext) == ["100", "200"]
    assert 10 ** figure.layout.xaxis.range[0] < 100 and 10 ** figure.layout.xaxis.range[1] > 200


def test_the_histogram_counts_every_case_once() -> None:
    rows = [*CASES, CASES[0], CASES[1]._replace(predicted_s=0.1912)]
    figure = figures.error_histogram([r for r in rows if r != CASES[1]], width=0.5)
    assert {t.name: (list(t.x), list(t.y)) for t in figure.data} == {
        "unseen": ([pytest.approx(1.25)], [2]), "fitted": ([pytest.approx(-4.25)], [1]), "resident": ([0.25], [1]),
    }  # fmt: skip


def test_error_ranges_show_every_case_and_the_median() -> None:
    figure = figures.error_ranges({"one": CASES[:1], "two": CASES[1:]})
    assert trace(figure, "median").x == pytest.approx([1.0, -2.5])
    assert trace(figure, "yielding").y == ("two",)
    assert list(figure.layout.yaxis.categoryarray) == ["two", "one"], "from below"


def test_predicted_against_measured_has_linear_or_logarithmic_axes() -> None:
    rows = [Pair("a", "chunked", 1.0, 2.0), Pair("b", "chunked", 10.0, 5.0)]
    linear, log = (figures.pairs(rows, "x", str, log=is_log) for is_log in (False, True))
    assert linear.layout.xaxis.range[0] == 0 and log.layout.xaxis.type == log.layout.yaxis.type == "log"
    assert trace(log, "chunked").x == (1.0, 10.0) and trace(log, "chunked").y == (2.0, 5.0)


@pytest.mark.parametrize(("values", "ticks"), [((1.0, 10.0), (1, 2, 5, 10)), ((0.03, 0.4), (0.05, 0.1, 0.2))])
def test_logarithmic_axes_have_ticks_at_1_2_and_5(values: tuple[float, float], ticks: tuple[float, ...]) -> None:
    figure = figures.pairs([Pair("a", "chunked", v, v) for v in values], "x", str, log=True)
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        low, high = (10**end for end in axis.range)
        assert low <= values[0] and values[1] <= high
        assert set(ticks) <= {round(v, 9) for v in axis.tickvals}
        assert all(low <= v <= high for v in axis.tickvals)
        assert [float(t) for t in axis.ticktext] == pytest.approx(list(axis.tickvals))


def test_every_lane_of_a_timeline_has_room(result: Result) -> None:
    spans = [s for s in result.timeline.of(0) if s.kind in ("Kernel", "Copy", "Collective")]
    one, two, four = (
        figures.stacked_timelines({f"{i}": spans for i in range(count)}, 1.0).layout.height for count in (1, 2, 4)
    )
    assert four - two == 2 * (two - one) >= 2 * 2 * 40


def test_timelines_lie_under_each_other(result: Result) -> None:
    start, end = result.timeline.steps[0][:2]
    spans = [s for s in result.timeline.of(0) if s.kind in ("Kernel", "Copy", "Collective")]
    figure = figures.stacked_timelines({"measured": spans, "simulated": spans}, end - start)
    assert list(figure.layout.yaxis.ticktext) == [
        "measured<br>compute", "measured<br>copy", "simulated<br>compute", "simulated<br>copy",
    ]  # fmt: skip
    assert list(figure.layout.yaxis.tickvals) == [3, 2, 1, 0]
    kernels = trace(figure, "kernel", "bar")
    upper, lower = ([b for b, y in zip(kernels.base, kernels.y, strict=True) if y == lane] for lane in (3, 1))
    assert upper == lower
    assert {*kernels.y} == {3, 1}


def test_sweep_is_in_order_of_chunk_size_with_binary_labels() -> None:
    figure = figures.chunk_sweep(POINTS, 0.15, 0.18, [Point("yielding", 16 * MIB, 0.0, 0.21)])
    assert trace(figure, "yielding").x == (256 * 2**10, 16 * MIB)
    assert trace(figure, "yielding").y == pytest.approx([260.0, 200.0])
    assert trace(figure, "yielding, measured").y == pytest.approx([210.0])
    assert trace(figure, "lower bound").y == pytest.approx([150.0, 150.0])
    assert trace(figure, "all resident").y == pytest.approx([180.0, 180.0])
    assert trace(figure, "whole_layer").y == pytest.approx([190.0, 190.0])
    axis = figure.layout.xaxis
    assert axis.type == "log"
    assert dict(zip(axis.ticktext, axis.tickvals, strict=True))["1 MiB"] == MIB
    assert 10 ** axis.range[0] < 256 * 2**10 and 10 ** axis.range[1] > 16 * MIB


def test_labels_of_equal_levels_stand_apart() -> None:
    figure = figures.chunk_sweep(POINTS[:2], 0.2, 0.2)
    low, high = sorted(a.y for a in figure.layout.annotations)
    assert high - low > 0.09 * (300 - 200)
    assert (low + high) / 2 == pytest.approx(200)


def test_the_pareto_front_has_no_point_that_another_beats() -> None:
    assert figures.pareto_front(POINTS) == [POINTS[3], POINTS[4]]
    figure = figures.memory_against_step(POINTS)
    assert trace(figure, "Pareto front").x == pytest.approx([2.0, 4.0])
    assert trace(figure, "Pareto front").y == pytest.approx([200.0, 190.0])
    assert "GiB" in figure.layout.xaxis.title.text


def test_heat_map_has_a_cell_a_point_and_refuses_two() -> None:
    [cells] = figures.heat_map(POINTS[2:]).data
    assert list(cells.x) == ["256 KiB", "16 MiB", "whole layer"]
    assert list(cells.y) == ["0", "0.5"]
    assert [[z and round(z) for z in row] for row in cells.z] == [[260, 200, None], [None, None, 190]]
    with pytest.raises(ValueError, match="share a cell"):
        figures.heat_map([POINTS[1], POINTS[3]])


def test_a_waterfall_shows_the_unexplained_rest() -> None:
    [bars_] = figures.waterfall([("contention", 0.03)], ("resident", 0.1), ("offload", 0.15)).data
    assert list(bars_.y) == ["resident", "contention", "not explained", "offload"]
    assert bars_.x == pytest.approx([100.0, 30.0, 20.0, 150.0])
    [exact] = figures.waterfall([("contention", 0.05)], ("resident", 0.1), ("offload", 0.15)).data
    assert "not explained" not in exact.y


def test_merging_chunks_conserves_busy_time_and_bytes(result: Result) -> None:
    start, end = result.timeline.steps[0][0], result.timeline.steps[0][-1]
    spans = result.timeline.of(0)
    merged = bars(spans, start, end)
    for kind, name in (("copy", "Copy"), ("kernel", "Kernel"), ("collective", "Collective")):
        given = [s for s in spans if s.kind == name and s.end > start and s.start < end]
        mine = [b for b in merged if b.kind == kind]
        assert sum(b.busy for b in mine) == pytest.approx(sum(min(s.end, end) - max(s.start, start) for s in given))
        assert sum(len(b.spans) for b in mine) == len(given)
    copies = [b for b in merged if b.kind == "copy"]
    assert len(copies) < sum(len(b.spans) for b in copies), "chunks of 1 MiB are too narrow to be drawn one by one"
    assert all(b.end - b.start <= (end - start) / RESOLUTION * (1 + 1e-9) for b in merged if len(b.spans) > 1)
    assert all(b.excess + b.waiting <= b.end - b.start + 1e-12 for b in merged)


def test_a_close_view_merges_nothing(result: Result) -> None:
    start = result.timeline.steps[0][1]
    assert all(len(b.spans) == 1 for b in bars(result.timeline.of(0), start, start + 1e-4))


def test_timeline_draws_every_kind_and_the_memory(result: Result) -> None:
    start, end = result.timeline.steps[0][-2:]
    figure = figures.timeline(result.timeline, 0, start, end)
    copies = trace(figure, "copy", "bar")
    clipped = [
        min(s.end, end) - max(s.start, start)
        for s, _ in result.timeline.commands(0, Copy)
        if s.end > start and s.start < end
    ]
    assert sum(busy for busy, _ in copies.customdata) == pytest.approx(1e3 * sum(clipped))
    assert sum(count for _, count in copies.customdata) == len(clipped)
    assert {t.name for t in figure.data if t.type == "bar"} >= {"kernel", "collective", "flag", "wait"}
    assert min(trace(figure, "kernel", "bar").base) >= start * 1e3 - 1e-9
    assert list(figure.layout.yaxis.ticktext) == ["compute", "copy"]
    memory = trace(figure, "memory")
    assert memory.x[0] == pytest.approx(start * 1e3) and memory.x[-1] == pytest.approx(end * 1e3)
    peak = max(level for time, level in result.timeline.memory(0) if start <= time <= end)
    assert max(memory.y) == pytest.approx(peak / 2**30)
    assert any("&lt;qkv&gt;" in text for text in trace(figure, "kernel", "bar").hovertext)


def test_numbers_have_true_signs_and_zero_has_none() -> None:
    assert signed(-1.5, "%") == "\N{MINUS SIGN}1.50 %"
    assert signed(-0.001, "%") == signed(0.001, "%") == "0.00 %"
    assert ms(1.5) == "1,500.00 ms"


def test_page_loads_nothing_and_inlines_plotly_once(result: Result) -> None:
    source = page("t", "s", [Section(f"figure {i}", "", f) for i, f in enumerate(every_figure(result))], {"k": "v"})
    read = Reader(source)
    assert [u for u in read.loads if not u.startswith(("#", "data:"))] == []
    assert "@import" not in source.split("</style>")[0] and "url(" not in source.split("</style>")[0]
    [packed] = re.findall(r'atob\("([^"]+)"\)', source)
    assert b"plotly.js v" in gzip.decompress(b64decode(packed))
    assert "default-src 'none'" in source
    assert "showSendToCloud: false" in source
    assert len(read.data) == len(every_figure(result))


def test_page_without_figures_has_no_script() -> None:
    source = page("t", "s", [Section("a", "", "text"), Section("b", "only words")], {})
    assert "<script" not in source
    assert len(source) < 20_000


def test_page_escapes_everything_it_is_given() -> None:
    figure = figures.error_ranges({HOSTILE: [Case(HOSTILE, HOSTILE, HOSTILE, 0.1, 0.11, "unseen")]})
    bodies = [HOSTILE, Table([HOSTILE], [[Badge(HOSTILE, "bad")]], sortable=True), figure]
    sections = [Section(HOSTILE, HOSTILE, body) for body in bodies]
    read = Reader(page(HOSTILE, HOSTILE, sections, {HOSTILE: HOSTILE}))
    assert "img" not in read.tags
    assert read.tags.count("data") == 1
    assert read.text.count(HOSTILE) == 17  # 3 titles, 2 facts, 3 links, 3 headings, 3 texts, 2 cells, 1 body
    [data] = read.data
    assert "&lt;img" in json.loads(data)["data"][0]["hovertext"][0] and "<img" not in data


def test_tables_align_numbers_to_the_right() -> None:
    table = Table(
        ["case", "step", "error", "n"], [["16 is a name", "39.7 ms", "\N{MINUS SIGN}0.3 %", 12345], ["b", "", "", 1]]
    )
    source = page("t", "s", [Section("a", "", table)], {})
    assert re.findall(r"<th( class=\"n\")?>", source) == ["", ' class="n"', ' class="n"', ' class="n"']
    assert '<td class="n">12,345</td>' in source


def test_only_pages_with_a_sortable_table_sort() -> None:
    rows = [["a", Badge("held", "good")]]
    plain, sortable = (page("t", "s", [Section("a", "", Table(["x", "y"], rows, s))], {}) for s in (False, True))
    assert "<script" not in plain and "<input" not in plain and "<th>x</th>" in plain
    assert "<script" in sortable and '<input type="search"' in sortable and "<th><button>x</button></th>" in sortable
    assert '<td><span class="badge good">held</span></td>' in plain


def test_contents_only_on_longer_pages() -> None:
    sections = [Section(f"part {i}", "") for i in range(3)]
    assert page("t", "s", sections, {}).count('href="#s') == 3
    assert "<nav" not in page("t", "s", sections[:2], {})
    below = page("t", "s", [*sections, Section("under", "", under=True)], {})
    assert below.count('href="#s') == 3 and "<h3>under</h3>" in below


def test_every_figure_renders_with_the_page_theme(result: Result) -> None:
    for figure in every_figure(result):
        source = page("t", "s", [Section("a", "", figure)], {})
        [data] = Reader(source).data
        drawn = json.loads(data)
        assert "template" not in drawn["layout"] and drawn["layout"]["height"] == figure.layout.height
        assert drawn["data"], "a figure without traces is an empty frame"
        assert figure.layout.template.layout.font.family == TEMPLATES["light"]["layout"]["font"]["family"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason=NO_CHROMIUM)
def test_every_figure_draws_in_a_browser_without_console_errors(result: Result, tmp_path: Path) -> None:
    drawn, file = every_figure(result), tmp_path / "page.html"
    source = page("t", "s", [Section(f"figure {i}", "", f) for i, f in enumerate(drawn)], {})
    file.write_text(source, encoding="utf-8")
    with Browser.started(tmp_path / "profile") as browser:
        assert browser.open(file) == len(drawn)
        assert browser.console == []


@pytest.mark.parametrize(("options", "lines"), [({}, 3), ({"soft_wrap": False}, 3), ({"soft_wrap": True}, 1)])
def test_text_is_wrapped_at_120_unless_softly(options: dict[str, bool], lines: int) -> None:
    console = Console(**options)
    with console.capture() as got:
        console.print("word " * 60, end="")
    assert len(got.get().splitlines()) == lines
