"""The simulated machine: host threads and streams as processes, kernels and transfers as flows."""

from sim.machine.deadlock import DeadlockError
from sim.machine.marked import Issued, Marked
from sim.machine.simulated import LONGEST, SimulatedMachine

__all__ = [
    "LONGEST",
    "DeadlockError",
    "Issued",
    "Marked",
    "SimulatedMachine",
]
