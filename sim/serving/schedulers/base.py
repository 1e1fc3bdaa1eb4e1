"""What a scheduler is: parameters that a serving scenario gives, and what decides with them while a host serves.

A scheduler of one's own is a struct that derives from `Scheduler`, in a module of this folder, under `@register`. Its
`decider` makes a `Decider` for one run. Whenever something has changed (a request came, one was done, a job came to
the end of what it was started for), the decider is asked once, when all that happens at that instant has happened. It
starts and stops jobs by the `Host` that it was made with; stops take effect at the end of the step that runs.
"""

from __future__ import annotations

from sim.inputs.config import Config
from sim.serving.host import Decider, Host


class Scheduler(Config, frozen=True, tag_field="kind"):
    """Base of all schedulers."""

    @property
    def kind(self) -> str:
        """The scheduler's name in scenario files."""
        return str(self.__struct_config__.tag)

    def decider(self, host: Host) -> Decider:
        """What decides for `host`."""
        raise NotImplementedError
