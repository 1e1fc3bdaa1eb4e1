"""Recorded programs: what the host of a measured pass issued, in order, and the pass as explicit blocks.

A workload names the file of one (`program`). Its blocks are what policies read, as of any workload; its operations are
what the policy `replay` issues.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from sim.inputs.config import Config, InputError, convert
from sim.inputs.faults import refuse
from sim.inputs.input_files import read_bytes
from sim.inputs.units import Bytes
from sim.program import CollectiveKind, HostCopyKind, HostMemory
from sim.workloads.block_items import too_few
from sim.workloads.explicit import Blocks, Explicit
from sim.workloads.model_shapes import remember
from sim.workloads.workload import Workload

GENERATOR = "chunkflow-sim recorded program"
"""What a file of one begins with, as its key `generator`."""


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


class RecordedProgram(Config, frozen=True, eq=False, kw_only=True):
    """One pass of a rank, which all ranks run: `operations` in the order of their calls, and the pass as `blocks`.

    `compute` is the stream whose events bound steps. `outside_bytes` are weights of no block that the GPU holds or is
    sent. `source` is the trace, `step_s` what its pass took there, s.
    """

    generator: str
    source: str
    world_size: int
    step_s: float
    compute: str
    blocks: tuple[Blocks, ...]
    operations: tuple[Operation, ...]
    outside_bytes: int = 0
    notes: tuple[str, ...] = ()


class Recorded(Config, frozen=True):
    """A workload by the file of a recorded program."""

    program: str
    steps: int = 4
    passes_per_step: int = 1
    activation_bytes: Bytes = Bytes(0)

    def __post_init__(self) -> None:
        refuse(too_few(self, ("steps", "passes_per_step")))

    def layer_count(self) -> int:
        """Layers of one pass."""
        return sum(group.repeat for group in load_program(self.program).blocks)

    def resolve(self, world_size: int = 1) -> Workload:
        """The recorded pass, as blocks and as operations.

        Raises:
            InputError: the file is none of a recorded program, or one of another number of ranks.
        """
        program = load_program(self.program)
        if program.world_size != world_size:
            problem = f"is {world_size}, but {self.program} was recorded on {program.world_size} ranks"
            raise InputError("scenario", "world_size", problem)
        blocks = Explicit(
            blocks=program.blocks,
            steps=self.steps,
            passes_per_step=self.passes_per_step,
            activation_bytes=self.activation_bytes,
            outside_bytes=Bytes(program.outside_bytes),
        )
        return blocks.resolve(world_size)._replace(recorded=program)


def load_program(name: str) -> RecordedProgram:
    """The recorded program in the file of that name. Raises `InputError`, of the scenario's key that names it."""
    return remember(name, lambda: _read(Path(name)))


def _read(file: Path) -> RecordedProgram:
    source = str(file)
    try:
        data = msgspec.json.decode(read_bytes(file))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(source, "", f"is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("generator") != GENERATOR:
        raise InputError(source, "", "is no recorded program: `chunkflow-sim import trace` writes one")
    return convert(data, RecordedProgram, source)
