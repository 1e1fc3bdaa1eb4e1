"""The evaluation service and its cache: every point once, anywhere, with the same figures."""

from __future__ import annotations

import copy
import itertools
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Command
from hypothesis import given
from hypothesis import strategies as st
from sweep_scenario import BASE, MIB

from sim import Scenario, simulate
from sim.analysis.explain import explain, explain_job
from sim.analysis.sensitivity import sensitivity
from sim.hardware import load_profile
from sim.hardware.profile_parameters import changed
from sim.policies import Programs, build, programs_shared
from sim.sweeps.evaluation import Evaluator, Figures, Progress
from sim.sweeps.figures_cache import FiguresCache, cache_folder
from sim.sweeps.job import Job
from sim.sweeps.worker_pool import Workers

PROFILE = load_profile("h200x2-hostpath")


def job(chunk_bytes: int = MIB, **more: Any) -> Job:
    data = copy.deepcopy(BASE) | more
    return Job.of(Scenario.from_plain(data | {"policy": {"kind": "yielding", "chunk_bytes": chunk_bytes}}), PROFILE)


def stale() -> Job:
    """A job that this process's code is not for: it fails when it runs."""
    return job()._replace(code="other")


@pytest.fixture(scope="module")
def plan() -> list[Job]:
    """Seven points, of which two are equal and one fails."""
    return [job(), job(2 * MIB), job(), stale(), job(3 * MIB), job()._replace(causes=True), job(world_size=1)]


@pytest.mark.parametrize("kind", ["here", "threads", "processes", "workers"])
def test_any_executor_gives_the_figures_of_single_runs(kind: str, plan: list[Job]) -> None:
    pools: dict[str, Any] = {
        "here": lambda: nullcontext(None),
        "threads": lambda: ThreadPoolExecutor(2),
        "processes": lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn")),
        "workers": lambda: Workers(2),
    }
    seen: list[Progress] = []
    with pools[kind]() as pool:
        evaluator = Evaluator(pool, progress=seen.append)
        found = evaluator.in_order(plan)
    right = [number for number in range(7) if number != 3]
    for number in right:
        run = simulate(plan[number].scenario, PROFILE)
        assert found[number].figures() == Figures.of(run, plan[number].causes)
    assert "code of chunkflow-sim" in str(found[3].raised) and not found[3].of_executor
    assert evaluator.simulated == 6, "equal points once"
    assert [(now.done, now.total) for now in seen] == [(done, 7) for done in range(1, 8)]
    assert seen[-1].left_s == 0


def test_points_are_taken_as_there_is_room() -> None:
    taken = 0

    def million() -> Iterator[Job]:
        nonlocal taken
        for _ in range(10**6):
            taken += 1
            yield one

    one = job()
    found = list(itertools.islice(Evaluator().as_completed(million()), 5))
    assert [number for number, _ in found] == [0, 1, 2, 3, 4] and taken == 5


def test_programs_are_built_once_where_only_hardware_differs() -> None:
    scenario, programs = Scenario.from_plain(BASE), Programs()
    hosts = [changed(PROFILE, {"h2d.cap": lambda v, share=share: v * share}) for share in (0.5, 0.7, 0.9)]  # type: ignore[misc]
    with programs_shared(programs):
        shared = [simulate(scenario, host).metrics for host in hosts]
    assert programs.built == 2, "its own steps, and as many as it takes to settle"
    assert shared == [simulate(scenario, host).metrics for host in hosts]


@given(st.lists(st.integers(1, 4), max_size=12), st.integers(0, 3))
def test_shared_programs_are_those_that_would_be_built(chunks: list[int], room: int) -> None:
    scenarios = {c: job(c * MIB).scenario for c in set(chunks)}
    programs = Programs(most_commands=room * 150)
    for chunk in chunks:
        one = scenarios[chunk]
        workload = one.workload.resolve(2)
        with programs_shared(programs):
            assert build(workload, one.policy, 2) == build(workload, one.policy, 2)
            assert build(workload, one.policy, 2).hash == one.program().hash


def test_names_of_profiles_do_not_count_and_contents_do() -> None:
    one = job()
    renamed = one._replace(scenario=Scenario.from_plain(BASE | {"hardware": "h200x1", "world_size": 2}))
    assert one.key() == renamed.key() == job(hardware="h200x2-nvlink").key()
    faster = one._replace(profile=changed(PROFILE, {"h2d.cap": lambda v: v * 1.01}))
    others = [faster, one._replace(causes=True), one._replace(code="x"), one._replace(shortcuts=False), job(2 * MIB)]
    assert len({one.key(), *(other.key() for other in others)}) == 1 + len(others)


