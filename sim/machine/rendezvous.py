"""What ranks do together, each at a rendezvous: collectives, and transfers from one rank to another."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial

import msgspec
from simpy.events import NORMAL, Event

from sim.environment import Environment, Process
from sim.fluid import Fabric, FlowSpec, RateLaw
from sim.hardware import Profile, collectives
from sim.hardware.host_flows import Group, HostFlows
from sim.machine.state import CollectiveKey, Rank, Rendezvous, Steps, TransferKey, Work
from sim.program import Collective, PointToPoint, Send

_LAST = NORMAL + 1
"""Priority of what happens after all else that is scheduled for an instant."""


class Communications:
    """Runs the collectives and transfers of one program."""

    def __init__(
        self,
        env: Environment,
        fabric: Fabric,
        profile: Profile,
        ranks: Sequence[Rank],
        law: RateLaw,
        flows: HostFlows,
    ) -> None:
        self._env = env
        self._fabric = fabric
        self._profile = profile
        self._ranks = ranks
        self._law = law
        self.rendezvous: dict[CollectiveKey | TransferKey, Rendezvous] = {}
        self._posted: dict[TransferKey, dict[int, tuple[int, bool]]] = {}
        """Transfer -> rank -> (transfers in the same direction beside it, whether one goes in reverse)."""
        self._flows = flows
        self._transfers: dict[tuple[int, int, int, int, bool], tuple[float, FlowSpec]] = {}
        self._isolated_transfers: dict[tuple[tuple[int, int, int], ...], float] = {}

    def collective(self, rank: Rank, command: Collective, key: CollectiveKey) -> Work:
        """Let `rank` take part in a collective to its end. Began: when all had arrived."""
        if key not in self.rendezvous:
            self.rendezvous[key] = Rendezvous(self._env, command.kind, self._flows.members(_group(command)))
        rendezvous = self.rendezvous[key]
        rendezvous.arrived.append(rank.number)
        if len(rendezvous.arrived) == len(rendezvous.members):
            rendezvous.ready = self._env.now
            # whoever arrives last, what else happens now comes first on all ranks
            self._env.call_at(self._env.now, partial(Process, self._env, self._move(command, rendezvous)), _LAST)
        yield rendezvous.done[rank.number]
        place = rendezvous.members.index(rank.number)
        return rendezvous.ready, self._flows.isolated(command.kind, command.bytes, _group(command))[place]

    def point_to_point(self, rank: Rank, command: PointToPoint, keys: Sequence[TransferKey]) -> Work:
        """Make the sends and receives of `rank`. Began: when all were posted on both sides."""
        directions = [isinstance(t, Send) for t in command.transfers]
        for key, t, sends in zip(keys, command.transfers, directions, strict=True):
            if key not in self.rendezvous:
                self.rendezvous[key] = Rendezvous(self._env, "send_recv", key[:2])
            rendezvous = self.rendezvous[key]
            rendezvous.arrived.append(rank.number)
            reverse = any(
                other.peer == t.peer and sent != sends
                for other, sent in zip(command.transfers, directions, strict=True)
            )
            self._posted.setdefault(key, {})[rank.number] = directions.count(sends), reverse
            if len(rendezvous.arrived) == 2:
                rendezvous.ready = self._env.now
                peers, returns = zip(*self._posted.pop(key).values(), strict=True)
                Process(self._env, self._send(t.bytes, rendezvous, max(peers), not any(returns)))
        yield self._env.all_of([self.rendezvous[key].done[rank.number] for key in keys])
        return max(self.rendezvous[key].ready for key in keys), self._transfers_isolated(rank, command)

    def state(self) -> Hashable:
        """Who has arrived where others are missing."""
        return tuple((m.kind, tuple(m.arrived)) for m in self.rendezvous.values() if m.missing)

    def _gpus(self, members: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._ranks[rank].gpu for rank in members)

    def _move(self, command: Collective, rendezvous: Rendezvous) -> Steps:
        """Run a collective at which all ranks have arrived; each rank's `done` happens with the last of its flows."""
        env, fabric, members = self._env, self._fabric, rendezvous.members
        flows = self._flows.collective(command.kind, command.bytes, _group(command))
        *before, last = flows or [collectives.PhaseFlows(0.0, ())]
        for phase in before:
            yield env.now + env.on_grid(phase.latency)
            self._moves(rendezvous)
            yield env.all_of([fabric.transfer(spec, part.size).done for spec, part in phase.flows])
        yield env.now + env.on_grid(last.latency)
        self._moves(rendezvous)
        left = dict.fromkeys(members, 0)
        for spec, part in last.flows:
            done = fabric.transfer(spec, part.size).done
            ranks = tuple(members[place] for place in part.ranks)
            for rank in ranks:
                left[rank] += 1

            def ended(_: Event, ranks: tuple[int, ...] = ranks) -> None:
                for rank in ranks:
                    left[rank] -= 1
                    if left[rank] == 0:
                        rendezvous.done[rank].succeed()

            assert done.callbacks is not None
            done.callbacks.append(ended)
        for rank, event in rendezvous.done.items():
            if left[rank] == 0:
                event.succeed()

    def _send(self, size: int, rendezvous: Rendezvous, peers: int, one_way: bool) -> Steps:
        """Run a transfer that both sides have posted, beside `peers` - 1 others in the same direction."""
        source, target = self._gpus(rendezvous.members)
        key = size, source, target, peers, one_way
        if key not in self._transfers:
            self._transfers[key] = collectives.transfer(self._profile, *key)
        latency, spec = self._transfers[key]
        yield self._env.now + self._env.on_grid(latency)
        self._moves(rendezvous)
        yield self._fabric.transfer(spec, size).done
        for event in rendezvous.done.values():
            event.succeed()

    def _moves(self, rendezvous: Rendezvous) -> None:
        """Let its ranks know that `rendezvous` moves data now."""
        for number in rendezvous.members:
            rank = self._ranks[number]
            moving = [m for m in rank.moving if m is not rendezvous and not m.done[number].triggered]
            rank.moving = [*moving, rendezvous]

    def _transfers_isolated(self, rank: Rank, command: PointToPoint) -> float:
        """Seconds of a rank's sends and receives on an idle host, all of them posted at once."""
        ends = [
            (rank.gpu, self._ranks[t.peer].gpu, t.bytes)
            if isinstance(t, Send)
            else (self._ranks[t.peer].gpu, rank.gpu, t.bytes)
            for t in command.transfers
        ]
        key = tuple(ends)
        if key not in self._isolated_transfers:
            directions = [isinstance(t, Send) for t in command.transfers]
            pairs = [(source, target) for source, target, _ in ends]
            found: list[tuple[float, FlowSpec]] = [
                collectives.transfer(
                    self._profile, size, source, target, directions.count(sends), (target, source) not in pairs
                )
                for (source, target, size), sends in zip(ends, directions, strict=True)
            ]
            self._isolated_transfers[key] = collectives.transfers_time(
                [(latency, spec, size) for (latency, spec), (_, _, size) in zip(found, ends, strict=True)],
                self._profile.capacities,
                self._law,
            )
        return self._isolated_transfers[key]


def _group(command: Collective) -> Group:
    return None if command.group is msgspec.UNSET else command.group
