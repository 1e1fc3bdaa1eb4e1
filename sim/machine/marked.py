"""What a run of a program gives: its timeline, its states at marks, and what was issued when."""

from __future__ import annotations

from typing import NamedTuple

from sim.machine.snapshot import Snapshot
from sim.timeline import Timeline


class Issued(NamedTuple):
    """A rank of a run with endless queues, s: when each command was issued, and when each has ended.

    `clocks` has a list for each host thread, in the order of issue, `ends` one for each stream, in its order.
    """

    clocks: list[list[float]]
    ends: dict[str, list[float]]


class Marked(NamedTuple):
    """A run, its states at marks, and with endless queues what was issued when on each rank.

    `in_trains` counts copies that were made in trains.
    """

    timeline: Timeline
    states: list[Snapshot]
    issued: list[Issued]
    in_trains: int
