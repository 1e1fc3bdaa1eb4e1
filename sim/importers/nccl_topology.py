"""NCCL's topology (XML of NCCL_TOPO_DUMP_FILE, and RCCL's): PCI switches, links, NUMA nodes and NVLinks of each GPU.

NCCL leaves out root ports and a switch's lower ports: a bridge is the upper port of a switch, its link the uplink.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

from sim.importers.host_tree import HostTree, Place
from sim.importers.pci_devices import GPU_CLASSES, GPU_VENDORS, name_of
from sim.importers.pci_links import WIDTHS, PciLink, generation_of
from sim.importers.xml_files import parse_xml
from sim.inputs.config import InputError

_BRIDGE = "0604"
_SWITCH = "0680"
"""PCI class of NVSwitches, the target of links that no GPU's bus names."""
_VIRTUAL = 4e9
"""B/s: a bridge with less than this above a faster GPU is a virtual one, which has no link."""


class _Gpu(NamedTuple):
    """A GPU of the file; `dev` is -1 where none is given."""

    dev: int
    bus: str
    place: Place
    element: Any


def read_nccl_topology(content: bytes, source: str) -> HostTree:
    """The tree of a topology of NCCL.

    Raises:
        InputError: of `source`: it is not XML of NCCL, tells of several hosts, or has no GPU.
    """
    root = parse_xml(content, source, "NCCL")
    if root.tag != "system":
        raise InputError(source, "", f"is XML with <{root.tag[:40]}>, expected <system> of NCCL_TOPO_DUMP_FILE")
    hosts = list(dict.fromkeys(hash_ for cpu in root.iter("cpu") if (hash_ := cpu.get("host_hash"))))
    if len(hosts) > 1:
        raise InputError(
            source, "", f"tells of {len(hosts)} hosts, expected one: set NCCL_MNNVL_ENABLE=0 and dump again"
        )
    uplinks: dict[str, PciLink] = {}
    found = _gpus(root, uplinks)
    named = [gpu for gpu in found if gpu.element is not None]
    gpus = named or found  # files for NCCL_TOPO_FILE, as clouds ship them, give PCI devices alone
    if not gpus:
        raise InputError(source, "", "has no GPU: dump it with NCCL_TOPO_DUMP_FILE in a run that uses them")
    gpus.sort(key=lambda gpu: (gpu.dev, gpu.bus))
    if (twice := next((a.dev for a, b in pairwise(gpus) if a.dev == b.dev >= 0), None)) is not None:
        raise InputError(source, "", f"has several GPUs of dev {twice}: expected one host")
    remarks = []
    nodes = list(dict.fromkeys(gpu.place.root for gpu in gpus))
    slow = {bus for gpu in gpus for bus in gpu.place.bridges if _is_virtual(uplinks.get(bus), gpu.place.link)}
    if slow:
        remarks.append(f"bridge {min(slow)} gives a link that no switch has: a virtual one, its link is left out")
    nvlinks = _nvlinks(gpus, remarks)
    if any(gpu.element is not None and gpu.element.find("c2c") is not None for gpu in gpus):
        remarks.append("links of GPUs to their processor (NVLink-C2C) are no PCIe: give their rates with nvbandwidth")
    if any(gpu.place.link is None for gpu in gpus):
        remarks.append("NCCL gives no link of some GPUs, as on virtual machines")
    places = tuple(gpu.place._replace(domain=nodes.index(gpu.place.root)) for gpu in gpus)
    kept = {bus: link for bus, link in uplinks.items() if bus not in slow}
    return HostTree(places, nvlinks, tuple(remarks), kept, "numaid")


