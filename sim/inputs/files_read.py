"""Which files a command has read, so that it overwrites none of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_FILES: ContextVar[dict[Path, None] | None] = ContextVar("files read", default=None)


@contextmanager
def recording() -> Iterator[None]:
    """Remember the files that are read from here on, until the block ends."""
    token = _FILES.set({})
    try:
        yield
    finally:
        _FILES.reset(token)


def note(file: Path) -> None:
    """Say that `file` is being read; every reader of files does."""
    if (files := _FILES.get()) is not None:
        files[file] = None


def noted() -> tuple[Path, ...]:
    """The files that have been read, in their order; none outside of `recording`."""
    return tuple(_FILES.get() or ())
