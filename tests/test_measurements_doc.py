"""Tables and plots of docs/measurements; `make findings` checks that the documents are as the committed data makes them."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from conftest import shared_folder

from sim.datasets.cases import Operation, workload_key
from validation import measurements_doc, svg
from validation.bounds import Bound, Limits
from validation.compare import Compared, Job, Side, jobs
from validation.datasets import load_set, probed_sets
from validation.markdown import differences, placed, span, standing, table
from validation.plots import baselines, collectives, contention, hosts, plots, sm_copies
from validation.step_statistics import Detailed, account, entries, late_chunks

DOCS = Path(__file__).parents[1] / "docs"
PAGES = measurements_doc.documents([DOCS / "measurements.md", DOCS / "measurements"])
SETS = ("h100x1-20261121e", "h200x2-hostpath-20261121c", "h200x2-nvlink-20261121c")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Detailed]:
    """Every case of some sets beside its prediction."""

    def make(folder: Path) -> None:
        with ProcessPoolExecutor(2) as pool:
            (folder / "pickle").write_bytes(pickle.dumps(entries(SETS, pool)))

    folder = shared_folder(tmp_path_factory, "findings", make)
    found: list[Detailed] = pickle.loads((folder / "pickle").read_bytes())
    return found


def test_tables_that_differ_are_named(tmp_path: Path) -> None:
    one, two = tmp_path / "one.md", tmp_path / "deep" / "two.md"
    two.parent.mkdir()
    one.write_text("<!-- table: x -->\n| a |\n<!-- end of table -->\n")
    two.write_text("<!-- table: y -->\n| b |\n<!-- end of table -->\n")
    texts = measurements_doc.documents([one, two.parent])
    assert list(texts) == [one, two]
    assert differences(texts, {"x": "| a |", "y": "| b |"}) == []
    assert differences(texts, {"x": "| c |", "z": "| b |"}) == [
        f"{two}: nothing makes table y",
        f"{one}: table x is not as made from the data today",
        "table z has no place",
    ]
    two.write_text(one.read_text())
    assert differences(measurements_doc.documents([tmp_path]), {"x": "| a |"}) == ["table x has 2 places"]


def test_plots_that_differ_are_named(tmp_path: Path) -> None:
    page, drawings = tmp_path / "deep" / "page.md", {"one": "<svg/>", "two": "<svg>2</svg>"}
    page.parent.mkdir()
    page.write_text("![One](../plots/one.svg) and ![a (b)](../plots/two.svg)\n\n[not shown](../plots/four.svg)\n")
    texts = measurements_doc.documents([page])
    measurements_doc.publish(drawings, {}, tmp_path / "plots", {})
    assert measurements_doc.differing_plots(texts, drawings) == []
    assert measurements_doc.differing_plots(texts, {"one": "<svg>1</svg>", "three": "<svg/>"}) == [
        f"{page.parent}/../plots/one.svg: not as drawn from the data today",
        f"{page.parent}/../plots/two.svg: nothing draws plot two",
        "plot three is shown nowhere",
    ]
    (tmp_path / "plots" / "one.svg").unlink()
    assert measurements_doc.differing_plots(texts, drawings) == [
        f"{page.parent}/../plots/one.svg: not as drawn from the data today"
    ]


def test_documents_that_are_not_there_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.md"):
        with pytest.raises(FileNotFoundError, match=str(path)):
            measurements_doc.documents([path])


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--check", "nowhere.md"], 1, "No such file or directory: 'nowhere.md'"),
        (["--out", "plots", "--document", "."], 1, "has no Markdown file"),
        ([], 2, "one of the arguments --out --check is required"),
    ],
)
def test_the_module_says_at_once_what_is_wrong(args: list[str], code: int, words: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(DOCS.parent)}
    line = [sys.executable, "-m", "validation.measurements_doc", *args]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (code, "", [])
    assert words in done.stderr and "Traceback" not in done.stderr


def test_every_table_of_the_documents_has_one_place_and_is_made() -> None:
    made = {*measurements_doc.SEEN, *measurements_doc.PREDICTED, "other hosts", "imported hosts"}
    assert sorted(name for text in PAGES.values() for name, _ in standing(text)) == sorted(made)


def test_every_link_between_documents_leads_somewhere() -> None:
    pages = [*DOCS.rglob("*.md"), *(DOCS.parent / name for name in ("README.md", "CONTRIBUTING.md"))]
    for page in pages:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"


@pytest.mark.slow
def test_errors_of_a_session_are_drawn_above_its_name(made: list[Detailed]) -> None:
    drawn = ElementTree.fromstring(plots(made)["errors"])
    names = [t for t in drawn.findall(".//{*}text") if t.get("text-anchor") == "middle" and t.text]
    low = max(float(t.get("y", 0)) for t in names) - 19  # of the axis's label; the sessions' names are 19 px above
    places = sorted(float(t.get("x", 0)) for t in names if abs(float(t.get("y", 0)) - low) < 0.2)
    assert len(places) == len(probed_sets())
    apart = min(b - a for a, b in pairwise(places))
    corners = [p.get("points", "").split()[0] for p in drawn.findall(".//{*}polygon")]
    marks = [tuple(map(float, c.split(","))) for c in corners]
    marks += [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in drawn.findall(".//{*}circle")]
    inside = [x for x, y in marks if y > 40]  # below the legend
    assert len(inside) == len(made)
    assert all(min(abs(x - place) for place in places) < 0.45 * apart for x in inside)
    used = {min(places, key=lambda place: abs(x - place)) for x in inside}
    assert len(used) == len(SETS)


@pytest.mark.slow
def test_plots_are_made_of_all_cases(made: list[Detailed]) -> None:
    drawn = plots(made)
    assert {f"{name}.svg" for name in drawn} == {f.name for f in (DOCS / "plots").iterdir()}
    for content in drawn.values():
        ElementTree.fromstring(content)
    errors = ElementTree.fromstring(drawn["errors"])
    marks = sum(len(errors.findall(f"{{*}}{kind}")) for kind in ("circle", "polygon"))
    assert marks == len(made) + 3  # the legend's


def test_bounds_of_all_sets_are_judged_with_the_tables(made: list[Detailed], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a set that is in no table."""
    tight = [Bound(name=name, of="step time", sets=(name,), target=Limits(max=1e-6)) for name in SETS]
    some = [entry for entry in made if entry.compared.set != SETS[0]]
    with ProcessPoolExecutor(2) as pool:
        monkeypatch.setattr(measurements_doc, "shipped_sets", lambda: SETS)
        assert measurements_doc.broken_bounds(some, pool) == []
        monkeypatch.setattr(measurements_doc, "load_bounds", lambda: tight)
        lines = measurements_doc.broken_bounds(some, pool)
    assert len(lines) == len(SETS)
    assert all(f"a stated bound is broken: {name}: max " in line for name, line in zip(SETS, lines, strict=True))


