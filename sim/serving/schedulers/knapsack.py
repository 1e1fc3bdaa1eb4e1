"""The best widths of jobs that share GPUs: one option a job, no more GPUs in all than there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Option(NamedTuple):
    """A number of GPUs for a job (0: it waits), and what that is worth."""

    width: int
    value: float


class Choice(NamedTuple):
    """The options of a job, as `best_chosen` looks at them."""

    width: int
    """The best option's, the first of equal ones."""
    density: float
    """The most that a GPU brings over waiting."""
    gains: list[tuple[int, float]]
    """(width, what it is worth over waiting), of options that are worth more."""


NOTHING = Choice(0, 0.0, [])
"""Of a job that can wait."""


def choice(gains: Iterable[tuple[int, float]]) -> Choice:
    """Of (width, what it is worth over waiting)."""
    best, most, density = 0, 0.0, 0.0
    kept = []
    for width, gain in gains:
        if gain > 0.0 and width:
            kept.append((width, gain))
            if gain > most:
                best, most = width, gain
            if gain > density * width:
                density = gain / width
    return Choice(best, density, kept)


def _over_waiting(options: Sequence[Option]) -> Choice:
    waits = max((option.value for option in options if not option.width), default=None)
    if waits is None:
        raise ValueError("a job has no option of width 0")
    return choice((option.width, option.value - waits) for option in options)


def best_widths(options: Sequence[Sequence[Option]], gpus: int) -> list[int]:
    """The width of each job so that the sum of values is the largest.

    >>> best_widths([[Option(0, 0.0), Option(2, 1.0)], [Option(0, 0.0), Option(2, 3.0), Option(4, 3.5)]], 4)
    [2, 2]

    Raises:
        ValueError: a job has no option of width 0.
    """
    return best_chosen([_over_waiting(of) for of in options], gpus)


def best_chosen(choices: Sequence[Choice], gpus: int) -> list[int]:
    """As `best_widths`.

    Dynamic programming over jobs and GPUs, in the order of what a GPU brings with a job at most. It ends when no
    number of GPUs, taken from jobs that it has looked at, could bring more with those it has not: that is after about
    as many jobs as there are GPUs, however many jobs there are.
    """
    widths = [of.width for of in choices]
    if sum(widths) <= gpus:
        return widths
    widths = [0] * len(choices)
    best = [0.0] * (gpus + 1)
    """The most that so many GPUs bring."""
    chosen: list[tuple[int, list[int]]] = []
    for number in sorted(range(len(choices)), key=lambda number: -choices[number].density):
        _, density, gains = choices[number]
        most = best[gpus] + 1e-12
        for room in range(1, gpus + 1):
            if best[gpus - room] + room * density > most:
                break
        else:
            break
        found, picks = best.copy(), [0] * (gpus + 1)
        for width, gain in gains:
            for room in range(width, gpus + 1):
                worth = best[room - width] + gain
                if worth > found[room] + 1e-12:
                    found[room], picks[room] = worth, width
        best = found
        chosen.append((number, picks))
    room = gpus
    for number, picks in reversed(chosen):
        widths[number] = picks[room]
        room -= picks[room]
    return widths
