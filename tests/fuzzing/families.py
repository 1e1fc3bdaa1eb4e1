"""Kinds of random input: each writes its files into the working directory, runs them, and returns what it found."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml
from odd_values import EXPERIMENT, NAMED, ODD, SCENARIO, keys, shipped_yaml
from strategies import Plain, changes, collective, compute, policies, tiny_profile, trees, workloads

from calibration.fitting import FitError, fit_rows
from fuzzing.changes import damaged, flow, odd, odd_text, pool, to_yaml
from fuzzing.judge import Found, command, figures, of_run, reading
from scenarios import __file__ as scenarios
from sim import hardware, models
from sim.config import InputError, convert
from sim.datasets.cases import load_cases, load_origin
from sim.datasets.probe_rows import RAW, RowError, load_rows
from sim.experiment import Experiment, load_experiment
from sim.hardware import load_profile, to_plain
from sim.ledger import FIGURES, Point, Row
from sim.policies import count_commands
from sim.report.sweep_page import write_experiment, write_page
from sim.run import simulate
from sim.scenario import Scenario, read_plain
from sim.sensitivity import sensitivity
from sim.sensitivity import to_plain as to_plain_sensitivity
from sim.sweep import parse_axes, points, sweep
from sim.yaml_files import read_yaml
from validation import __file__ as validation
from validation import published
from validation.bounds import Bound
from validation.compare import compare_all, jobs
from validation.sets import load_set

MOST_COMMANDS = 6000
"""Commands of a scenario that is run here: larger ones are right, and take too long for thousands of inputs."""
TOO_LARGE = Found("too large to run here", [])
FILE, HOST, ROWS = "s.yaml", "p.yaml", "rows.csv"


def size(scenario: Scenario) -> int:
    """Commands of a scenario, at least its layers."""
    workload = scenario.workload.resolve(scenario.world_size)
    return count_commands(workload, scenario.policy, scenario.world_size)


@cache
def good_scenarios() -> list[Plain]:
    """Scenarios of all policies with blocks as given, drawn ones among them, and of all models."""
    made = [SCENARIO, NAMED]
    drawn = zip(pool(workloads(), 300, 2), pool(policies, 300, 3), strict=False)
    made += [scenario(workload, policy) for workload, policy in drawn]
    policy = {"kind": "yielding", "chunk_bytes": "64 MiB"}
    for name in models.shipped():
        frames = {"frames": 17} if models.load_model(name).vae.temporal > 1 else {}
        small = {"model": name, "height": 256, "width": 256, "layers": 2, "steps": 2} | frames
        made += [scenario(small, chosen) for chosen in (policy, {"kind": "sharded"}, {"kind": "resident"})]
    return made


def scenario(workload: Plain, policy: Plain, host: str = "h200x2-hostpath", ranks: int = 2) -> Plain:
    return {"hardware": host, "world_size": ranks, "workload": workload, "policy": policy}


def runs(random: Random) -> list[str]:
    """A command that takes a scenario."""
    chosen: list[list[str]] = [
        *[["run", FILE, "--json"]] * 5,
        *[["run", FILE]] * 3,
        *[["explain", FILE], ["explain", FILE, "--json"]] * 2,
        ["run", FILE, "--json", "--trace", "t.json"],
    ]
    return random.choice(chosen)


def run_scenario(random: Random, args: list[str], *names: str) -> Found:
    """Run a command on `FILE`, unless that would take long."""
    try:
        if size(Scenario.load(FILE)) > MOST_COMMANDS / (10 if args[0] == "explain" else 1):
            return TOO_LARGE
    except InputError:
        pass
    if random.random() < 0.03:
        return sensitive([FILE, *names])
    return command(args, [FILE, *names])


def sensitive(names: list[str]) -> Found:
    """What each number of the profile moves; figures that are not finite are faults."""
    faults: list[str] = []

    def load() -> None:
        scenario = Scenario.load(FILE)
        plain = json.dumps(to_plain_sensitivity(sensitivity(scenario, scenario.profile(FILE))))
        faults.extend(figures(plain))

    found = reading(load, names)
    return Found(found.ended, found.faults + faults)


def of_scenarios(random: Random) -> Found:
    """A scenario file: good data with odd values, on any shipped host."""
    good = dict(random.choice(good_scenarios()))
    if random.random() < 0.3:
        good["hardware"] = random.choice(hardware.shipped())
    Path(FILE).write_bytes(to_yaml(odd(random, good)))
    return run_scenario(random, runs(random))


def of_bytes(random: Random) -> Found:
    """A file of any kind with bytes changed."""
    kind = random.choice(("scenario", "profile", "experiment", "model"))
    if kind == "scenario":
        Path(FILE).write_bytes(damaged(random, to_yaml(random.choice(good_scenarios()))))
        return run_scenario(random, runs(random))
    if kind == "profile":
        name = random.choice(hardware.shipped())
        Path(HOST).write_bytes(damaged(random, shipped_text("hardware", name)))
        return command(["hardware", HOST, *random.choice(([], ["--json"]))], [HOST])
    if kind == "experiment":
        Path(FILE).write_bytes(damaged(random, to_yaml(EXPERIMENT)))
        return reading(lambda: load_experiment(FILE).points(FILE), [FILE])
    Path(FILE).write_bytes(damaged(random, shipped_text("models", random.choice(models.shipped()))))
    return reading(lambda: convert(read_yaml(Path(FILE)), models.Model, FILE), [FILE])


def of_data(random: Random) -> Found:
    """Files that only this package writes for itself: models, bounds, published cases."""
    kind = random.choice(("model", "bounds", "published"))
    if kind == "model":
        good = shipped_yaml(f"models/{random.choice(models.shipped())}.yaml")
        Path(FILE).write_bytes(to_yaml(odd(random, good)))
        return reading(lambda: convert(read_yaml(Path(FILE)), models.Model, FILE), [FILE])
    if kind == "bounds":
        Path(FILE).write_bytes(to_yaml(odd(random, yaml.safe_load((DATA / "bounds.yaml").read_text()))))
        return reading(lambda: convert(read_yaml(Path(FILE)), tuple[Bound, ...], FILE), [FILE])
    Path(FILE).write_bytes(to_yaml(odd(random, good_suite(random.choice(published.shipped())))))
    return reading(lambda: published.load_suite(FILE), [FILE])


@cache
def good_suite(name: str) -> Plain:
    whole: Plain = yaml.safe_load((DATA.with_name("published") / f"{name}.yaml").read_text())
    return whole | {"cases": whole["cases"][:2]}


def shipped_text(folder: str, name: str) -> bytes:
    return Path(scenarios).with_name(folder).joinpath(f"{name}.yaml").read_bytes()


SMALL: Plain = scenario(
    {
        "layers": 2,
        "steps": 2,
        "layer_bytes": "40 MiB",
        "block": [compute(1e-4), collective(2**20), collective(2**20, "all_reduce")],
    },
    {"kind": "yielding", "chunk_bytes": "16 MiB"},
)


def of_profiles(random: Random) -> Found:
    """A profile, whole or `like` another: shown, drawn, checked, and run on."""
    name = random.choice(hardware.shipped())
    good = shipped_yaml(f"hardware/{name}.yaml") if random.random() < 0.5 else plain_profile(name)
    if random.random() < 0.2:
        good = {"like": name, "name": "x", "h2d": good.get("h2d", {}), "streams": good.get("streams", {})}
    Path(HOST).write_bytes(to_yaml(odd(random, good)))
    return on_host(random)


def on_host(random: Random) -> Found:
    """Use the profile in `HOST`."""
    args = random.choice((["--json"], [], ["--html", "page.html"], ["--check"], ["run"], ["run"], ["run"]))
    if args != ["run"]:
        return command(["hardware", HOST, *args], [HOST])
    plain = random.choice(good_scenarios()) if random.random() < 0.7 else SMALL
    Path(FILE).write_bytes(to_yaml(plain | {"hardware": HOST, "world_size": random.choice((1, 2, 2, 3))}))
    return run_scenario(random, runs(random), HOST)


@cache
def plain_profile(name: str) -> Plain:
    plain: Plain = yaml.safe_load(yaml.safe_dump(to_plain(load_profile(name))))
    return plain


@cache
def good_hosts() -> list[Plain]:
    """Generated hosts: topologies that are trees, with any costs and contention."""
    return [
        yaml.safe_load(yaml.safe_dump(to_plain(tiny_profile(3, change, topology))))
        for change, topology in zip(pool(changes(), 150, 4), pool(trees(), 150, 5), strict=False)
        if not {"down", "up", "duplex", "host"} & set(change)
    ]


def of_topologies(random: Random) -> Found:
    """A profile whose topology is generated, or a shipped one's, with odd values in the topology alone."""
    host = dict(
        random.choice(good_hosts()) if random.random() < 0.7 else plain_profile(random.choice(hardware.shipped()))
    )
    if random.random() < 0.8:
        host["topology"] = odd(random, host["topology"])
    Path(HOST).write_bytes(to_yaml(host))
    return on_host(random)


