"""Data files that come with the package, by name: profiles, models and experiments."""

from __future__ import annotations

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from sim.config import InputError


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; no for what is no path at all."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a null byte
        return False


class Shelf(NamedTuple):
    """The YAML files of one folder of `scenarios`; `what` one of them is called, `paths`: whether a path will do."""

    folder: str
    what: str
    paths: bool = True
    dated: re.Pattern[str] | None = None
    """Names that errors count instead of listing them."""

    def names(self) -> tuple[str, ...]:
        """Names of the files, without their ending."""
        shipped = (files("scenarios") / self.folder).iterdir()
        return tuple(sorted(f.name.removesuffix(".yaml") for f in shipped if f.name.endswith(".yaml")))

    def file(self, name: str) -> Path:
        """The file of that name, or the path that `name` is.

        Raises:
            InputError: there is neither; it tells close names.
        """
        known = self.names()
        if name in known:
            return Path(str(files("scenarios") / self.folder / f"{name}.yaml"))
        if self.paths and name and is_there(Path(name)):
            return Path(name)
        close = difflib.get_close_matches(name, known, 2, 0.57)
        shown = name if len(name) <= 60 else f"{name[:57]}..."
        hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
        more = ", or give a YAML file" if self.paths else ""
        listed = [n for n in known if self.dated is None or not self.dated.search(n)]
        others = len(known) - len(listed)
        rest = f" and {others} measurement sessions" if others else ""
        raise InputError(shown, "", f"{shown!r} is no {self.what}; {hint}shipped are {', '.join(listed)}{rest}{more}")
