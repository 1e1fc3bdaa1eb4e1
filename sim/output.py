"""Writing results so that a failed or interrupted run never leaves half a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Let every OSError inside name `file`: that of a write names none."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None


def write_atomically(file: Path, data: bytes | str) -> None:
    """Write `file` whole or not at all: to a temporary file beside it, then renamed. Raises OSError naming `file`.

    Missing folders are made. A link stays a link, to what is written. What is there and no regular file, such as a
    pipe, is written to as it is.
    """
    content = data.encode() if isinstance(data, str) else data
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
