"""What a host is, as far as it shows itself: GPUs and their links, processor, memory, software, and clocks over time.

Every piece may be missing (containers and virtual machines show little): a missing piece is None, never an error.
Nothing here changes a setting.
"""

from calibration.host.facts import Gpu, Host, Port, Torch, by_kind
from calibration.host.inspection import HOST_MEMORY, fingerprint, inspect, now
from calibration.host.origin import write_origin
from calibration.host.sampler import IDLE, Sampler

__all__ = [
    "HOST_MEMORY",
    "IDLE",
    "Gpu",
    "Host",
    "Port",
    "Sampler",
    "Torch",
    "by_kind",
    "fingerprint",
    "inspect",
    "now",
    "write_origin",
]