def _gpus(root: Any, uplinks: dict[str, PciLink]) -> list[_Gpu]:
    """GPUs with what is above them; adds the links of bridges to `uplinks`."""
    found: list[_Gpu] = []
    waiting: list[tuple[Any, str, tuple[str, ...], Any]] = [(root, "", (), None)]
    while waiting:
        element, node, above, device = waiting.pop()
        for child in element:
            if child.tag == "cpu":
                waiting.append((child, f"numaid {child.get('numaid', '')}", (), None))
            elif child.tag == "pci":
                bus = _bus(child.get("busid", ""))
                if _class(child) == _BRIDGE:
                    if (link := _link(child)) is not None:
                        uplinks[bus] = link
                    waiting.append((child, node, (*above, bus), None))
                    continue
                if child.find("gpu") is None and _is_gpu(child):
                    found.append(_Gpu(-1, bus, _place(child, node, above), None))
                waiting.append((child, node, above, child))
            elif child.tag == "gpu":
                bus = _bus(device.get("busid", "") if device is not None else "")
                found.append(_Gpu(_number(child.get("dev", "")), bus, _place(device, node, above), child))
    return found


def _place(device: Any, node: str, above: tuple[str, ...]) -> Place:
    if device is None:
        return Place("", 0, node, above)
    return Place(name_of(device.get("vendor", ""), device.get("device", "")), 0, node, above, _link(device))


def _class(device: Any) -> str:
    return str(device.get("class", "")).lower().removeprefix("0x")[:4]


def _is_gpu(device: Any) -> bool:
    vendor = str(device.get("vendor", "")).lower().removeprefix("0x")
    return _class(device) in GPU_CLASSES and (not vendor or vendor in GPU_VENDORS)


def _bus(text: str) -> str:
    """A bus address as all of a file's are compared: files write `0000:1b:00.0`, `0:1b:0.0` or `00000000:1B:00.0`."""
    match = re.fullmatch(r"([0-9a-f]+):([0-9a-f]+):([0-9a-f]+)\.([0-9a-f])", text.strip().lower())
    if match is None:
        return text.strip()[:40]
    domain, bus, device, function = (int(part, 16) for part in match.groups())
    return f"{domain:04x}:{bus:02x}:{device:02x}.{function:x}"


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 6 else -1


def _link(device: Any) -> PciLink | None:
    """A link as `link_speed="16.0 GT/s PCIe" link_width="16"`; None where they are empty, or say nothing."""
    speed = re.match(r"\s*(\d+(?:\.\d+)?)\s*GT/s", device.get("link_speed", ""))
    generation = generation_of(float(speed[1])) if speed is not None else None
    width = _number(device.get("link_width", ""))
    if generation is None or width not in WIDTHS:
        return None
    return PciLink(generation, width, f"NCCL, {_bus(device.get('busid', ''))}")


def _is_virtual(up: PciLink | None, gpu: PciLink | None) -> bool:
    return up is not None and up.limit < _VIRTUAL and (gpu is None or gpu.limit > 2 * up.limit)


def _nvlinks(gpus: Sequence[_Gpu], remarks: list[str]) -> dict[tuple[int, int], int]:
    """Pairs of GPUs and the links that join them: their own, or those of each to NVSwitches."""
    by_bus = {gpu.bus: i for i, gpu in enumerate(gpus)}
    by_dev = {str(gpu.dev): i for i, gpu in enumerate(gpus) if gpu.dev >= 0}
    pairs: dict[tuple[int, int], int] = {}
    switched: dict[int, int] = {}
    for i, gpu in enumerate(gpus):
        for link in () if gpu.element is None else (*gpu.element.iter("nvlink"), *gpu.element.iter("xgmi")):
            target = link.get("target", "")
            count = _number(link.get("count", ""))
            if not 0 < count < 64:
                continue
            peer = by_bus.get(_bus(target), by_dev.get(target))
            if peer is not None and peer != i:
                pair = min(i, peer), max(i, peer)
                pairs[pair] = max(pairs.get(pair, 0), count)
            elif peer is None and _is_switch(link):
                switched[i] = switched.get(i, 0) + count
    if switched:
        without = [i for i in range(len(gpus)) if i not in switched]
        if without:
            remarks.append(f"GPU {without[0]} has no link to the NVSwitches of the others: it is joined by PCIe")
        joined: Mapping[tuple[int, int], int] = {
            (a, b): min(switched[a], switched[b]) for a, b in combinations(sorted(switched), 2)
        }
        pairs = {**pairs, **joined}
    return pairs


def _is_switch(link: Any) -> bool:
    return str(link.get("tclass", "")).lower().removeprefix("0x")[:4] == _SWITCH
