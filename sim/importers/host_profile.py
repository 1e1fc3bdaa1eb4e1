"""A hardware profile of what a dump tells of a host: links, switches, memories, and rates until they are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

from sim.hardware import MAX_GPUS, Profile
from sim.hardware.collectives import isolated_time
from sim.hardware.inheritance import merged
from sim.hardware.profile_check import TOLERANCE, check_profile
from sim.hardware.profile_files import profile_file, read_profile
from sim.importers.cards import Card, card_of
from sim.importers.host_tree import HostTree, groups_of
from sim.importers.pci_links import PciLink, parse_link
from sim.inputs.config import InputError, convert
from sim.program import CollectiveKind

Plain = dict[str, Any]

HOSTPATH, NVLINK = "h200x2-hostpath", "h200x2-nvlink-20261121c"
"""Profiles that imported ones are like: collectives through host memory, and over NVLink."""

_SOCKET_LINK = {
    True: (62e9, "assumed: between sockets, 3 links of 16 GT/s, 24 GB/s each, at 86 %"),
    False: (40e9, "assumed: between sockets, 2 links of 11.2 GT/s, 22 GB/s each, at 90 %"),
}
"""By whether the GPUs' links are Gen5 or newer, as hosts of that time have it."""

_TABLE = (1_000_000, 1_000_000_000)
"""Bytes of scaled tables of isolated times: two rows, as a line is all that scaling knows."""


class Wanted(NamedTuple):
    """What a user says of a host: the GPU, its link, how GPUs reach each other, the profile that the rest is like."""

    card: Card | None = None
    gpu: str = ""
    link: PciLink | None = None
    peers: Literal["direct", "host"] | None = None
    like: str | None = None


class Imported(NamedTuple):
    """Plain data of a profile, and what was assumed, in sentences."""

    plain: Plain
    remarks: tuple[str, ...]


def quantity(rate: float) -> str:
    """B/s as a profile holds them."""
    return f"{rate / 1e9:.4g} GB/s"


def number(value: Any, source: str) -> Plain:
    """A number of a profile with its source."""
    return {"value": value, "source": source}


def profile_of(plain: Mapping[str, Any], source: str) -> Profile:
    """The profile that plain data, perhaps `like` another one, stand for. Raises InputError of `source`."""
    data = dict(plain)
    if "like" in data:
        base = profile_file(data["like"])
        data = merged(read_profile(base), base.stem, {k: v for k, v in data.items() if k != "like"})
    return convert(data, Profile, source)


def host_profile(tree: HostTree, wanted: Wanted, name: str, evidence: str) -> Imported:
    """The profile `name` of a host. `evidence` says what told of it. Raises InputError, of `evidence`."""
    count = len(tree.places)
    if count > MAX_GPUS:
        raise InputError(evidence, "", f"has {count} GPUs, at most {MAX_GPUS} are simulated")
    remarks = list(tree.remarks)
    names = [place.name for place in tree.places if place.name]
    card = wanted.card or next((found for text in names if (found := card_of(text)) is not None), None)
    default = _default_link(tree, wanted, card, remarks)
    links = [_link_of(place.link, wanted.link, default) for place in tree.places]
    fabric = _Fabric.of(tree, card)
    all_nvlink = count > 1 and len(fabric.direct) == count * (count - 1) // 2 and wanted.peers != "host"
    like = wanted.like or (NVLINK if all_nvlink else HOSTPATH)
    base = profile_of({"like": like}, like)
    if card is None:
        said = f"{names[0]!r} is not known" if names else "the GPU is not named"
        remarks.append(f"{said}: the device is that of {like}; give --gpu")
    topology = _Topology(tree, links, card, base, fabric).plain()
    topology["peers"] = _peers(tree, wanted, card, fabric, remarks)
    top = max(links, key=lambda link: link.rate)
    cap = {"cap": number(quantity(top.rate), top.said)}
    d2h: Plain = dict(cap)
    if card is not None and card.duplex is not None:
        down, up, report = card.duplex
        d2h["weight"] = number(float(f"{up / down:.3g}"), f"assumed: {report}")
    ratio = fabric.each_way / 450e9 if all_nvlink else top.rate / base.h2d.cap.value
    plain: Plain = {
        "name": name,
        "description": _describe(count, card, base, links, tree) + "; not measured",
        "like": like,
        "fingerprint": {
            "gpu": f"{count} x {card.name if card else names[0] if names else 'unknown'}",
            "link": " / ".join(dict.fromkeys(link.kind for link in links)),
            "evidence": f"{evidence}; rates assumed until measured",
        },
        "gpus": count,
    }
    if card is not None:
        plain["device"] = card.device()
    plain |= {"topology": topology, "h2d": cap, "d2h": d2h}
    plain["collectives"] = _scaled(base, ratio, like)
    _fit_tables(plain, evidence)
    return Imported(plain, tuple(dict.fromkeys(remarks)))


