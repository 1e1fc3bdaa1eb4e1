"""Plans: which schedule is the fastest that fits, which is the smallest that is nearly as fast, and why.

`planner` makes a `Plan` (`result`) by a `Search` over what policies offer (`space`); only proved `floors` shorten it.
"""

from sim.planning.planner import plan
from sim.planning.result import Plan

__all__ = ["Plan", "plan"]
