"""Programs of every kind of command, run on this host: `python -m calibration.programs --out DIR [--ranks N]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from calibration.command_line import exit_code
from calibration.host import write_origin
from calibration.torch_machine import Kind, MachineError, TorchMachine, check_ranks, devices, unsupported
from sim.datasets.program_cases import ProgramCase, cases
from sim.datasets.program_rows import PROGRAMS, SCHEMA, ProgramRow
from sim.inputs.atomic_files import append, naming, open_alone
from sim.machine import DeadlockError


def measure(
    planned: Sequence[ProgramCase],
    out: Path,
    runs: int = 3,
    kind: Kind | None = None,
    progress: Callable[[ProgramRow], None] = lambda row: None,
    timeout_s: float = 60.0,
) -> list[ProgramRow]:
    """Run `planned` and write a row each to `out`; what cannot run or fails is written with its error.

    Raises:
        InputError: another run is writing to `out`.
        MachineError: there are too few GPUs.
        OSError: `out` cannot be written.
    """
    kind = check_ranks(max((case.ranks for case in planned), default=1), kind)
    rows: list[ProgramRow] = []
    machine: TorchMachine | None = None
    with open_alone(out / PROGRAMS) as file:
        write_origin(out)
        try:
            for case in planned:
                if machine is not None and (machine.closed or machine.world_size != case.ranks):
                    machine.close()
                    machine = None
                if machine is None:
                    machine = TorchMachine(case.ranks, kind, timeout_s)
                rows.append(_row(case, machine, runs))
                with naming(out / PROGRAMS):
                    append(file, msgspec.json.encode(rows[-1]) + b"\n")
                progress(rows[-1])
        finally:
            if machine is not None:
                machine.close()
    return rows


def _row(case: ProgramCase, machine: TorchMachine, runs: int) -> ProgramRow:
    program = case.build()
    if (why := unsupported(program)) is not None:
        return ProgramRow(SCHEMA, case.name, program.hash, (), why)
    try:
        times = tuple(tuple(machine.run(program).step_times(0)) for _ in range(runs))
    except (MachineError, DeadlockError) as error:
        return ProgramRow(SCHEMA, case.name, program.hash, (), str(error))
    return ProgramRow(SCHEMA, case.name, program.hash, times)


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m calibration.programs", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=f"the folder of {PROGRAMS}")
    parser.add_argument("--ranks", type=int, help="GPUs at most; all there are, unless given")
    parser.add_argument("--only", default="", metavar="PREFIX,...", help="only programs whose names start so")
    given = parser.parse_args()
    kind, gpus = devices()
    found = [case for case in cases(given.ranks or gpus) if case.name.startswith(tuple(given.only.split(",")))]

    def show(row: ProgramRow) -> None:
        said = f"{1e3 * row.step_s:.4f} ms ± {100 * row.spread:.1f} %" if row.runs else f"FAILED: {row.error}"
        print(f"{row.case}: {said}", flush=True)

    return exit_code(lambda: measure(found, given.out, kind=kind, progress=show))


if __name__ == "__main__":
    sys.exit(main())