def sweep_checked(made: list[Point], page: Callable[[Path, list[Row]], None], random: Random) -> Found:
    """Run points in this process, twice with the file torn in between; every row against a simulation of its own."""
    if len(made) > 12 or sum(size(point.job.scenario) for point in made) > MOST_COMMANDS:
        return TOO_LARGE
    faults: list[str] = []

    def run() -> None:
        file = Path(ROWS)
        rows = sweep(made, output=file)
        whole = file.read_bytes()
        faults.extend(fault for point, row in zip(made, rows, strict=True) for fault in of_row(point, row))
        header = whole.index(b"\n") + 1
        file.write_bytes(whole[: random.randint(header, len(whole))])
        sweep(made, output=file)
        if file.read_bytes() != whole:
            faults.append("a sweep that was torn and resumed has other bytes")
        with file.open(newline="", encoding="utf-8") as opened:
            if sum(1 for _ in csv.reader(opened)) != len(made) + 1:
                faults.append("the file has another number of rows than the sweep has points")
        page(Path("page.html"), rows)

    found = reading(run, [FILE])
    return Found(found.ended, found.faults + faults)


def of_row(point: Point, row: Row) -> Iterator[str]:
    """Faults of a row: figures that a run by itself does not have, errors that a program makes."""
    if row.error:
        try:
            simulate(Scenario.from_plain(point.data, FILE))
        except (InputError, ValueError, RuntimeError) as error:
            if " ".join(str(error).split()) != row.error:
                yield f"a row failed with {row.error!r}, by itself with {str(error)!r}"
        else:
            yield f"a row failed with {row.error!r}, by itself it runs"
        return
    metrics: Any = simulate(Scenario.from_plain(point.data, FILE)).metrics
    yield from of_run(metrics)
    yield from (f"a wrong row: {name} {row.figures[name]} is {metrics[name]}" for name in FIGURES if row.figures[name] != metrics[name])  # fmt: skip


