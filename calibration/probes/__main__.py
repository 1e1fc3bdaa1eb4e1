"""Probes on a bare machine: `python -m calibration.probes --plan` or `--run DIR`, `[--quick] [--only PREFIX,...]`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from calibration.command_line import exit_code
from calibration.probes import ProbeCase, listing, plan, run
from calibration.torch_machine import devices
from sim.datasets.probe_rows import Row


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m calibration.probes", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--plan", action="store_true", help="list the cases and the time they will take")
    what.add_argument("--run", type=Path, metavar="DIR", help="run them, or resume, into DIR/raw.jsonl")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats")
    parser.add_argument("--only", metavar="PREFIX,...", help="only cases whose names start so")
    parser.add_argument("--gpus", type=int, help="how many GPUs (processes on a CPU); all there are, unless given")
    given = parser.parse_args()
    if given.gpus is not None and given.gpus < 1:
        parser.error("--gpus must be at least 1")
    kind, gpus = devices()
    cases = plan(given.gpus or gpus, given.quick, kind)
    if given.only:
        cases = [case for case in cases if case.name.startswith(tuple(given.only.split(",")))]
    if given.plan:
        print(*listing(cases), sep="\n")
        print(f"           on {given.gpus or gpus} x {kind}")
        return 0
    began = time.monotonic()

    def show(case: ProbeCase, row: Row | None) -> None:
        if row is not None:
            found = ", ".join(f"{name} {s.median:.4g} ± {100 * s.spread:.1f} %" for name, s in row.ranks[0].items())
            said = f"REJECTED: {row.rejected}" if row.rejected else found
            print(f"{time.monotonic() - began:6.1f} s  {row.seconds:5.2f} s  {case.name}: {said}", flush=True)

    return exit_code(lambda: run(cases, given.run, show))


if __name__ == "__main__":
    sys.exit(main())