def _describe(count: int, card: Card | None, base: Profile, links: Sequence[PciLink], tree: HostTree) -> str:
    what = card.name.removeprefix("NVIDIA ") if card else base.device.name.removeprefix("NVIDIA ") + "?"
    memories = len({place.domain for place in tree.places})
    return f"{count} {what}, {links[0].kind}, {memories} NUMA node{'s' if memories > 1 else ''}"


def _default_link(tree: HostTree, wanted: Wanted, card: Card | None, remarks: list[str]) -> PciLink:
    if wanted.link is not None:
        return wanted.link
    if all(place.link is not None and place.link.limit for place in tree.places):
        assert tree.places[0].link is not None
        return tree.places[0].link
    if card is not None:
        return card.link
    widest = max(tree.nvlinks.values(), default=0)
    link = parse_link("gen5x16" if widest > 12 else "gen4x16", "taken, as nothing says it")
    remarks.append(f"no file says what the GPUs' links are: taken as {link.kind}; give --link")
    return link


def _link_of(told: PciLink | None, wanted: PciLink | None, default: PciLink) -> PciLink:
    return wanted or told or default


class _Fabric(NamedTuple):
    """NVLinks: which pairs they join, and B/s each way of a GPU (switched) or of a pair (mesh)."""

    direct: frozenset[tuple[int, int]]
    switched: bool
    each_way: float
    rate: float
    generation: str

    @classmethod
    def of(cls, tree: HostTree, card: Card | None) -> _Fabric:
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
        switched = complete and count > 2 and widest * (count - 1) > own and len(set(tree.nvlinks.values())) == 1
        said = f"NVLink, {rate / 1e9:.4g} GB/s a link each way"
        each_way = rate * (widest if switched or count == 2 else sum(tree.nvlinks.values()) * 2 / max(count, 1))
        return cls(frozenset(tree.nvlinks), switched, each_way, rate, said)


class _Topology:
    """Nodes and links of a tree, switches that hold one GPU left out."""

    def __init__(
        self, tree: HostTree, links: Sequence[PciLink], card: Card | None, base: Profile, fabric: _Fabric
    ) -> None:
        self.tree, self.links, self.card, self.base, self.fabric = tree, links, card, base, fabric
        self.nodes: Plain = {}
        self.edges: list[Plain] = []

    def plain(self) -> Plain:
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
        if fabric.switched or (count == 2 and fabric.direct):
            links = max(self.tree.nvlinks.values())
            source = f"assumed: {fabric.generation}, NV{links}, vendor datasheet"
            if fabric.switched:
                self.nodes["nvswitch"] = {"kind": "nvswitch"}
            ends = ["gpu{gpu}", "nvswitch"] if fabric.switched else ["gpu0", "gpu1"]
            self.edges.append(
                {"ends": ends, "kind": "NVLink", "each_way": number(quantity(links * fabric.rate), source)}
            )
            return
        for (a, b), links in self.tree.nvlinks.items():
            source = f"assumed: {fabric.generation}, NV{links}, vendor datasheet"
            each = number(quantity(links * fabric.rate), source)
            self.edges.append({"ends": [f"gpu{a}", f"gpu{b}"], "kind": "NVLink", "each_way": each})


