"""Profiles from files: those that come with the package, inheritance, and back to plain data."""

from __future__ import annotations

import re

import msgspec

from sim.hardware.profile import Profile
from sim.hardware.profile_files import profile_file, read_profile
from sim.inputs import units
from sim.inputs.config import convert

SESSION = re.compile(r"-\d{8}[a-z]$")
"""How the name of a profile ends that was fitted in one session on a host, after the name of the host's kind."""


def is_session(name: str) -> bool:
    """Whether a profile's name is that of one measurement session; plain names are of hosts that users mean."""
    return SESSION.search(name) is not None


def load_profile(name: str) -> Profile:
    """Load a shipped profile by name, or a YAML file by path.

    Raises:
        InputError: no such profile or file, or its content is wrong.
    """
    file = profile_file(name)
    return convert(read_profile(file), Profile, str(file))


def to_plain(profile: Profile) -> dict[str, object]:
    """The profile as plain data, as its YAML file would hold it."""
    plain: dict[str, object] = msgspec.to_builtins(profile, enc_hook=units.plain)
    return plain
