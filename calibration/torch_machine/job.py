"""What a rank's process is given to run."""

from __future__ import annotations

import msgspec

from calibration.torch_machine.shared_memory import Layout
from sim.program import Communicator, RankProgram


class Job(msgspec.Struct):
    """A rank's part of a program, the events to time, and after how many seconds to give up.

    `communicators` are those of all ranks, of which `world` is the name of the one of the compute stream. `keep` names
    buffers whose contents are wanted.
    """

    program: RankProgram
    timed: list[int]
    timeout_s: float
    communicators: list[Communicator]
    world: str
    layout: Layout
    keep: list[str] = []
