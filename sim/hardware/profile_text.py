"""Profiles as YAML text, with numbers in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class InOneLine(dict[str, Any]):
    """A mapping that YAML shows in one line."""


def _block(item: object) -> bool:
    return isinstance(item, dict) and not isinstance(item, InOneLine)


def to_yaml(plain: Mapping[str, Any], remarks: str) -> str:
    """The YAML of a profile, with `remarks` as a comment on top."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Numbers and lists in one line each."""

        def ignore_aliases(self, data: Any) -> bool:
            """Whether to write what appears twice twice: our reader takes no aliases."""
            return True

    Dumper.add_representer(
        InOneLine, lambda d, v: d.represent_mapping("tag:yaml.org,2002:map", v.items(), flow_style=True)
    )

    def sequence(dumper: Any, items: list[Any]) -> Any:
        return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=not any(map(_block, items)))

    Dumper.add_representer(list, sequence)
    Dumper.add_representer(tuple, lambda dumper, items: sequence(dumper, list(items)))
    comment = "".join(f"# {line}\n" for line in remarks.splitlines())
    return comment + yaml.dump(dict(plain), Dumper=Dumper, sort_keys=False, width=118, allow_unicode=True)


def numbers_in_lines(data: Any) -> Any:
    """Plain data with every number and its source as one line of YAML."""
    if isinstance(data, dict):
        inner = {key: numbers_in_lines(value) for key, value in data.items()}
        is_number = "source" in inner and not isinstance(inner.get("value", {}), dict | list)
        return InOneLine(inner) if is_number else inner
    return [numbers_in_lines(item) for item in data] if isinstance(data, list | tuple) else data
