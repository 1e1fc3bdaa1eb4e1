"""Steady rates: what flows that are in flight together get, what of each resource they use, and what limits them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sim.fluid import FlowSpec, caps_now, weighted_max_min
from sim.hardware import Profile
from sim.hardware.collectives import flows as collective_flows
from sim.inputs.config import InputError

BUFFER = 256 * 2**20
"""Bytes on each GPU of the all-to-all that is looked at: large, so that bandwidth counts."""
MAX_GPUS = 64
"""Largest number of GPUs with an all-to-all, which has a flow for every pair."""
_ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
_NEAR = 1 - 1e-9


class Moving(NamedTuple):
    """A copy to a GPU (`edges` is empty), or one flow of an all-to-all over `edges` (source, destination)."""

    gpu: int
    """That the copy goes to, or that sends."""
    edges: tuple[tuple[int, int], ...]
    spec: FlowSpec


class Steady(NamedTuple):
    """Flows in flight together: the rate of each, B/s, and which resource limits it (None: its own demand cap)."""

    title: str
    flows: tuple[Moving, ...]
    rates: tuple[float, ...]
    bottlenecks: tuple[int | None, ...]
    used: tuple[float, ...]
    """Share of each resource's capacity."""

    def copied(self, gpu: int) -> float | None:
        """B/s that are copied to a GPU."""
        rates = [r for f, r in zip(self.flows, self.rates, strict=True) if not f.edges and f.gpu == gpu]
        return sum(rates) if rates else None

    def sent(self, gpu: int) -> float | None:
        """B/s that a GPU sends to others."""
        over = zip(self.flows, self.rates, strict=True)
        rates = [r for f, r in over for source, _ in f.edges if source == gpu]
        return sum(rates) if rates else None


def gb(rate: float) -> str:
    """B/s in GB/s, without the unit."""
    value = rate / 1e9
    if 1000 <= value < 1e5:
        return f"{value:,.0f}"
    return f"{value:.1f}" if 10 <= value < 1000 else f"{value:.3g}"


def gpu_list(gpus: Iterable[int]) -> str:
    """Such as "gpu0-3, gpu6"."""
    runs: list[list[int]] = []
    for gpu in sorted(set(gpus)):
        if runs and runs[-1][-1] == gpu - 1:
            runs[-1].append(gpu)
        else:
            runs.append([gpu])
    return ", ".join(f"gpu{run[0]}" if len(run) == 1 else f"gpu{run[0]}\N{EN DASH}{run[-1]}" for run in runs)


def steady_states(profile: Profile) -> list[Steady]:
    """Copies to all GPUs at once, each phase of an all-to-all among all GPUs, and both together.

    Without the all-to-all if there is one GPU, if there are too many, or if the profile's domains do not allow it.
    """
    copies = [Moving(gpu, (), profile.copy_flow("h2d", gpu)) for gpu in range(profile.gpus)]
    to_all = "H2D on all GPUs" if profile.gpus > 1 else "H2D"
    found = [_settle(profile, to_all, copies)]
    phases = _all_to_all(profile)
    names = [f"All-to-all, phase {i} of {len(phases)}" if len(phases) > 1 else "All-to-all" for i in _ones(phases)]
    found += [_settle(profile, f"{name}, isolated", phase) for name, phase in zip(names, phases, strict=True)]
    found += [
        _settle(profile, f"{to_all} and {name[0].lower()}{name[1:]}", [*copies, *phase])
        for name, phase in zip(names, phases, strict=True)
    ]
    return found


def _ones(items: Sequence[object]) -> range:
    return range(1, len(items) + 1)


def _all_to_all(profile: Profile) -> list[list[Moving]]:
    if not 2 <= profile.gpus <= MAX_GPUS:
        return []
    try:
        phases = collective_flows(profile, "all_to_all", BUFFER, range(profile.gpus))
    except InputError:
        return []
    return [[Moving(part.edges[0][0], part.edges, spec) for spec, part in phase.flows] for phase in phases]


