"""Writing results so that a failed or interrupted run never leaves half a file, and two runs never share one."""

from __future__ import annotations

import errno
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sim.inputs.config import InputError

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer."""
_BLOCK = 2**16
"""Bytes that are looked at together for the end of a line."""
_DESCRIPTORS = re.compile(r"/dev/fd|/proc/\d+(/task/\d+)?/fd")
"""Folders of what a process has open."""


class UnwritableError(OSError):
    """An output that cannot be written; `filename` names it."""


def refuse_pipe(file: Path, option: str = "") -> None:
    """Refuse a named pipe, and what would be in one: opening it waits until somebody reads, perhaps for ever.

    A pipe that a process has open already has its reader: /dev/stdout, /dev/fd/N and /proc/PID/fd/N are let through.

    Raises:
        InputError: naming `file` and the `option` that gave it.
    """
    for place in (file, *file.parents):
        try:
            is_pipe = stat.S_ISFIFO(place.stat().st_mode)
        except (OSError, ValueError):
            continue
        if is_pipe and not _is_open(place):
            raise InputError(str(file), "", f"{option} is a pipe: give a file".lstrip())
        return


def _is_open(file: Path) -> bool:
    """Whether a path leads, by links, to an open file of a process."""
    while _DESCRIPTORS.fullmatch(os.path.realpath(file.parent)) is None:
        if not file.is_symlink():
            return False
        file = file.parent / file.readlink()
    return True


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Turn every OSError inside into an `UnwritableError` that names `file`: that of a write names none."""
    try:
        yield
    except BrokenPipeError:  # whoever read has had enough, which is not a failure to report
        raise
    except OSError as error:
        raise UnwritableError(error.errno, error.strerror, str(file)) from None


def open_alone(file: Path) -> BinaryIO:
    """Open `file` for appending, unbuffered, and hold it until it is closed or this process has ended, however.

    Missing folders are made. A device, or a file on a file system without locks, is opened but not locked.

    Raises:
        InputError: another run holds it, or it is a named pipe.
        UnwritableError: it cannot be opened; names it.
    """
    refuse_pipe(file)
    with naming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        while True:
            out = file.open("ab", buffering=0)
            try:
                if not file.is_file() or _hold(out, file):
                    return out
            except BaseException:
                out.close()
                raise
            out.close()


def _hold(out: BinaryIO, file: Path) -> bool:
    """Lock `out`; False if it is no longer what `file` names, as the run that held it has put another in its place."""
    import fcntl  # not everywhere that simulations run

    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem = "another run is writing to it: wait until it has ended, or give another --out"
        raise InputError(str(file), "", problem) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        return os.path.samestat(os.fstat(out.fileno()), file.stat())
    except FileNotFoundError:
        return False


def whole_lines(content: bytes) -> bytes:
    """`content` without a last line that a killed run left half-written."""
    return content[: content.rfind(b"\n") + 1]


def cut_torn_line(out: BinaryIO, file: Path) -> None:
    """Cut a half-written last line off `file`, which `out` holds; a device has none."""
    if not file.is_file():
        return
    with file.open("rb") as written:
        end = begin = written.seek(0, os.SEEK_END)
        while begin:
            before, begin = begin, max(0, begin - _BLOCK)
            written.seek(begin)
            if whole := whole_lines(written.read(before - begin)):
                begin += len(whole)
                break
    if begin < end:
        with naming(file):
            out.truncate(begin)


def append(out: BinaryIO, data: bytes) -> None:
    """Write all of `data` to an unbuffered file. A disk that is nearly full takes a part, and refuses the rest."""
    while data:
        data = data[out.write(data) :]


def write_atomically(file: Path, data: bytes | str) -> None:
    """Write `file` whole or not at all: to a temporary file next to it, then renamed.

    Missing folders are made. A link stays a link, to what is written. What is there and no regular file, such as a
    device, is written to as it is.

    Raises:
        InputError: it is a named pipe.
        UnwritableError: naming `file`.
    """
    refuse_pipe(file)
    # names of files may hold bytes that are not text
    content = data.encode(errors="backslashreplace") if isinstance(data, str) else data
    with naming(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not file.is_file():
            file.write_bytes(content)
        else:
            _replace(Path(os.path.realpath(file)), content)


def _replace(file: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # mkstemp gives 0600
        temporary.replace(file)
    except BaseException:
        temporary.unlink()
        raise
