"""The stand-alone all-to-all of examples/, run as its page says: on GPUs where there are two, else on processes with gloo."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

EXAMPLE = Path(__file__).parents[1] / "examples" / "copy_engine_all_to_all.py"


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_the_example_gives_the_bits_of_torch(ranks: int) -> None:
    """30 MB in eight pieces a part or less, several times over: slots are used again."""
    if 0 < torch.cuda.device_count() < ranks:
        pytest.skip("it runs on GPUs where there are any, one a rank")
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={ranks}",
        str(EXAMPLE),
        "30000000",
        "3",
    ]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "copy engines:" in line]
    assert len(lines) == ranks


def test_the_example_is_short_and_needs_nothing_of_ours() -> None:
    text = EXAMPLE.read_text()
    assert text.count("\n") <= 200
    imported = {name.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert not {name for name in imported if name.split(".")[0] in ("sim", "calibration", "validation")}
