"""Patch pipelines (PipeFusion): what a rank of a stage does in each pass, of a whole sequence or of one patch of it.

The first `warmup_steps` send whole sequences through the stages, one stage at a time. Later steps send patch after
patch, and a patch attends to what the others were a step ago, so that stages work at the same time. As in xDiT's
asynchronous loop, a stage receives a patch when its compute stream gets there, works on it and starts to send it on a
stream of its own; the last one has the scheduler's latents to send, which the first one receives a step later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from sim.inputs.units import Bytes
from sim.program import Recv, Send
from sim.program.ops import AnyOperation, Matrix, Permute
from sim.workloads.activation_memory import ACTIVATIONS
from sim.workloads.block_builder import KV_CACHE
from sim.workloads.block_items import CollectiveOp, Compute, Op, Transfers, Wait
from sim.workloads.block_setup import Setup
from sim.workloads.layer_builder import BF16
from sim.workloads.skips import Skips
from sim.workloads.workload import Forms, Layer, Workload

WHOLE, WITH_TEXT, WITHOUT_TEXT = range(3)
"""Blocks of a layer of `in_patches`: of the whole sequence, of a patch with the text, of a patch without it."""
OUTPUT = "stage output"
"""The buffer of what a stage sends, and the name of the sends."""
SENDS = "stage"
"""The stream on which a stage sends what it computed."""
LATENTS = "latents"
"""The buffer of what a step has predicted."""


class _Pass(NamedTuple):
    """A pass of a stage: its block, what it receives and sends (B, 0 for nothing), and whether it joins guidance.

    `number` is that of guidance, `turn` which of the places of what is sent it takes, `place` which one it is of its
    step.
    """

    block: int
    patch: int
    number: int
    turn: int
    receives: int
    sends: int
    joins: int
    place: int = 0


class StageOfPatches(NamedTuple):
    """One rank of a patch pipeline: its `group`, from the first stage to the last, and which `stage` it is."""

    setup: Setup
    group: tuple[int, ...]
    stage: int
    passes: int
    """Passes of guidance that a rank runs one after the other."""
    text_each: bool
    """Whether each patch goes with the text, not only the first one."""
    skips: Skips
    """Its skip connections."""

    def workload(self, whole: Workload, layers: tuple[Layer, ...]) -> Workload:
        """What the rank does: `whole` of `layers`, its own ones, which have the three blocks."""
        layout = self.setup.layout
        first = [self._warm_up()] * layout.warmup_steps
        if self.stage == 0:  # it has the latents of the last warm-up step, or noise
            first.append([p._replace(receives=0) for p in self._step(False)])
        then, last = self._step(False), self._step(True)
        numbers = {p: i for i, p in enumerate(dict.fromkeys(p for step in (*first, then, last) for p in step))}
        forms = Forms(
            tuple(tuple(numbers[p] for p in step) for step in first),
            tuple(numbers[p] for p in then),
            tuple(numbers[p] for p in last),
        )
        made = []
        for at, layer in enumerate(layers):
            ends = (at == 0) + 2 * (at == len(layers) - 1)
            blocks = []
            for p in numbers:
                block = Place(self.setup, at + p.number * len(layers), p.patch).of(layer.blocks[p.block])
                if any(self.skips.takes):
                    number, setup = self.skips.own[at], self._setup_of(p)
                    block = (*self.skips.take(number, block, setup), *self.skips.keep(number, setup, p.place))
                blocks.append(self._block(block, p, ends))
            made.append(layer._replace(block=blocks[0], others=tuple(blocks[1:])))
        cache = kv_cache_bytes(self.setup, len(layers)) * self.passes
        whole = whole._replace(layers=tuple(made), passes_per_step=len(then), forms=forms)
        return whole._replace(cache_bytes=cache, skip_bytes=self.skips.bytes())

    def _setup_of(self, made: _Pass) -> Setup:
        """How a pass runs."""
        return self.setup if made.block == WHOLE else self.setup._replace(patch=True, with_text=made.block == WITH_TEXT)

    @property
    def _is_last(self) -> bool:
        return self.stage == len(self.group) - 1

    def _warm_up(self) -> list[_Pass]:
        """The passes of a step that is not pipelined; the first stage then waits for the latents."""
        hidden, latents = hidden_bytes(self.setup), latent_bytes(self.setup)
        found: list[_Pass] = []
        for number in range(self.passes):
            ends = number == self.passes - 1
            found.append(
                _Pass(
                    WHOLE,
                    0,
                    number,
                    0,
                    (latents if ends else 0) if self.stage == 0 else hidden,
                    (latents if ends else 0) if self._is_last else hidden,
                    ends,
                )
            )
        return found

    def _step(self, last: bool) -> list[_Pass]:
        """The passes of a step in patches; of the `last` one nothing is sent to the first stage."""
        found: list[_Pass] = []
        for patch in range(self.setup.layout.patches):
            with_text = patch == 0 or self.text_each
            setup = self.setup._replace(patch=True, with_text=with_text)
            hidden, latents = hidden_bytes(setup), latent_bytes(setup)
            for number in range(self.passes):
                ends = number == self.passes - 1
                receives = (latents if number == 0 else 0) if self.stage == 0 else hidden
                sends = (latents if ends and not last else 0) if self._is_last else hidden
                block = WITH_TEXT if with_text else WITHOUT_TEXT
                found.append(_Pass(block, patch, number, len(found) % 2, receives, sends, ends, len(found)))
        return found

    def _block(self, block: tuple[Op, ...], made: _Pass, ends: int) -> tuple[Op, ...]:
        """`block` with what the stage's first layer (bit 0 of `ends`) and last one (bit 1) send and receive."""
        before: list[Op] = []
        after: list[Op] = []
        asynchronous = made.block != WHOLE
        waits_at_end = self.stage == 0 and not asynchronous
        if ends & 1 and made.receives and not waits_at_end:
            before.append(self._receive(made.receives))
        if ends & 1:
            before += self.skips.receives(self._setup_of(made))
        if ends & 2:
            if self._is_last and made.joins:
                after += self._joined(asynchronous)
            if made.sends and asynchronous and not self._is_last:
                after += self._copied(made)
            if made.sends:
                after.append(self._send(made, asynchronous))
            after += self.skips.sends(self._setup_of(made), made.place, asynchronous)
            if waits_at_end and made.receives:
                after.append(self._receive(made.receives))
        return (*before, *block, *after) if before or after else block

    def _receive(self, size: int) -> Transfers:
        source = self.stage - 1
        name = LATENTS if self.stage == 0 else "stage input"
        recv = Recv(self.group[source], size, LATENTS if self.stage == 0 else ACTIVATIONS)
        return Transfers(name, (recv,), communicator=self._edge(source % len(self.group)))

    def _copied(self, made: _Pass) -> Iterator[Op]:
        """Copy hidden vectors to where they are sent from, once the send before the last one has left that place."""
        # with an odd number of passes the last one of a step and the first one of the next have the same place
        yield Wait(stream=SENDS, of_layer=True, behind=1 - self.setup.layout.patches * self.passes % 2)
        elements = made.sends // BF16
        x, y = (
            Matrix(ACTIVATIONS, 0, 1, elements, elements),
            Matrix(OUTPUT, self._place(made) // BF16, 1, elements, elements),
        )
        copied = Permute(x, y, (1, elements), (0, 1))
        yield Compute(name=OUTPUT, bytes=Bytes(2 * made.sends), ops=(copied,))

    def _place(self, made: _Pass) -> int:
        """Byte at which a pass puts what it sends: places have room for a patch with the text."""
        return made.turn * hidden_bytes(self.setup._replace(patch=True))

    def _send(self, made: _Pass, asynchronous: bool) -> Transfers:
        target = self.group[(self.stage + 1) % len(self.group)]
        name = LATENTS if self._is_last else OUTPUT
        buffer, offset = name, self._place(made)
        if not asynchronous:
            buffer, offset = LATENTS if self._is_last else ACTIVATIONS, 0
        elif self._is_last:
            offset = 0
        stream = SENDS if asynchronous else None
        send = Send(target, made.sends, buffer, offset)
        return Transfers(name, (send,), stream, asynchronous, self._edge(self.stage))

    def _edge(self, stage: int) -> str:
        """The communicator from one stage to the next: xDiT has one for each pair and direction."""
        return f"from stage {stage}"

    def _joined(self, asynchronous: bool) -> Iterator[Op]:
        cfg = self.setup.layout.cfg
        if cfg > 1:
            size = Bytes(cfg * latent_bytes(self.setup._replace(patch=asynchronous)))
            yield CollectiveOp(kind="all_gather", bytes=size, name="guidance", group=self.setup.groups("cfg"))


class Place(NamedTuple):
    """Where a pass keeps keys and values: those of its `layer` of the stage, and the tokens of its `patch`."""

    setup: Setup
    layer: int
    patch: int

    def of(self, block: tuple[Op, ...]) -> tuple[Op, ...]:
        """`block`, of which the cache is that of the first layer and patch, at this place."""
        if not self.layer and not self.patch:
            return block
        return tuple(
            msgspec.structs.replace(op, ops=tuple(map(self._moved, op.ops)))
            if isinstance(op, Compute) and any(m.buffer == KV_CACHE for o in op.ops for m in o.operands())
            else op
            for op in block
        )

    def _moved(self, op: AnyOperation) -> AnyOperation:
        changed = {}
        for name in op.__struct_fields__:
            matrix = getattr(op, name)
            if isinstance(matrix, Matrix) and matrix.buffer == KV_CACHE:
                changed[name] = msgspec.structs.replace(matrix, offset=matrix.offset + self._away(matrix))
        return msgspec.structs.replace(op, **changed)

    def _away(self, matrix: Matrix) -> int:
        """Elements from the first layer and patch to this one, for keys or values of one patch, or of all tokens."""
        rows, batch = self.setup.cached_rows, self.setup.batch
        layer = self.layer * 2 * batch * rows * matrix.columns
        is_text = matrix.offset % (batch * rows * matrix.columns)
        if matrix.rows == rows or is_text:
            return layer
        tokens = self.setup._replace(patch=True).local * self.setup.ulysses
        return layer + min(self.patch * tokens, rows - matrix.rows) * matrix.columns


def hidden_bytes(setup: Setup) -> int:
    """Hidden vectors that a rank hands on, B."""
    return setup.rows * setup.model.transformer.hidden * setup.batch * BF16


def latent_bytes(setup: Setup) -> int:
    """Latents of a rank's tokens, B."""
    return -(-setup.latent_elements // setup.parts) * setup.batch * BF16


def kv_cache_bytes(setup: Setup, layers: int) -> int:
    """Keys and values of all tokens for a rank's heads of so many layers, B: 2 A a layer, over Ulysses and tensor."""
    width = setup.model.transformer.hidden // (setup.layout.tensor * setup.ulysses)
    return 2 * setup.cached_rows * width * setup.batch * BF16 * layers


def displaced(whole: Workload, setup: Setup) -> Workload:
    """`whole` with warm-up: its ranks then attend to what the others' keys and values were a step ago."""
    warm, late = (WHOLE,) * whole.passes_per_step, (WITH_TEXT,) * whole.passes_per_step
    forms = Forms((warm,) * setup.layout.warmup_steps, late, late)
    cache = kv_cache_bytes(setup, len(whole.layers)) * whole.passes_per_step
    layers = []
    for at, layer in enumerate(whole.layers):
        block, *others = (Place(setup, at, 0).of(block) for block in layer.blocks)
        layers.append(layer._replace(block=block, others=tuple(others)))
    return whole._replace(layers=tuple(layers), forms=forms, cache_bytes=cache)


def in_shares(whole: Workload, setup: Setup, steps: Sequence[int]) -> Workload:
    """`whole` with the form of each of its `steps`: by the share of tokens that cross slow links in it (V-major).

    Each rank keeps what it got of queries, keys and values, and its own values, of every layer.
    """
    rows, width = setup.rows, setup.model.transformer.hidden // setup.layout.tensor
    kept = 4 * rows * width * setup.batch * BF16 * len(whole.layers) * whole.passes_per_step
    each = [(form,) * whole.passes_per_step for form in steps]
    return whole._replace(forms=Forms(tuple(each), each[-1], each[-1]), cache_bytes=kept)