def _settle(profile: Profile, title: str, flows: Sequence[Moving]) -> Steady:
    specs = caps_now([f.spec for f in flows])
    rates = weighted_max_min(specs, profile.capacities)
    load = [0.0] * len(profile.capacities)
    largest = [0.0] * len(load)
    for spec, rate in zip(specs, rates, strict=True):
        for resource, multiplier in spec.route:
            load[resource] += multiplier * rate
            largest[resource] = max(largest[resource], rate / spec.weight)
    used = [on / capacity for on, capacity in zip(load, profile.capacities, strict=True)]
    crossing = [sum(any(r == at for at, _ in s.route) for s in specs) if u >= _NEAR else 0 for r, u in enumerate(used)]
    bottlenecks: list[int | None] = []
    for spec, rate in zip(specs, rates, strict=True):
        full = [r for r, _ in spec.route if used[r] >= _NEAR and rate / spec.weight >= largest[r] * _NEAR]
        bottlenecks.append(None if rate >= spec.cap * _NEAR else max(full, key=lambda r: crossing[r]))
    return Steady(title, tuple(flows), tuple(rates), tuple(bottlenecks), tuple(used))


def where(name: str) -> str:
    """A resource in words."""
    for end, words in ((".in", "what enters "), (".out", "what leaves ")):
        if name.endswith(end):
            return words + name.removesuffix(end)
    if "-" in name:
        return f"{name} (both ways together)"
    return name if ">" in name else f"what crosses {name}"


def sentences(profile: Profile, steady: Steady) -> list[str]:
    """Which resource limits which GPUs, in words. Resources that differ only in their numbers share a sentence."""
    alike: dict[tuple[str, str], list[tuple[str, list[int]]]] = {}
    for resource in dict.fromkeys(steady.bottlenecks):
        for gpus, words in _limited(profile, steady, resource):
            name = "" if resource is None else where(profile.resource_names[resource])
            alike.setdefault((re.sub(r"\d+", "#", name), words), []).append((name, gpus))
    said = []
    for (_, words), places in alike.items():
        names = list(dict.fromkeys(name for name, _ in places))
        shown = names[0]
        if len(names) > 1:
            shown = f"each of {names[0]} {'and' if len(names) == 2 else _ELLIPSIS} {names[-1]}"
        who = gpu_list(g for _, gpus in places for g in gpus)
        said.append(words.format(where=shown, who=who))
    return said


def _limited(profile: Profile, steady: Steady, resource: int | None) -> Iterator[tuple[list[int], str]]:
    """The GPUs that a resource limits, and a sentence with gaps for `who` they are and `where` it is."""
    limited = [(f, r) for f, r, h in zip(steady.flows, steady.rates, steady.bottlenecks, strict=True) if h == resource]
    copies, pairs = ([(f, r) for f, r in limited if bool(f.edges) is sent] for sent in (False, True))
    capacity = "" if resource is None else gb(profile.capacities[resource])
    for rate in dict.fromkeys(gb(r) for _, r in copies):
        mine = [f for f, r in copies if gb(r) == rate]
        isolated = gb(weighted_max_min([mine[0].spec], profile.capacities)[0])
        gpus = [f.gpu for f in mine]
        each = " each" if len(gpus) > 1 else ""
        if resource is None:
            yield gpus, f"{{who}}: copies at the copy engine's own rate, {rate} GB/s{each}."
        elif len(gpus) > 1:
            words = f"{len(gpus)} GPUs share {{where}} ({capacity} GB/s): copies get {rate} GB/s each of {isolated}"
            yield gpus, f"{words} ({{who}})."
        else:
            yield gpus, f"{{who}}: {{where}} ({capacity} GB/s) is full: copies get {rate} GB/s of {isolated}."
    for rate in dict.fromkeys(gb(r) for _, r in pairs):
        mine = [f for f, r in pairs if gb(r) == rate]
        gpus = sorted({gpu for f in mine for edge in f.edges for gpu in edge})
        what = f"{len(mine)} pairs" if len(mine) > 1 else "the ring" if len(mine[0].edges) > 1 else "a pair"
        each = " each" if len(mine) > 1 else ""
        if resource is None:
            per_gpu = {gb(steady.sent(gpu) or 0.0) for gpu in gpus}
            total = f", {per_gpu.pop()} a GPU" if len(per_gpu) == 1 and len(mine) == len(steady.flows) else ""
            yield gpus, f"{{who}}: {what} of the all-to-all at its isolated rate, {rate} GB/s{each}{total}."
        else:
            words = f"{what} of the all-to-all on {{where}} ({capacity} GB/s, full): {rate} GB/s{each}"
            yield gpus, f"{words} of {gb(mine[0].spec.cap)} ({{who}})."
