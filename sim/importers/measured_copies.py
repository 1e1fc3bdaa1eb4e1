"""Rates of nvbandwidth and p2pBandwidthLatencyTest in a profile: links, uplinks, memories, copies between GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Any

from sim.importers.host_profile import peer_groups, profile_of
from sim.importers.host_topology import number, quantity
from sim.importers.measured_collectives import reconcile
from sim.importers.nvbandwidth import Bandwidths
from sim.importers.p2p import PeerRates
from sim.importers.pci_links import parse_link
from sim.importers.profile_links import Links, Plain, direction, is_assumed, rate_of, set_direction
from sim.importers.scaled_tables import fit_tables, rescale
from sim.inputs.config import InputError

ALIKE = 0.03
"""Rates of GPUs that differ by less are those of equal links: their median is taken for all."""
SHARED = 0.95
"""All GPUs at once move less than this share of what each moves by itself where they share something."""
ABOVE = 1.02
"""A rate is above its link if it is more than this times its limit."""

_ALONE = {"host_to_device_memcpy_ce": "h2d", "device_to_host_memcpy_ce": "d2h"}
_BOTH = {"host_to_device_bidirectional_memcpy_ce": "h2d", "device_to_host_bidirectional_memcpy_ce": "d2h"}
_ALL = {"host_to_all_memcpy_ce": "h2d", "all_to_host_memcpy_ce": "d2h"}
_PEERS = ("device_to_device_memcpy_read_ce", "device_to_device_memcpy_write_ce")
_USED = {*_ALONE, *_BOTH, *_ALL, *_PEERS, "device_local_copy"}


def fill_nvbandwidth(plain: Plain, found: Bandwidths, source: str) -> list[str]:
    """Put rates into `plain`. Returns what contradicts, was left out or assumed, in sentences.

    Raises:
        InputError: of `source`: no rate that a profile holds, or more GPUs than the profile has.
    """
    profile = profile_of(plain, source)
    rows = {name: found.row(name) for name in (*_ALONE, *_BOTH, *_ALL)}
    if not any(rows.values()) and not any(found.tests.get(name) for name in (*_PEERS, "device_local_copy")):
        seen = ", ".join(found.tests) or "; ".join(found.left_out) or "none"
        raise InputError(
            source, "", f"has no test that a profile holds (host_to_device_memcpy_ce, ...), but {seen[:300]}"
        )
    remarks: list[str] = []
    if found.width > profile.gpus:
        problem = f"has rates of {found.width} GPUs, but {profile.name} has {profile.gpus}: is it of another host?"
        raise InputError(source, "", problem)
    if found.width < profile.gpus and any(rows.values()):
        remarks.append(f"{source} has {found.width} of {profile.gpus} GPUs: the others are taken to be like them")
    links = Links(plain, profile)
    alone = {_ALONE[name]: [r * 1e9 for r in row] for name in _ALONE if (row := rows[name])}
    both = {_BOTH[name]: [r * 1e9 for r in row] for name in _BOTH if (row := rows[name])}
    for way, rates in alone.items():
        remarks += _fill_alone(plain, links, way, rates, source)
    if both:
        remarks += _fill_both(plain, links, both, alone, source)
    for name, way in _ALL.items():
        if (row := rows[name]) is not None and way in alone and len(row) > 1 and len(row) == len(alone[way]):
            _fill_shared(links, way, [r * 1e9 for r in row], alone[way], f"{source}, {name}")
    links.store()
    for name in _PEERS:
        if (matrix := found.tests.get(name)) and len(matrix) > 1:
            pairs = {(i, j): r * 1e9 for i, row in enumerate(matrix) for j, r in enumerate(row) if r and i != j}
            if pairs:
                remarks += _fill_peers(plain, pairs, f"{source}, {name}", None)
                break
    if (local := found.tests.get("device_local_copy")) and (cells := [r for row in local for r in row if r]):
        _set_class(plain, "d2d", median(cells) * 1e9, f"{source}, device_local_copy")
    after = profile_of(plain, source)
    if after.topology.peers != "direct":  # through host memory, by the links of copies
        rescale(plain, profile, float(after.h2d.cap.value) / float(profile.h2d.cap.value))
    fit_tables(plain, profile_of, source)
    remarks += reconcile(plain, source)
    unused = sorted(set(found.tests) - _USED)
    if unused:
        remarks.append(f"{source}: not used: {', '.join(unused[:12])}{', ...' if len(unused) > 12 else ''}")
    return remarks


def _test_of(way: str, tests: dict[str, str]) -> str:
    return next(name for name, other in tests.items() if other == way)


def _fill_alone(plain: Plain, links: Links, way: str, rates: Sequence[float], source: str) -> list[str]:
    """A copy by itself fills its GPU's link; the fastest is the cap of a copy engine."""
    said = f"{source}, {_test_of(way, _ALONE)}"
    remarks = []
    usual = median(rates)
    equal = all(abs(rate / usual - 1) <= ALIKE for rate in rates)
    for gpu in range(links.profile.gpus):
        rate = usual if equal or gpu >= len(rates) else rates[gpu]
        link, from_gpu = links.of_gpu(gpu, source)
        limit = _limit(link)
        if limit and rate > ABOVE * limit:
            remarks.append(
                f"contradiction: {said}: {quantity(rate)} on gpu{gpu} is above its link, {link['kind']}, which moves "
                f"{quantity(limit)} at most: taken as measured; the link is wider than was said"
            )
            link["kind"] = "PCIe"
        forward = (way == "h2d") != from_gpu
        _widen(link, forward, rate, way)
        set_direction(link, forward, number(quantity(rate), f"{said}: a copy by itself fills the link"))
    for upper, up_forward, sharing in list(links.above(tuple(range(links.profile.gpus)))):
        toward = up_forward if way == "h2d" else not up_forward
        held = direction(upper, toward)
        needed = max(usual if equal or g >= len(rates) else rates[g] for g in sharing)
        pcie = is_assumed(held) and upper.get("kind", "").startswith("PCIe")
        if held is not None and (pcie or rate_of(held) < needed):
            _widen(upper, toward, needed, way)
            set_direction(upper, toward, number(quantity(needed), f"assumed: an uplink as a GPU's link; {said}"))
    if not equal:
        low, high = min(rates), max(rates)
        remarks.append(f"{said}: GPUs differ, {quantity(low)} to {quantity(high)}: each link has its own rate")
    top = usual if equal else max(rates)
    plain[way] = {**plain.get(way, {}), "cap": number(quantity(top), said)}
    return list(dict.fromkeys(remarks[:1] + remarks[-1:] if len(remarks) > 2 else remarks))


