"""The topology of a host's tree as a profile has it: memories, sockets, switches, PCIe links and NVLinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from sim.hardware import Profile
from sim.importers.cards import Card
from sim.importers.host_tree import HostTree
from sim.importers.pci_links import PciLink, parse_link

Plain = dict[str, Any]

_SOCKET_LINK = {
    True: (62e9, "assumed: between sockets, 3 links of 16 GT/s, 24 GB/s each, at 86 %"),
    False: (40e9, "assumed: between sockets, 2 links of 11.2 GT/s, 22 GB/s each, at 90 %"),
}
"""By whether the GPUs' links are Gen5 or newer, as hosts of that time have it."""


def quantity(rate: float) -> str:
    """B/s as a profile holds them."""
    return f"{rate / 1e9:.4g} GB/s"


def number(value: Any, source: str) -> Plain:
    """A number of a profile with its source."""
    return {"value": value, "source": source}


class Fabric(NamedTuple):
    """NVLinks: which pairs they join, and B/s each way of a GPU (switched) or of a pair (mesh)."""

    direct: frozenset[tuple[int, int]]
    switched: bool
    each_way: float
    rate: float
    generation: str

    @classmethod
    def of(cls, tree: HostTree, card: Card | None) -> Fabric:
        """Those of a host. A switch where all pairs have as many, and a GPU has not enough for links to all others."""
        count = len(tree.places)
        widest = max(tree.nvlinks.values(), default=0)
        rate = card.nvlink if card is not None and card.nvlinks else 25e9
        own = (
            card.nvlinks
            if card is not None and card.nvlinks
            else 18
            if widest > 12
            else 12
            if widest > 4
            else widest * 3
        )
        complete = len(tree.nvlinks) == count * (count - 1) // 2
        switched = complete and count > 2 and min(tree.nvlinks.values()) * (count - 1) > own
        name = "xGMI" if card is not None and card.name.startswith("AMD") else "NVLink"
        said = f"{name}, {rate / 1e9:.4g} GB/s a link each way"
        each_way = rate * (widest if switched or count == 2 else sum(tree.nvlinks.values()) * 2 / max(count, 1))
        return cls(frozenset(tree.nvlinks), switched, each_way, rate, said)


class TreeTopology:
    """Nodes and links of a tree, switches that hold one GPU left out."""

    def __init__(
        self, tree: HostTree, links: Sequence[PciLink], card: Card | None, base: Profile, fabric: Fabric
    ) -> None:
        self.tree, self.links, self.card, self.base, self.fabric = tree, links, card, base, fabric
        self.nodes: Plain = {}
        self.edges: list[Plain] = []

    def plain(self) -> Plain:
        """Nodes and links of a profile's `topology`."""
        domains = sorted({place.domain for place in self.tree.places})
        socket = {d: "cpu" if len(domains) == 1 else f"socket{d}" for d in domains}
        for d in domains:
            memory = "memory" if len(domains) == 1 else f"memory{d}"
            self.nodes[memory] = {"kind": "memory"}
            self.nodes[socket[d]] = {"kind": "root_complex" if len(domains) == 1 else "socket"}
            self.edges.append({"ends": [memory, socket[d]]})
        wide, source = _SOCKET_LINK[max(link.rate for link in self.links) > 30e9]
        for a, b in combinations(domains, 2):
            self.edges.append({"ends": [socket[a], socket[b]], "each_way": number(quantity(wide), source)})
        leaves: dict[tuple[str, PciLink], list[int]] = {}
        for gpu, parent in enumerate(self._parents(socket)):
            leaves.setdefault((parent, self.links[gpu]), []).append(gpu)
        for (parent, link), gpus in leaves.items():
            edge = {"ends": [parent, "gpu{gpu}"], "gpus": gpus, **self._capacity(link)}
            self.edges.append(edge)
        self._add_nvlink()
        return {"nodes": self.nodes, "links": self.edges}

    def _parents(self, socket: Mapping[int, str]) -> list[str]:
        """The node above each GPU; adds the switches that several GPUs share, and host bridges."""
        places = self.tree.places
        below: dict[tuple[int, ...], str] = {}
        behind = {self._sharing(bridge) for place in places for bridge in place.bridges}
        parents = []
        roots: dict[int, set[str]] = {}
        for place in places:
            roots.setdefault(place.domain, set()).add(place.root)
        for gpu, place in enumerate(places):
            parent = socket[place.domain]
            chain = [(place.root, "root_complex")] if len(roots[place.domain]) > 1 else []
            for bridge, kind in (*chain, *((b, "switch") for b in place.bridges)):
                sharing = self._sharing(bridge)
                if len(sharing) < 2 or (kind == "root_complex" and sharing in behind):
                    continue
                if sharing not in below:
                    label = "bridge" if kind == "root_complex" else "switch"
                    below[sharing] = node = f"{label}{sum(n.startswith(label) for n in self.nodes)}"
                    self.nodes[node] = {"kind": kind}
                    edge: Plain = {"ends": [parent, node]}
                    if kind == "switch":
                        up = self.tree.uplinks.get(bridge)
                        edge |= self._capacity(
                            up or self.links[gpu], "its uplink, taken as a GPU's link; " if up is None else ""
                        )
                    self.edges.append(edge)
                parent = below[sharing]
            parents.append(parent)
        return parents

    def _sharing(self, bridge: str) -> tuple[int, ...]:
        """GPUs below a bridge."""
        return tuple(g for g, place in enumerate(self.tree.places) if bridge in (place.root, *place.bridges))

    def _capacity(self, link: PciLink, note: str = "") -> Plain:
        """What a link moves each way, and in both at once."""
        plain: Plain = {
            "kind": link.kind,
            "each_way": number(quantity(link.rate), link.said.replace("assumed: ", f"assumed: {note}")),
        }
        if self.card is not None and self.card.duplex is not None:
            down, up, report = self.card.duplex
            share = min((down + up) / parse_link(self.card.pcie, "").rate, 2.0)
            plain["both_ways"] = number(quantity(link.rate * share), f"assumed: {report}")
            return plain
        both = next((edge.both_ways for edge in self.base.topology.links if edge.both_ways is not None), None)
        if both is not None:
            share = both.value / self.base.h2d.cap.value
            plain["both_ways"] = number(
                quantity(link.rate * share), f"assumed: as {self.base.name}, scaled with the link"
            )
        return plain

    def _add_nvlink(self) -> None:
        fabric, count = self.fabric, len(self.tree.places)
        if not fabric.direct:
            return
        if fabric.switched:
            self.nodes["nvswitch"] = {"kind": "nvswitch"}
            by_links: dict[int, list[int]] = {}
            for gpu in range(count):  # one whose links are partly down has fewer to all others
                own = max(links for pair, links in self.tree.nvlinks.items() if gpu in pair)
                by_links.setdefault(own, []).append(gpu)
            for links, gpus in by_links.items():
                edge: Plain = {"ends": ["gpu{gpu}", "nvswitch"], "kind": "NVLink", "each_way": self._nvlinks(links)}
                self.edges.append(edge | ({"gpus": gpus} if len(by_links) > 1 else {}))
            return
        for (a, b), links in self.tree.nvlinks.items():
            self.edges.append({"ends": [f"gpu{a}", f"gpu{b}"], "kind": "NVLink", "each_way": self._nvlinks(links)})

    def _nvlinks(self, links: int) -> Plain:
        """What so many NVLinks move each way."""
        source = f"assumed: {self.fabric.generation}, {links} of them, vendor datasheet"
        return number(quantity(links * self.fabric.rate), source)