@pytest.mark.parametrize("plot", [contention, sm_copies, collectives, hosts])
def test_plots_of_probes_are_as_the_documents_show_them(plot: Callable[[], str]) -> None:
    """Those of predictions, which take minutes, `make findings` compares."""
    assert (DOCS / "plots" / f"{plot.__name__}.svg").read_text(encoding="utf-8") == plot()


def test_repeats_without_offload_are_drawn_by_how_much_they_are_over_their_workload_s_first() -> None:
    def seen(job: Job) -> Detailed:
        side = Side(job.case.step_time_s, 0, *6 * (0.0,), {})
        compared = Compared(job.set, job.set, job.case.number, "w", "s", "p", None, 0.0, 1, job.group, 0.0, False, "", side, side)  # fmt: skip
        return Detailed(compared, job.case, account(()), account(()), (0, 0))

    sets = ("h200x2-hostpath-20261121a", "h200x2-nvlink-20261121a")
    found = [seen(job) for name in sets for job in jobs(load_set(name), steps_only=True)]
    expected: list[list[tuple[int, float]]] = []
    for name in sets:  # a panel each
        repeats: dict[str, list[float]] = {}
        for e in found:
            if (e.compared.set, e.compared.group) == (name, "resident"):
                repeats.setdefault(workload_key(e.case), []).append(e.case.step_time_s)
        expected.append(sorted((n, 100 * (s / of[0] - 1)) for of in repeats.values() for n, s in enumerate(of, 1)))
    assert all(len(points) >= 4 for points in expected)
    root = ElementTree.fromstring(baselines(found))
    marks = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in root.findall(".//{*}circle")]
    marks = [(x, y) for x, y in marks if y > 60]  # below the legend
    half, height = svg.WIDTH / 2, svg.HEIGHT - 34 - svg.BOTTOM
    across, top = half - svg.LEFT - svg.RIGHT, float(root.get("height", 0)) - svg.BOTTOM - height
    for panel, points in enumerate(expected):
        left = panel * half + svg.LEFT
        mine = [(x, y) for x, y in marks if panel * half < x < (panel + 1) * half]
        shown = sorted((round((x - left) / across * 2.4 + 0.8), 8 * (0.5 - (y - top) / height)) for x, y in mine)
        assert [n for n, _ in shown] == [n for n, _ in points]
        assert [y for _, y in shown] == pytest.approx([y for _, y in points], abs=0.01)


