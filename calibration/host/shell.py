"""Asking programs and files; those that do not answer say nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path


def run(program: str, *arguments: str, failing: bool = False, timeout_s: float = 120) -> str:
    """What a program prints; nothing where it is missing, or fails (unless `failing`), or takes too long."""
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if failing or done.returncode == 0 else ""


def read(file: str | Path) -> str:
    """The text of a file; nothing where it cannot be read."""
    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError):
        return ""
