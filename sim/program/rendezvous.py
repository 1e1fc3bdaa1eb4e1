"""Whether ranks meet: the same collectives in one order, a receive for every send, and no circle of waits."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from sim.program.commands import Collective, Communicator, Copy, PointToPoint, ProgramError, Send, WaitFlag
from sim.program.rank_program import RankProgram


class _Call(NamedTuple):
    """The n-th collective of a communicator on some rank."""

    on: Communicator
    number: int


class _Rank(NamedTuple):
    """What a rank meets at: its collectives by communicator, their order by host thread, and its transfers."""

    collectives: dict[Communicator, list[Collective]]
    threads: list[list[_Call]]
    transfers: dict[tuple[bool, int, Communicator], list[tuple[str, int]]]
    """(whether it sends, peer, communicator) -> name and bytes of each, in order."""


def check_rendezvous(ranks: Sequence[RankProgram]) -> None:
    """Raise ProgramError where ranks would not meet, or may wait for each other in a circle."""
    different = {id(rank): rank for rank in ranks}
    found: dict[int, _Rank] = {key: _communications(rank) for key, rank in different.items()}
    all_found = [found[id(rank)] for rank in ranks]
    if len(found) > 1 or any(on[0] is not None for rank in all_found for on in rank.collectives):
        _check_collectives(all_found)
        if len({on for rank in all_found for on in rank.collectives}) > 1:
            _check_circles(all_found)
    if any(rank.transfers for rank in all_found):
        _check_transfers(all_found)


def _communications(rank: RankProgram) -> _Rank:
    found = _Rank({}, [], {})
    for thread in rank.threads:
        calls = []
        for command in thread:
            kind = type(command)
            if kind is Copy or kind is WaitFlag:  # most commands
                continue
            if isinstance(command, Collective):
                same = found.collectives.setdefault(command.communicates_on, [])
                calls.append(_Call(command.communicates_on, len(same)))
                same.append(command)
            elif isinstance(command, PointToPoint):
                for t in command.transfers:
                    key = isinstance(t, Send), t.peer, command.communicates_on
                    found.transfers.setdefault(key, []).append((command.name, t.bytes))
        found.threads.append(calls)
    return found


def _check_collectives(ranks: Sequence[_Rank]) -> None:
    """Every member of a group calls the same."""
    everyone = tuple(range(len(ranks)))
    for on in dict.fromkeys(on for rank in ranks for on in rank.collectives):
        group = everyone if on[0] is None else on[0]
        where = "" if on[0] is None else f" of group {list(group)}"
        for rank in range(len(ranks)):
            if rank not in group and on in ranks[rank].collectives:
                raise ProgramError(f"rank {rank} calls a collective{where}, in which it is not")
        if not all(0 <= member < len(ranks) for member in group):
            raise ProgramError(f"there is a collective{where}, but the program has {len(ranks)} ranks")
        first = ranks[group[0]].collectives.get(on, [])
        for rank in group[1:]:
            theirs = ranks[rank].collectives.get(on, [])
            for i, (a, b) in enumerate(zip(first, theirs, strict=False)):
                if (a.kind, a.bytes) != (b.kind, b.bytes):
                    raise ProgramError(
                        f"collective {i}{where} differs between ranks: rank {group[0]} calls {a.kind} of {a.bytes} "
                        f"bytes, rank {rank} calls {b.kind} of {b.bytes} bytes, on communicator {on[1]!r}"
                    )
            if len(first) != len(theirs):
                raise ProgramError(
                    f"rank {group[0]} calls {len(first)} collectives{where}, rank {rank} calls {len(theirs)}, on "
                    f"communicator {on[1]!r}"
                )


def _check_transfers(ranks: Sequence[_Rank]) -> None:
    """A receive of the same size for every send."""
    for rank, mine in enumerate(ranks):
        for (sends, peer, on), transfers in mine.transfers.items():
            verb, other = ("sends", "receive") if sends else ("receives", "send")
            if not 0 <= peer < len(ranks) or peer == rank:
                raise ProgramError(
                    f"{transfers[0][0]!r} of rank {rank} {verb} to or from rank {peer}, which is not a peer"
                )
            theirs = ranks[peer].transfers.get((not sends, rank, on), [])
            to = "to" if sends else "from"
            if len(transfers) != len(theirs):
                raise ProgramError(
                    f"rank {rank} {verb} {len(transfers)} times {to} rank {peer} on communicator {on[1]!r}, which has "
                    f"{len(theirs)} calls to {other}"
                )
            for (name, size), (other_name, other_size) in zip(transfers, theirs, strict=True):
                if size != other_size:
                    raise ProgramError(
                        f"{name!r} of rank {rank} {verb} {size} bytes {to} rank {peer}, {other_name!r} there is to "
                        f"{other} {other_size}"
                    )


def _check_circles(ranks: Sequence[_Rank]) -> None:
    """No circle of collectives that follow each other on some rank's host thread.

    NCCL's kernels wait for their peers on the GPU and keep what they hold there. Ranks that issue collectives of two
    communicators in different order can each hold what the other's needs, on whatever streams they are.
    """
    after: dict[_Call, dict[_Call, int]] = {}
    for rank, mine in enumerate(ranks):
        for thread in mine.threads:
            for a, b in pairwise(thread):
                after.setdefault(a, {}).setdefault(b, rank)
    before = Counter(b for following in after.values() for b in following)
    free = deque(call for call in after if not before[call])
    while free:
        for b in after.pop(free.popleft(), {}):
            before[b] -= 1
            if not before[b]:
                free.append(b)
    if after:
        raise ProgramError("ranks issue collectives in different order and may deadlock: " + _circle(after, ranks))


def _circle(after: dict[_Call, dict[_Call, int]], ranks: Sequence[_Rank]) -> str:
    """A circle among `after`, in words. Every call there has one before it that is there as well."""
    came = {b: (a, rank) for a, following in after.items() for b, rank in following.items()}
    at, seen = next(b for b in came if b in after), []
    while at not in seen:
        seen.append(at)
        at = came[at][0]
    steps = []
    for call in reversed(seen[seen.index(at) :]):
        earlier, rank = came[call]
        steps.append(f"rank {rank} issues {_name(earlier, ranks)} before {_name(call, ranks)}")
    return ", ".join(steps)


def _name(call: _Call, ranks: Sequence[_Rank]) -> str:
    command = next(rank.collectives[call.on][call.number] for rank in ranks if call.on in rank.collectives)
    group = "all ranks" if call.on[0] is None else f"group {list(call.on[0])}"
    return f"{command.name!r} of {group} on communicator {call.on[1]!r}"