def _widen(link: Plain, forward: bool, rate: float, way: str) -> None:
    """An assumed limit of both directions at once grows or shrinks with a direction that is measured as `rate`."""
    held, both = direction(link, forward), link.get("both_ways")
    if held is None or both is None or not is_assumed(both):
        return
    scaled = rate_of(both) * rate / rate_of(held) if way == "h2d" else max(rate_of(both), rate)
    link["both_ways"] = number(quantity(scaled), both["source"])


def _limit(link: Plain) -> float:
    """What a link of its kind moves at most, B/s; 0 where the kind says nothing."""
    try:
        return parse_link(str(link.get("kind", "")), "").limit
    except ValueError:
        return 0.0


def _fill_both(
    plain: Plain, links: Links, both: dict[str, list[float]], alone: dict[str, list[float]], source: str
) -> list[str]:
    """Rates of both directions at once on a GPU: what its link moves in sum, and how the directions share it."""
    remarks = []
    for way, test in (("h2d", _test_of("h2d", _BOTH)), ("d2h", _test_of("d2h", _BOTH))):
        if way not in both:
            if way not in alone:
                return [
                    f"{source}: {_test_of('d2h' if way == 'h2d' else 'h2d', _BOTH)} needs {test} beside it: not used"
                ]
            both[way] = alone[way]
            remarks.append(f"{source} has no {test}: that direction is taken to move as by itself")
    down, up = median(both["h2d"]), median(both["d2h"])
    said = f"{source}, bidirectional tests: {quantity(down)} down beside {quantity(up)} up"
    free = sum(median(alone[way]) for way in alone) if len(alone) == 2 else 0.0
    weight = float(links.profile.h2d.weight.value)
    limited = not free or down + up < 0.98 * free
    seen: list[int] = []
    for gpu in range(links.profile.gpus):
        link, _ = links.of_gpu(gpu, source)
        _limit_sum(link, down + up if limited else 0.0, said)
        for upper, _, _ in links.above(tuple(range(links.profile.gpus))):
            if id(upper) not in seen and "both_ways" in upper and is_assumed(upper["both_ways"]):
                seen.append(id(upper))
                _limit_sum(upper, down + up if limited else 0.0, f"assumed: an uplink as a GPU's link; {said}")
    if limited:
        share = number(float(f"{weight * up / down:.4g}"), said)
        plain["d2h"] = {**plain.get("d2h", {}), "weight": share}
    if (spread := max(max(both[way]) / min(both[way]) for way in both)) > 1 + 2 * ALIKE:
        remarks.append(f"{said}: GPUs differ by {100 * (spread - 1):.0f} %: the median is taken for all")
    return remarks


