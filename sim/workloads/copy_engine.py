"""Collectives as commands of copy engines: copies through host memory that ranks share, ordered by host flags.

A collective on stream S has two more streams: "S send" copies pieces down to slots of shared host memory, "S receive"
copies pieces of other ranks up. Both wait for an event of S; S waits for both at the end. A piece goes down while the
one before goes up. Every rank has a ring of `SLOTS` slots in each group of ranks, and two sequences in host memory:

- "filled": how many of its slots have been filled. Who receives the n-th piece of a rank waits until it is at least n.
- "read": how many pieces the rank has received. A slot is filled again when all who receive what is in it have: as all
  ranks of a group go through the same turns, the sender knows at which numbers that is.

What is to be added lands in one of `LANDINGS` buffers on the GPU. S adds it and lets the buffer be filled again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext

from sim.program import Collective, RankBuilder
from sim.program.ops import Add, Matrix
from sim.workloads.engine_collectives import ELEMENT, EnginePart, Turn, copy_streams

SLOTS = 4
"""Slots of a rank's ring: the way of a flag from one GPU to the other and back takes less than two pieces' copies."""
LANDINGS = 2
"""Buffers on the GPU for what is to be added: one is filled while the other is added."""

AroundPiece = Callable[[str], AbstractContextManager[None]]
"""What a policy issues around the copy of a piece that has come, on the stream of that name."""


class _Ring:
    """The slots of all ranks of a group, and how far this rank is.

    All collectives of a group on one stream use the same ring, in order: numbers go on from one to the next.
    """

    def __init__(self, members: tuple[int, ...], stream: str) -> None:
        self.members = members
        self.of = f"{','.join(map(str, members))} {stream}"
        self.slot_bytes = 0
        self.turns = 0
        """Turns so far: pieces that each rank has sent."""
        self.received = 0
        """Pieces that each rank has received."""
        self.readers: deque[list[tuple[int, int]]] = deque(maxlen=SLOTS)
        """For each of the last turns, who receives what this rank has sent: (rank, its count of pieces then)."""
        self.reads: deque[int] = deque(maxlen=LANDINGS)
        """Events after which landing buffers may be filled again."""
        self.landed = 0

    def slots(self, rank: int) -> str:
        """Name of the host buffer of a rank's slots."""
        return f"slots {rank} of {self.of}"

    def filled(self, rank: int) -> str:
        """Name of the sequence of filled slots."""
        return f"filled {rank} of {self.of}"

    def read(self, rank: int) -> str:
        """Name of the sequence of pieces received."""
        return f"read {rank} of {self.of}"

    def landing(self, number: int) -> str:
        """Name of a buffer for what is to be added."""
        return f"landing {number % LANDINGS} of {self.of}"


class CopyEngine:
    """Issues collectives of one rank as copies; `around_piece` is what a policy issues around each piece received."""

    def __init__(self, rank: RankBuilder, around_piece: AroundPiece = lambda _: nullcontext()) -> None:
        self.rank = rank
        self.around_piece = around_piece
        self._rings: dict[tuple[tuple[int, ...], str], _Ring] = {}

    def declare(self, parts: Iterable[tuple[EnginePart, str]]) -> None:
        """Declare slots, sequences and landing buffers of all collectives that will be issued, each with its stream."""
        reducing: dict[str, _Ring] = {}
        me: dict[str, int] = {}
        for part, stream in parts:
            if next(part.turns(), None) is None:
                continue
            ring = self._ring(part, stream)
            ring.slot_bytes = max(ring.slot_bytes, part.piece_bytes)
            me[ring.of] = part.rank
            if part.reduces:
                reducing[ring.of] = ring
        for ring in self._rings.values():
            for member in ring.members:
                self.rank.host_buffer(ring.slots(member), SLOTS * ring.slot_bytes, shared=True)
            self.rank.sequence(ring.filled(me[ring.of]))
            self.rank.sequence(ring.read(me[ring.of]))
        for ring in reducing.values():
            for number in range(LANDINGS):
                self.rank.buffer(ring.landing(number), ring.slot_bytes, "collective", static=True)

    def issue(self, part: EnginePart, stream: str, step: int, layer: int) -> None:
        """Issue a rank's part of a collective on `stream`, which waits for its end."""
        rank, whole = self.rank, part.whole
        label = whole.name or whole.kind
        if whole.kind in ("all_to_all", "send_recv") and (whole.kind == "all_to_all" or len(part.members) == 1):
            own, size = part.span(0 if whole.kind == "send_recv" else part.place, 0)[0], part.block_bytes
        else:
            own = size = 0
        send, receive = copy_streams(stream)
        turns = list(part.turns())
        begins = rank.record(stream)
        if turns:
            rank.wait(send, begins)
            rank.wait(receive, begins)
        if size:
            rank.copy(
                stream,
                f"{label} own",
                size,
                whole.buffer,
                kind="d2d",
                offset=part.input_bytes + own,
                other=whole.buffer,
                other_offset=own,
                step=step,
                layer=layer,
            )
        _Exchange(self, part, stream, step, layer).run(turns)
        ends = [rank.record(other) for other in ((send, receive) if turns else (stream,))]
        for event in ends if turns else ():
            rank.wait(stream, event)
        call = Collective(
            stream,
            label,
            whole.kind,
            whole.bytes,
            (),
            (whole.buffer,),
            step,
            layer,
            group=part.members,
            communicator=stream,
        )
        rank.composed(call, begins, ends)

    def _ring(self, part: EnginePart, stream: str) -> _Ring:
        key = part.members, stream
        if key not in self._rings:
            self._rings[key] = _Ring(*key)
        return self._rings[key]


