"""Which of our kinds of YAML file plain data are, by their keys, and what to do with one that was given for another."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Literal

Kind = Literal["scenario", "serving scenario", "experiment", "model", "profile"]

SCENARIO = frozenset({"workload", "policy", "world_size"})
PROFILE = frozenset({"topology", "like", "gpus"})
_NAMES: Mapping[Kind, str] = {
    "scenario": "scenario",
    "serving scenario": "serving scenario",
    "experiment": "experiment",
    "model": "model's shapes",
    "profile": "hardware profile",
}
_ADVICE: Mapping[Kind, str] = {
    "scenario": "run it with `chunkflow-sim run`",
    "serving scenario": "serve it with `chunkflow-sim serve FILE`",
    "experiment": "run it with `chunkflow-sim experiment FILE`",
    "model": "give its path as workload.model, or see `chunkflow-sim models FILE`",
    "profile": "give it as `hardware` in a scenario, or see `chunkflow-sim hardware FILE`",
}


def kind_of(data: Any) -> Kind | None:
    """The kind of plain data, by keys that no other kind has; None where it is not known."""
    if not isinstance(data, Mapping):
        return None
    keys = data.keys()
    if "serving" in keys or "classes" in keys:
        return "serving scenario"
    if "scenario" in keys and keys & {"axes", "cases", "x", "plot"}:
        return "experiment"
    if "transformer" in keys:
        return "model"
    if keys & SCENARIO:
        return "scenario"
    return "profile" if keys & PROFILE else None


def named(data: Any, source: str, instead_of: Kind | None = None) -> str | None:
    """What plain data of file `source` are, and what to do with them; None where that is not known."""
    kind = kind_of(data)
    if kind is None:
        return None
    name = f"{'an' if kind == 'experiment' else 'a'} {_NAMES[kind]}"
    if (kind, instead_of) == ("scenario", "serving scenario"):
        name += " of steps"
    wanted = "" if instead_of is None else f", no {_NAMES[instead_of]}"
    return f"is {name}{wanted}: {_ADVICE[kind].replace('FILE', shlex.quote(source))}"


def other_than(wanted: Kind, data: Any, source: str) -> str | None:
    """What is wrong with giving plain data of file `source` for one of kind `wanted`; None unless of another kind."""
    return None if kind_of(data) == wanted else named(data, source, wanted)
