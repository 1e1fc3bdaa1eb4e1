"""The guard against tests that never end."""

from __future__ import annotations

import signal

import pytest
from conftest import NeverEndsError
from hypothesis import given
from hypothesis import strategies as st


def test_a_test_that_never_ends_is_stopped_and_hypothesis_does_not_run_it_again() -> None:
    runs = []

    @given(st.integers())
    def endless(number: int) -> None:
        runs.append(number)
        signal.raise_signal(signal.SIGALRM)  # what the alarm does after its time

    with pytest.raises(NeverEndsError, match="has not ended"):
        endless()
    assert len(runs) == 1