def _limit_sum(link: Plain, total: float, said: str) -> None:
    link.pop("both_ways", None)
    if total:
        link["both_ways"] = number(quantity(total), said)


def _fill_shared(links: Links, way: str, rates: Sequence[float], alone: Sequence[float], said: str) -> None:
    """Rates of all GPUs at once: an uplink that moves little more than one GPU is what limits them, else a memory."""
    gpus = tuple(range(len(rates)))
    explained: set[int] = set()
    for link, forward, sharing in list(links.above(gpus)):
        if link.get("kind", "").startswith("PCIe") and all(g < len(rates) for g in sharing):
            total = sum(rates[g] for g in sharing)
            toward = forward if way == "h2d" else not forward
            most = max(alone[g] for g in sharing)
            # an uplink lets one GPU by itself have its rate: what is slower than that is slowed elsewhere
            if 0.9 * most < total < 1.2 * most and all(rates[g] < SHARED * alone[g] for g in sharing):
                set_direction(link, toward, number(quantity(total), f"{said}: GPUs {_names(sharing)} at once"))
                explained |= set(sharing)
            elif total > rate_of(direction(link, toward) or {}) > 0:
                set_direction(
                    link, toward, number(quantity(total), f"{said}: GPUs {_names(sharing)} at once, at least")
                )
    pinned = links.profile.graph.pinned
    for memory in dict.fromkeys(pinned[g] for g in gpus):
        near = [g for g in gpus if pinned[g] == memory]
        slowed = [g for g in near if g not in explained and rates[g] < SHARED * alone[g]]
        if len(near) > 1 and slowed:
            total = sum(rates[g] for g in near)
            key = "out_of" if way == "h2d" else "into"
            node = links.topology["nodes"][memory]
            node[key] = number(
                quantity(total),
                f"{said}: GPUs {_names(near)} at once; copies alone move {quantity(sum(alone[g] for g in near))}",
            )
            node[key]["carries"] = "copies"


def _names(gpus: Sequence[int]) -> str:
    return ", ".join(map(str, gpus))


def fill_p2p(plain: Plain, found: PeerRates, source: str) -> list[str]:
    """Put what p2pBandwidthLatencyTest measured into `plain`. Returns remarks. Raises InputError of `source`."""
    profile = profile_of(plain, source)
    if found.width > profile.gpus:
        problem = f"has {found.width} GPUs, but {profile.name} has {profile.gpus}: is it of another host?"
        raise InputError(source, "", problem)
    remarks = []
    count = found.width
    if count < profile.gpus:
        remarks.append(f"{source} has {count} of {profile.gpus} GPUs")
    pairs = {
        (i, j)
        for i, j in combinations(range(count), 2)
        if found.connected and found.connected[i][j] and found.connected[j][i]
    }
    if found.connected and count == profile.gpus and count > 1:
        fabric = {
            tuple(sorted((int(a[3:]), int(b[3:]))))
            for a, b in (link.get("ends") or ("", "") for link in plain["topology"]["links"])
            if a[3:].isdecimal() and b[3:].isdecimal()
        }
        held = plain["topology"].get("peers", "direct")
        if (missing := sorted(fabric - pairs)) and held != "host":
            a, b = missing[0]
            remarks.append(
                f"contradiction: {source}: GPUs {a} and {b} cannot access each other, but {profile.name} joins them by "
                "NVLink: `peers` is kept; --peers host of import topo says that NVLink is not used"
            )
        elif not missing:
            groups: Any = peer_groups(count, pairs)
            if groups != held and not _has_routes(plain, groups):
                remarks.append(
                    f"contradiction: {source}: GPUs access each other, but {profile.name} has no links between them: "
                    "`peers` is kept; import its topology with `nvidia-smi topo -m`"
                )
            else:
                plain["topology"]["peers"] = groups
    matrix = found.one_way.get(True)
    if matrix and pairs:
        rates = {
            (i, j): matrix[i][j] * 1e9 for i in range(count) for j in range(count) if (min(i, j), max(i, j)) in pairs
        }
        soon = found.latency.get(True)
        setup = median(soon[i][j] for i, j in rates) * 1e-6 if soon else None
        remarks += _fill_peers(plain, rates, f"{source}, P2P enabled", setup)
    elif found.connected and count > 1 and not pairs:
        remarks.append(f"{source}: no GPU can access another one: collectives go through host memory")
        plain.pop("p2p", None)
    diagonal = next((m for m in (found.one_way.get(True), found.one_way.get(False)) if m), None)
    if diagonal:
        cells = [row[i] for i, row in enumerate(diagonal) if row[i] > 0]
        if cells:
            _set_class(
                plain,
                "d2d",
                median(cells) / 2 * 1e9,
                f"{source}, diagonal: {quantity(median(cells) * 1e9)} read and written",
            )
    fit_tables(plain, profile_of, source)
    return [*remarks, *reconcile(plain, source)]


