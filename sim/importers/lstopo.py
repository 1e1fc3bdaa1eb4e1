"""`lstopo` XML (hwloc 1 and 2): bridges above each GPU, the package that they hang on, and links."""

from __future__ import annotations

import re
from typing import Any

from sim.importers.host_tree import HostTree, Place
from sim.importers.pci_links import PciLink, link_of_rate
from sim.inputs.config import InputError

_CLASSES = ("0300", "0302", "0380", "1200")
"""PCI classes of GPUs."""
_VENDORS = ("10de", "1002", "1d17")
_ONBOARD = ("1a03", "102b")
MAX_DEPTH = 100


def read_lstopo(content: bytes, source: str) -> HostTree:
    """The tree of an XML file of hwloc.

    Raises:
        InputError: of `source`, for what is no XML of hwloc, and for one without GPUs.
    """
    from xml.etree import ElementTree

    if b"<!ENTITY" in content:
        raise InputError(source, "", "defines entities, which no file of lstopo does")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        line = getattr(error, "position", (0, 0))[0]
        raise InputError(source, "", (f"line {line}: " if line else "") + f"is not XML: {error}") from None
    if root.tag != "topology":
        raise InputError(source, "", f"is XML with <{root.tag[:40]}>, expected <topology> of `lstopo --of xml`")
    found: list[tuple[str, str, str, str, tuple[str, ...], PciLink | None]] = []
    uplinks: dict[str, PciLink] = {}
    waiting: list[tuple[Any, str, str, tuple[str, ...], int]] = [(root, "", "", (), 0)]
    while waiting:
        element, near, bridge, above, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise InputError(source, "", "is nested too deeply")
        for child in element.findall("object"):
            kind, place = child.get("type", ""), (near, bridge, above)
            address = child.get("pci_busid", "")
            if kind in ("Package", "Socket", "Group", "NUMANode") and child.findall(".//object[@type='PCIDev']"):
                place = (f"{near} {kind} {child.get('os_index') or child.get('gp_index') or ''}", "", ())
            elif kind == "Bridge" and address:
                place = (near, bridge, (*above, address))
                if (link := _link(child)) is not None:
                    uplinks[address] = link
            elif kind == "Bridge":
                place = (near, child.get("bridge_pci", f"bridge {child.get('gp_index', '')}"), ())
            elif kind == "PCIDev" and _is_gpu(child):
                found.append((address, _name(child), *place, _link(child)))
            waiting.append((child, *place, depth + 1))
    if not found:
        raise InputError(source, "", "has no GPU: lstopo must be allowed to see PCI devices (--whole-io in hwloc 1)")
    found.sort()
    nodes = sorted({near for _, _, near, _, _, _ in found})
    places = tuple(Place(name, nodes.index(near), bridge, above, link) for _, name, near, bridge, above, link in found)
    remarks = []
    if any(place.link is None for place in places):
        remarks.append("lstopo shows no link of some GPUs, or the slow one of an idle GPU")
    return HostTree(places, {}, tuple(remarks), uplinks, "packages")


def _is_gpu(device: Any) -> bool:
    about = re.match(r"([0-9a-f]{4})\s*\[([0-9a-f]{4}):", device.get("pci_type", ""))
    if about is None or about[1] not in _CLASSES or about[2] in _ONBOARD:
        return False
    return about[2] in _VENDORS


def _name(device: Any) -> str:
    infos = {info.get("name", ""): info.get("value", "") for info in device.iter("info")}
    said = infos.get("GPUModel") or infos.get("PCIDevice") or device.get("name", "")
    return re.sub(r".*\[(.*)\]", r"\1", str(said))


def _link(device: Any) -> PciLink | None:
    try:
        raw = float(device.get("pci_link_speed", "0")) * 1e9
    except ValueError:
        return None
    return link_of_rate(raw, "lstopo, pci_link_speed")
