"""What changing what runs costs, besides the steps themselves."""

from __future__ import annotations

from sim.inputs.config import Config
from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Bandwidth, Seconds


class Costs(Config, frozen=True):
    """What changing one's mind costs, s of the GPUs concerned."""

    pause: Seconds = Seconds(0.0)
    """After the last step before a pause, until its GPUs can do something else."""
    resume: Seconds = Seconds(0.0)
    """Before the first step after a pause."""
    reshard: Seconds = Seconds(0.0)
    """Before the first step on other GPUs than before."""
    group: Seconds = Seconds(0.0)
    """Before the first step on several GPUs that were no group before: communicators are set up."""
    load_rate: Bandwidth | None = None
    """Of loading a model's weights to each of its GPUs at once, B/s; that of copies on the host unless given."""

    def __post_init__(self) -> None:
        refuse([Fault("load_rate", "is 0, expected more")] if self.load_rate == 0.0 else [])
