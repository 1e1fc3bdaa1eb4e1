"""The kinds of schedulers that there are: found in this folder, or registered by a program."""

from __future__ import annotations

from functools import cache, reduce
from importlib import import_module
from operator import or_
from pkgutil import iter_modules
from typing import Any, TypeVar, cast

from sim.serving.schedulers.base import Scheduler

S = TypeVar("S", bound=Scheduler)

_KINDS: dict[str, type[Scheduler]] = {}


def register(scheduler: type[S]) -> type[S]:
    """Make a kind of scheduler known under its tag; to be used as a decorator.

    Raises:
        TypeError: it has no tag of its own.
        ValueError: another class is known under its tag.
    """
    tag = scheduler.__struct_config__.tag
    if not isinstance(tag, str) or tag == scheduler.__name__:
        raise TypeError(f"{scheduler.__name__} has no kind of its own: give the class tag='...'")
    known = _KINDS.get(tag)
    if known is not None and (known.__module__, known.__qualname__) != (scheduler.__module__, scheduler.__qualname__):
        raise ValueError(f"a scheduler of kind {tag!r} is there already, from {known.__module__}")
    _KINDS[tag] = scheduler
    return scheduler


def unregister(kind: str) -> None:
    """Forget a kind of scheduler; no error if there is none."""
    _KINDS.pop(kind, None)


def kinds() -> dict[str, type[Scheduler]]:
    """Kind -> class of every known scheduler, those of this folder first."""
    _import_shipped()
    return dict(_KINDS)


def union() -> Any:
    """The type that a serving scenario's key `scheduler` is read as: any of the kinds known now."""
    return reduce(or_, cast(Any, kinds().values()))


@cache
def _import_shipped() -> None:
    import sim.serving.schedulers

    for module in iter_modules(sim.serving.schedulers.__path__):
        import_module(f"sim.serving.schedulers.{module.name}")
