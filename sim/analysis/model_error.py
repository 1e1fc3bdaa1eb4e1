"""How far predictions lie from measurements, by kind of host: data that comes with the package.

`python -m validation.model_error` makes the file from the measured cases that come with the validation.
"""

from __future__ import annotations

from functools import cache

from sim.hardware import Profile
from sim.inputs.config import Config, convert
from sim.inputs.shipped_files import SHIPPED
from sim.inputs.units import Number
from sim.inputs.yaml_files import read_yaml

FILE = SHIPPED / "model_error.yaml"


class ModelError(Config, frozen=True, kw_only=True):
    """The errors of predicted step times on one kind of host, relative to the prediction.

    `deviation` is the standard deviation of the normal variable of which 90 % lie as near 0 as 90 % of the errors.
    """

    host: str
    deviation: Number
    largest: Number
    cases: int
    sets: tuple[str, ...]
    """The data sets that they are of."""


class ModelErrors(Config, frozen=True):
    """The content of the file."""

    about: str
    errors: tuple[ModelError, ...]


def host_kind(profile: Profile, ranks: int) -> str:
    """What kind of host `ranks` GPUs of a profile are: how many there are, and how their collectives travel."""
    if ranks == 1:
        return "1 GPU"
    through = {profile.topology.nodes[name].kind for name in profile.topology.nodes}
    if profile.topology.peers == "host":
        return f"{ranks} GPUs through host memory"
    return f"{ranks} GPUs over {'NVLink' if 'nvswitch' in through else 'PCIe or a fabric'}"


@cache
def known_errors() -> dict[str, ModelError]:
    """Kind of host -> the model's error there."""
    return {error.host: error for error in convert(read_yaml(FILE), ModelErrors, str(FILE)).errors}


def model_error(profile: Profile, ranks: int) -> ModelError | None:
    """The model's error for `ranks` GPUs of a profile; None where it is not known.

    It is known for kinds of host that were measured, on profiles whose numbers were measured: a profile put together
    from published figures (its fingerprint names its `evidence`) or without uncertainties is off by more than that.
    """
    from sim.analysis.sensitivity import uncertain

    if "evidence" in profile.fingerprint or not uncertain(profile):
        return None
    return known_errors().get(host_kind(profile, ranks))
