"""Plans: what they answer, in words, tables, JSON and files, and what they refuse."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result
from strategies import collective, compute
from strategies import scenario as scenario_of

import sim
from sim import Plan, Scenario
from sim.cli import main
from sim.inputs.config import InputError
from sim.inputs.units import show_bytes, show_seconds
from sim.planning.points import plain_policy
from sim.policies import kinds, register, unregister
from sim.policies.chunked import Chunked
from sim.report.plan_page import plan_page
from sim.report.plan_tables import print_plan
from sim.workloads.layouts import Layout

MIB = 2**20
BLOCK = [compute(1e-4), collective(4 * MIB), compute(2e-4)]
WORKLOAD: dict[str, Any] = {"layers": 6, "steps": 3, "layer_bytes": 16 * MIB, "activation_bytes": 10 * MIB}
PLAIN = {
    "hardware": "h200x2-hostpath",
    "world_size": 2,
    "workload": WORKLOAD | {"block": BLOCK},
    "policy": {"kind": "resident"},
}
LIMIT = 80 * MIB
"""What neither all weights resident nor most of them fit."""


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario.from_plain(PLAIN)


@pytest.fixture(scope="module")
def today(scenario: Scenario) -> Plan:
    return sim.plan(scenario, memory=LIMIT)


@pytest.fixture(scope="module")
def whatever(scenario: Scenario) -> Plan:
    return sim.plan(scenario, memory=LIMIT, runtime="any")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "s.yaml"
    made.write_text(yaml.safe_dump(PLAIN))
    return made


def invoke(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_what_is_proposed_fits_and_is_the_fastest_of_what_was_simulated(today: Plan, whatever: Plan) -> None:
    for found in (today, whatever):
        assert found.best is not None and found.smallest_within is not None
        assert all(p.fits_memory == (p.peak_memory_bytes <= LIMIT) for p in found.evaluated)
        offered = [p for p in found.evaluated if p.fits_memory and (p.runtimes or found.runtime == "any")]
        assert found.best.step_time_s == min(p.step_time_s for p in offered)
        near = [p for p in offered if p.step_time_s <= found.best.step_time_s * 1.01]
        assert found.smallest_within.peak_memory_bytes == min(p.peak_memory_bytes for p in near)
        assert found.floor_s <= found.best.step_time_s
        front = [(p.peak_memory_bytes, p.step_time_s) for p in found.pareto]
        assert front == sorted(front) and [s for _, s in front] == sorted((s for _, s in front), reverse=True)
        assert all(any(m <= p.peak_memory_bytes and s <= p.step_time_s for m, s in front) for p in offered)


def test_schedules_of_named_runtimes_are_the_answer_and_others_a_suggestion(today: Plan, whatever: Plan) -> None:
    assert today.best is not None and whatever.best is not None
    assert today.best.runtimes and today.best.policy.kind in ("whole_layer", "sharded")
    assert whatever.best.policy.kind in ("chunked", "yielding", "adaptive")
    assert whatever.best.step_time_s < today.best.step_time_s
    own = next(tip for tip in today.suggestions if "ChunkFlow" in tip.words)
    assert own.policy.kind in ("chunked", "yielding", "adaptive") and own.gain is not None
    assert own.step_time_s == pytest.approx(today.best.step_time_s * (1 - own.gain))
    assert not [tip for tip in whatever.suggestions if "ChunkFlow" in tip.words]


def test_one_runtime_has_only_its_own_schedules(scenario: Scenario) -> None:
    for runtime in ("sglang", "vllm-omni", "diffusers"):
        found = sim.plan(scenario, memory=LIMIT, runtime=runtime)
        assert found.best is not None and runtime in found.best.runtimes


def test_where_all_weights_fit_they_are_resident_unless_something_is_faster(scenario: Scenario) -> None:
    found = sim.plan(scenario, within=0.5)
    assert found.best is not None and found.best.policy.kind == "resident"
    assert found.best.step_time_s <= found.floor_s * 1.005
    assert any("no need to offload" in sentence for sentence in found.sentences)
    small = found.smallest_within
    assert small is not None and small.policy.kind != "resident"
    assert small.peak_memory_bytes < found.best.peak_memory_bytes


def test_the_floor_is_below_every_schedule_that_fits(whatever: Plan) -> None:
    assert all(p.step_time_s >= whatever.floor_s * (1 - 1e-9) for p in whatever.evaluated if p.fits_memory)


def test_each_change_that_helps_was_simulated(whatever: Plan) -> None:
    assert whatever.best is not None
    link = next(tip for tip in whatever.suggestions if "link" in tip.words)
    weights = next(tip for tip in whatever.suggestions if "half the bytes" in tip.words)
    assert link.step_time_s < whatever.best.step_time_s
    assert weights.peak_memory_bytes < whatever.resident.peak_memory_bytes


def test_the_nearest_of_each_runtime_is_its_fastest_and_says_what_it_lacks(whatever: Plan) -> None:
    assert whatever.best is not None
    assert {near.runtime for near in whatever.nearest} == {"sglang", "vllm-omni", "diffusers"}
    for near in whatever.nearest:
        mine = [p for p in whatever.evaluated if near.runtime in p.runtimes and p.fits_memory]
        assert near.point.step_time_s == min(p.step_time_s for p in mine)
        assert near.cost == pytest.approx(near.point.step_time_s / whatever.best.step_time_s - 1)
        assert whatever.best.policy.kind in near.lacks


def test_flags_say_what_docs_say() -> None:
    def flags(**fields: Any) -> dict[str, str]:
        return dict(kinds()[fields.pop("kind")].read(fields).flags(2))  # type: ignore[union-attr]

    late = {"kind": "whole_layer", "issue": "after_compute"}
    assert flags(**late) == {"sglang": "--dit-layerwise-offload --dit-offload-prefetch-size 1"}
    assert "--dit-layerwise-resident-layers 2" in flags(**late, resident_layers=[0, 1])["sglang"]
    assert flags(**late, resident_layers=[1]) == {}
    assert flags(**late, prefetch_layers=0) == {}
    assert set(flags(kind="whole_layer")) == {"vllm-omni"}
    assert set(flags(kind="diffusers_group_offload")) == {"diffusers"}
    assert set(flags(kind="whole_layer", prefetch_layers=2)) == {"vllm-omni"}
    assert flags(kind="whole_layer", resident_fraction=0.5) == flags(kind="whole_layer", quiesce=True) == {}
    assert set(flags(kind="sharded")) == {"vllm-omni"}
    assert set(flags(kind="sharded", store="device")) == {"sglang", "vllm-omni"}
    assert flags(kind="sharded", chunk_bytes=MIB) == flags(kind="yielding", chunk_bytes=MIB) == {}


def test_memory_by_component_adds_up_to_the_peak(whatever: Plan) -> None:
    plain = whatever.to_plain()
    assert sum(plain["memory_bytes"].values()) == plain["best"]["peak_memory_bytes"]
    assert plain["memory_bytes"]["activations"] == 10 * MIB
    copied = 16 * MIB * 6 - plain["memory_bytes"]["resident_weights"]
    assert plain["best"]["host_memory_bytes"] == 2 * copied  # each of two ranks pins its own


def test_host_memory_limits_what_is_copied(scenario: Scenario) -> None:
    found = sim.plan(scenario, memory=LIMIT, host_memory=6 * 16 * MIB)
    assert found.best is not None and found.best.policy.kind == "sharded"  # half of the layers' bytes a rank
    assert found.best.host_memory_bytes <= 6 * 16 * MIB


def test_a_registered_policy_joins_by_what_it_offers(scenario: Scenario) -> None:
    @register
    class Mine(Chunked, frozen=True, kw_only=True, tag="mine"):
        """Chunks under another name."""

        @classmethod
        def offers(cls, workload: Any, world_size: int) -> Iterator[dict[str, Any]]:
            yield {"chunk_bytes": (32 * MIB,), "prefetch_layers": (1,)}

        def flags(self, world_size: int) -> dict[str, str]:
            return {"mine": "--fast"}

    try:
        found = sim.plan(scenario, memory=LIMIT)
        assert any(near.runtime == "mine" and near.flags == "--fast" for near in found.nearest)
        assert found.best is not None and any(p.policy.kind == "mine" for p in found.evaluated)
    finally:
        unregister("mine")


def test_json_has_what_is_promised_and_the_chosen_file_runs(file: Path, tmp_path: Path) -> None:
    chosen, page = tmp_path / "chosen.yaml", tmp_path / "plan.html"
    done = invoke("plan", file, "--memory", "80MiB", "--json", "-o", chosen, "--html", page)
    assert done.exit_code == 0, done.output
    plain = json.loads(done.stdout)
    assert {"best", "smallest_within", "pareto", "floor_s", "binding", "suggestions", "evaluated"} <= set(plain)
    for point in (plain["best"], plain["smallest_within"], *plain["pareto"], *plain["evaluated"]):
        assert {"policy", "step_time_s", "interval", "peak_memory_bytes", "fits_memory"} <= set(point)
    assert plain["best"]["interval"][0] < plain["best"]["step_time_s"] < plain["best"]["interval"][1]
    figures = json.loads(invoke("run", chosen, "--json").stdout)
    assert figures["step_time_s"] == pytest.approx(plain["best"]["step_time_s"], rel=1e-6)
    assert figures["peak_memory_bytes"] == plain["best"]["peak_memory_bytes"] <= LIMIT
    written = yaml.safe_load(chosen.read_text())
    assert written["policy"] == plain["best"]["policy"]
    assert written["workload"]["steps"] == 3
    assert "Memory against step time" in page.read_text(encoding="utf-8")
    # a second run may write them again, one over another's file may not
    assert invoke("plan", file, "--memory", "80MiB", "-o", chosen).exit_code == 0
    assert invoke("plan", file, "--memory", "80MiB", "-o", file).exit_code == 2


def test_the_printed_answer(file: Path) -> None:
    text = invoke("plan", file, "--memory", "80MiB", "--within", "5%").stdout
    for words in (
        "Fastest that fits 80 MiB",
        "Smallest within 5 %",
        "does not fit: offload",
        "of the critical path",
        "(90 %, by the model's error",
        "memory against step time",
        "what would help, each simulated",
        "--enable-layerwise-offload",
        "ruled out by the floor",
    ):
        assert words in text
    assert "nan" not in text


def test_words_of_suggestions_wrap_in_a_narrow_terminal_and_figures_do_not(
    whatever: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "48"}.items():
        monkeypatch.setenv(key, value)
    print_plan("s.yaml", whatever)
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    helps = text[text.index("what would help") : text.index("memory of ")]
    assert len(whatever.suggestions) > 1 and max(map(len, helps.splitlines())) <= 48
    for tip in whatever.suggestions:
        assert tip.words not in helps
        row = rf"{show_seconds(tip.step_time_s)} +[-+].* % +{show_bytes(tip.peak_memory_bytes)} "
        assert re.search(row, helps), tip.words


def test_what_cannot_fit_says_what_would_make_it_fit(file: Path) -> None:
    done = invoke("plan", file, "--memory", "20MiB")
    assert done.exit_code == 1
    assert "Nothing fits 20 MiB: the smallest schedule" in done.stdout
    assert "buffers of collectives 8 MiB" in done.stdout and "It fits with --memory 22MiB or more" in done.stdout
    assert invoke("plan", file, "--memory", "22MiB").exit_code == 0
    plain = json.loads(invoke("plan", file, "--memory", "20MiB", "--json").stdout)
    assert plain["best"] is None and plain["pareto"] == []
    assert not any(p["fits_memory"] and p["runtimes"] for p in plain["evaluated"])
    halved = next(tip for tip in plain["suggestions"] if "half the bytes" in tip["words"])
    assert halved["fits_memory"] and halved["peak_memory_bytes"] <= 20 * MIB
    assert plain["needed_memory_bytes"] == (2 * 2 + 10 + 8) * MIB  # two leaves, activations, both buffers
    assert f"It fits with {halved['words']}" in " ".join(plain["sentences"])


@pytest.mark.parametrize("memory", [20 * MIB, 40 * MIB])
def test_engines_of_a_model_are_simulated_with_few_layers_where_a_schedule_fits(memory: int) -> None:
    model = {"model": "wan2.1-1.3b", "frames": 17, "height": 256, "width": 256, "layers": 10, "steps": 2}
    found = sim.plan(scenario_of(model, {"kind": "resident"}, 2), memory=memory)
    tip = next(tip for tip in found.suggestions if "copy engines" in tip.words)
    assert ("(by 8 of 10 layers)" in tip.words) == (found.best is not None) == tip.fits_memory
    changed = model | {"collectives": {"algorithm": "copy_engine"}}
    whole = sim.simulate(scenario_of(changed, plain_policy(tip.policy), 2)).metrics
    assert tip.step_time_s == pytest.approx(whole["step_time_s"], rel=0.03)
    assert tip.peak_memory_bytes == pytest.approx(whole["peak_memory_bytes"], rel=0.01)


def test_where_the_host_is_too_small_no_more_device_memory_is_asked_for(scenario: Scenario) -> None:
    found = sim.plan(scenario, memory=22 * MIB, host_memory=2 * MIB)
    assert found.best is None and found.needed is not None and found.needed.fits_memory
    words = " ".join(found.sentences)
    assert words.startswith("Nothing fits 22 MiB and the host's 2 MiB: the smallest schedule")
    enough = found.needed.host_memory_bytes // MIB
    assert f"It fits with --host-memory {enough}MiB or more" in words and "--memory 22MiB" not in words
    link = next(tip for tip in found.suggestions if "host link" in tip.words)
    assert not link.fits_memory and link.words not in words
    assert sim.plan(scenario, memory=22 * MIB, host_memory=enough * MIB).best is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runtime", "none"], "--runtime: none: expected one of today, any, sglang, vllm-omni, diffusers"),
        (["--memory", "much"], "expected a size"),
        (["--within", "-1"], "not negative"),
        (["--gpus", "1,x"], "expected whole numbers, such as 1,2,4"),
        (["--gpus", "4"], "name a model instead"),
        (["--parallelism", "auto"], "name a model instead"),
        (["--memory", "1GiB", "--reserve", "1GiB"], "--reserve: is 1 GiB, and leaves nothing of 1 GiB"),
    ],
)
def test_wrong_options_are_refused(options: list[str], said: str, file: Path) -> None:
    done = invoke("plan", file, *options)
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"memory": -1}, "--memory: expected a size"),
        ({"memory": "much"}, "--memory: expected a size"),
        ({"within": float("nan")}, "--within: expected a number"),
        ({"within": -0.1}, "--within: expected a number"),
        ({"reserve": -5}, "--reserve: expected a size"),
        ({"host_memory": -1}, "--host-memory: expected a size"),
    ],
)
def test_wrong_arguments_are_refused_as_options_are(options: dict[str, Any], said: str, scenario: Scenario) -> None:
    with pytest.raises(InputError, match=said):
        sim.plan(scenario, **options)


def assert_compared(found: Plan, model: dict[str, Any], layouts: list[tuple[int, Any]], hardware: str) -> None:
    """Each of `layouts` was simulated, or left out by its floor: then it must be behind."""
    assert found.best is not None
    tried = {(p.world_size, getattr(p.scenario.workload, "parallelism", None)) for p in found.evaluated}
    assert len(tried) > 1
    for ranks, parallelism in layouts:
        if (ranks, parallelism) not in tried:
            divided = model | {"parallelism": msgspec.to_builtins(parallelism)}
            other = scenario_of(divided, {"kind": "resident"}, ranks, hardware)
            assert sim.simulate(other).metrics["step_time_s"] >= found.best.step_time_s


def test_layouts_of_a_model_are_compared() -> None:
    model = {"model": "wan2.1-1.3b", "frames": 17, "height": 256, "width": 256, "layers": 2, "steps": 2}
    small = scenario_of(model, {"kind": "resident"}, 2)
    found = sim.plan(small, gpus=(1, 2), parallelism="auto")
    assert_compared(
        found, model, [(1, "ulysses"), (2, "ulysses"), (2, "tensor"), (2, Layout(cfg=2))], "h200x2-hostpath"
    )
    assert json.loads(json.dumps(found.to_plain()))["evaluated"]
    assert found.best is not None
    assert found.best.step_time_s == min(p.step_time_s for p in found.evaluated if p.fits_memory and p.runtimes)


@pytest.mark.slow
def test_the_best_layout_of_pixart_on_l40_is_the_published_one() -> None:
    """xDiT's figures have guidance over two groups of GPUs, each a pipeline of patches, ahead of all others."""
    model = {"model": "pixart-xl-2", "height": 2048, "width": 2048, "layers": 4, "steps": 2}
    found = sim.plan(scenario_of(model, {"kind": "resident"}, 4, "l40x8-pcie"), parallelism="auto")
    assert found.best is not None
    assert getattr(found.best.scenario.workload, "parallelism", None) == Layout(cfg=2, pipeline=2, patches=2)


