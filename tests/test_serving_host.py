"""Serving on a host: groups that run together, published step times and published runs of other simulators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from serving_scenarios import check, run
from strategies import Plain

from sim.analysis.fit_step import fit_step
from sim.hardware import load_profile
from sim.machine import SimulatedMachine
from sim.program import ProgramError
from sim.run import simulate
from sim.scenario import Scenario
from sim.serving import Served, ServingScenario, figures, serve
from sim.serving.corun import Group, merged, steps_together
from sim.serving.scenario import read_plain
from sim.serving.shared_resources import Alike, components, resources_used
from sim.serving.step_times import Running, SimulatedContention

SHIPPED = Path(__file__).parents[1] / "scenarios" / "serving"
UPLINK = "h100x4-pcie-uplink"


def steps(policy: str, ranks: int, host: str = UPLINK, **workload: Any) -> Scenario:
    """A few layers of a video model on so many ranks."""
    of = {"model": "wan2.1-1.3b", "frames": 17, "height": 480, "width": 832, "layers": 3} | workload
    return Scenario.from_plain({"hardware": host, "world_size": ranks, "workload": of, "policy": {"kind": policy}})


def placed(scenario: Scenario, gpus: tuple[int, ...]) -> Scenario:
    return msgspec.structs.replace(scenario, placement=gpus)


def group(scenario: Scenario, gpus: tuple[int, ...]) -> Group:
    def program(count: int) -> Any:
        return placed(scenario.with_steps(count), gpus).program()

    return Group(program, simulate(scenario).metrics["step_time_s"])


@pytest.mark.parametrize("policy", ["resident", "whole_layer"])
def test_two_groups_in_one_program_are_two_replicas_of_a_layout(policy: str) -> None:
    """The simulator has another way to say it: data parallelism of 2 over Ulysses of 2."""
    one = steps(policy, 2)
    programs = [placed(one.with_steps(4), gpus).program() for gpus in ((0, 1), (2, 3))]
    found = SimulatedMachine(load_profile(UPLINK)).run(merged(programs))
    layout = steps(policy, 4, parallelism={"data": 2, "ulysses": 2}, steps=4, batch=1)
    expected = SimulatedMachine(load_profile(UPLINK)).run(layout.program())
    assert found.step_times(0) == pytest.approx(expected.step_times(0), rel=1e-6)
    assert found.step_times(2) == pytest.approx(expected.step_times(2), rel=1e-6)


def test_groups_slow_each_other_where_they_share_a_link() -> None:
    one = steps("whole_layer", 2)
    alone = simulate(one).metrics["step_time_s"]
    times = steps_together(load_profile(UPLINK), [group(one, (0, 1)), group(one, (2, 3))])
    assert times[0] == pytest.approx(times[1], rel=0.01)
    assert times[0] > 1.2 * alone


def test_groups_that_share_nothing_take_what_they_take_alone() -> None:
    one = steps("resident", 2, "h100x8-nvlink")
    alone = simulate(one).metrics["step_time_s"]
    times = steps_together(load_profile("h100x8-nvlink"), [group(one, (0, 1)), group(one, (4, 5))])
    assert times == pytest.approx([alone, alone], rel=1e-6)


def test_a_gpu_cannot_be_in_two_groups() -> None:
    one = steps("resident", 2)
    with pytest.raises(ProgramError, match="does not give each of 4 ranks a GPU of its own"):
        merged([placed(one, gpus).program() for gpus in ((0, 1), (1, 2))])


def test_components_are_groups_that_cross_a_common_resource() -> None:
    used = [frozenset(of) for of in ({1}, {2}, {3}, {2, 3}, {4})]
    assert sorted(components(used)) == [[0], [1, 2, 3], [4]]
    profile = load_profile("h100x8-nvlink")
    one = steps("whole_layer", 2, "h100x8-nvlink")
    near, far, other = (resources_used(profile, placed(one, g).program()) for g in ((0, 1), (2, 3), (4, 5)))
    assert near & far and not near & other, "two sockets"


def test_placements_are_alike_where_the_host_is_symmetric() -> None:
    alike = Alike(load_profile("h200x8-hostpath"))
    assert alike.key((0, 1)) == alike.key((2, 3)) == alike.key((6, 5))
    assert alike.key((0, 4)) == alike.key((5, 2)) != alike.key((0, 1))


def test_alike_placements_run_alike() -> None:
    profile = load_profile("h200x8-hostpath")
    one = steps("whole_layer", 2, "h200x8-hostpath")
    pairs = [((0, 1), (2, 3)), ((4, 6), (7, 5))]
    alike = Alike(profile)
    assert len({alike.key(a + b) for a, b in pairs}) == 1
    found = [steps_together(profile, [group(one, gpus) for gpus in pair]) for pair in pairs]
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_a_group_alone_may_be_slower_on_other_gpus() -> None:
    """Two nodes of eight GPUs each."""
    host = "h100x16-nvlink-2nodes"
    scenarios = {("a", 2, 1): steps("resident", 2, host)}
    contention = SimulatedContention(load_profile(host), scenarios)
    near, far = (Running("a", 1, gpus) for gpus in ((2, 3), (7, 8)))
    assert contention.together(frozenset({near}))[near] == 1.0
    expected = simulate(placed(scenarios["a", 2, 1], (7, 8))).metrics["step_time_s"]
    expected /= simulate(scenarios["a", 2, 1]).metrics["step_time_s"]
    assert contention.together(frozenset({far}))[far] == pytest.approx(expected, rel=0.01)
    assert expected > 1.02


@pytest.mark.slow
def test_few_layers_slow_down_as_many() -> None:
    of = {"frames": 33, "height": 480, "width": 832}
    plain = {"model": "wan2.1-1.3b", **of}
    scenarios = {}
    for name, policy in (("a", "whole_layer"), ("b", "resident")):
        made = {"hardware": UPLINK, "world_size": 2, "workload": plain, "policy": {"kind": policy}}
        scenarios[name, 2, 1] = Scenario.from_plain(made)
    groups = frozenset({Running("a", 1, (0, 1)), Running("b", 1, (2, 3))})
    few, all_layers = (
        SimulatedContention(load_profile(UPLINK), scenarios, layers).together(groups) for layers in (12, 24)
    )
    for of_group in groups:
        assert few[of_group] == pytest.approx(all_layers[of_group], rel=0.05)
    assert max(few.values()) > 1.05


def contended(**changes: Any) -> Plain:
    """Two classes on a host whose GPUs share one link: one copies its weights, one has them."""
    video = {"model": "wan2.1-1.3b", "frames": 17, "height": 480, "width": 832, "layers": 3}
    one = {"workload": video, "steps": 10, "degrees": [2], "deadline": {"scale": 1.2}}
    classes = {"copies": one | {"policy": {"kind": "whole_layer"}}, "stays": one | {"policy": {"kind": "resident"}}}
    return {
        "hardware": UPLINK,
        "duration": 8.0,
        "classes": classes,
        "arrivals": {"kind": "poisson", "load": 0.9},
        "scheduler": {"kind": "fcfs"},
    } | changes


@pytest.fixture(scope="module")
def together() -> Served:
    return run(contended())


def test_contention_between_groups_makes_requests_late(together: Served) -> None:
    apart = run(contended(contention=False))
    check(together)
    assert all(abs(request.contention) < 1e-9 for request in apart.requests)
    assert sum(request.contention for request in together.requests) > 0.05 * sum(r.isolated for r in together.requests)
    assert figures(together)["attainment"] < figures(apart)["attainment"]
    assert "contention" in {request.reason() for request in together.requests}


def test_offloaded_weights_take_no_memory_and_no_loading(together: Served) -> None:
    classes = together.prepared.classes
    copies, stays = (classes[name].cells[2, 1] for name in ("copies", "stays"))
    assert copies.weights == 0 and stays.weights > 0
    assert copies.memory > 0
    # each pair of GPUs loads the weights of "stays" once, over the link that they share
    paid = [r.switching for r in together.requests if r.switching > 0.0]
    assert {request.cls.name for request in together.requests if request.switching > 0.0} == {"stays"}
    assert len(paid) <= 2 and max(paid) < 1.0


def gf_dit(kind: str, file: str = "inflight-burst", on_four: Mapping[str, float] | None = None) -> Any:
    plain = read_plain(SHIPPED / "gf-dit.yaml")
    for name, step in (on_four or {}).items():
        plain["classes"][name]["step_times"][4] = step
    plain["arrivals"]["file"] = str(SHIPPED / f"gf-dit-{file}.csv")
    plain["scheduler"] = {"kind": kind}
    return figures(serve(ServingScenario.from_plain(plain)))["classes"]


@pytest.mark.parametrize(("kind", "published"), [("static_sp", 0.0), ("load_adaptive", 0.4), ("step_pause", 1.0)])
def test_gf_dit_publishes_these_shares_of_short_videos_in_time(kind: str, published: float) -> None:
    classes = gf_dit(kind)
    assert classes["S"]["attainment"] == pytest.approx(published, abs=0.1)
    assert classes["L"]["attainment"] == 1.0
    p95 = {"static_sp": 1075.9, "load_adaptive": 783.9, "step_pause": 39.9}[kind]
    assert classes["S"]["latency_p95_s"] == pytest.approx(p95, rel=0.1)


@pytest.mark.parametrize(
    ("file", "kind", "shares", "p95"),
    [
        ("foreground-burst", "static_sp", (0.5, 0.857, 1.0), (417.4, None, 1595.0)),
        ("foreground-burst", "load_adaptive", (0.786, 1.0, 1.0), (504.7, None, 1136.1)),
        ("tridentserve", "static_sp", (0.103, 0.2, 0.938), (5330.7, 5946.7, 5590.9)),
        ("tridentserve", "load_adaptive", (0.308, 0.36, 1.0), (2478.4, 2515.4, 2689.6)),
    ],
)
def test_gf_dit_publishes_longer_runs_too(
    file: str, kind: str, shares: tuple[float, ...], p95: tuple[float | None, ...]
) -> None:
    """Step times on four GPUs follow from another published row (docs/serving.md)."""
    classes = gf_dit(kind, file, {"S": 0.556, "M": 5.25, "L": 5.234})
    assert [classes[name]["attainment"] for name in "SML"] == pytest.approx(shares, abs=0.03)
    for name, published in zip("SML", p95, strict=True):
        if published is not None:
            assert classes[name]["latency_p95_s"] == pytest.approx(published, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "published"), [(512, (155, 161, 172)), (1024, (605, 350, 207)), (1536, (1557, 880, 464))]
)
def test_steps_of_qwen_image_on_h20_by_degree(size: int, published: tuple[int, ...]) -> None:
    """Published in ms for 1, 2 and 4 GPUs; one point a size is fitted, that of one GPU."""
    profile = load_profile("h20x8-nvlink")
    for degree, step in zip((1, 2, 4), published, strict=True):
        image = {"model": "qwen-image", "height": size, "width": size, "passes_per_step": 1, "text_tokens": 256}
        plain = {"hardware": "h20x8-nvlink", "world_size": degree, "workload": image, "policy": {"kind": "resident"}}
        scenario = Scenario.from_plain(plain)
        if degree == 1:
            profile = fit_step(scenario, profile, step / 1e3)
        found = simulate(scenario, profile, shortcuts=True).metrics["step_time_s"] * 1e3
        assert found == pytest.approx(step, rel=0.12)


def test_the_scheduler_that_knows_the_host_spreads_groups_over_switches(tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("arrival_s,class\n0,image\n0,image\n")
    image = {"model": "flux.1-dev", "height": 512, "width": 512, "layers": 3}
    one = {"workload": image, "policy": {"kind": "whole_layer"}, "steps": 5, "degrees": [1], "deadline": {"scale": 1.5}}
    plain = {
        "hardware": "h100x8-pcie-2switch",
        "classes": {"image": one},
        "arrivals": {"kind": "trace", "file": str(tmp_path / "two.csv")},
    }
    met = {}
    for kind in ("genserve", "contention_aware"):
        served = run(plain | {"scheduler": {"kind": kind}})
        met[kind] = [request.met for request in served.requests]
        sockets = {segment.gpus[0] // 4 for segment in served.segments}
        assert len(sockets) == (2 if kind == "contention_aware" else 1)
    assert met == {"genserve": [False, False], "contention_aware": [True, True]}