def _has_routes(plain: Plain, peers: Any) -> bool:
    """Whether the links of a profile join all GPUs that `peers` says reach each other."""
    try:
        profile_of({**plain, "topology": {**plain["topology"], "peers": peers}}, "")
    except InputError:
        return False
    return True


def _fill_peers(plain: Plain, rates: dict[tuple[int, int], float], said: str, setup: float | None) -> list[str]:
    """Copies between GPUs: the cap is that of the fastest pair; NVLinks and links of sockets are as wide at least."""
    profile = profile_of(plain, said)
    remarks = []
    best = max(rates.values())
    _set_class(plain, "p2p", best, said, setup)
    links = Links(plain, profile)
    fabric = [link for link in links.single if link.get("kind") == "NVLink"]
    pcie = max(float(profile.h2d.cap.value), float(profile.d2h.cap.value))
    if not fabric and best > 1.5 * pcie:
        remarks.append(
            f"contradiction: {said}: {quantity(best)} between GPUs is above their PCIe links ({quantity(pcie)}), and "
            f"{profile.name} has no NVLink: import its topology with `nvidia-smi topo -m`"
        )
    for link in fabric:
        ends = [int(e[3:]) for e in link["ends"] if e[3:].isdecimal()]
        own = [r for (i, j), r in rates.items() if (set(ends) <= {i, j} if len(ends) == 2 else ends and i == ends[0])]
        held = link.get("each_way")
        if own and held and is_assumed(held) and max(own) > rate_of(held):
            remarks.append(
                f"contradiction: {said}: {quantity(max(own))} is above {' - '.join(link['ends'])}, {held['value']}: "
                "taken as measured"
            )
            link["each_way"] = number(quantity(max(own)), said)
    memory = profile.graph.pinned
    across = [r for (i, j), r in rates.items() if memory[i] != memory[j]]
    if across and not fabric:
        for link in links.single:
            a, b = link.get("ends") or ("", "")
            if a.startswith("socket") and b.startswith("socket") and is_assumed(link.get("each_way")):
                held = rate_of(link["each_way"])
                if max(across) > held:
                    link["each_way"] = number(quantity(max(across)), f"{said}: pairs across sockets, at least")
    links.store()
    return list(dict.fromkeys(remarks))[:3]


def _set_class(plain: Plain, name: str, rate: float, said: str, setup: float | None = None) -> None:
    """The class of copies `d2d` or `p2p`, with all that it needs."""
    profile = profile_of(plain, said)
    like = getattr(profile, name) or profile.h2d
    taken = f"assumed: as {name if getattr(profile, name) else 'h2d'} of {profile.name}"
    start = number(f"{setup * 1e6:.4g} us", f"{said}, median latency") if setup is not None else None
    plain[name] = {
        "cap": number(quantity(rate), said),
        "weight": number(float(like.weight.value), taken),
        "setup": start or number(f"{float(like.setup.value) * 1e6:.4g} us", taken),
        "minimum": start or number(f"{float(like.minimum.value) * 1e6:.4g} us", taken),
    }
