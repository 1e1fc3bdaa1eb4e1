"""Pages of hardware profiles: drawings that hold all of a topology, steady rates, and what limits them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Command, Golden
from hypothesis import assume, given
from strategies import scaled, tiny_profile, topologies, trees

from sim.analysis.steady_state import MAX_GPUS, gb, gpu_list, sentences, steady_states
from sim.fluid import caps_now, weighted_max_min
from sim.hardware import Profile, load_profile, shipped, to_plain
from sim.hardware.routes import Graph
from sim.inputs.config import InputError, convert
from sim.inputs.units import plain
from sim.report.hardware_page import hardware_page
from sim.report.profile_rows import rows_of
from sim.report.text_layout import SMALL, TITLE, text_width

Plain = dict[str, Any]
HOSTILE = "</svg><img src=x onerror=alert(1)> & \"quoted\" 'too'"


def limit(value: float, **more: Any) -> Plain:
    return {"value": f"{value} GB/s", "source": "test", **more}


def host(gpus: int, topology: Plain) -> Profile:
    fast = {"h2d.cap": 54.5e9, "d2h.cap": 54.5e9, "collective.cap": 24e9}
    return tiny_profile(gpus, fast, topology)


def two_sockets(peers: str = "host") -> Profile:
    """Eight GPUs, two a switch, two switches a socket, all pinned buffers on socket 0."""
    sockets, switches = range(2), range(4)
    nodes: Plain = {f"memory{s}": {"kind": "memory", "through": limit(250)} for s in sockets}
    nodes |= {f"socket{s}": {"kind": "socket"} for s in sockets} | {f"switch{i}": {"kind": "switch"} for i in switches}
    links: list[Plain] = [{"ends": [f"memory{s}", f"socket{s}"]} for s in sockets]
    links.append({"ends": ["socket0", "socket1"], "each_way": limit(62.8), "kind": "UPI"})
    links += [
        {"ends": [f"socket{i // 2}", f"switch{i}"], "each_way": limit(55), "both_ways": limit(100)} for i in switches
    ]
    links += [
        {"ends": [f"switch{i}", "gpu{gpu}"], "gpus": [2 * i, 2 * i + 1], "there": limit(54.5), "back": limit(50)}
        for i in switches
    ]
    return host(8, {"nodes": nodes, "links": links, "peers": peers, "pinned": {"memory0": list(range(8))}})


def tiles() -> Profile:
    """Twelve tiles, two a card, all cards in a mesh."""
    nodes: Plain = {"memory": {"kind": "memory"}} | {f"card{i}": {"kind": "switch"} for i in range(6)}
    links: list[Plain] = [{"ends": ["memory", f"card{i}"], "each_way": limit(55)} for i in range(6)]
    links += [{"ends": [f"card{i}", "gpu{gpu}"], "gpus": [2 * i, 2 * i + 1], "each_way": limit(50)} for i in range(6)]
    links += [{"ends": [f"gpu{2 * i}", f"gpu{2 * i + 1}"], "each_way": limit(190), "kind": "MDFI"} for i in range(6)]
    links.append({"mesh": [[2 * i, 2 * i + 1] for i in range(6)], "each_way": limit(15), "kind": "Xe Link"})
    return host(12, {"nodes": nodes, "links": links})


def cluster() -> Profile:
    """Two hosts of four GPUs with an NVSwitch each, joined by a network."""
    both = range(2)
    kinds = {"memory": "memory", "root": "root_complex", "nic": "nic", "nvswitch": "nvswitch"}
    nodes: Plain = {f"{name}{s}": {"kind": kind} for s in both for name, kind in kinds.items()}
    nodes |= {"network": {"kind": "network", "through": limit(80)}}
    links: list[Plain] = [{"ends": [f"memory{s}", f"root{s}"], "each_way": limit(200)} for s in both]
    links += [{"ends": [f"root{s}", f"nic{s}"], "each_way": limit(50)} for s in both]
    links += [{"ends": [f"nic{s}", "network"], "each_way": limit(25)} for s in both]
    for s in both:
        mine = list(range(4 * s, 4 * s + 4))
        links.append({"ends": [f"root{s}", "gpu{gpu}"], "gpus": mine, "each_way": limit(54.5)})
        links.append({"ends": ["gpu{gpu}", f"nvswitch{s}"], "gpus": mine, "each_way": limit(370)})
    return host(8, {"nodes": nodes, "links": links, "domains": [[0, 1, 2, 3], [4, 5, 6, 7]]})


def joined(fabrics: int) -> Profile:
    """Two hosts joined by a network; the GPUs of the first are on `fabrics` fabrics besides."""
    plain: Plain = to_plain(cluster())["topology"]
    for i in range(fabrics):
        plain["nodes"][f"fabric{i}"] = {"kind": "fabric"}
        more = {"ends": ["gpu{gpu}", f"fabric{i}"], "gpus": [0, 1, 2, 3], "each_way": limit(2 + i)}
        plain["links"] = [*plain["links"], more]
    return host(8, plain)


def switches16() -> Profile:
    """Sixteen GPUs of two NVSwitches, which are joined; one root reaches a fabric of its own."""
    nodes: Plain = {
        "memory": {"kind": "memory"},
        "root": {"kind": "root_complex", "through": limit(300, carries="copies")},
    }
    nodes |= {"nvswitch0": {"kind": "nvswitch"}, "nvswitch1": {"kind": "nvswitch"}, "fabric": {"kind": "fabric"}}
    links: list[Plain] = [{"ends": ["memory", "root"]}, {"ends": ["nvswitch0", "nvswitch1"], "each_way": limit(2400)}]
    links += [{"ends": ["root", "gpu{gpu}"], "each_way": limit(50)}, {"ends": ["root", "fabric"], "each_way": limit(9)}]
    links += [
        {"ends": ["gpu{gpu}", f"nvswitch{s}"], "gpus": list(range(8 * s, 8 * s + 8)), "each_way": limit(370)}
        for s in range(2)
    ]
    return host(16, {"nodes": nodes, "links": links})


MADE = {"two sockets": two_sockets, "tiles": tiles, "cluster": cluster, "16": switches16}
PROFILES = [
    *(pytest.param(lambda n=n: load_profile(n), id=n) for n in shipped()),
    *(pytest.param(f, id=n) for n, f in MADE.items()),
]


# ---- drawings ----

Rect = tuple[float, float, float, float]


def drawings(source: str) -> list[ElementTree.Element]:
    """The drawings of a page, without its legend."""
    found = [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", source, re.DOTALL)]
    return [svg for svg in found if "legend" not in svg.attrib["class"]]


def classes(element: ElementTree.Element) -> list[str]:
    return element.attrib.get("class", "").split()


def rect(element: ElementTree.Element) -> Rect:
    x, y, w, h = (float(element.attrib[key]) for key in ("x", "y", "width", "height"))
    return x, y, x + w, y + h


def word(element: ElementTree.Element) -> Rect:
    size = TITLE if "name" in classes(element) else SMALL
    width, x, y = text_width(element.text or "", size), float(element.attrib["x"]), float(element.attrib["y"])
    left = x - width / 2 if element.attrib.get("text-anchor") == "middle" else x
    return left, y - 0.75 * size, left + width, y + 0.2 * size


def drawn(svg: ElementTree.Element) -> Iterator[tuple[str, Rect]]:
    """Everything with a place."""
    for element in svg.iter():
        if element.tag == "rect":
            yield element.attrib["class"], rect(element)
        elif element.tag == "text":
            yield f"text {element.text}", word(element)
        elif element.tag in ("path", "polygon"):
            numbers = [
                float(n) for n in re.findall(r"-?\d+\.?\d*", element.attrib.get("d") or element.attrib["points"])
            ]
            half = float(element.attrib.get("stroke-width", 0)) / 2
            xs, ys = numbers[::2], numbers[1::2]
            yield element.attrib["class"], (min(xs) - half, min(ys) - half, max(xs) + half, max(ys) + half)


def overlap(one: Rect, other: Rect, by: float = 0.0) -> bool:
    return all(one[i] + by < other[i + 2] and other[i] + by < one[i + 2] for i in (0, 1))


def groups(svg: ElementTree.Element, box: bool) -> Iterator[tuple[ElementTree.Element, ElementTree.Element]]:
    """What belongs together: a box or the first path of a wire, and all of it."""
    for g in svg.iter("g"):
        first = next(e for e in g if e.tag != "title")
        if ("box" in classes(first)) is box:
            yield first, g


def check_inside(svg: ElementTree.Element) -> None:
    """Nothing is cut off."""
    _, _, width, height = (float(n) for n in svg.attrib["viewBox"].split())
    for what, (x0, y0, x1, y1) in drawn(svg):
        assert x0 >= -0.5 and y0 >= -0.5 and x1 <= width + 0.5 and y1 <= height + 0.5, f"{what} lies outside"


def check_boxes(svg: ElementTree.Element) -> None:
    """Boxes lie apart, and their words lie in them, apart."""
    for (one, _), (other, _) in combinations(groups(svg, box=True), 2):
        assert not overlap(rect(one), rect(other), 0.2), f"{rect(one)} and {rect(other)}"
    for box, g in groups(svg, box=True):
        inside = [word(t) for t in g.iter("text")]
        (left, _, right, _) = rect(box)
        assert all(overlap(w, rect(box)) and w[0] >= left - 1 and w[2] <= right + 1 for w in inside)
        assert not any(overlap(a, b, 1.0) for a, b in combinations(inside, 2))


def check_labels(svg: ElementTree.Element) -> None:
    """Labels of wires lie on no box and apart."""
    labels = [word(t) for _, g in groups(svg, box=False) for t in g.iter("text")]
    boxes = [rect(box) for box, _ in groups(svg, box=True)]
    for label in labels:
        assert not any(overlap(label, box, 1.0) for box in boxes), f"{label} on a box"
    for one, other in combinations(labels, 2):
        assert not overlap(one, other, 1.5), f"{one} and {other}"


def check_drawings(source: str) -> None:
    for svg in drawings(source):
        check_inside(svg)
        check_boxes(svg)
        check_labels(svg)


@pytest.mark.parametrize("make", PROFILES)
def test_a_page_draws_all_there_is_and_lists_every_number(make: Any) -> None:
    profile: Profile = make()
    source = hardware_page(profile)
    check_drawings(source)
    capacities, *met = drawings(source)
    names = {t.text for t in capacities.iter("text") if "name" in classes(t)}
    assert names >= {*profile.graph.nodes, *(f"gpu{g}" for g in range(profile.gpus))}
    assert len(met) == len(steady_states(profile)) == (3 if 1 < profile.gpus <= MAX_GPUS else 1)
    told = " ".join(t.text or "" for t in capacities.iter("title"))
    for name in profile.resource_names:
        base = name.removesuffix(".in").removesuffix(".out")
        assert base in told, f"{name} is not drawn"
    for number in rows_of(profile):
        assert f"<td>{number.path}</td>" in source
    assert source.count("<script") == 0 and "://" not in re.sub(r"<td.*?</td>", "", source)


@pytest.mark.parametrize("name", MADE)
def test_drawings_of_hosts_of_every_shape_are_golden(name: str, golden: Golden) -> None:
    first, *met = drawings(hardware_page(MADE[name]()))
    lines = [f"{what.strip()} {' '.join(f'{v:.1f}' for v in place)}" for what, place in drawn(first)]
    # the others are laid out alike: what they say differs
    lines += [f"{t.text}" for svg in met for t in svg.iter("text")]
    golden(f"drawing of {name}".replace(" ", "_"), "\n".join(lines) + "\n")


def test_a_network_lies_below_all_that_it_joins() -> None:
    for fabrics in range(4):
        svg = drawings(hardware_page(joined(fabrics)))[0]
        places = {next(t.text for t in g.iter("text") if "name" in classes(t)): rect(box)[1] for box, g in groups(svg, box=True)}  # fmt: skip
        assert all(y < places["network"] for name, y in places.items() if name != "network"), fabrics


@given(trees())
def test_generated_topologies_are_drawn_without_overlap(topology: Plain) -> None:
    check_drawings(hardware_page(tiny_profile(3, None, topology)))


@given(topologies())
def test_topologies_with_links_beyond_a_tree_are_drawn(graph: Graph) -> None:
    try:
        profile = tiny_profile(3, None, msgspec.to_builtins(graph.topology, enc_hook=plain))
    except InputError:
        assume(False)  # a way is ambiguous
    source = hardware_page(profile)
    svg = drawings(source)[0]
    check_inside(svg)
    check_boxes(svg)


def test_meshes_are_one_box_each() -> None:
    capacities = drawings(hardware_page(tiles()))[0]
    bundles = [r for r in capacities.iter("rect") if "bundle" in classes(r)]
    assert len(bundles) == 7
    assert "Xe Link, 60 links" in {t.text for t in capacities.iter("text")}


def test_wires_are_as_wide_as_their_capacity_and_say_it() -> None:
    capacities = drawings(hardware_page(cluster()))[0]
    lanes: dict[str, float] = {}
    for g in capacities.iter("g"):
        for lane in (p for p in g.iter("path") if "lane" in classes(p)):
            lanes[(g.find("title").text or "").split("\n")[0]] = float(lane.attrib["stroke-width"])  # type: ignore[union-attr]
    assert lanes["gpu0 to nvswitch0"] > lanes["root0 to gpu0"] > lanes["nic0 to network"]
    words = {t.text for t in capacities.iter("text")}
    assert {"↓↑ 54.5", "↓↑ 370.0", "↓↑ 25.0", "through 80.0"} <= words
    two = {t.text for t in drawings(hardware_page(two_sockets()))[0].iter("text")}
    assert {"↓ 54.5", "↑ 50.0", "Σ 100.0", "pinned: gpu0–7", "nothing pinned"} <= two


def test_hosts_that_a_network_joins_have_frames() -> None:
    for make, frames in ((cluster, 2), (two_sockets, 0)):
        svg = drawings(hardware_page(make()))[0]
        assert sum("frame" in classes(r) for r in svg.iter("rect")) == frames


def test_text_is_escaped() -> None:
    profile = host(1, {"nodes": {"memory": {"kind": "memory", "through": limit(1) | {"source": HOSTILE}}}, "links": [
        {"ends": ["memory", "gpu0"], "each_way": limit(50) | {"source": HOSTILE}, "kind": HOSTILE}]})  # fmt: skip
    source = hardware_page(profile)
    assert "<img" not in source and source.count("&lt;img") > 4
    assert drawings(source)


# ---- where flows meet ----


def test_flows_that_share_a_resource_are_said_to() -> None:
    copies, exchange, both = steady_states(two_sockets())
    assert copies.title == "H2D on all GPUs" and exchange.title == "All-to-all, isolated"
    said = sentences(two_sockets(), copies)
    assert "4 GPUs share socket0>socket1 (62.8 GB/s): copies get 15.7 GB/s each of 54.5 (gpu4–7)." in said
    assert "2 GPUs share each of socket0>switch0 and socket0>switch1 (55.0 GB/s): copies get 27.5 GB/s each of 54.5 (gpu0–3)." in said  # fmt: skip
    assert copies.copied(7) == pytest.approx(15.7e9) and copies.sent(7) is None
    assert exchange.copied(0) is None and (both.copied(0) or 0) < (copies.copied(0) or 0)


@pytest.mark.parametrize("make", PROFILES)
def test_rates_follow_the_rate_law_and_bottlenecks_are_full(make: Any) -> None:
    profile: Profile = make()
    for met in steady_states(profile):
        specs = caps_now([f.spec for f in met.flows])
        assert list(met.rates) == weighted_max_min(specs, profile.capacities)
        for spec, rate, held in zip(specs, met.rates, met.bottlenecks, strict=True):
            if held is None:
                assert rate == pytest.approx(spec.cap)
            else:
                assert met.used[held] == pytest.approx(1) and held in {r for r, _ in spec.route}
        assert max(met.used) <= 1 + 1e-9
        assert sentences(profile, met)


def test_the_unit_of_time_changes_no_share() -> None:
    one, other = two_sockets(), scaled(two_sockets(), 2.0)
    for a, b in zip(steady_states(one), steady_states(other), strict=True):
        assert a.used == pytest.approx(b.used) and a.bottlenecks == b.bottlenecks


def test_what_is_looked_at_is_an_all_to_all_so_large_that_latency_hardly_counts() -> None:
    """The slope of the shipped table's last rows, within a hundredth; at 512 B it would be under 1 % of that."""
    profile = load_profile("h200x2-hostpath")
    table = profile.collectives.all_to_all.alone
    slope = (table.bytes[-1] - table.bytes[-2]) / (table.seconds[-1] - table.seconds[-2])
    _, exchange, _ = steady_states(profile)
    for flow in exchange.flows:
        assert flow.spec.cap == pytest.approx(slope, rel=0.05)


