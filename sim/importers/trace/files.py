"""Files of traces: plain, compressed, in archives and folders, each bounded."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from sim.importers.trace.kineto import Document, decode
from sim.inputs.config import InputError
from sim.inputs.input_files import read_bytes
from sim.inputs.other_formats import refuse_other

MAX_FILE = 2**30
"""Bytes of a file, and of what it unpacks to."""
MAX_FILES = 1024
_HEAD = 2**18
"""Bytes at a file's start that are looked at."""
_MARKS = (b'"traceEvents"', b'"deviceProperties"', b'"distributedInfo"', b'"ph"')
_GZIP = b"\x1f\x8b"
_SUFFIXES = (".json", ".json.gz", ".tar.gz", ".tgz", ".tar")


class TraceFile(NamedTuple):
    """A trace, and what messages call it."""

    source: str
    document: Document


def is_trace(file: Path) -> bool:
    """Whether a file begins as a trace of a profiler does, also compressed; no for one of a simulated run."""
    try:
        if not file.is_file():  # opening a pipe waits for who writes to it
            return False
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
        if head.startswith(_GZIP):
            head = zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except (OSError, ValueError, zlib.error):
        return False
    if head[257:262] == b"ustar":
        return True
    begins = head.lstrip()[:1] in (b"{", b"[") and any(mark in head for mark in _MARKS)
    return begins and b'"generator":"chunkflow-sim' not in head


def read_traces(paths: Iterable[Path]) -> Iterator[TraceFile]:
    """The traces of files, of all files in folders, and of all members of archives, one after the other.

    Raises:
        InputError: one cannot be read, or is no trace.
    """
    count = 0
    for path in paths:
        for source, content in _contents(path):
            count += 1
            if count > MAX_FILES:
                raise InputError(str(path), "", f"holds more than {MAX_FILES} traces, the most that are read")
            yield TraceFile(source, decode(content, source))


def _contents(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith(_SUFFIXES))
        if not files:
            raise InputError(str(path), "", f"holds no trace: expected files that end with {', '.join(_SUFFIXES)}")
        for file in files:
            yield from _contents(file)
        return
    content = read_bytes(path, MAX_FILE)
    if content.startswith(_GZIP):
        content = _unpacked(content, str(path))
    if content[257:262] == b"ustar":
        yield from _members(content, str(path))
        return
    if not content.strip():
        raise InputError(str(path), "", "is empty")
    refuse_other(content, str(path), "trace")
    yield str(path), content


def _unpacked(content: bytes, source: str) -> bytes:
    """What a gzip file holds, of one or several parts."""
    parts: list[bytes] = []
    size = 0
    try:
        while content.startswith(_GZIP):
            unpacker = zlib.decompressobj(wbits=31)
            parts.append(unpacker.decompress(content, MAX_FILE + 1 - size))
            size += len(parts[-1])
            if size > MAX_FILE:
                raise InputError(source, "", f"unpacks to more than {MAX_FILE} bytes, the most that are read")
            if not unpacker.eof:
                raise InputError(source, "", "is cut off: its compressed data end before they are complete")
            content = unpacker.unused_data
    except zlib.error as error:
        raise InputError(source, "", f"cannot be unpacked: {error}") from None
    return b"".join(parts)


def _members(content: bytes, source: str) -> Iterator[tuple[str, bytes]]:
    found = False
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                if not member.isfile() or not member.name.endswith(_SUFFIXES):
                    continue
                found = True
                opened = archive.extractfile(member)
                assert opened is not None
                part, name = opened.read(), f"{source}/{member.name}"
                yield name, _unpacked(part, name) if part.startswith(_GZIP) else part
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(source, "", f"cannot be unpacked: {error}") from None
    if not found:
        raise InputError(source, "", "holds no trace: expected members that end with .json or .json.gz")
