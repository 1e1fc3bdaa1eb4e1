"""Figures kept between runs, in `$XDG_CACHE_HOME/chunkflow-sim`.

An entry is a file, named by the key of what it holds and written under another name first, so that processes share the
folder without locks, also on a network's file system, and one that is killed leaves no half of an entry. Entries lie
in 256 folders by the first digits of their key. Each of these holds at most 1 MiB: an entry more pushes out those that
were used longest ago.

A cache is a convenience: one that cannot be read or written, or holds something else, is as one that is empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

MAX_BYTES = 256 * 2**20
"""Of all entries together."""
_FOLDERS = 256
_MARK = b"chunkflow-sim cache 1\n"


def cache_folder() -> Path | None:
    """Where the user's cache is; None if there is no home."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "chunkflow-sim"


class FiguresCache:
    """Content by key, in `folder`, at most `most_bytes`; keys are hexadecimal digits. Nothing here raises."""

    def __init__(self, folder: Path, most_bytes: int = MAX_BYTES) -> None:
        self.folder = folder
        self.most_bytes = most_bytes

    def get(self, key: str) -> bytes | None:
        """What was put for `key`; None where nothing is, or something else."""
        file = self._file(key)
        try:
            content = file.read_bytes()
        except OSError:
            return None
        head, entry = content[: len(_MARK) + 32], content[len(_MARK) + 32 :]
        if head != _MARK + hashlib.sha256(entry).digest():
            return None
        with contextlib.suppress(OSError):
            os.utime(file)  # used now
        return entry

    def put(self, key: str, content: bytes) -> None:
        """Keep `content` for `key`, unless it is larger than a folder may be."""
        file, whole = self._file(key), _MARK + hashlib.sha256(content).digest() + content
        if len(whole) > self.most_bytes // _FOLDERS:
            return
        try:
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_room(file.parent, len(whole))
            descriptor, made = tempfile.mkstemp(dir=file.parent, prefix=".")
            try:
                with os.fdopen(descriptor, "wb") as out:
                    out.write(whole)
                Path(made).replace(file)
            except BaseException:
                with contextlib.suppress(OSError):
                    Path(made).unlink()
                raise
        except OSError:
            return

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / key[2:]

    def _make_room(self, folder: Path, size: int) -> None:
        """Remove what was used longest ago, and what killed processes left behind, until `size` more is allowed."""
        found = []
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another process has just removed it
                    about = entry.stat(follow_symlinks=False)
                    found.append((about.st_mtime, about.st_size, entry.path))
        left = sum(size_of_file for _, size_of_file, _ in found) + size - self.most_bytes // _FOLDERS
        for _, size_of_file, path in sorted(found):
            if left <= 0:
                return
            with contextlib.suppress(OSError):
                Path(path).unlink()
            left -= size_of_file


def user_cache(wanted: bool = True) -> FiguresCache | None:
    """The user's cache; None where it is not wanted, or there is no place for it."""
    folder = cache_folder() if wanted else None
    return None if folder is None else FiguresCache(folder)
