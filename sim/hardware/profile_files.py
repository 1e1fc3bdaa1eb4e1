"""Files of hardware profiles: where they are, and what a profile takes from the one that its key `like` names."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from sim.hardware.inheritance import merged
from sim.inputs.config import InputError
from sim.inputs.faults import shown
from sim.inputs.other_formats import foreign_content, foreign_text
from sim.inputs.own_formats import other_than
from sim.inputs.shipped_files import ShippedFiles, is_there
from sim.inputs.yaml_files import read_yaml

KEYS = {"name", "like", "gpus", "topology"}
"""Keys of which every profile has one."""

_FILES = ShippedFiles("hardware", "a hardware profile", "chunkflow-sim hardware")
shipped = _FILES.names
profile_file = _FILES.file


def read_profile(file: Path) -> Any:
    """The plain data of a profile; what it leaves out is as in the profile that its key `like` names.

    Raises:
        InputError: a file cannot be read, names a base that is not there, or is like itself by way of others.
    """
    heirs: list[tuple[Path, Any]] = []
    seen: list[Path] = []
    data = _plain(file)
    if (problem := other_than("profile", data, str(file))) is not None:
        raise InputError(str(file), "", problem)
    while isinstance(data, dict) and "like" in data:
        seen.append(file.resolve())
        base = _base_of(data["like"], file)
        if base.resolve() in seen:
            cycle = [path.name for path in seen[seen.index(base.resolve()) :]]
            raise InputError(str(file), "like", f"is a cycle: {' -> '.join([*cycle, cycle[0]])}")
        heirs.append((file, {key: value for key, value in data.items() if key != "like"}))
        file, data = base, read_yaml(base)
    for heir, own in reversed(heirs):
        data = merged(data, file.stem, own)
        file = heir
    return whole_devices(data)


def _plain(file: Path) -> Any:
    """The plain data of a file. Raises InputError, which names the format where it is none of a profile."""
    try:
        data = read_yaml(file)
    except InputError:
        if (problem := _other(file)) is None:
            raise
        raise InputError(str(file), "", problem) from None
    if (not isinstance(data, dict) or not data.keys() & KEYS) and (problem := _other(file)) is not None:
        raise InputError(str(file), "", problem)
    return data


def _other(file: Path) -> str | None:
    problem = foreign_content(file) or foreign_text(file)
    return problem and problem.replace("no scenario", "no hardware profile").replace("FILE", shlex.quote(str(file)))


def whole_devices(data: Any) -> Any:
    """Plain data of a profile, each of its `devices` with what it has from `device`."""
    if not isinstance(data, dict) or not isinstance(data.get("devices"), list):
        return data
    device = data.get("device")
    common = device if isinstance(device, dict) else {}
    return data | {"devices": [common | group if isinstance(group, dict) else group for group in data["devices"]]}


def _base_of(name: object, file: Path) -> Path:
    """The file of the profile that `file` is like. Raises InputError, of `file`."""
    if not isinstance(name, str):
        problem = f"expected the name of a hardware profile, or a YAML file, got {shown(name)}"
        raise InputError(str(file), "like", problem)
    adjacent = file.parent / name
    if is_there(adjacent) and adjacent.is_file():
        return adjacent
    try:
        return profile_file(name)
    except InputError as error:
        raise error.within(str(file), "like") from None
