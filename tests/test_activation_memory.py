"""Activations share one buffer: what lives at the same time lies apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sim.program.ops import Gelu, Matrix, Normalise
from sim.workloads.activation_memory import ALIGNMENT, Registers


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=12),
    st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=30),
)
def test_values_with_overlapping_lifetimes_get_disjoint_memory(sizes: list[int], uses: list[tuple[int, int]]) -> None:
    registers = Registers([("x", 3, 50)])
    made = [registers.new("r", 1, size) for size in sizes]
    operations = [Normalise(made[a % len(made)], made[b % len(made)]) for a, b in uses]
    end = registers.plan(operations)
    placed = [registers.place(op) for op in operations]
    lives: dict[str, list[int]] = {}
    places: dict[str, Matrix] = {}
    for at, (before, after) in enumerate(zip(operations, placed, strict=True)):
        for old, new in zip(before.operands(), after.operands(), strict=True):
            lives.setdefault(old.buffer, []).append(at)
            assert places.setdefault(old.buffer, new) == new
    for name, matrix in places.items():
        assert matrix.buffer == "activations"
        assert matrix.offset % ALIGNMENT == 0
        assert matrix.offset >= 150
        assert matrix.offset + matrix.columns <= end
        for other, its in places.items():
            together = lives[name][0] <= lives[other][-1] and lives[other][0] <= lives[name][-1]
            apart = matrix.offset + matrix.columns <= its.offset or its.offset + its.columns <= matrix.offset
            assert other == name or apart or not together


def test_places_are_used_again() -> None:
    registers = Registers([])
    first, second = registers.new("a", 2, 128), registers.new("b", 2, 128)
    assert registers.plan([Gelu(first), Gelu(second)]) == 256
    assert registers.place(Gelu(second)) == registers.place(Gelu(first))


def test_a_kept_value_never_moves() -> None:
    registers = Registers([("x", 1, 100), ("context", 1, 10)])
    assert registers.kept["context"].offset == ALIGNMENT
    assert registers.place(Gelu(registers.kept["x"])) == Gelu(registers.kept["x"])
