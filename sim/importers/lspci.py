"""`lspci -tv` and `lspci -vv`: bridges above each GPU, and their links."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sim.importers.host_tree import HostTree, Place
from sim.importers.pci_devices import name_of
from sim.importers.pci_links import WIDTHS, PciLink, generation_of
from sim.importers.text_lines import Line

_NOT_GPU = re.compile(
    r"audio|usb|ucsi|nvswitch|serial|bridge|bluefield|ethernet|connectx|mellanox|infiniband|raid|nvme|non-volatile|smbus|"
    r"1af1|22a3|dummy",
    re.IGNORECASE,
)
_GPU = re.compile(
    r"nvidia|advanced micro devices.*(?:instinct|radeon (?:rx|pro)|navi|aldebaran|aqua vanjaram|arcturus|mi\d{2,3}x?)",
    re.IGNORECASE,
)
_CLASS = re.compile(
    r"(3D controller|VGA compatible controller|Display controller|Processing accelerators)\b[^:]*: ?(.*)"
)
_ADDRESS = re.compile(r"^((?:[0-9a-f]{4,}:)?[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])\s+(.*)")
_TOKEN = re.compile(r"(?P<bus>\[[0-9a-f:\-]+\])|(?P<device>[0-9a-f]{2}\.[0-7])|(?P<branch>[+\\])|(?P<fill>[-| ])")
_LINK = re.compile(r"Speed ([\d.]+)GT/s[^,]*, Width x(\d+)")


class LspciError(ValueError):
    """Text of lspci that tells of no GPU; says why."""


class _Device(NamedTuple):
    """A device and the bridges above it, the root port first."""

    address: str
    root: str
    above: tuple[str, ...]
    text: str


def read_lspci_tree(lines: Sequence[Line]) -> HostTree:
    """The tree that `lspci -tv` draws. Raises LspciError."""
    found = sorted((d for d in _drawn(lines) if _is_gpu(d.text)), key=lambda d: d.address)
    if not found:
        raise LspciError("draws no GPU: give the output of `lspci -tv`, which names devices")
    places = tuple(Place(_name(d.text), 0, d.root, d.above) for d in found)
    remark = (
        "lspci -tv tells no NUMA nodes: all GPUs are taken to be next to one memory (lspci -vv and topo -m tell them)"
    )
    return HostTree(places, {}, (remark,) if len({p.root for p in places}) > 1 else (), {}, "nothing")


def _is_gpu(text: str) -> bool:
    return _GPU.search(text) is not None and _NOT_GPU.search(text) is None


def _name(text: str) -> str:
    """The GPU's name, in brackets or by its number where lspci has no name for it."""
    if (numbers := re.search(r"\bDevice ([0-9a-f]{4})\b|\[10de:([0-9a-f]{4})\]", text)) is not None:
        known = name_of("10de", numbers[1] or numbers[2])
        if known:
            return known
    inner = re.search(r"\[([^\[\]]*(?:[A-Z]+\d|RTX|Tesla|Quadro|Radeon|Instinct)[^\[\]]*)\]", text)
    return (inner[1] if inner else re.sub(r"^NVIDIA Corporation\s*", "", text)).strip()


def _drawn(lines: Sequence[Line]) -> Iterator[_Device]:
    """Every device with a description. A branch belongs to the bus that was open where it stands."""
    owner: dict[int, tuple[str, str, tuple[str, ...]]] = {}
    top = ("", "", ())
    for line in lines:
        text = re.sub(r"[├└]─?", lambda m: ("+" if m[0][0] == "├" else "\\") + "-" * (len(m[0]) - 1), line.text)
        text = text.replace("─", "-").replace("│", "|").replace("┬", "+")
        bus: tuple[str, str, tuple[str, ...]] | None = None
        device = ""
        place = 0
        while place < len(text):
            token = _TOKEN.match(text, place)
            if token is None:
                break
            if token["branch"] is not None:
                if bus is None:
                    bus = owner.get(place, top)
                else:
                    owner[place] = bus
                if text[place] == "\\":
                    owner.pop(place, None)
            elif token["bus"] is not None:
                number, _, _ = token["bus"][1:-1].partition("-")
                root, _, above = ("", "", ()) if bus is None else (bus[0], bus[1], bus[2])
                if not device:
                    bus = (number, number, ())
                else:
                    domain = root.partition(":")[0] + ":" if ":" in root else ""
                    bus = (root, number if ":" in number else domain + number, (*above, device))
                device = ""
            elif token["device"] is not None and bus is not None:
                device = f"{bus[1]}:{token['device']}"
                rest = text[token.end() :]
                if rest[:1] in ("", " "):
                    yield _Device(device, bus[0], bus[2], rest.strip())
                    break
            place = token.end()


