"""A policy is one file: the one in docs/policies.md runs, sweeps and is explained, with no other file touched."""

from __future__ import annotations

import csv
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import Command
from hypothesis import assume, given
from strategies import Case, Plain, cases, collective, compute, scenario

from sim import policies
from sim.inputs.config import InputError
from sim.policies import Offload, Policy, describe, kinds, load_policies, register, unregister
from sim.policies.registry import FILES
from sim.program import Copy
from sim.run import simulate

EXAMPLE = Path(__file__).parents[1] / "docs" / "policies.md"
WORKLOAD: Plain = {
    "layers": 3,
    "steps": 3,
    "layer_bytes": "40 MiB",
    "block": [compute(1e-3), collective(2**20)],
}


def example() -> str:
    """The policy of docs/policies.md."""
    (code,) = re.findall(r"```python\n(.*?)```", EXAMPLE.read_text(), re.DOTALL)
    return code


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "halves.py").write_text(example())
    data = {"hardware": "h200x2-hostpath", "world_size": 2, "workload": WORKLOAD, "policy": {"kind": "halves"}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(data))
    return tmp_path


@pytest.fixture
def registered(toy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Policy]]:
    """The policy, known to this process by `register` alone."""
    monkeypatch.delenv(FILES, raising=False)
    space: Plain = {"__name__": "toy"}
    exec(compile(example(), "halves.py", "exec"), space)
    yield space["Halves"]
    unregister("halves")


def test_a_policy_from_a_file_runs_sweeps_and_is_explained(toy: Path, chunkflow: Command) -> None:
    known = {"cwd": toy, "env": chunkflow.environment | {FILES: "halves.py"}}
    ran = chunkflow("run", "s.yaml", "--json", **known)
    assert (ran.returncode, ran.stderr) == (0, "")
    step = json.loads(ran.stdout)["step_time_s"]
    shown = chunkflow("run", "s.yaml", **known).stdout
    assert "h200x2-hostpath: halves" in shown
    axes = ["--set", "policy.kind=halves,whole_layer", "--set", "policy.backwards=true,false"]
    swept = chunkflow("sweep", "s.yaml", *axes, "--workers", "2", "--out", "r.csv", "--html", "p.html", **known)
    assert swept.returncode == 0, swept.stderr
    rows = list(csv.DictReader((toy / "r.csv").read_text().splitlines()))
    assert [row["policy.kind"] for row in rows] == ["halves", "halves", "whole_layer"]
    assert float(rows[1]["step_time_s"]) == step
    assert "halves+backwards" in (toy / "p.html").read_text()
    said = chunkflow("explain", "s.yaml", "--json", **known)
    assert (said.returncode, said.stderr) == (0, "")
    explained = json.loads(said.stdout)
    assert "under halves;" in explained["sentences"][0]
    # its own variants, and the other kinds
    assert {c["words"] for c in explained["changes"]} >= {"backwards: true", "kind: whole_layer", "prefetch_layers: 2"}


def test_other_policies_are_compared_with_a_registered_one(registered: type[Policy]) -> None:
    own = scenario(WORKLOAD, {"kind": "whole_layer", "resident_layers": [1]}).policy
    assert registered(resident_layers=(1,)) in list(policies.variants(own, 2))


def test_registering_is_enough_in_one_process(registered: type[Policy]) -> None:
    ran = simulate(scenario(WORKLOAD, {"kind": "halves", "backwards": True}))
    assert type(ran.scenario.policy) is registered
    copies = [c.offset for _, c in ran.timeline.commands(0, Copy)]
    assert copies[:2] == [20 * 2**20, 0]
    assert ran.scenario.policy.label() == "halves+backwards"
    unregister("halves")
    with pytest.raises(InputError, match="policy.kind: is 'halves'"):
        scenario(WORKLOAD, {"kind": "halves"})


