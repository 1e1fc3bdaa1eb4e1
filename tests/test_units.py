"""Quantities with units."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.inputs.units import (
    QUANTITIES,
    Bandwidth,
    Bytes,
    FlopRate,
    Flops,
    Number,
    Q,
    Seconds,
    number,
    parse,
    plain,
    show_bytes,
    show_seconds,
)


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        (Bytes, "16 MiB", 16 * 2**20),
        (Bytes, "16MiB", 16 * 2**20),
        (Bytes, " 1.5 KiB ", 1536),
        (Bytes, "1.5 kB", 1500),
        (Bytes, "1e9", 10**9),
        (Bytes, 1e9, 10**9),
        (Bytes, "2.9 B", 2),
        (Bytes, 2**60, 2**60),
        (Bytes, "0.1 GB", 10**8),
        (Seconds, "2.08 ms", 2.08e-3),
        (Seconds, "15 us", 15e-6),
        (Seconds, "15 µs", 15e-6),
        (Seconds, "3 ns", 3e-9),
        (Seconds, ".5", 0.5),
        (Seconds, "5.", 5.0),
        (Seconds, 0, 0.0),
        (Seconds, "+1e-3 s", 1e-3),
        (Bandwidth, "55.4 GB/s", 55.4e9),
        (Bandwidth, "1 GiB/s", 2.0**30),
        (Flops, "1.2 TFLOP", 1.2e12),
        (FlopRate, "989 TFLOP/s", 989e12),
        (Number, "0.5", 0.5),
    ],
)
def test_quantities_are_numbers_numeric_strings_or_strings_with_a_unit(
    kind: type[Q], given: object, value: float
) -> None:
    read = parse(kind, given)
    assert read == value
    assert type(read) is kind


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Bytes, "16 MB/s"),
        (Bytes, "16 mib"),
        (Bytes, "16 MiBB"),
        (Bytes, "MiB"),
        (Bytes, "1 2 B"),
        (Bytes, ""),
        (Bytes, "0x10"),
        (Bytes, "1_000"),
        (Bytes, "١"),
        (Seconds, "2 m"),
        (Seconds, "2 MS"),
        (Number, "5 %"),
        (Number, "1 s"),
        *[(kind, given) for kind in QUANTITIES for given in (True, None, [], {}, b"1", "nan", "inf", "-inf", math.nan)],
        *[(kind, given) for kind in QUANTITIES for given in (-1, "-1e-9", math.inf, "1e400", "1e99999999999999999999")],
    ],
)
def test_anything_else_is_refused_with_what_was_expected_and_what_was_given(kind: type[Q], given: object) -> None:
    with pytest.raises(ValueError) as caught:
        parse(kind, given)
    assert str(caught.value).startswith(f"expected {kind.expected}")
    assert str(caught.value).endswith("got nothing" if given is None else f"got {given!r}")


@given(st.floats(0, 1e15), st.sampled_from(["ns", "us", "ms", "s"]))
def test_a_unit_multiplies_to_the_nearest_float(value: float, unit: str) -> None:
    exact = value / {"ns": 1e9, "us": 1e6, "ms": 1e3, "s": 1}[unit]
    assert parse(Seconds, f"{value!r} {unit}") == pytest.approx(exact, rel=1e-15, abs=1e-60)


@given(st.integers(0, 2**60))
def test_whole_bytes_are_exact(size: int) -> None:
    assert parse(Bytes, size) == parse(Bytes, str(size)) == parse(Bytes, f"{size} B") == size


def test_quantities_above_1e30_are_refused() -> None:
    assert (parse(Bandwidth, 1e30), parse(Number, 1e-60), parse(Number, "-0")) == (1e30, 1e-60, 0.0)
    with pytest.raises(ValueError, match=r"at most 1e\+30"):
        parse(Bandwidth, "1.1e30")
    with pytest.raises(ValueError, match=r"at most 2\*\*60 bytes, got '2e18 B'"):
        parse(Bytes, "2e18 B")


@pytest.mark.parametrize("given", [5e-324, "9e-61", "1e-999999", "5e-60 ns", "-0"])
def test_quantities_below_1e_60_are_0(given: object) -> None:
    assert math.copysign(1, parse(Seconds, given)) == 1 and parse(Seconds, given) == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3, "3"),
        (-0.1, "-0.1"),
        ("1 MiB", "1048576"),
        ("2 ms", "0.002"),
        (" 0.1 ", "0.1"),
        ("55.4 GB/s", "55400000000.0"),
        ("many", None),
        ("-1 ms", None),
        (True, None),
        (None, None),
        (math.inf, None),
        (math.nan, None),
    ],
)
def test_a_number_of_any_kind_of_quantity_is_exact_and_all_else_is_none(given: object, expected: str | None) -> None:
    assert number(given) == (None if expected is None else Decimal(expected))


def test_plain_gives_encoders_plain_numbers() -> None:
    assert [type(plain(q)) for q in (Bytes(3), Seconds(0.5))] == [int, float]
    with pytest.raises(NotImplementedError, match="complex is not a quantity"):
        plain(1j)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (show_bytes(0), "0 B"),
        (show_bytes(1023), "1023 B"),
        (show_bytes(1536), "1.5 KiB"),
        (show_bytes(2**20), "1 MiB"),
        (show_bytes(5.5 * 2**30), "5.5 GiB"),
        (show_seconds(0), "0"),
        (show_seconds(8.5e-17), "0"),
        (show_seconds(1e-12), "1e-06 us"),
        (show_seconds(2.5e-9), "0.0025 us"),
        (show_seconds(2.5e-6), "2.5 us"),
        (show_seconds(1e-3), "1 ms"),
        (show_seconds(90.0), "90 s"),
    ],
)
def test_quantities_are_shown_in_the_unit_that_keeps_them_short(shown: str, expected: str) -> None:
    assert shown == expected
