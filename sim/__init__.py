"""chunkflow-sim: a simulator of PCIe contention for layerwise-offloaded diffusion-transformer inference.

from sim import Scenario, simulate
result = simulate(Scenario.load("scenario.yaml"))
result.metrics["step_time_s"]
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, whose import takes longer than all else here
if TYPE_CHECKING:
    from sim.hardware import Profile, load_profile
    from sim.inputs.config import InputError
    from sim.machine import DeadlockError, SimulatedMachine
    from sim.planning import Plan, plan
    from sim.program import Program, ProgramError, RankBuilder
    from sim.run import Result, simulate
    from sim.scenario import Scenario
    from sim.timeline import Span, Timeline

_HOME = {
    "DeadlockError": "machine",
    "InputError": "inputs.config",
    "Plan": "planning",
    "Profile": "hardware",
    "Program": "program",
    "ProgramError": "program",
    "RankBuilder": "program",
    "Result": "run",
    "Scenario": "scenario",
    "SimulatedMachine": "machine",
    "Span": "timeline",
    "Timeline": "timeline",
    "load_profile": "hardware",
    "plan": "planning",
    "simulate": "run",
}

__all__ = [
    "DeadlockError",
    "InputError",
    "Plan",
    "Profile",
    "Program",
    "ProgramError",
    "RankBuilder",
    "Result",
    "Scenario",
    "SimulatedMachine",
    "Span",
    "Timeline",
    "load_profile",
    "plan",
    "simulate",
]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    # Loaded on first use: the command line must start at once.
    if name not in _HOME:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"sim.{_HOME[name]}"), name)
