"""What a command may overwrite: its own earlier results, and neither its inputs nor what others wrote.

Each kind of file that is written carries a mark in its first bytes, by which a later run knows it again.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from sim.inputs import files_read
from sim.inputs.atomic_files import naming, refuse_pipe
from sim.inputs.config import InputError

_HEAD = 4096
"""Bytes at a file's start that hold the mark."""


class Kind(Enum):
    """A kind of file that is written, with its mark."""

    PAGE = b'<meta name="generator" content="chunkflow-sim">'
    TRACE = b'"otherData":{"generator":"chunkflow-sim"}'
    ROWS = b"scenario_v"
    PROFILE = b"# Written by chunkflow-sim"
    SCENARIO = b"# Chosen by chunkflow-sim plan"
    IMPORTED = b"# Imported by chunkflow-sim"
    """A scenario of files of other tools."""
    PROGRAM = b'{"generator":"chunkflow-sim recorded program"'
    """A recorded program."""
    RECORDS = b'{"schema":'
    """JSON, an object a line: raw rows and measured cases."""
    ORIGIN = b'"fingerprint"'

    def made(self, head: bytes) -> bool:
        """Whether a file that begins with `head` is of this kind; one that is empty or cut off inside its mark, too."""
        if self in (Kind.ROWS, Kind.PROFILE, Kind.SCENARIO, Kind.IMPORTED, Kind.PROGRAM, Kind.RECORDS):
            return head.startswith(self.value) or self.value.startswith(head)
        return not head or self.value in head


class Output(NamedTuple):
    """A file that a command is to write, the option that names it, and the kind it will be."""

    option: str
    file: Path
    kind: Kind


def check_outputs(outputs: Sequence[Output], force: bool = False) -> None:
    """Refuse outputs that would destroy something, or that are none. Call it when inputs are read, and before any work.

    Devices and open pipes hold nothing that could be lost, and what cannot be looked at will not be written to either.
    With `force` an output may be a file that was read or that others wrote; two outputs are never one file.

    Raises:
        InputError: an output is another output or standard output, was read, is not an earlier result of its kind, or
            is a named pipe.
        UnwritableError: an output is a folder, or no path that a file can have.
    """
    for number, output in enumerate(outputs):
        refuse_pipe(output.file, output.option)
        with naming(output.file):
            if output.file.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if output.file.exists() and not output.file.is_file():
                continue
        for other in outputs[:number]:
            if _same(output.file, other.file):
                raise _refused(output, f"would overwrite what {other.option} writes: give another file")
        if _is_standard_output(output.file):
            raise _refused(output, "would overwrite the file that standard output goes to: give another file")
        if force:
            continue
        if any(_same(output.file, read) for read in files_read.noted()):
            raise _refused(output, "would overwrite a file that this command reads: give another file, or --force")
        if not _ours(output):
            problem = (
                f"would overwrite a file that is not an earlier {output.option} of chunkflow-sim: give another file"
            )
            raise _refused(output, f"{problem}, or --force")


def is_earlier(output: Output) -> bool:
    """Whether the file is an earlier result of its kind, or there is none to be lost."""
    return not output.file.is_file() or _ours(output)


def _ours(output: Output) -> bool:
    try:
        with output.file.open("rb") as file:
            return output.kind.made(file.read(_HEAD))
    except PermissionError:
        return False
    except OSError:
        return True


def _refused(output: Output, problem: str) -> InputError:
    return InputError(str(output.file), "", f"{output.option} {problem}")


def _same(first: Path, second: Path) -> bool:
    """Whether two paths are one file: by what is there, or, where nothing is, by where it would be."""
    try:
        return first.samefile(second)
    except (OSError, ValueError):
        return os.path.realpath(first) == os.path.realpath(second)


def _is_standard_output(file: Path) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError, AttributeError):
        return False
