"""A hardware profile of what a dump tells of a host: links, switches, memories, and rates until they are measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

from sim.hardware import MAX_GPUS, Profile
from sim.hardware.inheritance import merged
from sim.hardware.profile_check import check_profile, summaries
from sim.hardware.profile_files import profile_file, read_profile, whole_devices
from sim.importers.cards import Card, card_of
from sim.importers.host_topology import Fabric, TreeTopology, number, quantity
from sim.importers.host_tree import HostTree, groups_of
from sim.importers.pci_links import PciLink, parse_link
from sim.importers.scaled_tables import fit_tables, scaled_tables
from sim.inputs.config import InputError, convert

Plain = dict[str, Any]

HOSTPATH, HOSTPATH_OF_MANY, NVLINK = "h200x2-hostpath", "h200x4-hostpath-20261121d", "h200x2-nvlink-20261121c"
"""Profiles that imported ones are like: collectives through host memory of two GPUs, of more, and over NVLink."""


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


def profile_of(plain: Mapping[str, Any], source: str) -> Profile:
    """The profile that plain data, perhaps `like` another one, stand for. Raises InputError of `source`."""
    data = dict(plain)
    if "like" in data:
        base = profile_file(data["like"])
        data = merged(read_profile(base), base.stem, {k: v for k, v in data.items() if k != "like"})
    return convert(whole_devices(data), Profile, source)


def contradictions_of(plain: Mapping[str, Any], source: str) -> list[str]:
    """In which tables of collectives, as in those of a base, what was measured of links contradicts, in sentences."""
    return [f"contradiction: {said}" for said in summaries(check_profile(profile_of(plain, source)))]


def host_profile(tree: HostTree, wanted: Wanted, name: str, evidence: str) -> Imported:
    """The profile `name` of a host. `evidence` says what told of it. Raises InputError, of `evidence`."""
    count = len(tree.places)
    if count > MAX_GPUS:
        raise InputError(evidence, "", f"has {count} GPUs, at most {MAX_GPUS} are simulated")
    remarks = list(tree.remarks)
    names = [place.name for place in tree.places if place.name]
    cards = [wanted.card or card_of(place.name or (names[0] if names else "")) for place in tree.places]
    card = next((one for one in cards if one is not None), None)
    default = _default_link(tree, wanted, card, remarks)
    links = [wanted.link or p.link or (own.link if own else default) for p, own in zip(tree.places, cards, strict=True)]
    fabric = Fabric.of(tree, card)
    all_nvlink = count > 1 and len(fabric.direct) == count * (count - 1) // 2 and wanted.peers != "host"
    like = wanted.like or (NVLINK if all_nvlink else HOSTPATH if count < 3 else HOSTPATH_OF_MANY)
    base = profile_of({"like": like}, like)
    if any("MIG " in name for name in names):
        remarks.append("a GPU is split (MIG): memory and compute are those of the whole card, give them in the profile")
    if card is None:
        said = f"{names[0]!r} is not known" if names else "the GPU is not named"
        remarks.append(f"{said}: the device is that of {like}; give --gpu, or write its `device`")
    topology = TreeTopology(tree, links, card, base, fabric).plain()
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
            "gpu": _named(cards, names[0] if names else "unknown"),
            "link": " / ".join(dict.fromkeys(link.kind for link in links)),
            "evidence": f"{evidence}; rates assumed until measured",
        },
        "gpus": count,
    }
    if card is not None:
        plain["device"] = card.device()
        if groups := _other_devices(cards, card):
            plain["devices"] = groups
    plain |= {"topology": topology, "h2d": cap, "d2h": d2h}
    plain["collectives"] = scaled_tables(base, ratio, count)
    fit_tables(plain, profile_of, evidence)
    return Imported(plain, tuple(dict.fromkeys(remarks)))


def _named(cards: Sequence[Card | None], unknown: str) -> str:
    """GPUs by kind, as a fingerprint has them."""
    kinds = Counter(card.name if card is not None else unknown for card in cards)
    return " + ".join(f"{count} x {name}" for name, count in kinds.items())


def _other_devices(cards: Sequence[Card | None], first: Card) -> list[Plain]:
    """`devices` of a profile: GPUs of other kinds than the first, a group a kind."""
    others = dict.fromkeys(card for card in cards if card is not None and card is not first)
    return [{"gpus": [g for g, one in enumerate(cards) if one is card], **card.device()} for card in others]


def _describe(count: int, card: Card | None, base: Profile, links: Sequence[PciLink], tree: HostTree) -> str:
    what = card.name.removeprefix("NVIDIA ") if card else f"GPUs, taken as {base.device.name.removeprefix('NVIDIA ')}"
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


def _peers(tree: HostTree, wanted: Wanted, card: Card | None, fabric: Fabric, remarks: list[str]) -> Any:
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
