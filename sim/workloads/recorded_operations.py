"""What the host of a measured pass issued, in order: kernels, copies, collectives, events, and its own waits."""

from __future__ import annotations

from typing import Self

import msgspec

from sim.inputs.config import Config
from sim.program import CollectiveKind, HostCopyKind, HostMemory


class _Operation(Config, frozen=True, tag_field="op", kw_only=True):
    """What a host thread does: works for `host_s` seconds, and then makes a call."""

    host_s: float = 0.0


class Launch(_Operation, frozen=True, kw_only=True, tag="kernel"):
    """A kernel on `stream` that takes `seconds`."""

    stream: str
    name: str
    seconds: float


class Move(_Operation, frozen=True, kw_only=True, tag="copy"):
    """A copy between host and GPU, of `layer`'s weights or of no layer's (-1).

    Of pageable memory, the host works `staging_s` longer than a profile's rates say: it gives pages to new memory.
    """

    stream: str
    kind: HostCopyKind
    bytes: int
    memory: HostMemory
    layer: int = -1
    staging_s: float = 0.0


class Meet(_Operation, frozen=True, kw_only=True, tag="collective"):
    """A collective; `group` as in blocks."""

    stream: str
    kind: CollectiveKind
    bytes: int
    group: tuple[tuple[int, ...], ...] = ()


class Record(_Operation, frozen=True, kw_only=True, tag="record"):
    """An event is recorded on `stream`."""

    stream: str
    event: int


class Await(_Operation, frozen=True, kw_only=True, tag="wait"):
    """`stream` waits for an event: one of this pass, if it was recorded before, or of the pass before."""

    stream: str
    event: int


class Synchronise(_Operation, frozen=True, kw_only=True, tag="synchronise"):
    """The host waits for all that was issued on `stream`."""

    stream: str


Operation = Launch | Move | Meet | Record | Await | Synchronise


class RecordedPass(Config, frozen=True, eq=False, kw_only=True):
    """One pass of a rank, which all ranks run: `operations` in the order of their calls.

    `compute` is the stream whose events bound steps. `source` is the trace, `step_s` what its pass took there, s.
    """

    source: str
    world_size: int
    step_s: float
    compute: str
    operations: tuple[Operation, ...]
    notes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    """What the trace says of its pass: what costs how much of it."""

    @property
    def grouped(self) -> bool:
        """Whether some collective is of other ranks than all."""
        return any(isinstance(op, Meet) and op.group for op in self.operations)

    def of(self, rank: int) -> Self:
        """What `rank` does: with its own group of each collective, without those that it takes no part in."""
        mine: list[Operation] = []
        for op in self.operations:
            if isinstance(op, Meet) and op.group:
                group = next((group for group in op.group if rank in group), ())
                if len(group) < 2:
                    continue
                op = msgspec.structs.replace(op, group=(group,))
            mine.append(op)
        return msgspec.structs.replace(self, operations=tuple(mine))
