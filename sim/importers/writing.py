"""Files that importers write: scenarios and profiles as YAML, with what was found, assumed and left out on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sim.hardware.profile_text import numbers_in_lines, to_yaml
from sim.inputs.atomic_files import write_atomically
from sim.inputs.overwriting import Kind
from sim.inputs.safe_text import printable


def profile_text(profile: dict[str, Any]) -> str:
    """A profile as a file."""
    return to_yaml(numbers_in_lines(profile), f"{Kind.PROFILE.value.decode().removeprefix('# ')} import")


def write_files(output: Path, scenario: dict[str, Any], beside: dict[Path, str | bytes], notes: Sequence[str]) -> None:
    """Write a scenario, and the files beside it first: it names files that are there."""
    for file, content in beside.items():
        write_atomically(file, content)
    head = "".join(f"# {printable(line)}\n" for line in notes)
    write_atomically(output, f"{Kind.IMPORTED.value.decode()}\n{head}{_yaml(scenario)}")


def _yaml(data: dict[str, Any]) -> str:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Innermost mappings and lists on one line each, and none as an alias."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
