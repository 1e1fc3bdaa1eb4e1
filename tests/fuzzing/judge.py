"""What is promised of every input: an exit code, messages that name the file, figures that are finite, no half files."""

from __future__ import annotations

import json
import re
import signal
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner

from fuzzing.changes import INJECTED
from sim.cli import main
from sim.inputs.config import InputError

SECONDS = 30
"""How long an input may take; what is known to be large is not run."""

_UNSHOWN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_OURS = re.compile(
    r"contradicts itself|cases failed|points failed|cannot be written|deadlock|stated bound|do not settle|missing: pip install"
)
"""What exit code 1 may say; anything else that ends with it is a fault that was caught late."""
_INTERNAL = re.compile(
    r"Traceback|\b[A-Z]\w*(Error|Exception|Warning): |division by zero|math domain|not subscriptable|object has no|"
    r"unsupported operand|unhashable|cannot convert float|list index out of|takes \d+ positional"
)
_NOT_FINITE = re.compile(r"(?<![\w.'\"\[\]-])[-+]?(nan|inf|infinity)(?![\w'\".])", re.IGNORECASE)


class Endless(BaseException):
    """The input took longer than any may."""


class Found(NamedTuple):
    """How an input ended (an exit code, or "read", "refused"), and what was wrong with that."""

    ended: str
    faults: list[str]


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raise `Endless` in the middle of what takes longer."""

    def over(*_: object) -> None:
        raise Endless(f"took longer than {seconds:g} s")

    usual = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, usual)


def tree(folder: Path) -> dict[str, bytes]:
    """Files below `folder` and their contents."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def command(args: Sequence[str], names: Sequence[str]) -> Found:
    """Run a command line in this process and the working directory; errors must hold one of `names`."""
    before = tree(Path.cwd())
    try:
        with limited():
            done = CliRunner().invoke(main, list(args))
    except Endless as error:
        return Found("endless", [str(error)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return Found("uncaught", [uncaught(done.exception)])
    faults = [*texts(done.exit_code, done.stdout, done.stderr, names)]
    faults += written(before, tree(Path.cwd()), done.exit_code)
    if done.exit_code == 0 and "--json" in args:
        faults += figures(done.stdout)
    return Found(str(done.exit_code), faults)


def uncaught(error: BaseException) -> str:
    """The error, and where in the project it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = next(
        (
            f"{Path(f.filename).name}:{f.lineno}"
            for f in reversed(frames)
            if any(f"/{room}/" in f.filename for room in ("sim", "calibration", "validation"))
        ),
        "",
    )
    last = frames[-1] if frames else None
    at = f"{where} ({Path(last.filename).name}:{last.lineno})" if last else where
    return f"uncaught {type(error).__name__}: {str(error)[:200]!r} at {at}"


def texts(code: int, out: str, err: str, names: Sequence[str]) -> Iterator[str]:
    """Faults of what a command printed."""
    if code not in (0, 1, 2):
        yield f"exit code {code}"
    odd = sorted({c for c in out + err if c not in "\n\t" and unicodedata.category(c) in _UNSHOWN})
    if odd:
        yield f"control characters in the output: {odd!r}"
    if found := _INTERNAL.search(err):
        yield f"internal words {found[0]!r} in: {err[-300:]!r}"
    if code == 0 and (bad := _NOT_FINITE.search(out)):
        yield f"{bad[0]!r} in the output: {out[max(0, bad.start() - 80) : bad.end() + 20]!r}"
    usage, _, message = err.rpartition("Error: ")
    if code == 1 and not _OURS.search(err):
        yield f"exit code 1 says {err[-300:]!r}"
    if code == 2:
        if out:
            yield f"exit code 2, and printed {out[:100]!r}"
        if not usage.startswith("Usage:") and not all(
            any(name in line for name in names) for line in message.splitlines()
        ):
            yield f"a message names no file: {message[:300]!r}"
        if not message.strip() or message.count("\n") > 21 or len(message) > 20_000:
            yield f"a message of {message.count(chr(10))} lines, {len(message)} characters"


def written(before: dict[str, bytes], after: dict[str, bytes], code: int) -> Iterator[str]:
    """Faults of the files that a command left."""
    for name, content in after.items():
        if name not in before and Path(name).name.startswith("."):
            yield f"a temporary file is left: {name}"
        elif code == 2 and before.get(name) != content:
            yield f"exit code 2, and wrote {name}"
        elif before.get(name) != content and name.endswith(".json"):
            yield from figures(content.decode())
        elif before.get(name) != content and name.endswith(".html") and INJECTED.encode() in content:
            yield f"text became an element of {name}"
    yield from (f"removed {name}" for name in before.keys() - after.keys())


def figures(text: str) -> Iterator[str]:
    """Faults of JSON output: of its form, and of figures that no run has."""
    try:
        plain = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        yield f"no JSON: {error}: {text[:100]!r}"
        return
    if isinstance(plain, dict) and {"step_time_s", "lower_bound_s"} <= plain.keys():
        yield from of_run(plain)


def of_run(plain: dict[str, Any]) -> Iterator[str]:
    """Faults of the figures of one run."""
    if not plain["lower_bound_s"] <= plain["step_time_s"] * (1 + 1e-9):
        yield f"lower bound {plain['lower_bound_s']} > step {plain['step_time_s']}"
    yield from (
        f"{key} is negative: {value}"
        for key, value in plain.items()
        if isinstance(value, int | float) and value < 0 and key.endswith(("_s", "_bytes"))
    )


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not a number")


def reading(load: Callable[[], object], names: Sequence[str]) -> Found:
    """Call what may raise InputError only, whose lines must each begin with one of `names`, or a path to it."""
    named = re.compile(rf"(/\S+/)?({'|'.join(map(re.escape, names))})")
    try:
        with limited():
            load()
    except InputError as error:
        lines = str(error).splitlines()
        faults = [f"names no file: {line[:200]!r}" for line in lines if not named.match(line)]
        faults += [f"control characters: {line[:200]!r}" for line in lines if not line.isprintable()]
        faults += [f"internal words: {line[:200]!r}" for line in lines if _INTERNAL.search(line)]
        return Found("refused", faults)
    except Endless as error:
        return Found("endless", [str(error)])
    except Exception as error:
        return Found("uncaught", [uncaught(error)])
    return Found("read", [])
