"""The command line, `chunkflow-sim`: one module a command."""

import signal

try:  # until this module is there, Ctrl-C ends the process without a traceback
    _usual = signal.signal(signal.SIGINT, signal.SIG_DFL)
except ValueError:  # only the main thread hears of it
    _usual = None
from sim.cli import (
    calibrate,
    doctor,
    experiment,
    explain,
    hardware,
    import_,
    measure,
    models,
    plan,
    run,
    sensitivity,
    serve,
    sweep,
    validate,
)
from sim.cli.common import main

if _usual is not None:
    signal.signal(signal.SIGINT, _usual)

__all__ = [
    "calibrate",
    "doctor",
    "experiment",
    "explain",
    "hardware",
    "import_",
    "main",
    "measure",
    "models",
    "plan",
    "run",
    "sensitivity",
    "serve",
    "sweep",
    "validate",
]
