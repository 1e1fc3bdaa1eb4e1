"""Programs: what host threads enqueue on CUDA streams, as plain data.

A `Program` holds, for every rank, the commands its host threads issue, in issue order. Streams are FIFO; events and
flags order them. Nothing here knows how long anything takes: a machine (simulated or real) decides that.

`RankBuilder` makes one. It tracks which commands are ordered before which (a vector clock per stream,
merged by events) and refuses, at construction, a wait that nobody can end and an access to a buffer that may still be
in use.
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
    Copy,
    CopyKind,
    HostAcquire,
    HostAdd,
    HostRelease,
    HostWait,
    HostWaitEvent,
    Instrumented,
    Kernel,
    LayerWeights,
    Program,
    ProgramError,
    RankProgram,
    RecordEvent,
    WaitEvent,
    WaitFlag,
    WriteFlag,
    instrument,
)

__all__ = [
    "COLLECTIVES",
    "AnyCommand",
    "Buffer",
    "BufferKind",
    "Collective",
    "CollectiveKind",
    "Command",
    "Copy",
    "CopyKind",
    "HostAcquire",
    "HostAdd",
    "HostRelease",
    "HostWait",
    "HostWaitEvent",
    "Instrumented",
    "Kernel",
    "LayerWeights",
    "Program",
    "ProgramError",
    "RankBuilder",
    "RankProgram",
    "RecordEvent",
    "WaitEvent",
    "WaitFlag",
    "WriteFlag",
    "instrument",
]
