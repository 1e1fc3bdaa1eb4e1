"""Whether the exchange of values hides behind what computes queries and keys (CoCoDiff's V-first), by first order.

Its condition (arXiv 2604.14561, Eq. 2): the values' transfer takes no longer than the projections of queries and keys,
their norms and rotary embedding. Both sides are isolated times of one block on rank 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from sim.analysis.first_order import kernel_seconds
from sim.hardware import Profile, collectives
from sim.inputs.config import InputError
from sim.inputs.units import show_seconds
from sim.scenario import Scenario
from sim.workloads.block_items import CollectiveOp, Compute, Exchange, Wait
from sim.workloads.exchange_builder import VALUES
from sim.workloads.exchanges import PLAIN
from sim.workloads.named import Named

MAX_BATCH = 64


class ValuesFirst(NamedTuple):
    """Seconds of the exchange of a block's values, and of the kernels beside it."""

    transfer_s: float
    work_s: float

    @property
    def hides(self) -> bool:
        """Whether nothing of the exchange would be waited for."""
        return self.transfer_s <= self.work_s


def values_first(scenario: Scenario, profile: Profile, batch: int | None = None) -> ValuesFirst | None:
    """Both sides of the condition for the model's longest kind of block; None where no values are exchanged alone.

    `batch` replaces that of the scenario.
    """
    workload = scenario.workload
    if not isinstance(workload, Named):
        return None
    exchange = msgspec.structs.replace(workload.exchange or PLAIN, v_first=True, v_major=None)
    changed = msgspec.structs.replace(workload, exchange=exchange, batch=batch or workload.batch)
    try:
        layers = changed.resolve(scenario.world_size).of(0).layers
    except InputError:
        return None
    found = []
    for block in dict.fromkeys(layer.block for layer in layers):
        transfer = work = 0.0
        beside = False
        for op in block:
            if isinstance(op, CollectiveOp | Exchange) and op.stream == VALUES:
                group = op.groups[0] if op.groups else range(scenario.world_size)
                gpus = [scenario.gpus[rank] for rank in group]
                transfer += collectives.isolated_time(profile, op.kind, int(op.bytes), gpus)
                beside = True
            elif isinstance(op, Wait) and op.stream == VALUES:
                beside = False
            elif isinstance(op, Compute) and beside and op.stream is None:
                work += kernel_seconds(profile, op)
        if transfer:
            found.append(ValuesFirst(transfer, work))
    return max(found, default=None, key=lambda one: one.transfer_s - one.work_s)


def sentences(scenario: Scenario, profile: Profile) -> Iterator[str]:
    """What to expect of sending values first, if the model exchanges them."""
    now = values_first(scenario, profile)
    workload = scenario.workload
    if now is None or not isinstance(workload, Named):
        return
    sides = f"The exchange of a block's values takes {show_seconds(now.transfer_s)}, the work on its queries and keys "
    sides += show_seconds(now.work_s)
    used = "is" if workload.exchange is not None and workload.exchange.v_first else "would be"
    if not now.hides:
        yield f"{sides}: sent first, {100 * now.work_s / now.transfer_s:.0f} % of it {used} hidden (by first order)."
        return
    batches = [workload.batch * 2**i for i in range(1, 7) if workload.batch * 2**i <= MAX_BATCH]
    for batch in batches:
        later = values_first(scenario, profile, batch)
        if later is not None and not later.hides:
            yield f"{sides}: sent first, it {used} hidden (by first order), but not with a batch of {batch}."
            return
    yield f"{sides}: sent first, it {used} hidden (by first order)."