def read_lspci_records(lines: Sequence[Line]) -> HostTree:
    """The tree that `lspci -vv` describes device by device: links, NUMA nodes, and bridges by their buses.

    Raises:
        LspciError: no GPU is among the devices.
    """
    records: list[tuple[str, str, list[str]]] = []
    for line in lines:
        head = _ADDRESS.match(line.text)
        if head is not None:
            address = head[1] if head[1].count(":") == 2 else f"0000:{head[1]}"
            records.append((address, head[2], []))
        elif records:
            records[-1][2].append(line.text)
    bridge_of: dict[str, str] = {}
    links: dict[str, PciLink] = {}
    numa: dict[str, int] = {}
    gpus: dict[str, str] = {}
    for address, title, body in records:
        text = "\n".join(body)
        if (buses := re.search(r"primary=[0-9a-f]+, secondary=([0-9a-f]+)", text)) is not None:
            bridge_of[f"{address.rpartition(':')[0].rpartition(':')[0]}:{buses[1]}"] = address
        if (link := _link(text, address)) is not None:
            links[address] = link
        if (node := re.search(r"NUMA node: (\d{1,4})\b", text)) is not None:
            numa[address] = int(node[1])
        kind = _CLASS.match(title)
        if kind is not None and _is_gpu(kind[2]):
            gpus[address] = kind[2]
    if not gpus:
        raise LspciError("has no GPU (3D or VGA controller of NVIDIA or AMD)")
    nodes = sorted({numa.get(address, 0) for address in gpus})
    places = []
    for address in sorted(gpus):
        above: list[str] = []
        at = address
        while (up := bridge_of.get(at.rpartition(":")[0])) is not None and up not in above:
            above.insert(0, up)
            at = up
        link = links.get(address)
        if link is not None and above and (port := links.get(above[-1])) is not None:
            link = min(link, port, key=lambda one: one.limit)
        name = re.sub(r"\s*\(rev \w+\).*", "", _name(gpus[address]))
        places.append(Place(name, nodes.index(numa.get(address, 0)), at.rpartition(":")[0], tuple(above), link))
    remarks = (
        [] if set(gpus) <= set(numa) else ["lspci names no NUMA nodes: all GPUs are taken to be next to one memory"]
    )
    if not any(place.link for place in places):
        remarks.append("lspci shows no links of GPUs: sudo lspci -vv does")
    if not bridge_of:
        remarks.append("lspci shows no bridges: each GPU is taken to have a root port of its own (lspci -vv tells)")
    uplinks = {address: link for address, link in links.items() if address not in gpus}
    return HostTree(tuple(places), {}, tuple(remarks), uplinks, "NUMA node")


def _link(text: str, address: str) -> PciLink | None:
    """A device's link: the speed that it can have, as idle links are slowed, and the width that it has."""
    can, has = (_LINK.search(m[0]) if (m := re.search(rf"{key}:.*", text)) else None for key in ("LnkCap", "LnkSta"))
    if can is None and has is None:
        return None
    speed, width = can or has, has if has is not None and int(has[2]) else can
    assert speed is not None
    generation = generation_of(float(speed[1]))
    lanes = int((width or speed)[2])
    if generation is None or lanes not in WIDTHS:
        return None
    return PciLink(generation, lanes, f"lspci, {address}")