def test_short_words_of_a_box_share_a_row() -> None:
    svg = drawings(hardware_page(two_sockets()))[0]
    rows = [len({t.attrib["y"] for t in g.iter("text")}) for _, g in groups(svg, box=True)]
    words = [len(list(g.iter("text"))) for _, g in groups(svg, box=True)]
    assert any(n > row for n, row in zip(words, rows, strict=True))


def test_one_gpu_has_no_all_to_all_and_many_are_not_tried() -> None:
    assert len(steady_states(tiny_profile(1))) == 1
    many = tiny_profile(65)
    assert len(steady_states(many)) == 1
    assert "Left out: the all-to-all, with more than 64 GPUs." in hardware_page(many)


@pytest.mark.parametrize("gpus", [2, 3])
def test_an_all_to_all_between_domains_that_are_not_given_is_left_out(gpus: int) -> None:
    made = to_plain(tiny_profile(gpus))
    made["collectives"]["all_to_all"]["algorithm"] = "hierarchical"
    page = hardware_page(convert(made, Profile, "made"))
    assert "Left out: the all-to-all, for which the profile gives no domains." in page
    assert "Left out" not in hardware_page(tiny_profile(gpus)) + hardware_page(tiny_profile(1))


def test_numbers_and_lists_read_well() -> None:
    assert [gb(v) for v in (0, 757e6, 15.7e9, 195.5e9, 2.4e12, 2.0**60)] == [
        "0",
        "0.757",
        "15.7",
        "195.5",
        "2,400",
        "1.15e+09",
    ]
    assert gpu_list([6, 0, 1, 2, 4]) == "gpu0–2, gpu4, gpu6"


# ---- the command ----


def test_the_command_writes_the_page(chunkflow: Command, tmp_path: Path) -> None:
    done = chunkflow("hardware", "h200x2-hostpath", "--html", "new/page.html", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "page: new/page.html\n")
    assert "<svg" in (tmp_path / "new/page.html").read_text()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["h200x2-hostpath", "--html", "file/page.html"], 1, "cannot be written"),
        (["nowhere", "--html", "page.html"], 2, "is not a hardware profile"),
        (["--html", "page.html"], 2, "give its NAME"),
    ],
)
def test_the_command_says_what_is_wrong(
    chunkflow: Command, tmp_path: Path, args: list[str], code: int, words: str
) -> None:
    (tmp_path / "file").write_text("")
    done = chunkflow("hardware", *args, cwd=tmp_path)
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr
