"""`lstopo` XML (hwloc 1 and 2): bridges above each GPU, the package that they hang on, and links."""

from __future__ import annotations

import re
from typing import Any

from sim.importers.host_tree import HostTree, Place
from sim.importers.pci_devices import GPU_CLASSES, GPU_VENDORS, name_of
from sim.importers.pci_links import PciLink, link_of_rate
from sim.importers.xml_files import parse_xml
from sim.inputs.config import InputError

_TYPE = re.compile(r"([0-9a-f]{4})\s*\[([0-9a-f]{4}):([0-9a-f]{4})\]", re.IGNORECASE)
"""Class, vendor and device, as `pci_type` begins."""


def read_lstopo(content: bytes, source: str) -> HostTree:
    """The tree of an XML file of hwloc.

    Raises:
        InputError: of `source`, for what is no XML of hwloc, and for one without GPUs.
    """
    root = parse_xml(content, source, "lstopo")
    if root.tag != "topology":
        raise InputError(source, "", f"is XML with <{root.tag[:40]}>, expected <topology> of `lstopo --of xml`")
    found: list[tuple[str, str, str, str, tuple[str, ...], PciLink | None]] = []
    uplinks: dict[str, PciLink] = {}
    waiting: list[tuple[Any, str, str, tuple[str, ...]]] = [(root, "", "", ())]
    while waiting:
        element, near, bridge, above = waiting.pop()
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
            waiting.append((child, *place))
    if not found:
        raise InputError(source, "", "has no GPU: lstopo must be allowed to see PCI devices (--whole-io in hwloc 1)")
    found.sort(key=lambda one: one[0])
    nodes = list(dict.fromkeys(near for _, _, near, _, _, _ in found))
    places = tuple(Place(name, nodes.index(near), bridge, above, link) for _, name, near, bridge, above, link in found)
    remarks = []
    if any(place.link is None for place in places):
        remarks.append("lstopo shows no link of some GPUs, or the slow one of an idle GPU")
    return HostTree(places, {}, tuple(remarks), uplinks, "packages")


def _is_gpu(device: Any) -> bool:
    about = _TYPE.match(device.get("pci_type", ""))
    return about is not None and about[1] in GPU_CLASSES and about[2].lower() in GPU_VENDORS


def _name(device: Any) -> str:
    infos = {info.get("name", ""): info.get("value", "") for info in device.iter("info")}
    said = infos.get("GPUModel") or infos.get("PCIDevice") or device.get("name", "")
    about = _TYPE.match(device.get("pci_type", ""))
    return re.sub(r".*\[(.*)\]", r"\1", str(said)) or (name_of(about[2], about[3]) if about is not None else "")


def _link(device: Any) -> PciLink | None:
    try:
        raw = float(device.get("pci_link_speed", "0")) * 1e9
    except ValueError:
        return None
    return link_of_rate(raw, "lstopo, pci_link_speed")
