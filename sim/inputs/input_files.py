"""Reading input files, bounded: what is not a regular file, or too large to be input of ours, is refused at once."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

from sim.inputs import files_read
from sim.inputs.config import InputError

MAX_BYTES = 64 * 2**20
"""Size of an input file; recorded traces, which are larger, have a limit of their own."""
_BLOCK = 2**20


def read_bytes(file: Path, most: int = MAX_BYTES) -> bytes:
    """The content of `file`, at most `most` bytes.

    Raises:
        InputError: it cannot be read, is a folder, pipe, socket or device, or holds more.
    """
    source = str(file)
    files_read.note(file)
    try:
        about = file.stat()
        if stat.S_ISDIR(about.st_mode):
            raise InputError(source, "", "cannot be read: Is a directory")
        if not stat.S_ISREG(about.st_mode):  # opening a pipe waits for who writes to it; a device may be endless
            raise InputError(source, "", "is not a regular file but a pipe, a socket or a device: give a file")
        if about.st_size > most:
            raise InputError(source, "", f"has {about.st_size} bytes, at most {most} are read")
        with file.open("rb") as opened:
            content = opened.read(about.st_size + 1)  # not `most`: as much memory would be taken at once
            while len(content) <= most and (more := opened.read(_BLOCK)):
                content += more
    except OSError as error:
        raise InputError(source, "", f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(source, "", f"is not a path: {error}") from None
    if len(content) > most:  # it grew, or says that it has no size, as files of /proc do
        raise InputError(source, "", f"has more than {most} bytes, which are the most that are read")
    return content


def read_standard_input(most: int = MAX_BYTES) -> bytes:
    """All of standard input, at most `most` bytes. Raises InputError where it is closed, unreadable, or holds more."""
    source = "standard input"
    if sys.stdin is None:
        raise InputError(source, "", "is closed")
    try:
        content = bytearray()
        while len(content) <= most and (more := sys.stdin.buffer.read(_BLOCK)):
            content += more
    except OSError as error:
        raise InputError(source, "", f"cannot be read: {error.strerror}") from None
    if len(content) > most:
        raise InputError(source, "", f"has more than {most} bytes, which are the most that are read")
    return bytes(content)


def text_of(content: bytes, source: str) -> str:
    """`content` as text in UTF-8. Raises InputError of `source`."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise InputError(source, "", "is not a text file (UTF-8 expected)") from None


def read_text(file: Path, most: int = MAX_BYTES) -> str:
    """The text of `file`, which is in UTF-8. Raises InputError, as `read_bytes`."""
    return text_of(read_bytes(file, most), str(file))
