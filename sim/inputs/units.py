"""Quantities with units: SI numbers, numeric strings, or strings such as "16 MiB", "55.4 GB/s", "2.08 ms"."""

from __future__ import annotations

import math
import re
from decimal import Decimal, DecimalException
from typing import ClassVar, TypeVar

_SI = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_IEC = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*", re.ASCII)


MAX_VALUE, _MIN_VALUE = Decimal("1e30"), Decimal("1e-60")
"""Far beyond any host, and so far from a float's limits that no figure made of a few quantities leaves them.

A magnitude below the least is 0: dividing by it could overflow.
"""
MAX_BYTES = 2**60
"""Sums of a few sizes must fit into 64 bits: hashes and files hold them so."""


def _scaled(unit: str, prefixes: dict[str, int]) -> dict[str, Decimal]:
    return {prefix + unit: Decimal(factor) for prefix, factor in prefixes.items()}


class Seconds(float):
    """A duration in s, not negative."""

    units: ClassVar = {
        "s": Decimal(1),
        "ms": Decimal("1e-3"),
        "us": Decimal("1e-6"),
        "µs": Decimal("1e-6"),
        "ns": Decimal("1e-9"),
    }
    expected: ClassVar = 'a duration, such as 2.08e-3 (seconds) or "2.08 ms"'
    example: ClassVar = "2.08 ms"


class Bytes(int):
    """A size in B, not negative."""

    units: ClassVar = _scaled("B", _SI | _IEC)
    expected: ClassVar = 'a size, such as 16777216 (bytes) or "16 MiB"'
    example: ClassVar = "16 MiB"


class Bandwidth(float):
    """A rate in B/s, not negative."""

    units: ClassVar = _scaled("B/s", _SI | _IEC)
    expected: ClassVar = 'a bandwidth, such as 55.4e9 (bytes a second) or "55.4 GB/s"'
    example: ClassVar = "55.4 GB/s"


class Flops(float):
    """Work in floating-point operations, not negative."""

    units: ClassVar = _scaled("FLOP", _SI)
    expected: ClassVar = 'a number of operations, such as 1.2e12 or "1.2 TFLOP"'
    example: ClassVar = "1.2 TFLOP"


class FlopRate(float):
    """A rate in FLOP/s, not negative."""

    units: ClassVar = _scaled("FLOP/s", _SI)
    expected: ClassVar = 'a compute rate, such as 989e12 (operations a second) or "989 TFLOP/s"'
    example: ClassVar = "989 TFLOP/s"


class Number(float):
    """A dimensionless number, not negative."""

    units: ClassVar[dict[str, Decimal]] = {}
    expected: ClassVar = "a number, such as 0.5"
    example: ClassVar = "0.5"


Quantity = Seconds | Bytes | Bandwidth | Flops | FlopRate | Number
QUANTITIES: tuple[type[Quantity], ...] = (Seconds, Bytes, Bandwidth, Flops, FlopRate, Number)
Q = TypeVar("Q", bound=Quantity)


def parse(kind: type[Q], given: object) -> Q:
    """Read `given` as a quantity of `kind`; a fraction of a byte is dropped, and 1e-60 is the least above 0.

    Raises:
        ValueError: saying what was expected and what was given.
    """
    wrong = ValueError(f"expected {kind.expected}, got {'nothing' if given is None else repr(given)}")
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise wrong
    text = repr(given) if isinstance(given, float) else str(given)
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise wrong
    unit = match[2]
    if unit is not None and unit not in kind.units:
        raise wrong
    try:
        value = Decimal(match[1]) * (kind.units[unit] if unit else 1)
    except DecimalException:
        raise wrong from None
    if value < 0 or not math.isfinite(float(value)):
        raise ValueError(f"expected {kind.expected}, not negative and finite, got {given!r}")
    if kind is Bytes and value > MAX_BYTES:
        raise ValueError(f"expected {kind.expected}, at most 2**60 bytes, got {given!r}")
    if value > MAX_VALUE:
        raise ValueError(f"expected {kind.expected}, at most {MAX_VALUE:g}, got {given!r}")
    return kind(value if value >= _MIN_VALUE else 0)


def number(given: object) -> Decimal | None:
    """`given` as a number in SI units, whatever kind of quantity it is; several kinds share no unit. None: it is none.

    Exact, so that ranges of 0.1 end where they should. A number may be negative, text with a unit may not.

    >>> number("1 MiB"), number("2 ms"), number(-0.1), number("many")
    (Decimal('1048576'), Decimal('0.002'), Decimal('-0.1'), None)
    """
    if isinstance(given, int | float) and not isinstance(given, bool):
        return Decimal(repr(given)) if math.isfinite(given) else None
    for kind in QUANTITIES if isinstance(given, str) else ():
        try:
            return Decimal(repr(plain(parse(kind, given))))
        except ValueError:
            continue
    return None


def plain(quantity: object) -> float | int:
    """A quantity as the number it is, for encoders (msgspec's enc_hook)."""
    if isinstance(quantity, float):
        return float(quantity)
    if isinstance(quantity, int):
        return int(quantity)
    raise NotImplementedError(f"{type(quantity).__name__} is not a quantity")


def show_bytes(size: float) -> str:
    """A size for people, in the binary unit that keeps it short."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.4g} {unit}"
    return f"{size:.4g} B"


def show_seconds(seconds: float) -> str:
    """A duration for people; less than a picosecond is rounding, and shown as 0."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= factor:
            return f"{seconds / factor:.4g} {unit}"
    return f"{seconds / 1e-6:.3g} us" if seconds >= 1e-12 else "0"


def write_bytes(size: int) -> str:
    """A size as a file may give it, exactly: "16 MiB", "500 KB", "702545920 B"."""
    for prefixes in (_IEC, _SI):
        for prefix, factor in sorted(prefixes.items(), key=lambda item: -item[1]):
            if prefix and size and size % factor == 0 and size // factor < 10_000:
                return f"{size // factor} {prefix}B"
    return f"{int(size)} B"


def write_seconds(seconds: float) -> str:
    """A duration as a file may give it, exactly: "1 ms", "0.25 s"."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        text = f"{seconds / factor:.6g} {unit}"
        if seconds >= factor and parse(Seconds, text) == seconds:
            return text
    return f"{float(seconds)!r} s"