def of_experiments(random: Random) -> Found:
    """An experiment's file: read, run and drawn."""
    good = EXPERIMENT if random.random() < 0.3 else EXPERIMENT | {"scenario": random.choice(good_scenarios())}
    if random.random() < 0.5:
        good = {key: value for key, value in good.items() if key != "cases"}
        path, values = setting(random, good["scenario"])
        good = good | {"axes": {path: values}, "x": path, "plot": random.choice(("chunk", "curves", "bars"))}
    Path(FILE).write_bytes(to_yaml(odd(random, good)))
    read: list[tuple[Experiment, list[Point]]] = []

    def load() -> None:
        experiment = load_experiment(FILE)
        read.append((experiment, experiment.points(FILE)))

    found = reading(load, [FILE])
    if not read:
        return found if found.faults or random.random() < 0.8 else command(["experiment", FILE, "--out", ROWS], [FILE])
    ((experiment, made),) = read
    return sweep_checked(made, lambda file, rows: write_experiment(file, experiment, made, rows), random)


PATHS = ["", "policy", "policy.", "[0]", "hardware[0]", "workload.block[9]", "policy.prefetch_layer", "a.b.c", "steps", "policy[x]"]  # fmt: skip
NUMBERS = ["1", "2", "0.5", "1e3", "64KiB", "1MiB", "16 MiB", "1 ms", "-1", "0", "1e30", "x", "5e-324", ""]


def setting(random: Random, plain: Plain) -> tuple[str, Any]:
    """An axis: a key path of the scenario, or of none, and text or values for it."""
    known = [".".join(map(str, path)).replace(".0.", "[0].") for path in keys(plain)]
    path = random.choice(known) if random.random() < 0.8 else random.choice((*PATHS, odd_text(random)))
    if random.random() < 0.3:
        path, values = random.choice(GOOD_AXES)
        return path, values
    how = random.random()
    if how < 0.4:
        return path, ",".join(flow(random.choice(ODD)) for _ in range(random.randint(1, 3)))
    if how < 0.6:
        first, last, by = (random.choice(NUMBERS) for _ in range(3))
        return path, f"{first}..{last}:{random.choice('x+')}{by}"
    return path, ",".join(
        random.choice((random.choice(NUMBERS), odd_text(random))) for _ in range(random.randint(1, 3))
    )


GOOD_AXES = [
    ("policy.kind", "chunked,yielding,resident,sharded,whole_layer"),
    ("policy.chunk_bytes", "1MiB..64MiB:x4"),
    ("policy.resident_fraction", "0..1:+0.25"),
    ("policy.prefetch_layers", "0,1,2"),
    ("world_size", "1,2,3"),
    ("workload.steps", "1,2,4"),
    ("hardware", "h200x2-nvlink,h100x2-pcie"),
]


def of_settings(random: Random) -> Found:
    """One or two axes of `sweep --set`."""
    plain = random.choice(good_scenarios())
    Path(FILE).write_bytes(to_yaml(plain))
    texts = ["=".join(setting(random, plain)) for _ in range(random.choice((1, 1, 2)))]
    made: list[Point] = []
    found = reading(lambda: made.extend(points(read_plain(Path(FILE)), parse_axes(texts), FILE)), [FILE, "--set"])
    if not made:
        if found.faults:
            return found
        return command(["sweep", FILE, *(word for text in texts for word in ("--set", text))], [FILE, "--set"])
    return sweep_checked(made, lambda file, rows: write_page(file, FILE, made, rows), random)


