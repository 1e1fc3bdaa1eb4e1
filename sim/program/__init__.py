"""Programs: what host threads enqueue on CUDA streams, as plain data.

A `Program` holds, for every rank, the commands its host threads issue, in issue order. Streams are FIFO; events and
flags order them. Nothing here knows how long anything takes: a machine (simulated or real) decides that.

`RankBuilder` makes a rank's part. It tracks which commands are ordered before which (a vector clock per stream,
merged by events) and refuses a wait that nobody can end and an access to a buffer that may still be in use. `Program`
checks what ranks do together: that they meet (`sim.program.rendezvous`), and that they use the memory that they share
in a certain order (`sim.program.ordering`).
"""

from sim.program.builder import RankBuilder
from sim.program.commands import (
    COLLECTIVES,
    AnyCommand,
    Buffer,
    BufferKind,
    Collective,
    CollectiveKind,
    Command,
    Communication,
    Communicator,
    Copy,
    CopyKind,
    FlagMemory,
    FlagTest,
    HostAcquire,
    HostAdd,
    HostBuffer,
    HostCopyKind,
    HostMemory,
    HostRelease,
    HostWait,
    HostWaitEvent,
    HostWork,
    Kernel,
    LayerWeights,
    PointToPoint,
    ProgramError,
    RecordEvent,
    Recv,
    Send,
    WaitEvent,
    WaitFlag,
    WriteFlag,
)
from sim.program.instrumentation import Instrumented, instrument
from sim.program.program import Program
from sim.program.rank_program import RankProgram

__all__ = [
    "COLLECTIVES",
    "AnyCommand",
    "Buffer",
    "BufferKind",
    "Collective",
    "CollectiveKind",
    "Command",
    "Communication",
    "Communicator",
    "Copy",
    "CopyKind",
    "FlagMemory",
    "FlagTest",
    "HostAcquire",
    "HostAdd",
    "HostBuffer",
    "HostCopyKind",
    "HostMemory",
    "HostRelease",
    "HostWait",
    "HostWaitEvent",
    "HostWork",
    "Instrumented",
    "Kernel",
    "LayerWeights",
    "PointToPoint",
    "Program",
    "ProgramError",
    "RankBuilder",
    "RankProgram",
    "RecordEvent",
    "Recv",
    "Send",
    "WaitEvent",
    "WaitFlag",
    "WriteFlag",
    "instrument",
]
