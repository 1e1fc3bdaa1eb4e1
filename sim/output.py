"""Writing results so that a failed or interrupted run never leaves half a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(file: Path, data: bytes | str, parents: bool = False) -> None:
    """Write `file` whole or not at all: to a temporary file beside it, then renamed. Raises OSError naming `file`.

    With `parents`, missing folders are made. What is there and no regular file, such as a pipe, is written to as it is.
    """
    content = data.encode() if isinstance(data, str) else data
    try:
        if parents:
            file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not file.is_file():
            file.write_bytes(content)
        else:
            _replace(file, content)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None


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
