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
from sim.workloads.block_items import too_few
from sim.workloads.explicit import Blocks, Explicit
from sim.workloads.model_shapes import remember
from sim.workloads.recorded_operations import RecordedPass
from sim.workloads.workload import Workload

GENERATOR = "chunkflow-sim recorded program"
"""What a file of one begins with, as its key `generator`."""


class RecordedProgram(RecordedPass, frozen=True, eq=False, kw_only=True):
    """A recorded pass as a file holds it, with the pass as `blocks`.

    `outside_bytes` are weights of no block that are copied, too.
    """

    generator: str
    blocks: tuple[Blocks, ...]
    outside_bytes: int = 0


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
        return sum(group.repeat for group in self.recorded().blocks)

    def resolve(self, world_size: int = 1) -> Workload:
        """The recorded pass, as blocks and as operations.

        Raises:
            InputError: the file is none of a recorded program, or one of another number of ranks.
        """
        program = self.recorded()
        if program.world_size != world_size:
            problem = f"is {world_size}, but {self.program} was recorded on {program.world_size} ranks"
            raise InputError("scenario", "world_size", problem)
        return self.explicit().resolve(world_size)._replace(recorded=program)

    def recorded(self) -> RecordedProgram:
        """The recorded program. Raises `InputError`."""
        return load_program(self.program)

    def explicit(self) -> Explicit:
        """Its pass as blocks only."""
        program = self.recorded()
        return Explicit(
            blocks=program.blocks,
            steps=self.steps,
            passes_per_step=self.passes_per_step,
            activation_bytes=self.activation_bytes,
            outside_bytes=Bytes(program.outside_bytes),
        )


def load_program(name: str) -> RecordedProgram:
    """The recorded program in the file of that name. Raises `InputError`, of the scenario's key that names it."""

    def read() -> RecordedProgram:
        try:
            return _read(Path(name))
        except InputError as error:
            said = [": ".join(part for part in (error.source, *fault) if part) for fault in error.faults]
            raise InputError.of("scenario", [("workload.program", problem) for problem in said]) from None

    return remember(name, read)


def _read(file: Path) -> RecordedProgram:
    source = str(file)
    try:
        data = msgspec.json.decode(read_bytes(file))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InputError(source, "", f"is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("generator") != GENERATOR:
        raise InputError(source, "", "is no recorded program: `chunkflow-sim import trace` writes one")
    return convert(data, RecordedProgram, source)