def test_workers_import_loaded_policy_files(toy: Path, chunkflow: Command) -> None:
    """`load_policies`, then scenarios handed to spawned processes, from another folder than the file's."""
    program = """
import sys
from pathlib import Path
from sim import Scenario
from sim.policies import load_policies
from sim.analysis.sensitivity import metric_value
from sim.sweeps.worker_pool import Workers

if __name__ == "__main__":
    assert load_policies(sys.argv[1]) == ("halves",) == load_policies(sys.argv[1])
    scenario = Scenario.load(sys.argv[2])
    with Workers(1) as pool:
        there = pool.submit(metric_value, scenario, "step_time_s", scenario.profile()).result()
    assert there == metric_value(scenario, "step_time_s", scenario.profile())
    print(there)
"""
    (toy / "elsewhere").mkdir()
    (toy / "main.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(EXAMPLE.parents[1])}
    done = subprocess.run(
        [sys.executable, toy / "main.py", "../halves.py", "../s.yaml"],
        cwd=toy / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    ran = chunkflow("run", "s.yaml", "--json", cwd=toy, env=chunkflow.environment | {FILES: "halves.py"})
    assert float(done.stdout) == json.loads(ran.stdout)["step_time_s"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("absent.py", None, "is not a Python file (.py) with policies"),
        ("policy.txt", "x = 1", "is not a Python file (.py) with policies"),
        ("broken.py", "def f(:", "fails: SyntaxError"),
        ("raises.py", "raise ValueError('no')", "fails: ValueError: no"),
        ("empty.py", "x = 1", "registers no policy"),
        (
            "twice.py",
            "from sim.policies import Offload, register\n@register\nclass A(Offload, frozen=True, tag='chunked'): pass",
            "a policy of kind 'chunked' is there already, from sim.policies.chunked",
        ),
        (
            "half.py",
            "from sim.policies import Offload, register\n@register\nclass A(Offload, frozen=True, tag='a'): pass\n1/0",
            "fails: ZeroDivisionError",
        ),
    ],
)
def test_a_file_without_policies_is_bad_input(
    toy: Path, chunkflow: Command, name: str, text: str | None, told: str
) -> None:
    if text is not None:
        (toy / name).write_text(text)
    with pytest.raises(InputError) as refused:
        load_policies(toy / name)
    assert name in str(refused.value) and told in str(refused.value)
    assert "a" not in kinds() and name not in os.environ.get(FILES, "")
    done = chunkflow("run", "s.yaml", cwd=toy, env=chunkflow.environment | {FILES: name})
    assert done.returncode == 2 and name in done.stderr and "Traceback" not in done.stderr


BROKEN = """
from sim.policies import Offload, Schedule, register


@register
class Broken(Offload, frozen=True, tag="broken"):
    how: str = "raise"

    def schedule(self, workload, world_size, rank):
        return Chunks(workload, self).build() if self.how == "short" else None if self.how == "none" else 1 / 0


class Chunks(Schedule):
    def chunks(self, n):
        yield "most of it", 0, self.place(n)[2] - 2
"""


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "broken.py: line 10: ZeroDivisionError: division by zero"),
        ("none", "broken.py: TypeError: schedule returns NoneType, expected a RankProgram"),
        ("short", "s.yaml: workload: chunks of layer 0 have 41943038 bytes in all, but 41943040 are copied"),
    ],
)
def test_a_policy_that_fails_is_named_with_its_line(how: str, said: str, toy: Path, chunkflow: Command) -> None:
    (toy / "broken.py").write_text(BROKEN)
    policy = f"policy={{kind: broken, how: {how}}}"
    known = {"cwd": toy, "env": chunkflow.environment | {FILES: "broken.py"}}
    done = chunkflow("run", "s.yaml", "--set", policy, "--no-cache", **known)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert said in done.stderr


def test_register_refuses_classes_that_are_no_policies() -> None:
    class Nameless(Offload, frozen=True):
        pass

    with pytest.raises(TypeError, match="Nameless has no kind of its own"):
        register(Nameless)
    with pytest.raises(TypeError, match="int is not a policy"):
        register(int)  # type: ignore[type-var]


HELPERS = {
    "__init__",
    "base",
    "block_times",
    "decision",
    "hooked_layerwise",
    "host_rates",
    "predicted",
    "registry",
    "schedule",
    "shared_programs",
    "text",
    "walked_streams",
}
"""Modules of the folder that are no policies."""


def test_every_shipped_kind_is_found() -> None:
    modules = {f.stem for f in (EXAMPLE.parents[1] / "sim" / "policies").glob("*.py")}
    assert set(kinds()) == modules - HELPERS


# ---- what all policies share ---------------------------------------------------------------------------------------


@given(cases())
def test_a_policy_in_words_is_yaml_for_the_same_policy(case: Case) -> None:
    policy = case.scenario.policy
    read = yaml.safe_load("{kind: " + describe(policy) + "}")
    assert scenario(case.workload, read, case.ranks).policy == policy
    assert describe(policy, short=True).split()[0] == policy.label()
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert pickle.loads(pickle.dumps(case.scenario)) == case.scenario


