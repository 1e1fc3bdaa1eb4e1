"""Small programs of every kind of command: what they hold, what was measured of them, and how well it is predicted."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.datasets.program_cases import cases
from sim.datasets.program_rows import PROGRAMS, load_programs
from sim.hardware import load_profile
from sim.program import Collective, Copy, HostBuffer, PointToPoint, Program, WaitFlag, WriteFlag
from validation.error_statistics import errors
from validation.programs import ComparedProgram, compare_programs

MEASURED = "h200x2-hostpath-20261129p"
DATA = Path(__file__).parents[1] / "validation" / "data" / MEASURED

HARD = ("pageable/", "copy/d2d/", "flags/turns", "copy/h2d+d2h/both", "copy/d2h/65536", "through host/both/4")
"""What is not within 8 %: docs/measurements/programs.md says why."""


@pytest.fixture(scope="module")
def compared() -> list[ComparedProgram]:
    return list(compare_programs(DATA, load_profile(MEASURED)))


def test_names_are_unique_and_programs_are_the_same_every_time() -> None:
    found = cases(2)
    assert len({case.name for case in found}) == len(found)
    assert [case.build(2).hash for case in found] == [case.build(2).hash for case in cases(2)]


def test_every_kind_of_command_is_in_a_program() -> None:
    def used(program: Program) -> set[str]:
        kinds: set[str] = set()
        for rank in program.ranks:
            kinds |= {
                f"{b.memory}{' shared' * b.shared}" for b in rank.host_memory.values() if isinstance(b, HostBuffer)
            }
            for c in rank.commands():
                if isinstance(c, Copy):
                    kinds.add(c.kind)
                elif isinstance(c, WriteFlag | WaitFlag):
                    kinds.add(f"{type(c).__name__} {'host' if c.on_host else 'device'}")
                elif isinstance(c, Collective | PointToPoint):
                    kinds.add(type(c).__name__)
        return kinds

    assert set().union(*(used(case.build(2)) for case in cases(2))) == {
        *("h2d", "d2h", "d2d", "p2p", "pinned", "pageable", "pinned shared"),
        *("WriteFlag host", "WaitFlag host", "WriteFlag device", "Collective", "PointToPoint"),
    }


def test_all_programs_ran_on_two_gpus() -> None:
    rows = load_programs(DATA)
    assert [row.case for row in rows] == [case.name for case in cases(2)]
    assert [row.error for row in rows if row.error] == []


def test_programs_are_predicted(compared: list[ComparedProgram]) -> None:
    """Constants come from probes of the same hour alone: no program is fitted on."""
    found = {c.row.case: c.error for c in compared}
    assert errors(found).median <= 0.035
    easy = errors({name: error for name, error in found.items() if not name.startswith(HARD)})
    assert easy.cases >= 30
    assert easy.p95 <= 0.075
    assert easy.max <= 0.08


def test_a_program_of_another_day_is_refused(tmp_path: Path) -> None:
    lines = (DATA / PROGRAMS).read_text().splitlines()
    row = load_programs(DATA)[0]
    (tmp_path / PROGRAMS).write_text(lines[0].replace(row.hash, "0" * 64) + "\n")
    with pytest.raises(Exception, match="is another program than today's: measure it again"):
        list(compare_programs(tmp_path, load_profile(MEASURED)))
