"""Step times of pairs of classes that run side by side: what a measurement of two groups can be compared with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement
from typing import NamedTuple

from sim.inputs.config import InputError
from sim.serving.serve import Prepared
from sim.serving.step_times import Running


class Side(NamedTuple):
    """A class on its GPUs: what its step takes alone, and beside the other one, s."""

    cls: str
    gpus: tuple[int, ...]
    alone_s: float
    together_s: float


def pairs(prepared: Prepared) -> Iterator[tuple[Side, Side]]:
    """Every pair of classes, also of one with itself: on its `degree` of GPUs each, the first ones of the host.

    Raises:
        InputError: the host has too few GPUs for a pair, or nothing of it is simulated.
    """
    if prepared.contention is None:
        raise InputError(
            prepared.source, "", "has no classes that are simulated on a host with contention: nothing to pair"
        )
    for first, second in combinations_with_replacement(prepared.classes.values(), 2):
        # the second one begins at a multiple of its degree
        start = -(-first.degree // second.degree) * second.degree
        if start + second.degree > prepared.gpus:
            problem = f"is {prepared.gpus}: too few for {first.name} and {second.name} side by side"
            raise InputError(prepared.source, "gpus", problem)
        groups = [
            Running(first.name, 1, tuple(range(first.degree))),
            Running(second.name, 1, tuple(range(start, start + second.degree))),
        ]
        factors = prepared.contention.together(frozenset(groups))
        one, other = (
            Side(cls.name, group.gpus, cls.step(cls.degree), cls.step(cls.degree) * factors[group])
            for cls, group in zip((first, second), groups, strict=True)
        )
        yield one, other