@pytest.mark.parametrize(
    "workload",
    [
        WORKLOAD | {"block": BLOCK},
        {"model": "flux.1-dev", "height": 256, "width": 256, "batch": 2},
        {"blocks": [{"repeat": 2, "layer_bytes": 8, "block": BLOCK}], "passes_per_step": 2, "synchronous": True},
    ],
)
def test_a_scenario_is_read_from_its_plain_data(workload: dict[str, Any]) -> None:
    policy = {"kind": "whole_layer", "resident_layers": [0, 1], "prefetch_layers": 0, "issue": "after_compute"}
    given = scenario_of(workload, policy)
    assert Scenario.from_plain(yaml.safe_load(yaml.safe_dump(given.to_plain()))) == given


def test_notebooks_and_frames(today: Plan) -> None:
    html = today._repr_html_()
    assert "<table>" in html and "fastest" in html
    assert repr(today).startswith("<Plan: ")
    frame = today.to_frame()
    assert len(frame) == len(today.evaluated) and frame["step_time_s"].is_monotonic_increasing


def test_the_page_shows_the_answer_and_every_point(today: Plan) -> None:
    page = plan_page("s.yaml", today)
    assert "Fastest that fits" in page and "limit" in page
    assert page.count("<tr>") > len(today.evaluated)
    assert "NaN" not in page.split("<script>")[0]


