"""What all commands share with the shell: streams that take any text, messages, exit codes, Ctrl-C."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from sim.inputs import files_read
from sim.inputs.safe_text import printable

FAILED, INTERRUPTED = 1, 130


class CommandGroup(click.Group):
    """A group whose commands end with a message and an exit code, never with a traceback that a user can cause.

    Standard output that is closed, or cannot be written, is exit code 1; Ctrl-C is 130, as in a shell. Characters that
    an output's encoding does not have are replaced. Control characters in messages are shown as escapes.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line; with `standalone_mode` it ends the process."""

        def run() -> Any:
            return click.Group.main(
                self, args, prog_name, complete_var, False, windows_expand_args=windows_expand_args, **extra
            )

        if not standalone_mode:
            return run()
        sys.exit(_exit_code(run))


def _exit_code(run: Callable[[], Any]) -> int:
    """Run a command to its exit code, and standard output to its end."""
    if sys.stdout is None:
        _complain("standard output is closed")
        return FAILED
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    code = 0
    try:
        code = _command(run)
        sys.stdout.flush()
    except OSError as error:
        _give_up_output()
        # a reader that went away wants no message, and a command that failed has said why
        if error.errno != errno.EPIPE and code == 0:
            _complain(f"standard output cannot be written: {error.strerror}")
        return code or FAILED
    return code


def _command(run: Callable[[], Any]) -> int:
    try:
        with files_read.recording():
            code = run()
    except click.ClickException as error:
        message = io.StringIO()
        error.show(message)
        click.echo(printable(message.getvalue()), err=True, nl=False)
        return error.exit_code
    except click.Abort:
        _complain("interrupted")
        return INTERRUPTED
    except SystemExit as error:
        code = error.code
    return code if isinstance(code, int) else 0


def _complain(problem: str) -> None:
    click.echo(f"Error: {printable(problem)}", err=True)


def _give_up_output() -> None:
    """Let what is left in the buffer go nowhere: Python would try to write it once more at its end, and say so."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        pass
