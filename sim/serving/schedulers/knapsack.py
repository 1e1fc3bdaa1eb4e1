"""The best widths of jobs that share GPUs: one option a job, no more GPUs in all than there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Option(NamedTuple):
    """A number of GPUs for a job (0: it waits), and what that is worth."""

    width: int
    value: float


def best_widths(options: Sequence[Sequence[Option]], gpus: int) -> list[int]:
    """The width of each job so that the sum of values is the largest; the first options win where sums are equal.

    Each job has an option of width 0, or there may be no solution. Takes jobs x GPUs x options operations.

    >>> best_widths([[Option(0, 0.0), Option(2, 1.0)], [Option(0, 0.0), Option(2, 3.0), Option(4, 3.5)]], 4)
    [2, 2]

    Raises:
        ValueError: no choice of options fits.
    """
    each = [max(of, key=lambda option: option.value) for of in options]  # the first of equal ones
    if sum(option.width for option in each) <= gpus:
        return [option.width for option in each]
    best: list[float | None] = [0.0] * (gpus + 1)
    chosen: list[list[int]] = []
    for of in options:
        found: list[float | None] = [None] * (gpus + 1)
        picks = [0] * (gpus + 1)
        for room in range(gpus + 1):
            for number, (width, value) in enumerate(of):
                before = best[room - width] if width <= room else None
                if before is not None:
                    worth, now = before + value, found[room]
                    if now is None or worth > now + 1e-12:
                        found[room], picks[room] = worth, number
        best = found
        chosen.append(picks)
    if best[gpus] is None:
        raise ValueError(f"no choice of options fits {gpus} GPUs")
    widths, room = [], gpus
    for of, picks in zip(reversed(options), reversed(chosen), strict=True):
        width = of[picks[room]].width
        widths.append(width)
        room -= width
    return widths[::-1]
