"""The certificate of weighted max-min fairness."""

from __future__ import annotations

from collections.abc import Sequence

from sim.fluid import FlowSpec

SLACK = 1 + 1e-9


def check_max_min(flows: Sequence[FlowSpec], capacities: Sequence[float], rates: Sequence[float]) -> None:
    """The certificate of weighted max-min fairness, by definition; drags and what is beside count into caps, routes."""
    marks_of = [set(f.tags) for f in flows]
    flows = [
        f._replace(route=f.alternate_route[1])
        if f.alternate_route and any(m & {*f.alternate_route[0]} for m in marks_of)
        else f
        for f in flows
    ]
    load = [0.0] * len(capacities)
    for flow, rate in zip(flows, rates, strict=True):
        for resource, multiplier in flow.route:
            load[resource] += multiplier * rate
    for resource, capacity in enumerate(capacities):
        assert load[resource] <= capacity * SLACK, f"resource {resource} carries {load[resource]} of {capacity}"
    for flow, rate in zip(flows, rates, strict=True):
        drag, slowdown = flow.drag or (0, 0.0)
        cap = flow.cap / (1 + slowdown * load[drag] / capacities[drag])
        for tags, factor in flow.slowed_by:
            cap *= factor if any(mark in f.tags for f in flows for mark in tags) else 1.0
        assert 0 < rate <= cap * SLACK
        if rate * SLACK >= cap:
            continue
        assert any(
            load[resource] * SLACK >= capacities[resource]
            and all(
                r / f.weight <= rate / flow.weight * SLACK
                for f, r in zip(flows, rates, strict=True)
                if any(crossed == resource for crossed, _ in f.route)
            )
            for resource, _ in flow.route
        ), f"{flow} at {rate} is below its cap and could take from a flow with a larger share"
