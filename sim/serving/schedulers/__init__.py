"""Schedulers of requests, one file each, found by being here or by `register`."""

from __future__ import annotations

from sim.serving.host import Decider
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.registry import kinds, register, union, unregister

__all__ = ["Decider", "Scheduler", "kinds", "register", "union", "unregister"]
