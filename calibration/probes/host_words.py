"""Words of host memory that streams write and wait for: of one rank, or shared by several.

Shared memory is a file without a name (memfd) that the other ranks open through /proc, so that nothing is left of it
when all processes have ended, however they ended.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time

from calibration.probes import driver
from calibration.probes.context import Context
from calibration.torch_machine.device import Call, Stream
from sim.program.commands import at_least

WORDS = 16
"""Words of a region; each has a line of the processor's cache to itself."""

LINE = 64
"""Bytes between words."""

POLL_S = 20e-6
"""How often a stream of a CPU looks at a word that it waits for, s."""


def shared_memory(context: Context, size: int, ranks: int, owner: int = 0) -> mmap.mmap:
    """`size` bytes of zeros that the first `ranks` ranks share; `owner` makes them. All ranks call this together.

    Raises:
        OSError: another rank's memory cannot be opened.
    """
    if ranks == 1:
        return mmap.mmap(-1, size)
    mine = context.rank == owner
    file = os.memfd_create("probes") if mine else -1
    if mine:
        os.ftruncate(file, size)
    process, number = context.broadcast([os.getpid(), file] if mine else [0, 0], ranks, owner)
    if not mine:
        file = os.open(f"/proc/{process}/fd/{number}", os.O_RDWR)
    try:
        memory = mmap.mmap(file, size)
        context.barrier(ranks)  # the owner's file must be there until all have opened it
    finally:
        os.close(file)
    return memory


class HostWords:
    """`WORDS` words that streams of the first `ranks` ranks may write and wait for, and their hosts too."""

    def __init__(self, context: Context, ranks: int) -> None:
        self._cuda = context.cuda
        self._memory = shared_memory(context, WORDS * LINE, ranks)
        first = ctypes.c_char.from_buffer(self._memory)
        self._address = ctypes.addressof(first)
        self._words = [ctypes.c_uint32.from_buffer(self._memory, LINE * i) for i in range(WORDS)]
        self._device_address = driver.register(self._address, WORDS * LINE) if self._cuda else 0

    def __getitem__(self, index: int) -> int:
        """What a word is."""
        return self._words[index].value

    def __setitem__(self, index: int, value: int) -> None:
        self._words[index].value = value

    def write(self, stream: Stream, index: int, value: int) -> Call:
        """A call that enqueues a write."""
        if self._cuda:
            return driver.write_value(stream, self._device_address + LINE * index, value)
        return stream.run(lambda: self.__setitem__(index, value))

    def wait(self, stream: Stream, index: int, value: int) -> Call:
        """A call that enqueues a wait until a word is at least `value`, see `sim.program.commands.at_least`."""
        if self._cuda:
            return driver.wait_at_least(stream, self._device_address + LINE * index, value)

        def wait() -> None:
            while not at_least(self[index], value):
                time.sleep(POLL_S)

        return stream.run(wait)


def host_words(context: Context, ranks: int = 1) -> HostWords:
    """The words that the first `ranks` ranks share, made when they first ask together."""
    name = f"host words {ranks}"
    if name not in context.kept:
        context.kept[name] = HostWords(context, ranks)
    words: HostWords = context.kept[name]
    return words
