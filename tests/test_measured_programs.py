"""What is predicted is what was measured: today's code builds the program whose hash a measured case carries."""

from __future__ import annotations

import pytest

from validation.datasets import load_set, shipped_sets

BEFORE = {"h100x1-20261121e"}
"""Sets measured before the programs of one GPU with offload had their present form."""


@pytest.mark.parametrize("name", shipped_sets())
def test_todays_programs_are_those_that_were_measured(name: str) -> None:
    cases = load_set(name).cases
    if name in BEFORE:
        cases = [case for case in cases if case.scenario["policy"]["kind"] == "resident"]
    assert cases
    for case in cases:
        assert case.load_scenario().program().hash == case.program, case.scenario
