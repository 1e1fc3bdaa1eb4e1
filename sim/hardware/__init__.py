"""Hardware profiles: what a host is made of, and the flows that copies, kernels and collectives are there."""

from sim.hardware.collective_classes import CollectiveClass, Collectives, Contention, IsolatedTimes
from sim.hardware.inheritance import Inherited
from sim.hardware.loading import SESSION, is_session, load_profile, to_plain
from sim.hardware.profile import COPY_TAG, MIN_KERNEL_S, CollectiveTag, Profile
from sim.hardware.profile_files import profile_file, shipped
from sim.hardware.schema import MAX_GPUS, CopyClass, Device, HostIssue, Pageable, PageableCopies, Streams

__all__ = [
    "COPY_TAG",
    "MAX_GPUS",
    "MIN_KERNEL_S",
    "SESSION",
    "CollectiveClass",
    "CollectiveTag",
    "Collectives",
    "Contention",
    "CopyClass",
    "Device",
    "HostIssue",
    "Inherited",
    "IsolatedTimes",
    "Pageable",
    "PageableCopies",
    "Profile",
    "Streams",
    "is_session",
    "load_profile",
    "profile_file",
    "shipped",
    "to_plain",
]