def test_the_reserve_counts(scenario: Scenario, today: Plan) -> None:
    found = sim.plan(scenario, memory=LIMIT + 50 * MIB, reserve=50 * MIB)
    assert found.best is not None and today.best is not None
    assert found.best.policy == today.best.policy


def test_numbers_of_gpus_that_a_division_cannot_have_are_refused_and_one_gpu_needs_none() -> None:
    model = {"model": "wan2.1-1.3b", "frames": 17, "height": 256, "width": 256, "layers": 2, "steps": 2}
    divided = scenario_of(
        model | {"parallelism": {"tensor": 2, "ulysses": 2}}, {"kind": "resident"}, 4, "h200x4-hostpath"
    )
    with pytest.raises(InputError, match="--gpus: 2: the model is divided as tensor 2 x ulysses 2"):
        sim.plan(divided, gpus=(1, 2))
    found = sim.plan(divided, gpus=(1, 4))
    assert {p.world_size for p in found.evaluated} == {1, 4}


@pytest.mark.slow
def test_a_division_that_is_given_is_among_those_that_are_looked_at() -> None:
    model = {"model": "wan2.1-1.3b", "frames": 17, "height": 256, "width": 256, "layers": 2, "steps": 2}
    divided = scenario_of(
        model | {"parallelism": {"tensor": 2, "ulysses": 2}}, {"kind": "resident"}, 4, "h200x4-hostpath"
    )
    found = sim.plan(divided, parallelism="auto")
    assert Layout(tensor=2, ulysses=2) in {getattr(p.scenario.workload, "parallelism", None) for p in found.evaluated}
    assert_compared(found, model, [(4, "ulysses")], "h200x4-hostpath")


