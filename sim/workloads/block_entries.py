"""Entries of blocks as scenarios write them, and what is wrong with a block of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sim.inputs.config import Config
from sim.inputs.faults import Fault
from sim.workloads.block_items import CollectiveOp, Compute, CopyOp, Op, Wait, side_streams


class Item(Config, frozen=True):
    """One entry of a block: `compute`, `collective` or `copy`, or the name of a stream to `wait` for."""

    compute: Compute | None = None
    collective: CollectiveOp | None = None
    copy: CopyOp | None = None
    wait: str | None = None

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.compute, self.collective, self.copy, self.wait)) != 1:
            raise ValueError("expected exactly one of compute, collective, copy and wait")

    @property
    def op(self) -> Op:
        """What it is."""
        if self.wait is not None:
            return Wait(stream=self.wait)
        found = self.compute or self.collective or self.copy
        assert found is not None
        return found


def wrong_block(block: Sequence[Item]) -> Iterator[Fault]:
    """Faults of a block without entries, and of waits for streams on which it has issued nothing before."""
    if not block:
        yield Fault("block", "is empty")
    issued: list[str] = []
    for number, item in enumerate(block):
        if item.wait is None:
            issued += side_streams([item.op])
        elif item.wait not in issued:
            known = f"expected one of {', '.join(dict.fromkeys(issued))}" if issued else "no entry before has a stream"
            yield Fault(f"block[{number}].wait", f"is {item.wait!r}, on which nothing is issued before: {known}")
