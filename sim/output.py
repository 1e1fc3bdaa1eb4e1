"""Writing results so that a failed or interrupted run never leaves half a file."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(file: Path, data: bytes | str) -> None:
    """Write `file` whole or not at all: to a temporary file beside it, then renamed. Raises OSError."""
    content = data.encode() if isinstance(data, str) else data
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
