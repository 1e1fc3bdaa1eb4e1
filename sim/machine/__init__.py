"""The simulated machine: host threads and streams as processes, kernels and transfers as flows."""

from sim.machine.simulated import DeadlockError, SimulatedMachine

__all__ = [
    "DeadlockError",
    "SimulatedMachine",
]
