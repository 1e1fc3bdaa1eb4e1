"""Hypothesis profiles (chosen by HYPOTHESIS_PROFILE) and a guard against simulations that never end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", deadline=None, max_examples=2000, suppress_health_check=list(HealthCheck))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_PATIENCE_S = 120 if settings().max_examples <= 100 else 3600


@pytest.fixture(autouse=True)
def _never_ending() -> Iterator[None]:
    """Fail a test whose simulation goes on for ever instead of hanging the suite."""

    def give_up(signum: int, frame: FrameType | None) -> None:
        pytest.fail(f"the test has not ended after {_PATIENCE_S} s: its simulation never ends")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
