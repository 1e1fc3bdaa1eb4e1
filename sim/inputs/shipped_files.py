"""Data files that come with the package, by name: profiles, models and experiments."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from sim.inputs.config import InputError

SHIPPED = Path(__file__).resolve().parents[2] / "scenarios"
"""Data that come with the package. By path: another module called `scenarios` may stand before it on `sys.path`."""


def is_file(path: Path) -> bool:
    """Whether there is such a file, and no folder; no for what is no path at all."""
    return is_there(path) and path.is_file()


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; no for what is not a path at all."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


@cache
def hub_names() -> dict[str, str]:
    """Names of model hubs, in lower case and without their owners -> the shipped model of the same blocks."""
    from sim.inputs.yaml_files import read_yaml

    of_models: dict[str, list[str]] = read_yaml(SHIPPED / "hub_names.yaml")
    return {name: model for model, names in of_models.items() for name in names}


class ShippedFiles(NamedTuple):
    """The YAML files of one folder of `scenarios`.

    `what` one of them is called, `command`: what lists them all. Names go in any case, unless there is a file of that
    path. With `hub` a name may be one of a model hub, with that of its owner in front (`hub_names`).
    """

    folder: str
    what: str
    command: str
    hub: bool = False

    def names(self) -> tuple[str, ...]:
        """Names of the files, without their ending."""
        shipped = (SHIPPED / self.folder).iterdir()
        return tuple(sorted(f.name.removesuffix(".yaml") for f in shipped if f.name.endswith(".yaml")))

    def file(self, name: str) -> Path:
        """The file of that name, or the path that `name` is.

        Raises:
            InputError: there is neither; it tells close names.
        """
        known = self.names()
        wanted = name.rsplit("/", 1)[-1] if self.hub else name
        if wanted in known:
            return SHIPPED / self.folder / f"{wanted}.yaml"
        # a folder may well be called as a model on a hub: as its copy on disk is
        if name and (is_file(Path(name)) if self.hub else is_there(Path(name))):
            return Path(name)
        lower = wanted.lower()
        if self.hub:
            lower = lower.removesuffix("-diffusers")
            lower = hub_names().get(lower, lower)
        if lower in known:
            return SHIPPED / self.folder / f"{lower}.yaml"
        shown = name if len(name) <= 60 else f"{name[:57]}..."
        close = difflib.get_close_matches(wanted[:100].lower(), known, 2, 0.57)
        hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
        absent = ": there is none of that path" if name.lower().endswith((".yaml", ".yml")) else ""
        problem = f"{shown!r} is not {self.what}; {hint}`{self.command}` lists all, or give a YAML file{absent}"
        raise InputError(shown, "", problem)