def test_every_plot_that_is_shown_is_there_and_well_formed() -> None:
    shown = [
        path.parent / name for path, text in PAGES.items() for name in re.findall(r"!\[[^]]+\]\(([^)]+\.svg)\)", text)
    ]
    assert {file.resolve() for file in shown} == set((DOCS / "plots").iterdir())
    for file in shown:
        root = ElementTree.parse(file).getroot()
        assert root.tag.endswith("svg") and root.findall("{*}text")


def copy(start: float, end: float, size: int = 1000) -> Operation:
    return Operation("copy", "Copy", "chunk", 0, size, start, start, end)


def collective(start: float, ready: float, end: float) -> Operation:
    return Operation("compute", "Collective", "q", 0, 64, start, ready, end)


def kernel(start: float, end: float) -> Operation:
    return Operation("compute", "Kernel", "norm", 0, 0, start, start, end)


def test_a_step_is_accounted_for() -> None:
    operations = [kernel(0, 100), collective(100, 120, 200), kernel(200, 300)]
    operations += [copy(0, 50), copy(60, 110), copy(240, 290)]
    found = account(operations)
    assert found.kernels == pytest.approx(200e-6)
    assert (found.collectives, found.waited) == (pytest.approx(100e-6), pytest.approx(20e-6))
    assert found.share == pytest.approx(0.1)
    assert found.uncontended == pytest.approx(2000 / 100e-6)
    assert found.contended == pytest.approx(1000 / 50e-6)
    assert found.gap == pytest.approx(10e-6)
    assert found.resume == pytest.approx(40e-6)
    assert (found.largest, found.late) == (pytest.approx(100e-6), pytest.approx(20e-6))
    empty = account([kernel(0, 1)])
    assert (empty.share, empty.uncontended, empty.contended, empty.gap, empty.resume) == (None,) * 5


@pytest.mark.parametrize(("start", "late"), [(94.0, 0), (96.0, 1), (101.0, 1), (102.0, 0)])
def test_late_chunks_start_as_the_gate_closes(start: float, late: int) -> None:
    assert late_chunks([kernel(0, 100), copy(start, start + 50), collective(102, 102, 200)]) == late


def test_tables_have_their_places() -> None:
    page, other = Path("page.md"), Path("other.md")
    text = "a\n<!-- table: x -->\nold\n<!-- end of table -->\nb"
    texts = {page: text, other: "<!-- table: kept -->\n| k |\n<!-- end of table -->"}
    content = table(("k", "v"), [("one", span([2.0, 1.0], "{:.0f}"))])
    filled = placed(texts, {"x": content})
    assert dict(standing(filled[page])) == {"x": "| k | v |\n|---|---:|\n| one | 1 to 2 |"}
    assert filled[other] == texts[other]
    assert placed(filled, {"x": content}) == filled
    with pytest.raises(ValueError, match="table y has 0 places"):
        placed(texts, {"y": ""})
    with pytest.raises(ValueError, match="table x has 2 places"):
        placed(texts | {other: text}, {"x": content})


