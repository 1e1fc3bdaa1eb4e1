"""The pages of `run` and `explain`: the finding in one sentence, which follows from the figures; why; the timeline."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from html_reader import Reader
from strategies import compute

from sim.cli import main

GB = 10**9


def invoke(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def scenario(policy: dict[str, Any], file: Path, **more: Any) -> Path:
    """5 layers of 10 ms and 1 GB on one H200, whose link takes 18 ms for each."""
    block = {"layers": 5, "steps": 3, "layer_bytes": GB, "block": [compute(1e-2)], **more}
    plain = {"hardware": "h200x1", "world_size": 1, "workload": block, "policy": policy}
    file.write_text(yaml.safe_dump(plain))
    return file


def test_the_page_of_a_run_begins_with_its_finding(tmp_path: Path) -> None:
    file, page = scenario({"kind": "whole_layer"}, tmp_path / "s.yaml"), tmp_path / "page.html"
    done = invoke("run", file, "--json", "--html", page)
    assert done.exit_code == 0, done.output
    assert done.stderr == f"page: {page}\n"
    figures = json.loads(done.stdout)
    text = "\n".join(Reader(page.read_text(encoding="utf-8")).text)
    longer = 100 * (figures["waterfall"]["step_s"] / figures["waterfall"]["resident_s"] - 1)
    added = 1e3 * (figures["waterfall"]["step_s"] - figures["waterfall"]["resident_s"])
    found = re.search(
        r"A step takes (.*) ms, (.*) % longer than .*, most of it by waiting for weights \((.*) ms\);", text
    )
    assert found is not None
    assert float(found[1]) == pytest.approx(1e3 * figures["waterfall"]["step_s"], rel=1e-3)
    assert float(found[2]) == pytest.approx(longer, abs=0.06)
    assert 0.95 * added < float(found[3]) < 1.001 * added  # kernels beside copies add the rest
    assert "its peak memory of 1.863 GiB fits into 140.4 GiB." in text
    assert "Layers 1, 2, 3" in text and "wait for prefetch" in text
    # written again, but not over another's file
    assert invoke("run", file, "--html", page).exit_code == 0
    assert invoke("run", file, "--html", file).exit_code == 2


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ({"kind": "resident"}, "A step takes 50 ms: nothing is copied; its peak memory of 4.657 GiB fits"),
        ({"kind": "whole_layer", "resident_fraction": 0.9}, "as long as with all weights resident"),
        ({"kind": "whole_layer", "prefetch_layers": 9}, "its peak memory of 149 GiB does not fit into 140.4 GiB"),
    ],
)
def test_the_page_of_an_explanation(policy: dict[str, Any], words: str, tmp_path: Path) -> None:
    more = {"activation_bytes": 150 * GB} if "not fit" in words else {}
    file, page = scenario(policy, tmp_path / "s.yaml", **more), tmp_path / "page.html"
    done = invoke("explain", file, "--html", page, "--workers", "1", "--no-cache")
    assert done.exit_code == 0, done.output
    text = "\n".join(Reader(page.read_text(encoding="utf-8")).text)
    assert words in text
    assert "What would help" in text
