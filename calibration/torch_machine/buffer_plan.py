"""Which memory each device buffer of a rank's program gets."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from sim.program import Buffer, Collective, Copy, Kernel, PointToPoint, RankProgram

RESIDENT = "resident"
"""The buffer that holds the resident bytes of layers."""


def brings_weights(command: Copy) -> bool:
    """Whether it copies a layer's weights from pinned memory."""
    return command.brings_weights and command.layer >= 0


class BufferPlan:
    """What the device buffers of `program` are made of; `targets` are those that copies of peers write.

    `layered`: slots that hold the copied bytes of layers, mapped behind the layers' resident bytes.
    `plain`: buffers with memory of their own. `sharing`: buffers of collectives that lie in one another's memory.
    """

    def __init__(self, program: RankProgram, targets: Collection[str] = ()) -> None:
        self.program = program
        self.buffers = {b.name: b for b in program.buffers}
        self.layered: set[str] = set()
        self.written: set[str] = set()
        self._named: set[str] = set()
        for command in program.commands():
            self._note(command)
        if program.weights:
            self.layered |= {b.name for b in program.buffers if b.kind == "slot" and b.name not in self._named}
        self.sharing = _sharing(program, targets)
        """In the order of their last use."""
        self.plain = [b for b in program.buffers if self._is_plain(b) and b.name not in self.sharing]
        self.written |= set(targets)

    def _note(self, command: object) -> None:
        """Note what a command uses and writes. Kernels' matrices are of activations or collectives, or weights."""
        if isinstance(command, Copy):
            self._named.add(command.buffer)
            if command.kind in ("h2d", "d2d"):
                self.written.add(command.buffer)
            if command.kind == "d2d" and isinstance(command.other, str):
                self._named.add(command.other)
            if brings_weights(command):
                self._note_layered(command.buffer, command.layer)
        elif isinstance(command, Collective):
            self._named.update(command.writes)
            self.written.update(command.writes)
            for buffer in command.writes:
                self._note_layered(buffer, command.layer)
        elif isinstance(command, PointToPoint):
            self._named.update(command.reads, command.writes)
            self.written.update(command.writes)
        elif isinstance(command, Kernel):
            self.written.update(command.writes)
            if command.ops:
                self.written.update(m.buffer for op in command.ops for m in op.operands())
                for buffer in command.reads:
                    self._note_layered(buffer, command.layer)

    def _note_layered(self, name: str, layer: int) -> None:
        if self.buffers[name].kind == "slot" and 0 <= layer < len(self.program.weights):
            self.layered.add(name)

    def _is_plain(self, buffer: Buffer) -> bool:
        if buffer.name in self.layered or (buffer.name == RESIDENT and self.program.weights):
            return False
        return buffer.kind in ("activations", "collective", "slot") or buffer.name in self._named


def _sharing(program: RankProgram, targets: Collection[str]) -> list[str]:
    """Buffers of collectives of all ranks that come one after the other on one stream, in the order of their last use.

    Each is done with when the next one is written: a buffer that is read after that has memory of its own, as all then.
    Copies that make a collective are in its place: its own stream waits for them.
    """
    parts = program.composed_streams
    made = {whole.call.writes: whole.call.stream for whole in program.composed_collectives}
    names = {b.name for b in program.buffers if b.kind == "collective" and not b.static and b.name not in targets}
    streams: set[str] = set()
    last = ""
    order: dict[str, None] = {}
    for command in program.commands():
        if isinstance(command, Copy):
            used = names.intersection({command.buffer, command.other if command.kind == "d2d" else command.buffer})
            if not used:
                continue
            stream = made.get((command.buffer,))
            if stream is None or len(used) > 1 or command.stream not in {*parts, stream}:
                return []
            streams.add(stream)
            if len(streams) > 1:
                return []
            last = command.buffer
            order.pop(last, None)
            order[last] = None
        elif isinstance(command, Kernel | Collective | PointToPoint):
            reads, writes = names.intersection(command.reads), names.intersection(command.writes)
            if not reads and not writes:
                continue
            streams.add(command.stream)
            plain = isinstance(command, Kernel) or (
                isinstance(command, Collective) and command.group is msgspec.UNSET and len(command.writes) == 1
            )
            if not plain or len(streams) > 1 or len(reads | writes) > 1 or any(name != last for name in reads):
                return []
            last = next(iter(reads | writes))
            order.pop(last, None)
            order[last] = None
    return list(order)
