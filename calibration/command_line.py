"""How the command lines of bare machines end (`python -m calibration.probes`, `python -m calibration.programs`)."""

from __future__ import annotations

import sys
from collections.abc import Callable

from sim.inputs.config import InputError


def exit_code(work: Callable[[], object]) -> int:
    """0 once `work` is done; 2 for wrong input, 1 for any other failure, each with its message on standard error."""
    try:
        work()
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
