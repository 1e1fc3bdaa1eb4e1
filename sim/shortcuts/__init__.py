"""Shortcuts: the same figures with less to simulate (docs/performance.md).

Equal layers that follow each other are simulated until the machine's state at the end of one is that at the end of an
earlier one; what lies between repeats from then on, and stands for the rest. Steps repeat likewise.
"""

from sim.shortcuts.repeated_layers import Shortened, run_layers
from sim.shortcuts.symmetric_ranks import expanded

__all__ = ["Shortened", "expanded", "run_layers"]