def test_tables_and_drawings_are_written_where_they_belong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, tables = tmp_path / "page.md", {"x": "| a |"}
    page.write_text("<!-- table: x -->\n| b |\n<!-- end of table -->\n")
    measurements_doc.publish({"one": "<svg/>"}, tables, tmp_path / "plots", {})
    assert capsys.readouterr().out == "## x\n\n| a |\n\n"
    assert {f.name: f.read_text() for f in (tmp_path / "plots").iterdir()} == {"one.svg": "<svg/>"}
    assert "| b |" in page.read_text()
    measurements_doc.publish({}, tables, tmp_path, measurements_doc.documents([page]))
    assert page.read_text() == "<!-- table: x -->\n| a |\n<!-- end of table -->\n"


def test_charts_place_points_and_escape_words() -> None:
    axis = svg.linear("a < b", 0, 10, 5)
    assert [words for _, words in svg.linear("y", -5, 5, 5).ticks] == ["\u22125", "0", "5"]
    log = svg.logarithmic("x", [(1, "1"), (100, "100")], 1.0)
    assert (log.part(1), log.part(10), log.part(100)) == (0.0, pytest.approx(0.5), 1.0)
    series = [svg.Series(f"<{m}>", [(0, 0), (10, 10)], "#69707a", m) for m in (*svg.MARKERS, "none")]
    root = ElementTree.fromstring(svg.figure([svg.Panel("t & u", axis, axis, series)]))
    assert {"t & u", "a < b", "<none>"} <= {t.text for t in root.iter() if t.tag.endswith("text")}


def test_a_legend_that_is_too_wide_takes_as_many_rows_as_it_needs() -> None:
    axis = svg.linear("x", 0, 10, 5)

    def rows(count: int) -> tuple[list[float], float]:
        """Heights of the names, each name at its place, and the height of the figure."""
        series = [svg.Series(f"series {n:02}", [(0, 0)], "#69707a", "circle") for n in range(count)]
        root = ElementTree.fromstring(svg.figure([svg.Panel("t", axis, axis, series)]))
        names = [t for t in root.findall(".//{*}text") if (t.text or "").startswith("series ")]
        places = [(float(t.get("x", 0)), float(t.get("y", 0))) for t in names]
        assert len(places) == len({*places}) == count
        assert all(svg.LEFT <= x < svg.WIDTH for x, _ in places)
        assert places == sorted(places, key=lambda place: place[::-1])  # in order, from left to right and down
        return sorted({y for _, y in places}), float(root.get("height", 0))

    one, low = rows(2)
    many, high = rows(30)
    assert len(one) == 1 and len(many) >= 3
    assert {b - a for a, b in pairwise(many)} == {svg.ROW}
    assert high - low == (len(many) - 1) * svg.ROW


def test_panels_stand_side_by_side_and_larger_is_higher() -> None:
    axis = svg.linear("x", 0, 10, 5)
    series = [svg.Series("s", [(0, 0), (10, 10)], "#69707a", "circle")]
    root = ElementTree.fromstring(svg.figure([svg.Panel(t, axis, axis, series) for t in "ab"]))
    marks = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in root.findall(".//{*}circle")][
        1:
    ]  # without the legend's
    (x1, low), (x2, high), (x3, *_), (x4, _) = marks
    assert 0 < x1 < x2 < svg.WIDTH / 2 < x3 < x4 < svg.WIDTH
    assert x2 - x1 == pytest.approx(svg.WIDTH / 2 - svg.LEFT - svg.RIGHT, abs=0.2)
    assert low - high == pytest.approx(svg.HEIGHT - 34 - svg.BOTTOM, abs=0.2)
    assert [y for _, y in marks] == [low, high] * 2
    height = float(root.get("height", 0))
    assert all(0 <= float(t.get("y", 0)) <= height for t in root.findall(".//{*}text"))
