"""The forms that docs/scenarios.md and docs/models.md show are scenarios that run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim import Scenario, simulate

DOCS = Path(__file__).parents[1] / "docs"
BASE: dict[str, Any] = {
    "hardware": "h200x8-hostpath",
    "world_size": 4,
    "workload": {"layers": 1, "layer_bytes": "1 MB", "block": [{"compute": {"name": "a", "seconds": 1e-3}}]},
    "policy": {"kind": "chunked", "chunk_bytes": "64 MiB"},
}


def shown(page: str) -> list[str]:
    """The indented parts of a page that are a scenario's keys."""
    parts = re.findall(r"(?:^    .*\n)+", (DOCS / page).read_text(), re.MULTILINE)
    return [part for part in parts if re.match(r"    (workload|placement|world_size):", part)]


@pytest.mark.parametrize("text", [part for page in ("scenarios.md", "models.md") for part in shown(page)])
def test_forms_in_the_docs_run(text: str) -> None:
    plain = BASE | yaml.safe_load(text)
    layout = plain["workload"].get("parallelism")
    if isinstance(layout, dict):
        plain["world_size"] = 1
        for size in layout.values():
            plain["world_size"] *= size
    if "model" in plain["workload"]:
        plain["workload"] |= {"layers": 2}
    assert simulate(Scenario.from_plain(plain), settle=False).metrics["step_time_s"] > 0


def test_both_pages_show_some() -> None:
    assert all(len(shown(page)) > 1 for page in ("scenarios.md", "models.md"))
