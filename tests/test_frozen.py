"""What was read or made stays as it is."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import msgspec

import sim


def structs(kind: type[msgspec.Struct] = msgspec.Struct) -> Iterator[type[msgspec.Struct]]:
    for below in kind.__subclasses__():
        yield below
        yield from structs(below)


def test_no_struct_of_the_package_can_be_changed() -> None:
    """Programs and profiles are shared between ranks and runs, and are keys of what is kept."""
    for module in pkgutil.walk_packages(sim.__path__, "sim."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {kind for kind in structs() if kind.__module__.startswith("sim.") and kind.__name__[0] != "_"}
    assert len(found) > 60
    assert {f"{k.__module__}.{k.__name__}" for k in found if not k.__struct_config__.frozen} == set()
