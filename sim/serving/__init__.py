"""Serving: many requests on one host, above the simulation of steps.

`ServingScenario` is what a file says, `prepare` gets its step times, `serve` simulates it for one seed and `replicate`
for several.
"""

from __future__ import annotations

from sim.serving.figures import figures
from sim.serving.replicates import Replicates, replicate
from sim.serving.scenario import ServingScenario
from sim.serving.serve import Prepared, Served, prepare, serve

__all__ = ["Prepared", "Replicates", "Served", "ServingScenario", "figures", "prepare", "replicate", "serve"]