def test_the_limit_holds_for_gpus_of_every_kind(tmp_path: Path) -> None:
    card = {"gpus": [1], "name": "small", "memory": {"value": "1 GiB", "source": "x"}}
    host = {"name": "mix", "description": "x", "like": "h200x2-hostpath", "devices": [card]}
    (tmp_path / "mix.yaml").write_text(yaml.safe_dump(host))
    data = {
        "hardware": str(tmp_path / "mix.yaml"),
        "world_size": 1,
        "placement": [1],
        "workload": WORKLOAD | {"block": [compute(1e-3)], "layer_bytes": "100 MB", "layers": 8},
        "policy": {"kind": "resident"},
    }
    small = Scenario.from_plain(data)
    for asked in ({"memory": 500 * 2**20}, {"reserve": 524 * 2**20}):
        found = sim.plan(small, **asked)
        assert found.memory_limit_bytes == 500 * 2**20
        assert found.best is not None and found.best.peak_memory_bytes <= 500 * 2**20


def test_the_written_scenario_runs_from_anywhere_and_names_what_its_figures_need(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.yaml").write_text("{name: own, description: x, like: h200x2-hostpath}")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(PLAIN))
    with contextlib.chdir(tmp_path):
        done = invoke(
            "plan", "s.yaml", "--hardware", "sub/own.yaml", "--fit-step", "50ms", "-o", "o.yaml", "--no-cache"
        )
        assert done.exit_code == 0, done.stderr
    assert "its figures need the same options: chunkflow-sim run o.yaml --fit-step 50ms" in done.stderr
    written = (tmp_path / "o.yaml").read_text()
    assert "# These figures need the same options: chunkflow-sim run --fit-step 50ms" in written
    assert yaml.safe_load(written)["hardware"] == str((tmp_path / "sub" / "own.yaml").resolve())
    Scenario.load(tmp_path / "o.yaml").profile()


def test_a_limit_above_the_card_is_noted(file: Path) -> None:
    done = invoke("plan", file, "--memory", "1 TiB", "--json")
    assert done.exit_code == 0
    assert done.stderr.startswith("note: --memory 1024 GiB is more than the GPU's 140.4 GiB")
    assert json.loads(done.stdout)["best"]["policy"]["kind"] == "resident"


def test_figures_of_pipelines_are_those_of_run() -> None:
    model = {"model": "wan2.1-1.3b", "frames": 17, "height": 256, "width": 256, "layers": 6, "steps": 5}
    divided = scenario_of(model | {"parallelism": {"pipeline": 2}}, {"kind": "resident"}, 2)
    found = sim.plan(divided, memory=int(0.9 * sim.simulate(divided).metrics["peak_memory_bytes"]))
    assert found.best is not None and found.best.policy.kind != "resident"
    for point in (found.best, found.resident):
        assert sim.simulate(point.scenario).metrics["step_time_s"] == pytest.approx(point.step_time_s, rel=1e-9)


def test_what_helps_most_is_a_sentence_and_the_first_suggestion(today: Plan) -> None:
    fitting = [tip.step_time_s for tip in today.suggestions if tip.fits_memory]
    assert fitting == sorted(fitting)
    assert any(f"What would help most: {today.suggestions[0].words}" in sentence for sentence in today.sentences)


@pytest.mark.slow
def test_the_plan_that_the_docs_show_is_todays(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    readme, planning = ((root / name).read_text() for name in ("README.md", "docs/planning.md"))
    [scenario] = re.findall(r"```yaml\n(hardware: h200x2-hostpath\n.*?)```", readme, re.DOTALL)
    (tmp_path / "scenario.yaml").write_text(scenario)
    made = sim.plan(Scenario.load(tmp_path / "scenario.yaml"), memory=4 * 2**30)
    [answer] = re.findall(r"--memory 4GiB\n((?:    .*\n)+)", planning)
    assert " ".join(answer.split()).removeprefix("- ").split(" - ") == made.sentences
    for suggestion in made.suggestions:
        assert f"{show_seconds(suggestion.step_time_s)}   {100 * -suggestion.gain:+.2f} %" in readme