DATA = Path(validation).with_name("data")


@cache
def good_lines(name: str, file: str) -> list[Plain]:
    return [json.loads(line) for line in (DATA / name / file).read_text().splitlines()]


def lines(objects: list[Any], random: Random) -> bytes:
    """A file of lines, one of them odd in its data or its bytes."""
    number, content = random.randrange(len(objects)), [as_json(o) for o in objects]
    how = random.random()
    if how < 0.85:
        content[number] = as_json(odd(random, objects[number]))
    else:
        content[number] = damaged(random, content[number])
    return b"\n".join(content) + b"\n"


def as_json(data: Any) -> bytes:
    try:
        return json.dumps(data).encode()
    except (TypeError, ValueError):  # keys that JSON has not, numbers of thousands of digits
        return to_yaml(data)


def of_rows(random: Random) -> Found:
    """Raw rows of probes: read, and some fitted."""
    name = random.choice(("h200x2-hostpath-20261121c", "h100x1-20261121e"))
    good = good_lines(name, RAW)
    fitting = random.random() < 0.03
    chosen = good if fitting else random.sample(good, 3)
    Path(RAW).write_bytes(lines(chosen, random))

    def load() -> None:
        rows = load_rows(Path(RAW))
        if fitting:
            try:
                fit_rows(rows, "x")
            except FitError as error:
                raise RowError(RAW, "", str(error)) from None

    return reading(load, [RAW])


def of_sets(random: Random) -> Found:
    """A folder of measured cases: read, and some compared with predictions."""
    name = random.choice(("h200x1-20261121f", "h200x2-hostpath-20261121c"))
    folder = Path("set")
    folder.mkdir(exist_ok=True)
    cases = good_lines(name, "cases.jsonl")
    resident = next(case for case in cases if case["scenario"]["policy"]["kind"] == "resident")
    folder.joinpath("cases.jsonl").write_bytes(lines([resident, random.choice(cases[:12])], random))
    origin = json.loads((DATA / name / "host.json").read_text())
    folder.joinpath("host.json").write_bytes(as_json(odd(random, origin) if random.random() < 0.2 else origin))
    comparing = random.random() < 0.05

    def load() -> None:
        load_cases(folder)
        load_origin(folder)
        data = load_set("set")
        if comparing:
            list(compare_all(jobs(data, load_profile(name))))

    return reading(load, ["set/", "set: "])


WORDS = [
    "nan",
    "inf",
    "-inf",
    "0",
    "-1",
    "1e400",
    "1e-400",
    "5%",
    "x",
    "",
    "5e-324",
    "1_0",
    "٣",
    "[/x]",
    "\x1b[31m",
    "\0",
    "9" * 400,
]
COMMANDS = [
    ["sensitivity", FILE, "--change", "?"],
    ["sensitivity", FILE, "--metric", "?"],
    ["sensitivity", FILE, "--workers", "?"],
    ["measure", FILE, "--out", "set", "--timeout", "?"],
    ["measure", FILE, "--out", "set", "--runs", "?"],
    ["calibrate", "--dry-run", "--gpus", "?"],
    ["calibrate", "--fit-only", "--out", "set", "--name", "?"],
    ["hardware", "?"],
    ["models", "?"],
    ["experiment", "?"],
    ["validate", "--data", "?"],
    ["validate", "--hardware", "?"],
    ["run", "?"],
    ["explain", "?"],
    ["sweep", FILE, "--set", "?"],
    ["sweep", FILE, "--set", "policy.kind=x", "--workers", "?"],
    ["?"],
    ["run", FILE, "?"],
]


def of_options(random: Random) -> Found:
    """Odd values of arguments and options, names that are none."""
    Path(FILE).write_bytes(to_yaml(SMALL | {"hardware": "no such host"}))
    line = random.choice(COMMANDS)
    word = random.choice(WORDS) if random.random() < 0.6 else odd_text(random)[:300]
    if line == ["?"] or line[-2:] == [FILE, "?"]:
        word = f"--{word}"
    names = [FILE, "--", "set", "is no ", "cannot be read", "no path", "NAME", repr(word)]
    if word.strip():
        names.append(word[:30])
    return command([word if part == "?" else part for part in line], names)


FAMILIES: dict[str, tuple[int, Callable[[Random], Found]]] = {
    "scenarios": (30, of_scenarios),
    "bytes of files": (12, of_bytes),
    "profiles": (14, of_profiles),
    "topologies": (8, of_topologies),
    "experiments": (8, of_experiments),
    "--set": (14, of_settings),
    "raw rows": (6, of_rows),
    "data sets": (4, of_sets),
    "other data": (4, of_data),
    "options": (4, of_options),
}
"""Name -> (share, what makes and judges one input)."""
