"""The space of a plan: families of schedules, each with axes of values, as the policies offer them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import msgspec

from sim.inputs.config import InputError
from sim.planning.floors import Floors
from sim.policies import Axes, Policy, Resident, kinds
from sim.sweeps.job import Job

COARSE_STEPS = 8
"""Steps of a point that are simulated to see them settle, at most; more only of what is chosen."""
RESIDENCY = ("resident_fraction", "resident_layers")
"""Axes along which memory buys time."""

Places = dict[str, int]
"""A position on each axis."""


class Deployment(NamedTuple):
    """A workload on so many GPUs, divided in one way, whose schedules are to be compared with those of others."""

    job: Job
    """Its scenario under any policy."""
    floors: Floors

    @property
    def memory(self) -> int:
        """What the smallest of its GPUs may take, B."""
        return self.job.profile.memory_of(self.job.scenario.gpus)

    @property
    def world_size(self) -> int:
        """GPUs."""
        return self.job.scenario.world_size

    def may_fit(self, policy: Policy) -> bool:
        """Whether it is not proved that a schedule needs more memory than there is, of a GPU or of the host."""
        host = self.job.profile.host_memory
        return self.floors.memory(policy) <= self.memory and (host is None or self._host_memory(policy) <= host)

    def _host_memory(self, policy: Policy) -> int:
        """Pinned bytes of all ranks for the weights that are copied, at least."""
        if self.floors.ranks_differ:
            return 0
        layers = enumerate(self.floors.workload.all_layers)
        return self.world_size * sum(policy.least_copied(i, layer.bytes, self.world_size) for i, layer in layers)


class Family(NamedTuple):
    """Schedules of one kind on one layout that differ along axes of ordered values."""

    layout: int
    kind: type[Policy]
    axes: Axes

    @property
    def fixed(self) -> dict[str, Any]:
        """Fields of one value."""
        return {name: values[0] for name, values in self.axes.items() if len(values) == 1}

    @property
    def varied(self) -> dict[str, int]:
        """Number of values of the other fields."""
        return {name: len(values) for name, values in self.axes.items() if len(values) > 1}

    @property
    def residency(self) -> str | None:
        """The axis along which memory buys time."""
        return next((name for name in self.varied if name in RESIDENCY), None)

    @property
    def size(self) -> int:
        """Number of its schedules."""
        count = 1
        for values in self.axes.values():
            count *= len(values)
        return count

    def start(self) -> dict[str, int]:
        """Where a search begins: defaults where they are offered, least residency, the middle of other axes."""
        defaults = {field.name: field.default for field in msgspec.structs.fields(self.kind)}
        at = {}
        for name, values in self.axes.items():
            if name in RESIDENCY:
                at[name] = 0
            else:
                at[name] = values.index(defaults[name]) if defaults.get(name) in values else (len(values) - 1) // 2
        return at

    def policy(self, at: Mapping[str, int]) -> Policy | None:
        """The policy at these positions of the axes; None where it is not valid."""
        return self.kind.read({name: self.axes[name][place] for name, place in at.items()})

    def all_places(self) -> Iterator[dict[str, int]]:
        """Every position."""
        for places in product(*(range(len(values)) for values in self.axes.values())):
            yield dict(zip(self.axes, places, strict=True))


def families(layouts: list[Deployment], of: Mapping[str, type[Policy]] | None = None) -> list[Family]:
    """What the known kinds of policies offer on each layout, but for all weights resident."""
    found = []
    for number, layout in enumerate(layouts):
        for kind in (kinds() if of is None else of).values():
            if kind is not Resident:
                offered = kind.offers(layout.floors.workload, layout.world_size)
                found += [Family(number, kind, axes) for axes in offered]
    return found


def largest_fit(family: Family, at: dict[str, int], fits: Callable[[Policy], bool]) -> dict[str, int] | None:
    """`at` with the most residency that `fits`; None where not even the least does."""
    axis = family.residency
    if axis is None:
        policy = family.policy(at)
        return at if policy is not None and fits(policy) else None

    def too_large(place: int) -> bool:
        policy = family.policy({**at, axis: place})
        return policy is None or not fits(policy)

    last = len(family.axes[axis]) - 1
    if not too_large(last):  # also where slots take more than all layers, and more residency takes less memory
        return {**at, axis: last}
    place = bisect_right(range(len(family.axes[axis])), False, key=too_large) - 1
    return None if place < 0 else {**at, axis: place}


def under(job: Job, policy: Policy) -> Job | None:
    """`job` under `policy`, with few steps; None if it is too large to simulate: nobody could choose it."""
    try:
        return job._replace(scenario=job.scenario.with_policy(policy), max_steps=COARSE_STEPS)
    except InputError:
        return None


def place_of(family: Family, policy: Policy) -> Places | None:
    """Where a policy stands on the axes of a family; None where it is not of it."""
    if type(policy) is not family.kind:
        return None
    at = {}
    for axis, values in family.axes.items():
        value = getattr(policy, axis)
        if value not in values:
            return None
        at[axis] = values.index(value)
    made = family.policy(at)
    return at if made == policy else None


def restricted(family: Family, allowed: Callable[[Policy], bool]) -> Family | None:
    """The family with those values of its axes that are allowed; None where nothing is.

    Tried from each schedule along each axis: what is allowed must be so whatever the other axes say.
    """
    starts: list[Mapping[str, int]] = [family.start()]
    starts += [{**family.start(), axis: place} for axis, n in family.varied.items() for place in range(n)]
    first = next((at for at in starts if (p := family.policy(at)) is not None and allowed(p)), None)
    if first is None:
        return None
    axes = {}
    for axis, values in family.axes.items():
        tried = ((value, family.policy({**first, axis: place})) for place, value in enumerate(values))
        axes[axis] = tuple(value for value, policy in tried if policy is not None and allowed(policy))
    return family._replace(axes=axes)
