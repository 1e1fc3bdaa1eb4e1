"""Tables and plots of docs/measurements; `make findings` checks that the documents are as the committed data makes them."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from xml.etree import ElementTree

import pytest
from conftest import shared_folder

from sim.datasets.cases import Operation
from validation import measurements_doc, other_profile_tables, svg
from validation.compare import jobs
from validation.datasets import load_set, probed_sets
from validation.markdown import differences, placed, span, standing, table
from validation.plots import plots
from validation.step_statistics import Detailed, account, detailed, entries, late_chunks, short, yields

DOCS = Path(__file__).parents[1] / "docs"
PAGES = measurements_doc.documents([DOCS / "measurements.md", DOCS / "measurements"])
SETS = ("h100x1-20261121e", "h200x2-hostpath-20261121c", "h200x2-hostpath-20261128k", "h200x2-nvlink-20261121c")
BY_SESSION = ("clocks", "waits", "memory", "errors", "off", "steps", "neighbours", "contended_copies", "all errors")
"""Tables whose rows each follow from the cases of one session."""
MARK = r'<circle|<polygon|<rect [^>]*width="6.6"'
"""What charts draw at a point."""


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
    made = {*measurements_doc.SEEN, *measurements_doc.PREDICTED, "other hosts"}
    assert sorted(name for text in PAGES.values() for name, _ in standing(text)) == sorted(made)


def test_every_link_between_documents_leads_somewhere() -> None:
    pages = [*DOCS.rglob("*.md"), *(DOCS.parent / name for name in ("README.md", "CONTRIBUTING.md"))]
    for page in pages:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page}: {link}"


@pytest.mark.slow
@pytest.mark.parametrize("name", measurements_doc.SEEN)
def test_measured_tables_in_the_docs_are_current(name: str) -> None:
    assert measurements_doc.SEEN[name]() == stands(name)


def stands(name: str) -> str:
    """The table `name` of the documents."""
    [content] = [content for text in PAGES.values() for named, content in standing(text) if named == name]
    return content


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_SESSION)
def test_rows_of_sessions_are_those_of_the_documents(name: str, made: list[Detailed]) -> None:
    rows, documented = measurements_doc.PREDICTED[name](made).splitlines(), stands(name).splitlines()
    assert rows[:2] == documented[:2]
    names = {*SETS, *map(short, SETS)}
    assert rows[2:] == [row for row in documented[2:] if row.split("|")[1].strip() in names]
    assert len(rows) > 3


def parts(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip("| ").split("|")]


@pytest.mark.slow
def test_the_summary_is_of_all_offloaded_cases_and_of_parts_of_them(made: list[Detailed]) -> None:
    rows = {row[0]: row[1:] for row in map(parts, measurements_doc.PREDICTED["summary"](made).splitlines()[2:])}
    assert list(rows) == [parts(row)[0] for row in stands("summary").splitlines()[2:5]]
    found = sorted(
        abs(float(parts(row)[-1])) for row in measurements_doc.PREDICTED["all errors"](made).splitlines()[2:]
    )
    assert rows["all offloaded cases"] == rows["those of 1 and 2 GPUs, without neighbours"]
    number, *figures = map(float, rows["all offloaded cases"])
    assert number == len(found)
    assert figures == pytest.approx([median(found), mean(found), found[int(0.95 * len(found))], found[-1]], abs=0.011)
    unseen = [abs(100 * e.compared.error) for e in made if e.compared.group == "unseen"]
    assert 0 < len(unseen) < len(found)
    assert (float(rows["those of unseen sets and cases"][0]), float(rows["those of unseen sets and cases"][-1])) == (
        len(unseen), pytest.approx(max(unseen), abs=0.006)
    )  # fmt: skip


@pytest.mark.slow
def test_memory_is_compared_in_percent_of_what_was_allocated(made: list[Detailed]) -> None:
    mine = [e for e in made if e.compared.set == SETS[1]]
    triple = [e.compared.predicted._replace(memory_bytes=3 * e.case.memory_bytes[0]) for e in mine]
    changed = [e._replace(compared=e.compared._replace(predicted=p)) for e, p in zip(mine, triple, strict=True)]
    [row] = map(parts, measurements_doc.PREDICTED["memory"](changed).splitlines()[2:])
    missing = [-2 * e.case.memory_bytes[0] / 1e6 for e in mine]
    assert row[1:5] == [str(len(mine)), "+200.00", "+200.00", "+200.00"]
    assert [float(v) for v in row[5:7]] == pytest.approx([median(missing), max(missing)], abs=0.051)


@pytest.mark.slow
def test_the_shares_of_windows_are_those_of_their_cases(made: list[Detailed]) -> None:
    rows = [parts(row) for row in measurements_doc.PREDICTED["windows"](made).splitlines()[2:]]
    paths = {"h200x2-hostpath-20261121c": "host memory", "h200x2-hostpath-20261128k": "host memory", "h200x2-nvlink-20261121c": "NVLink"}  # fmt: skip
    mine = [e for e in made if e.measured.share is not None and e.predicted.share is not None]
    assert {(row[0], row[1]) for row in rows} == {(paths[e.compared.set], yields(e.case)) for e in mine if yields(e.case) != "resident" and yields(e.case) != "sharded"}  # fmt: skip
    for path, window, cases, measured, measured_span, predicted, predicted_span, largest in rows:
        here = [e for e in mine if (paths[e.compared.set], yields(e.case)) == (path, window)]
        assert int(cases) == len(here)
        both = [[e.measured.share or 0.0 for e in here], [e.predicted.share or 0.0 for e in here]]
        assert [float(measured), float(predicted)] == pytest.approx([median(v) for v in both], abs=0.0051)
        ends = [[float(w) for w in words.split(" to ")] for words in (measured_span, predicted_span)]
        for shown, values in zip(ends, both, strict=True):
            assert (shown[0], shown[-1]) == pytest.approx((min(values), max(values)), abs=0.0051)
        off = max((p - m for m, p in zip(*both, strict=True)), key=abs)
        assert float(largest) == pytest.approx(off, abs=0.0051)


@pytest.mark.slow
def test_rows_of_other_profiles_are_those_of_the_documents() -> None:
    name, other = "h200x2-nvlink-20261121a", "h200x2-nvlink-20261121c"
    assert (name, (other,)) in other_profile_tables.CROSS
    with ProcessPoolExecutor(2) as pool:
        rows = other_profile_tables.cross(pool, [(name, [other])]).splitlines()
    documented = stands("other hosts").splitlines()
    assert rows[:2] == documented[:2] and set(rows) <= set(documented) and len(rows) == 3
    told = [(parts(row)[0], parts(row)[1]) for row in documented[2:]]
    assert told == [(short(name), profile) for name, profiles in other_profile_tables.CROSS for profile in profiles]


@pytest.mark.slow
def test_predictions_with_longer_flag_waits_are_those_of_the_documents() -> None:
    [(name, numbers)] = other_profile_tables.FLAG_WAITS
    with ProcessPoolExecutor(2) as pool:
        asked = [j for j in jobs(load_set(name), steps_only=True) if j.case.number in numbers]
        found = list(pool.map(detailed, asked))
    assert other_profile_tables.flag_waits(found) == stands("flag waits")


@pytest.mark.slow
def test_plots_are_those_of_the_documents(made: list[Detailed]) -> None:
    """Plots of predictions have the marks of the chosen sessions, and all that is not a mark; others are the same."""
    with ProcessPoolExecutor(2) as pool:
        others = [name for name in probed_sets() if name not in SETS]
        baselines = [j for name in others for j in jobs(load_set(name), steps_only=True) if j.group == "resident"]
        found = [*made, *pool.map(detailed, baselines)]
    for name, content in plots(found).items():
        shipped = (DOCS / "plots" / f"{name}.svg").read_text()
        if name in ("windows", "errors"):
            assert not elements(content) - elements(shipped), name
            assert not [e for e in elements(shipped) - elements(content) if not re.match(MARK, e)], name
        else:
            assert content == shipped, name


def elements(svg: str) -> Counter[str]:
    return Counter(re.findall(r"<[^/][^>]+>[^<]*", svg))


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
