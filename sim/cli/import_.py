"""`chunkflow-sim import`: a group whose subcommands are the modules of `sim.cli.importing`."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import click

from sim.cli import importing
from sim.cli.common import main


class ModuleGroup(click.Group):
    """A group whose subcommands are modules, loaded when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all modules."""
        return sorted(module.name.replace("_", "-") for module in iter_modules(importing.__path__))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """What the module of that name defines; None if there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command = import_module(f"{importing.__name__}.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command


@main.group("import", cls=ModuleGroup)
def import_() -> None:
    """Make scenarios and profiles of files of other tools."""