def _peers(tree: HostTree, wanted: Wanted, card: Card | None, fabric: _Fabric, remarks: list[str]) -> Any:
    """How GPUs reach each other: by NVLink; behind one switch where the card allows it; else through host memory."""
    count = len(tree.places)
    if count < 2:
        return "host"
    if wanted.peers is not None:
        return wanted.peers
    pairs = {(a, b) for a, b in combinations(range(count), 2) if (a, b) in fabric.direct}
    if len(pairs) == count * (count - 1) // 2:
        return "direct"
    if wanted.peers is None and card is not None and card.p2p:
        shared = {
            (a, b)
            for a, b in combinations(range(count), 2)
            if set(tree.places[a].bridges) & set(tree.places[b].bridges)
        }
        pairs |= shared
        remarks.append(
            f"GPUs {'behind one PCIe switch' if shared else 'without NVLink'} are taken to "
            f"{'reach each other through it' if shared else 'go through host memory'}, as NCCL does; "
            "import p2p tells, or --peers"
        )
    elif wanted.peers is None:
        remarks.append(
            "GPUs without NVLink are taken to reach each other through host memory; import p2p tells, or --peers"
        )
    return peer_groups(count, pairs)


def peer_groups(count: int, pairs: set[tuple[int, int]]) -> Any:
    """The `peers` of a topology where `pairs` (smaller number first) reach each other directly."""
    if len(pairs) == count * (count - 1) // 2:
        return "direct"
    names = [str(g) for g in range(count)]
    groups = groups_of(names, lambda a, b: (min(int(a), int(b)), max(int(a), int(b))) in pairs)
    found: list[list[int]] = []
    for group in groups:
        inside = [int(g) for g in group]
        wanted = list(combinations(inside, 2))
        if len(inside) > 1 and all(pair in pairs for pair in wanted):
            found.append(inside)
        else:
            found += [list(pair) for pair in wanted if pair in pairs]
    return found or "host"


def _scaled(base: Profile, ratio: float, like: str) -> Plain:
    """Tables of isolated times of the base, their rates scaled with the link."""
    scaled: Plain = {}
    for kind in ("all_to_all", "all_reduce", "all_gather", "reduce_scatter", "send_recv"):
        cls = getattr(base.collectives, kind)
        if cls is None:
            continue
        seconds = [float(f"{cls.latency.value + size / (cls.demand_cap(2, size) * ratio):.6g}") for size in _TABLE]
        scaled[kind] = {
            "alone": {"bytes": list(_TABLE), "seconds": seconds, "source": f"{like}, rates scaled with the link"},
            **({"alone_by_ranks": {}} if cls.alone_by_ranks else {}),
        }
    return scaled


def _fit_tables(plain: Plain, evidence: str) -> None:
    """Slow assumed tables down to what the resources move: a switch's uplink may be what limits two GPUs."""
    profile = profile_of(plain, evidence)
    for check in check_profile(profile):
        _, kind, *rest = check.table.split(".")
        if not check.contradicts or rest != ["alone"]:
            continue
        table = plain["collectives"][kind]["alone"]
        sizes = table["bytes"]
        times = [_isolated(profile, check.kind, size) for size in sizes]
        table["seconds"] = [float(f"{t * (1 + TOLERANCE / 4):.6g}") for t in times]
        if "as the resources" not in table["source"]:
            table["source"] += ", and no faster than as the resources between GPU 0 and 1 move"


def _isolated(profile: Profile, kind: CollectiveKind, sent: int) -> float:
    """Seconds of a collective of 2 ranks in which each sends `sent` B."""
    return isolated_time(profile, kind, sent if kind in ("send_recv", "all_reduce") else 2 * sent, range(2))