@pytest.mark.parametrize(
    ("policy", "words", "short"),
    [
        ({"kind": "resident"}, "resident", "resident"),
        ({"kind": "whole_layer"}, "whole_layer", "whole_layer"),
        ({"kind": "sharded"}, "sharded", "sharded"),
        (
            {"kind": "yielding", "chunk_bytes": "16 MiB", "drain": True, "resident_fraction": 0.25},
            "yielding, resident_fraction: 0.25, drain: true, chunk_bytes: 16 MiB",
            "yielding+drain 16 MiB r=0.25",
        ),
        (
            {"kind": "yielding", "chunk_bytes": 500_000, "window": "kernel", "slots": 3, "poll": "2 ms"},
            "yielding, window: kernel, poll: 2 ms, slots: 3, chunk_bytes: 500 kB",
            "yielding+kernel 500 kB poll=2 ms slots=3",
        ),
        (
            {"kind": "whole_layer", "issue": "after_compute", "resident_layers": [0, 2], "prefetch_layers": 2},
            "whole_layer, prefetch_layers: 2, resident_layers: [0, 2], issue: after_compute",
            "whole_layer+after_compute k=2 resident_layers=[0, 2]",
        ),
    ],
)
def test_a_description_lists_parameters_that_differ_from_their_defaults(policy: Plain, words: str, short: str) -> None:
    read = scenario(WORKLOAD, policy).policy
    assert (describe(read), describe(read, short=True)) == (words, short)
    assert policies.describe_plain(policy) == short


@pytest.mark.parametrize("shown", ["name", 7, {"kind": "nothing"}, {"kind": "chunked"}])
def test_values_that_are_no_policy_are_described_as_text_or_json(shown: object) -> None:
    assert policies.describe_plain(shown) == (shown if isinstance(shown, str) else json.dumps(shown))


def test_commands_of_layers_without_copies_are_counted() -> None:
    """Of many layers one is copied: what host threads issue for the others counts too."""
    policy = {"kind": "yielding", "chunk_bytes": 50, "window": "kernel", "resident_layers": list(range(1, 40))}
    made = scenario(WORKLOAD | {"layers": 40, "layer_bytes": 100}, policy)
    count = policies.count_commands(made.workload.resolve(2), made.policy, 2)
    issued = sum(1 for rank in made.program().ranks for _ in rank.commands())
    assert 0.95 * count <= issued <= count


@given(cases())
def test_commands_are_counted_before_they_are_made(case: Case) -> None:
    made = case.scenario
    workload = made.workload.resolve(case.ranks)
    count = policies.count_commands(workload, made.policy, case.ranks)
    issued = sum(1 for rank in made.program().ranks for _ in rank.commands())
    assert issued <= count
    copied = [made.policy.copied_of_layer(i, layer.bytes) for i, layer in enumerate(workload.layers)]
    assume(all(copied))
    # too many by what follows the last step, and by waits for slots that were never used
    most = max(made.policy.commands_per_layer(i, workload, case.ranks) for i in range(len(workload.layers)))
    runs = workload.steps * workload.passes_per_step * len(workload.layers)
    spare = made.policy.prefetch_layers * most + 2 * case.ranks * (made.policy.slot_count + workload.steps + 1 + runs)
    assert count - issued <= spare


@pytest.mark.parametrize(
    "policy",
    [
        {"kind": "resident"},
        {"kind": "whole_layer"},
        {"kind": "whole_layer", "issue": "after_compute"},
        {"kind": "whole_layer", "quiesce": True},
        {"kind": "chunked", "chunk_bytes": 7},
        {"kind": "yielding", "chunk_bytes": 7},
        {"kind": "yielding", "chunk_bytes": 7, "drain": True},
        {"kind": "yielding", "chunk_bytes": 7, "window": "launch"},
        {"kind": "yielding", "chunk_bytes": 7, "window": "kernel", "lock": "landed"},
        {"kind": "sharded"},
        {"kind": "sharded", "chunk_bytes": 5},
        {"kind": "sharded", "chunk_bytes": 5, "store": "device"},
    ],
    ids=str,
)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_commands_of_more_steps_are_counted(policy: Plain, ranks: int) -> None:
    """The share of a step is exact, but for one event a step, last pieces of which a rank has no part, and what a host
    thread issues for layers without copies alone."""

    def both(steps: int) -> tuple[int, int]:
        made = scenario(WORKLOAD | {"layer_bytes": 100, "steps": steps}, policy, ranks, "h100x8-nvlink")
        count = policies.count_commands(made.workload.resolve(ranks), made.policy, ranks)
        return count, sum(1 for rank in made.program().ranks for _ in rank.commands())

    (first, less), (second, more) = both(3), both(5)
    spare = 2 if "window" in policy else 1 if policy["kind"] == "sharded" else 0
    assert 0 <= (second - first) - (more - less) - 2 * ranks <= spare * 2 * ranks * WORKLOAD["layers"]
