"""Serving: what must hold of every run, limits of queueing theory, and costs by hand."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from html_reader import Reader
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_scenarios import KINDS, check, run, serving_scenarios, stated
from strategies import Plain

from sim.cli import main
from sim.inputs.config import InputError
from sim.report.serving_figures import latency_curves
from sim.serving import ServingScenario, figures, prepare, replicate
from sim.serving.grid import Grid, grids_of, is_grid, points, run_grid, with_value
from sim.serving.jobs import Job, Request
from sim.serving.queues import Feasible, Queue
from sim.serving.replicates import mean_of
from sim.serving.scenario import read_plain
from sim.serving.schedulers import kinds
from sim.serving.schedulers.knapsack import Option, best_widths
from sim.sweeps.worker_pool import Workers

SHIPPED = Path(__file__).parents[1] / "scenarios" / "serving"


def traced(tmp_path: Path, rows: Sequence[tuple[float, str]], **changes: object) -> Plain:
    """A scenario whose requests are those of `rows`: (arrival in s, class)."""
    file = tmp_path / "trace.csv"
    file.write_text("arrival_s,class\n" + "".join(f"{at!r},{cls}\n" for at, cls in rows))
    return stated(arrivals={"kind": "trace", "file": str(file)}, **changes)


def test_every_scheduler_is_in_the_tests_of_what_must_hold() -> None:
    assert set(KINDS) == set(kinds())


@given(plain=serving_scenarios())
@settings(max_examples=50)
def test_no_request_is_lost_or_served_twice(plain: Plain) -> None:
    check(run(plain))


@pytest.mark.slow
@given(plain=serving_scenarios())
@settings(max_examples=200)
def test_no_request_is_lost_or_served_twice_often(plain: Plain) -> None:
    check(run(plain))


@given(plain=serving_scenarios())
@settings(max_examples=10)
def test_equal_seeds_give_equal_bytes(plain: Plain) -> None:
    first, second = (json.dumps(figures(run(plain))) for _ in range(2))
    assert first == second


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 4), st.floats(0, 4)), max_size=3), min_size=1, max_size=4),
    st.integers(0, 6),
)
def test_the_knapsack_is_the_best_of_all_choices(jobs: list[list[tuple[int, float]]], gpus: int) -> None:
    options = [[Option(0, 0.0), *(Option(width, value) for width, value in of)] for of in jobs]

    def best(left: Sequence[Sequence[Option]], room: int) -> float:
        if not left:
            return 0.0
        return max(of.value + best(left[1:], room - of.width) for of in left[0] if of.width <= room)

    widths = best_widths(options, gpus)
    assert sum(widths) <= gpus
    found = sum(max(o.value for o in of if o.width == width) for of, width in zip(options, widths, strict=True))
    assert found == pytest.approx(best(options, gpus))


@given(
    st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0, 5.0]), st.integers(0, 8), st.booleans()), max_size=25),
    st.integers(1, 30),
)
def test_queues_are_in_order_whatever_came_and_left(jobs: list[tuple[float, int, bool]], count: int) -> None:
    cls = prepare(ServingScenario.from_plain(stated())).classes["a"]
    waiting = [Job(Request(number, cls, 0.0, due, 1)) for number, (due, _, _) in enumerate(jobs)]
    latest = {job.number: float(at) for job, (_, at, _) in zip(waiting, jobs, strict=True)}
    queue = Queue(lambda job: latest[job.number])
    feasible = Feasible(lambda job: job.deadline, lambda job: latest[job.number])
    for job in waiting:
        queue.add(job)
        feasible.add(job)
    for now in (0.0, 2.5, 4.5, 9.5):
        for job, (_, _, leaves) in zip(list(waiting), jobs, strict=False):
            if leaves and now == 2.5 and job in queue:
                queue.remove(job)
                feasible.remove(job)
                waiting.remove(job)
        late = {job.number: latest[job.number] < now for job in waiting}
        by_deadline = sorted(waiting, key=lambda job: (late[job.number], job.deadline, job.number))
        assert feasible.first(now, count) == by_deadline[:count]
        by_time = sorted(waiting, key=lambda job: (late[job.number], latest[job.number], job.number))
        assert queue.up_from(now, count) == by_time[:count]
        assert len(queue) == len(feasible) == len(waiting)


@given(st.lists(st.tuples(st.integers(1, 8), st.floats(0.01, 4)), min_size=9, max_size=40), st.integers(1, 8))
def test_the_knapsack_of_many_jobs_is_the_best_too(jobs: list[tuple[int, float]], gpus: int) -> None:
    best = [0.0] * (gpus + 1)
    for width, value in jobs:
        for room in range(gpus, width - 1, -1):
            best[room] = max(best[room], best[room - width] + value)
    widths = best_widths([[Option(0, 0.0), Option(width, value)] for width, value in jobs], gpus)
    assert sum(widths) <= gpus
    assert sum(value for taken, (_, value) in zip(widths, jobs, strict=True) if taken) == pytest.approx(best[gpus])


def waits(servers: int, load: float, count: int, source: random.Random, tmp_path: Path) -> list[float]:
    """Waiting times of requests that each take 1 s on one GPU: M/D/c."""
    cls = {"steps": 1, "degrees": [1], "step_times": {1: 1.0}, "deadline": {"seconds": 5.0}}
    at, rows = 0.0, []
    for _ in range(count):
        at += source.expovariate(servers * load)
        rows.append((at, "a"))
    found = run(traced(tmp_path, rows, gpus=servers, classes={"a": cls}))
    return [request.queued for request in found.requests]


@pytest.mark.parametrize("servers", [1, 3])
def test_equal_service_times_wait_as_theory_says(servers: int, tmp_path: Path) -> None:
    load, count = 0.7, 6_000
    found = waits(servers, load, count, random.Random(5), tmp_path)
    # each server gets every c-th request: the recursion is exact for every single one
    source, at, times = random.Random(5), 0.0, []
    for _ in range(count):
        at += source.expovariate(servers * load)
        times.append(at)
    exact: list[float] = []
    for n in range(count):
        before = n - servers
        exact.append(max(0.0, exact[before] + 1.0 - (times[n] - times[before])) if before >= 0 else 0.0)
    assert found == pytest.approx(exact, abs=1e-6)
    assert sum(found) / count == pytest.approx(crommelin(servers, load), rel=0.1)


def crommelin(servers: int, load: float) -> float:
    """Mean wait of M/D/c over the service time (Crommelin 1932)."""
    total = 0.0
    for i in range(1, 400):
        mean = i * servers * load
        terms = [
            math.exp(-mean + j * math.log(mean) - math.lgamma(j + 1)) for j in range(i * servers, i * servers + 600)
        ]
        total += sum(terms) - sum(terms[1:]) / load
    return total


def test_the_closed_form_is_that_of_one_server() -> None:
    assert crommelin(1, 0.7) == pytest.approx(0.7 / (2 * 0.3), rel=1e-6)


def test_exponential_service_times_wait_as_theory_says(tmp_path: Path) -> None:
    source, at, load = random.Random(3), 0.0, 0.6
    lines = ["arrival_s,class,steps"]
    for _ in range(15_000):
        at += source.expovariate(load)
        lines.append(f"{at!r},a,{max(round(source.expovariate(1.0) * 1000), 1)}")
    file = tmp_path / "trace.csv"
    file.write_text("\n".join(lines))
    cls = {"steps": 1, "degrees": [1], "step_times": {1: 0.001}, "deadline": {"seconds": 5.0}}
    plain = stated(gpus=1, classes={"a": cls}, arrivals={"kind": "trace", "file": str(file)})
    found = run(plain).requests
    assert sum(r.queued for r in found) / len(found) == pytest.approx(load / (1 - load), rel=0.1)
    # the latency of M/M/1 is exponential: P(T > t) = exp(-(1 - load) t)
    for t in (1.0, 4.0):
        assert sum(r.latency > t for r in found) / len(found) == pytest.approx(math.exp(-(1 - load) * t), abs=0.03)


LONG = {"steps": 10, "degrees": [1], "step_times": {1: 1.0}, "deadline": {"seconds": 99.0}}
SHORT = {"steps": 2, "degrees": [1], "step_times": {1: 1.0}, "deadline": {"seconds": 3.0}, "preemptible": False}


def test_a_pause_costs_what_the_file_says(tmp_path: Path) -> None:
    costs = {"pause": 0.25, "resume": 0.5}
    rows, classes = [(0.0, "long"), (2.5, "short")], {"long": LONG, "short": SHORT}
    plain = traced(tmp_path, rows, gpus=1, classes=classes, scheduler={"kind": "edf", "preemptive": True}, costs=costs)
    long, short = run(plain).requests
    # the long one stops at 3 s, its GPU is ready at 3.25 s; from 5.25 s on it resumes, and has 7 steps left
    assert (short.queued, short.switching, short.finish) == pytest.approx((0.5, 0.25, 5.25))
    assert (long.paused, long.switching, long.finish) == pytest.approx((2.25, 0.5, 12.75))
    check(run(plain))


def test_a_wider_group_costs_a_change(tmp_path: Path) -> None:
    video = {"steps": 10, "degrees": [1, 2], "step_times": {1: 1.0, 2: 0.5}, "deadline": {"seconds": 99.0}}
    costs = {"reshard": 0.25, "group": 0.125}
    rows = [(0.0, "video"), (0.0, "short")]
    classes = {"video": video, "short": SHORT | {"priority": 1}}
    plain = traced(tmp_path, rows, classes=classes, scheduler={"kind": "step_demote"}, costs=costs)
    video_request, short = run(plain).requests
    # beside the short one it has one GPU and takes 2 steps; then it moves to both, a new group, with 8 steps of 0.5 s
    assert short.finish == pytest.approx(2.0)
    assert video_request.finish == pytest.approx(2.0 + 0.375 + 4.0)
    assert video_request.switching == pytest.approx(0.375)


@pytest.mark.parametrize(("keeps", "finish"), [(True, 12.0), (False, 5.0)])
def test_demoted_background_keeps_its_gpu_or_gives_it_to_foreground(keeps: bool, finish: float, tmp_path: Path) -> None:
    rows = [(0.0, "long"), (0.0, "long"), (2.5, "short")]
    classes = {"long": LONG, "short": SHORT | {"priority": 1}}
    scheduler = {"kind": "step_demote", "keeps": keeps}
    served = run(traced(tmp_path, rows, classes=classes, scheduler=scheduler))
    assert served.requests[2].finish == pytest.approx(finish)
    check(served)


def test_lanes_that_overlap_take_turns_only_while_both_are_needed(tmp_path: Path) -> None:
    wide = {"steps": 4, "degrees": [2], "step_times": {2: 1.0}, "deadline": {"seconds": 99.0}}
    classes = {"wide": wide, "short": SHORT}
    scheduler = {"kind": "load_adaptive", "wide": 2, "backlog": 1}
    served = run(traced(tmp_path, [(0.0, "wide"), (1.5, "short")], classes=classes, scheduler=scheduler))
    # the second one gets a narrow lane; they take turns from 2 s on, the one that waits first
    assert [request.finish for request in served.requests] == pytest.approx([6.0, 5.0])
    starts = [(segment.start, segment.steps) for segment in served.segments if segment.cls == "wide"]
    assert starts[0] == (0.0, 2.0), "alone it is not asked after each step"
    check(served)


def test_models_are_loaded_and_dropped_as_memory_allows(tmp_path: Path) -> None:
    a, b = (LONG | {"weights": size, "memory": 10} for size in (60, 50))
    rows = [(0.0, "a"), (20.0, "a"), (40.0, "b"), (60.0, "a")]
    for memory, loads in ((130, [0.6, 0.0, 0.5, 0.0]), (100, [0.6, 0.0, 0.5, 0.6])):
        plain = traced(tmp_path, rows, gpus=1, classes={"a": a, "b": b}, memory=memory, costs={"load_rate": 100.0})
        served = run(plain)
        assert [request.switching for request in served.requests] == pytest.approx(loads)
        assert max(served.peak_memory) == (120 if memory == 130 else 70)
    shared = {"a": a | {"model": "m"}, "b": a | {"model": "m"}}
    plain = traced(tmp_path, rows, gpus=1, classes=shared, memory=100, costs={"load_rate": 100.0})
    assert [request.switching for request in run(plain).requests] == pytest.approx([0.6, 0.0, 0.0, 0.0])


def test_what_fits_no_gpu_is_refused(tmp_path: Path) -> None:
    plain = stated(memory=100)
    plain["classes"]["a"] |= {"weights": 60, "memory": 50}
    with pytest.raises(InputError, match=r"classes\.a: does not fit: it needs 110 B of each GPU's 100 B"):
        run(plain)


def test_batches_form_only_where_all_are_in_time(tmp_path: Path) -> None:
    image = SHORT | {"batches": [1, 2], "batch_factors": {2: 1.5}}
    rows = [(0.0, "image"), (0.1, "image"), (0.2, "image")]
    scheduler = {"kind": "genserve"}
    tight = traced(
        tmp_path, rows, gpus=1, classes={"image": image | {"deadline": {"seconds": 4.5}}}, scheduler=scheduler
    )
    assert [r.finish for r in run(tight).requests] == pytest.approx([2.0, 4.0, 6.0]), "5 s for both is too late"
    loose = traced(
        tmp_path, rows, gpus=1, classes={"image": image | {"deadline": {"seconds": 5.5}}}, scheduler=scheduler
    )
    assert [r.finish for r in run(loose).requests] == pytest.approx([2.0, 5.0, 5.0])


def test_srtf_lets_short_jobs_overtake(tmp_path: Path) -> None:
    rows = [(0.0, "long"), (0.1, "long"), (0.2, "short")]
    classes = {"long": LONG, "short": SHORT}
    ends = {}
    for kind in ("fcfs", "srtf"):
        plain = traced(tmp_path, rows, gpus=1, classes=classes, scheduler={"kind": kind})
        ends[kind] = [request.finish for request in run(plain).requests]
    assert ends["fcfs"] == pytest.approx([10.0, 20.0, 22.0])
    assert ends["srtf"] == pytest.approx([10.0, 22.0, 12.0])


def test_a_late_request_says_why(tmp_path: Path) -> None:
    rows = [(0.0, "long"), (0.1, "short"), (50.0, "slow")]
    slow = LONG | {"deadline": {"seconds": 9.0}}
    plain = traced(tmp_path, rows, gpus=1, classes={"long": LONG, "short": SHORT, "slow": slow})
    assert [request.reason() for request in run(plain).requests] == ["", "queue", "slow step"]


def test_arrivals_keep_their_mean_rate_and_their_times() -> None:
    plain = stated(gpus=8, duration=4_000.0)
    counts = {}
    for kind in ("poisson", "bursts"):
        changed = plain | {"arrivals": {"kind": kind, "rate": 0.5}}
        counts[kind] = len(run(changed).requests)
        assert counts[kind] == pytest.approx(2_000, rel=0.08)
    b = dict(plain["classes"]["a"])
    times = []
    for share in (0.5, 2.0):
        classes = {"a": plain["classes"]["a"], "b": b | {"share": share}}
        served = run(plain | {"duration": 2000.0, "classes": classes})
        times.append([request.arrival for request in served.requests])
    assert times[0] == times[1], "other shares change no time"


def test_a_load_of_one_is_what_all_gpus_can_do() -> None:
    prepared = prepare(ServingScenario.from_plain(stated(arrivals={"kind": "poisson", "load": 1.0})))
    assert prepared.rate == pytest.approx(2 / 10.0)


def test_traces_may_be_json_lines(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(
        '{"arrival_s": 3, "class": "a", "steps": 4}\n{"arrival_s": "1 s", "class": "a", "deadline_s": 1}\n'
    )
    plain = stated(arrivals={"kind": "trace", "file": str(tmp_path / "t.jsonl"), "speed": 2})
    first, second = run(plain).requests
    assert (first.arrival, first.steps, first.met) == (0.5, 10, False)
    assert (second.arrival, second.steps, second.met) == (1.5, 4, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arrival_s,steps\n1,2\n", "has no column class"),
        ("arrival_s,class\n1,b\n", r"line 2: class: is 'b', expected one of a"),
        ("arrival_s,class\nsoon,a\n", r"line 2: arrival_s: expected a duration"),
        ("arrival_s,class\n1,a,3\n", "line 2: expected 2 columns"),
        ("arrival_s,class\n", "has no requests"),
        ('{"arrival_s": 1, "class": "a"}\n{"arrival_s": 1\n', "line 2: is not JSON"),
        ('{"arrival_s": 1, "class": "a", "steps": 0}\n', "line 1: steps: is 0"),
        ('{"arrival_s": 1, "class": "a", "steps": 1000001}\n', "line 1: steps: is 1000001, expected 1 to 1000000"),
        ('[{"arrival_s": 1, "class": "a"}]\n', "is a JSON list: expected JSON lines"),
    ],
)
def test_wrong_traces_name_the_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(InputError, match=said):
        run(stated(arrivals={"kind": "trace", "file": str(tmp_path / "t")}))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("classes.a.degrees", [2, 1], r"classes\.a\.degrees: is \[2, 1\], expected whole numbers from 1 on, ascending"),
        ("classes.a.degrees", [1, 4], r"classes\.a\.step_times\.4: expected the time of a step on so many GPUs"),
        ("classes.a.degree", 4, r"classes\.a\.degree: is 4, expected one of degrees"),
        ("classes.a.deadline", {}, r"classes\.a\.deadline: expected either seconds, or scale"),
        ("classes.a.batches", [1, 2], r"classes\.a\.batch_factors\.2: expected a batch's step time"),
        ("classes.a.workload", {"model": "sd3-medium"}, r"classes\.a: expected either workload"),
        ("arrivals.load", 1, "arrivals: expected either rate"),
        ("scheduler.kind", "best", "scheduler.kind: is 'best'; expected one of contention_aware"),
        ("gpus", 1, r"classes\.a\.degrees: has 2, but there are 1 GPUs"),
        ("gpus", 0, "gpus: is 0, expected 1 to"),
        ("costs", {"load_rate": 0}, r"costs\.load_rate: is 0, expected more"),
    ],
)
def test_wrong_scenarios_name_the_key(path: str, value: object, said: str) -> None:
    plain = stated()
    at = plain
    *above, last = path.split(".")
    for key in above:
        at = at[key]
    at[last] = value
    with pytest.raises(InputError, match=said):
        run(plain)


def test_intervals_hold_the_mean_of_seeds() -> None:
    assert mean_of([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.303 / math.sqrt(3)), rel=1e-3)
    prepared = prepare(ServingScenario.from_plain(stated(arrivals={"kind": "poisson", "load": 0.8})))
    plain = replicate(prepared, 3).to_plain()
    assert plain["seeds"] == 3
    of = [figures(run(stated(arrivals={"kind": "poisson", "load": 0.8}), seed))["attainment"] for seed in range(3)]
    assert plain["attainment"] == pytest.approx(sum(of) / 3)
    assert plain["interval_95"]["attainment"] == pytest.approx(mean_of(of).half_width)


def test_a_grid_runs_every_point_and_drops_keys_of_other_kinds() -> None:
    plain = stated(scheduler={"kind": "srtf", "preemptive": True})
    rows = run_grid(Grid(plain, {"scheduler.kind": ["srtf", "fcfs"], "classes.a.step_times.2": [0.5, 0.6]}, 2))
    assert [list(row.values.values()) for row in rows] == [["srtf", 0.5], ["srtf", 0.6], ["fcfs", 0.5], ["fcfs", 0.6]]
    assert rows[0].mean("requests").mean > 0


def test_another_kind_of_arrivals_keeps_the_load_only_where_it_has_one() -> None:
    plain = stated(arrivals={"kind": "poisson", "load": 0.5})
    assert with_value(plain, "arrivals.kind", "bursts")["arrivals"] == {"load": 0.5, "kind": "bursts"}
    assert with_value(plain, "arrivals.kind", "trace")["arrivals"] == {"kind": "trace"}


def written(tmp_path: Path, plain: Plain) -> Path:
    file = tmp_path / "serving.yaml"
    file.write_text(yaml.safe_dump(plain))
    return file


def cli(*args: object) -> Result:
    return CliRunner().invoke(main, ["serve", *map(str, args)])


def test_the_command_prints_what_the_library_finds(tmp_path: Path) -> None:
    plain = stated(arrivals={"kind": "poisson", "load": 0.9})
    file = written(tmp_path, plain)
    result = cli(file, "--json", "--set", "scheduler.kind=srtf")
    assert result.exit_code == 0, result.output
    expected = figures(run(plain | {"scheduler": {"kind": "srtf"}}))
    assert json.loads(result.stdout) == expected | {"seeds": 1}
    shown = cli(file, "--seeds", 3).stdout
    assert "±" in shown and "late because of" in shown


def test_the_page_shows_a_minute_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, stated(arrivals={"kind": "poisson", "load": 1.5}))
    result = cli(file, "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    page = Reader((tmp_path / "page.html").read_text())
    assert [load for load in page.loads if not load.startswith(("#", "data:,"))] == []
    text = " ".join(page.text)
    assert all(title in text for title in ("Requests", "Latency", "Why requests were late", "A minute", "Step times"))
    drawn = " ".join(page.data)
    assert "GPU 1" in drawn and "denoise, 10 steps" in drawn


def test_a_grid_is_a_file_or_given_by_options(tmp_path: Path) -> None:
    plain = stated(arrivals={"kind": "poisson", "load": 0.5})
    written(tmp_path, plain)
    vary = {"axes": {"scheduler.kind": ["fcfs"]}, "vary": {"costs.reshard": ["0 s", "1 s"]}}
    grid = {"serving": "serving.yaml", "seeds": 2, "axes": {"arrivals.load": [0.5, 0.9]}, "assumptions": vary}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    rows = json.loads(cli(tmp_path / "grid.yaml", "--json").stdout)["rows"]
    assert [row["values"] for row in rows] == [
        {"arrivals.load": "0.5"},
        {"arrivals.load": "0.9"},
        {"scheduler.kind": "fcfs", "costs.reshard": "0 s"},
        {"scheduler.kind": "fcfs", "costs.reshard": "1 s"},
    ]
    result = cli(tmp_path / "serving.yaml", "--vary", "arrivals.load=0.5,0.9", "--json", "--html", tmp_path / "p.html")
    again = json.loads(result.stdout)["rows"]
    assert [row["values"] for row in again] == [row["values"] for row in rows[:2]]
    assert "Requests in time, by arrivals.load" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--set", "gpus"], "--set: gpus: expected key.path=value"),
        (["--set", "gpus=1,2"], "expected one value for gpus, got 2: --vary takes several"),
        (["--set", "classes.a.shares=1"], "serving.yaml: classes.a.shares: unknown key"),
        (["--vary", "arrivals.load=0"], "serving.yaml: arrivals: expected either rate"),
        (["--vary", "arrivals.load="], "--vary: arrivals.load=: expected key.path=value, such as arrivals.load=0.3"),
        (["--together"], "serving.yaml: has no classes that are simulated on a host"),
    ],
)
def test_wrong_options_are_one_error(args: list[str], said: str, tmp_path: Path) -> None:
    result = cli(written(tmp_path, stated()), *args)
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_figures_are_of_what_is_known() -> None:
    """Without a host no GPU has a memory, and without contention nothing takes longer or shorter, not by rounding."""
    short = {"steps": 10, "degrees": [1, 2], "step_times": {1: 0.05, 2: 0.03}, "deadline": {"scale": 2}}
    long = short | {"step_times": {1: 1.0, 2: 0.55}}
    classes = {"short": short | {"priority": 1}, "long": long}
    plain = stated(gpus=4, duration=100.0, classes=classes, scheduler={"kind": "genserve"})
    plain["arrivals"] = {"kind": "poisson", "load": 0.7}
    found = figures(run(plain))
    assert found["memory_bytes"] is None
    parts = [found["mean_s"], *(of["mean_s"] for of in found["classes"].values())]
    assert all(value >= 0.0 for part in parts for value in part.values())
    with pytest.raises(InputError, match="memory: is 0, at least 1 is needed"):
        ServingScenario.from_plain(plain | {"memory": 0})


def test_a_scenario_of_steps_is_told_from_one_of_serving(tmp_path: Path) -> None:
    result = cli(written(tmp_path, {"hardware": "h200x1", "world_size": 1, "workload": {}, "policy": {}}))
    assert result.exit_code == 2
    assert "is a scenario, no serving scenario: run it with `chunkflow-sim run" in result.stderr


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_scenarios_are_read(file: Path) -> None:
    data = read_plain(file)
    if is_grid(data):
        for _, grid in grids_of(data, file.parent, str(file), {}):
            for _, plain in points(grid):
                ServingScenario.from_plain(plain, str(file))
    else:
        ServingScenario.from_plain(data, str(file))


def test_far_too_many_requests_are_refused_before_any_is_made() -> None:
    with pytest.raises(InputError, match=r"arrivals: make about 1e\+12 requests, at most 2000000 are served"):
        run(stated(arrivals={"kind": "poisson", "rate": 1e9}))


def test_a_grid_in_processes_finds_the_same() -> None:
    grid = Grid(stated(arrivals={"kind": "poisson", "load": 0.9}), {"scheduler.kind": ["srtf", "genserve"]}, 2)
    with Workers(2) as pool:
        assert [row.to_plain() for row in run_grid(grid, executor=pool)] == [row.to_plain() for row in run_grid(grid)]


def test_errors_of_a_run_name_the_file(tmp_path: Path) -> None:
    plain = stated(scheduler={"kind": "static_partition", "sizes": [3]})
    result = cli(written(tmp_path, plain))
    assert result.exit_code == 2
    assert f"{tmp_path}/serving.yaml: scheduler.sizes: makes no group on 2 GPUs for class a" in result.stderr


def test_a_run_without_requests_has_figures_and_a_page(tmp_path: Path) -> None:
    file = written(tmp_path, stated(duration=1e-9))
    result = cli(file, "--json", "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["requests"] == 0
    assert "100" not in cli(file).stdout, "of no requests none is in time"


def test_standard_input_is_read_too() -> None:
    plain = stated(arrivals={"kind": "poisson", "load": 0.5})
    result = CliRunner().invoke(main, ["serve", "-", "--json"], input=yaml.safe_dump(plain))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == figures(run(plain)) | {"seeds": 1}


@pytest.mark.parametrize("latencies", [[3.3, 9.0, 16.0, 48.0], [3.3, 3.4], [0.02, 400.0], []])
def test_the_axis_of_latencies_has_labels_that_are_seconds(latencies: list[float]) -> None:
    axis = latency_curves({"image": latencies}, {"image": 10.0}).layout.xaxis
    low, high = (10**end for end in axis.range)
    assert all(low <= t <= high for t in [*latencies, 10.0])
    assert list(axis.tickvals) == [float(text) for text in axis.ticktext]
    assert len(axis.tickvals) >= 2 and all(low <= t <= high for t in axis.tickvals)
