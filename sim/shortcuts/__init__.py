"""Shortcuts: the same figures with less to simulate (docs/performance.md).

Equal layers that follow each other are simulated until the machine's state at the end of one is that at the end of an
earlier one; what lies between repeats from then on, and stands for the rest.
"""

from sim.shortcuts.expand import expanded
from sim.shortcuts.repeated_layers import run_layers

__all__ = ["expanded", "run_layers"]