def test_explain_and_sensitivity_are_the_same_with_processes() -> None:
    scenario = Scenario.from_plain(BASE)
    result = simulate(scenario, PROFILE)
    with Workers(2) as pool:
        evaluator = Evaluator(pool)
        assert explain_job(Job.of(scenario, PROFILE), evaluator) == explain(result) == explain(result, evaluator)
        assert sensitivity(scenario, PROFILE, evaluator=evaluator) == sensitivity(scenario, PROFILE)


# ---- cache -------------------------------------------------------------------------------------------------------------


def test_what_is_in_the_cache_is_not_simulated_again(plan: list[Job], tmp_path: Path) -> None:
    evaluators = [Evaluator(cache=FiguresCache(tmp_path)) for _ in range(2)]
    first, second = (evaluator.in_order(plan) for evaluator in evaluators)
    assert [e.found for e in first] == [e.found for e in second]
    assert [evaluator.simulated for evaluator in evaluators] == [6, 1], "only what failed runs again"
    assert repr([e.found for e in first]) == repr([e.found for e in second]), "types too"


def test_changed_code_finds_nothing(tmp_path: Path) -> None:
    cache, one = FiguresCache(tmp_path), job()
    Evaluator(cache=cache).one(one)
    assert cache.get(one.key()) is not None and cache.get(one._replace(code="other").key()) is None


@pytest.mark.parametrize("harm", ["cut", "another", "empty", "folder", "figures"])
def test_a_harmed_entry_is_as_none(harm: str, tmp_path: Path) -> None:
    cache, one = FiguresCache(tmp_path), job()
    expected = Evaluator(cache=cache).one(one)
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    content = file.read_bytes()
    if harm == "folder":
        file.unlink()
        file.mkdir()
    elif harm == "figures":
        cache.put(one.key(), b"no figures")
    else:
        file.write_bytes({"cut": content[:-1], "another": content[:-1] + b"\0", "empty": b""}[harm])
    evaluator = Evaluator(cache=cache)
    assert evaluator.one(one) == expected and evaluator.simulated == 1


@pytest.mark.parametrize("place", ["file", "below a file", "device"])
def test_a_cache_without_a_place_breaks_nothing(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    folder = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "x", "device": Path("/dev/null/x")}[place]
    evaluator = Evaluator(cache=FiguresCache(folder))
    assert evaluator.one(job()).figures().metrics["step_time_s"] > 0
    assert (tmp_path / "file").read_text() == "mine"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 900)), max_size=40))
def test_a_cache_keeps_its_bound_and_only_what_was_put(puts: list[tuple[int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cache = FiguresCache(Path(folder), most_bytes=256 * 2_000)
        last: dict[str, bytes] = {}
        for number, size in puts:
            key, content = f"ab{number}", bytes([number]) * size
            cache.put(key, content)
            last[key] = content
            assert cache.get(key) == content
            held = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
            assert sum(held) <= 2_000
        assert all(cache.get(key) in (content, None) for key, content in last.items())


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = FiguresCache(tmp_path, most_bytes=256 * 1_000)
    for key in ("aa1", "aa2"):
        cache.put(key, b"x" * 300)
    for age, key in enumerate(("aa1", "aa2")):
        os.utime(tmp_path / "aa" / key[2:], (1_000 + age, 1_000 + age))
    assert cache.get("aa1") is not None, "used now"
    cache.put("aa3", b"x" * 300)
    assert [cache.get(key) is not None for key in ("aa1", "aa2", "aa3")] == [True, False, True]


def test_the_cache_lies_where_xdg_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "chunkflow-sim"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / "home" / ".cache" / "chunkflow-sim"


def test_commands_print_the_same_with_and_without_a_cache(tmp_path: Path, chunkflow: Command) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(BASE))
    (tmp_path / "readonly").write_text("")
    cached = {"env": chunkflow.environment | {"XDG_CACHE_HOME": str(tmp_path / "cache")}}
    broken = {"env": chunkflow.environment | {"XDG_CACHE_HOME": str(tmp_path / "readonly")}}
    for line in (["run", "--json"], ["explain"], ["sweep", "--set", "policy.chunk_bytes=1MiB,2MiB"]):
        ways = [([], cached), ([], cached), (["--no-cache"], cached), ([], broken)]
        done = [chunkflow(line[0], "s.yaml", *line[1:], *more, cwd=tmp_path, **how) for more, how in ways]
        assert {(d.returncode, d.stderr, d.stdout) for d in done} == {(0, "", done[0].stdout)}
    before = sorted((tmp_path / "cache").rglob("*"))
    assert chunkflow("run", "s.yaml", "--no-cache", cwd=tmp_path, **cached).returncode == 0
    assert sorted((tmp_path / "cache").rglob("*")) == before and len(before) > 3
