"""Programs of every kind of command, run on the torch machine and written as rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.datasets.cases import load_origin
from sim.datasets.program_cases import cases
from sim.datasets.program_rows import load_programs


@pytest.mark.slow
def test_programs_are_run_and_their_rows_say_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from calibration.programs import measure

    monkeypatch.setenv("NCCL_P2P_DISABLE", "1")
    planned = [case for case in cases(2) if case.name in ("copy/h2d/65536x64", "copy/d2d/65536x64")]
    rows = measure(planned, tmp_path, runs=2, kind="cpu")
    assert rows == load_programs(tmp_path)
    for row, case in zip(rows, planned, strict=True):
        assert (row.case, row.hash) == (case.name, case.build().hash)
        assert len(row.runs) == 2
        assert row.step_s > 0
    assert load_origin(tmp_path).environment["NCCL_P2P_DISABLE"] == "1"