class _Exchange:
    """One collective of a rank, turn by turn."""

    def __init__(self, engine: CopyEngine, part: EnginePart, stream: str, step: int, layer: int) -> None:
        self.engine = engine
        self.rank = engine.rank
        self.part = part
        self.label = part.whole.name or part.whole.kind
        self.ring = engine._ring(part, stream)
        self.stream = stream
        self.send, self.receive = copy_streams(stream)
        self.step, self.layer = step, layer
        self.summed: dict[int, int] = {}
        """Piece of the rank's own block -> event after its last addition."""
        self.given: dict[int, int] = {}
        """Piece -> event after it has been sent from all blocks of other ranks, whose sums may then come there."""

    def run(self, turns: Iterable[Turn]) -> None:
        """Issue the turns of all pieces."""
        for turn in turns:
            self._send(turn)
            self._receive(turn)

    def _send(self, turn: Turn) -> None:
        """Copy a piece to the next slot, once what is in it has been received."""
        rank, ring, part = self.rank, self.ring, self.part
        if len(ring.readers) == SLOTS:
            for reader, count in ring.readers[0]:
                rank.wait_flag(self.send, ring.read(reader), count, "host", "at_least")
        if turn.shared:
            if turn.piece in self.summed:
                rank.wait(self.send, self.summed[turn.piece])
            others = [part.target(Turn(distance, 0)) for distance in range(1, len(part.members))]
            ring.readers.append([(reader, ring.received + i + 1) for i, reader in enumerate(others)])
        else:
            ring.readers.append([(part.target(turn), ring.received + 1)])
        offset, size = part.sent(turn)
        if size:
            rank.copy(
                self.send,
                f"{self.label} out {turn.piece}",
                size,
                part.whole.buffer,
                kind="d2h",
                offset=offset,
                other=ring.slots(part.rank),
                other_offset=ring.turns % SLOTS * ring.slot_bytes,
                step=self.step,
                layer=self.layer,
            )
        ring.turns += 1
        rank.write_flag(self.send, ring.filled(part.rank), ring.turns, "host")
        if part.whole.kind == "all_reduce" and turn.distance == len(part.members) - 1:
            self.given[turn.piece] = rank.record(self.send)

    def _receive(self, turn: Turn) -> None:
        """Copy what other ranks have sent in this turn from their slots, and free those."""
        rank, ring, part = self.rank, self.ring, self.part
        if turn.shared and turn.piece in self.given:
            rank.wait(self.receive, self.given[turn.piece])
        adds = part.reduces and not turn.shared
        for source, offset, size in part.sources(turn):
            target, at = part.whole.buffer, offset
            if adds:
                target, at = ring.landing(ring.landed), 0
                if len(ring.reads) == LANDINGS:
                    rank.wait(self.receive, ring.reads[0])
            rank.wait_flag(self.receive, ring.filled(source), ring.turns, "host", "at_least")
            if size:
                with self.engine.around_piece(self.receive):
                    rank.copy(
                        self.receive,
                        f"{self.label} in {turn.piece}",
                        size,
                        target,
                        offset=at,
                        other=ring.slots(source),
                        other_offset=(ring.turns - 1) % SLOTS * ring.slot_bytes,
                        step=self.step,
                        layer=self.layer,
                    )
            ring.received += 1
            rank.write_flag(self.receive, ring.read(part.rank), ring.received, "host")
            if adds:
                self._add(turn, offset, size)

    def _add(self, turn: Turn, offset: int, size: int) -> None:
        """Add what has landed to the rank's own block."""
        rank, ring, buffer = self.rank, self.ring, self.part.whole.buffer
        landing = ring.landing(ring.landed)
        ring.landed += 1
        rank.wait(self.stream, rank.record(self.receive))
        if size:
            count = size // ELEMENT
            x, y = (Matrix(name, at // ELEMENT, 1, count, count) for name, at in ((landing, 0), (buffer, offset)))
            rank.kernel(
                self.stream,
                f"{self.label} add",
                hbm_bytes=float(3 * size),
                reads=(landing,),
                writes=(buffer,),
                step=self.step,
                layer=self.layer,
                ops=(Add(x, y),),
            )
        added = rank.record(self.stream)
        ring.reads.append(added)
        self.summed[turn.piece] = added
