"""Files of hardware profiles: where they are, and what a profile takes from the one that its key `like` names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim.config import InputError
from sim.faults import shown
from sim.shelf import Shelf, is_there
from sim.yaml_files import read_yaml

_SHELF = Shelf("hardware", "hardware profile", "chunkflow-sim hardware")
shipped = _SHELF.names
profile_file = _SHELF.file

_WHOLE = ("topology", "fingerprint", "alone", "alone_by_ranks")
"""Parts of a profile that are given whole or not at all."""


def read_profile(file: Path) -> Any:
    """The plain data of a profile; what it leaves out is as in the profile that its key `like` names.

    Raises:
        InputError: a file cannot be read, names a base that is not there, or is like itself by way of others.
    """
    heirs: list[tuple[Path, Any]] = []
    seen: list[Path] = []
    data = read_yaml(file)
    while isinstance(data, dict) and "like" in data:
        seen.append(file.resolve())
        base = _base_of(data["like"], file)
        if base.resolve() in seen:
            cycle = [path.name for path in seen[seen.index(base.resolve()) :]]
            raise InputError(str(file), "like", f"is a cycle: {' -> '.join([*cycle, cycle[0]])}")
        heirs.append((file, {key: value for key, value in data.items() if key != "like"}))
        file, data = base, read_yaml(base)
    for heir, own in reversed(heirs):
        data = _over(_inherited(data, file.stem), own)
        file = heir
    return data


def _base_of(name: object, file: Path) -> Path:
    """The file of the profile that `file` is like. Raises InputError, of `file`."""
    if not isinstance(name, str):
        problem = f"expected the name of a hardware profile, or a YAML file, got {shown(name)}"
        raise InputError(str(file), "like", problem)
    beside = file.parent / name
    if is_there(beside) and beside.is_file():
        return beside
    try:
        return profile_file(name)
    except InputError as error:
        raise error.within(str(file), "like") from None


def _over(base: Any, data: Any) -> Any:
    """`base` with all that `data` gives in its place."""
    if not (isinstance(base, dict) and isinstance(data, dict)) or "source" in data:
        return data
    return base | {k: v if k in _WHOLE else _over(base.get(k, {}), v) for k, v in data.items()}


def _inherited(data: Any, name: str) -> Any:
    """Data of the profile `name`, its sources saying so."""
    if not isinstance(data, dict):
        return data
    if isinstance(source := data.get("source"), str):
        return data | {"source": source if source.startswith("as ") else f"as {name}: {source}"}
    return {key: _inherited(value, name) for key, value in data.items()}
