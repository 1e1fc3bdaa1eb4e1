"""Random scenarios and hosts: each input writes its files into the working directory, and runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml
from odd_values import EXPERIMENT, GROUPED, NAMED, QUANTISED, SCENARIO, keys, put, shipped_yaml
from strategies import Plain, changes, collective, compute, policies, tiny_profile, trees, workloads

import sim
from fuzzing.changes import damaged, odd, pool, to_yaml
from fuzzing.judge import SECONDS, Found, command, figures, reading
from scenarios import __file__ as scenarios
from sim import hardware
from sim.analysis.sensitivity import sensitivity
from sim.analysis.sensitivity import to_plain as to_plain_sensitivity
from sim.hardware import load_profile, to_plain
from sim.inputs.config import InputError, convert
from sim.inputs.yaml_files import read_yaml
from sim.policies import count_commands
from sim.scenario import Scenario
from sim.sweeps.experiments import load_experiment
from sim.workloads import named

MAX_COMMANDS = 6000
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
    made = [SCENARIO, NAMED, *[GROUPED, QUANTISED, *FORMS] * 20]
    drawn = zip(pool(workloads(), 300, 2), pool(policies, 300, 3), strict=False)
    made += [scenario(workload, policy) for workload, policy in drawn]
    by_copies = {"collectives": {"algorithm": "copy_engine", "piece_bytes": 6}}
    made += [{**data, "workload": {**data["workload"], **by_copies}} for data in made[-100:]]
    policy = {"kind": "yielding", "chunk_bytes": "64 MiB"}
    for name in named.shipped():
        frames = {"frames": 17} if named.load_model(name).vae.temporal > 1 else {}
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
        if size(Scenario.load(FILE)) > MAX_COMMANDS / (10 if args[0] == "explain" else 1):
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
    Path(FILE).write_bytes(damaged(random, shipped_text("models", random.choice(named.shipped()))))
    return reading(lambda: convert(read_yaml(Path(FILE)), named.Model, FILE), [FILE])


def shipped_text(folder: str, name: str) -> bytes:
    return Path(scenarios).with_name(folder).joinpath(f"{name}.yaml").read_bytes()


ITEMS: list[Plain] = [
    compute(1e-4),
    {"collective": {"kind": "all_reduce", "bytes": 2**20, "group": [[0, 1]], "stream": "comm"}},
    {"copy": {"kind": "h2d", "bytes": "1 MB", "memory": "pageable", "buffer": "vae", "stream": "swap"}},
    {"wait": "swap"},
    {"collective": {"kind": "all_gather", "bytes": 2**20, "group": "tensor"}},
    {"copy": {"kind": "d2h", "bytes": "1 MB", "buffer": "vae"}},
]
PHASE: list[Plain] = [{"repeat": 2, "layer_bytes": "1 MB", "memory_bytes": "1 MB", "block": ITEMS}]
COUNTED: Plain = {
    "kind": "yielding",
    "chunk_bytes": "8 MiB",
    "resident_layers": 1,
    "prefetch_counts": "offloaded",
    "wrap_around": False,
}
FORMS: list[Plain] = [
    scenario(
        {"layers": 3, "steps": 2, "layer_bytes": "20 MiB", "block": ITEMS, "parallelism": {"tensor": 2}}
        | {"before": PHASE, "after": PHASE},
        COUNTED,
    )
    | {"placement": [1, 0]},
    scenario(
        {"model": "pixart-xl-2", "height": 256, "width": 256, "layers": 3, "steps": 2, "weights": {"dtype": "int4"}}
        | {"parallelism": {"ulysses": 1, "pipeline": 2, "cfg": 1}, "before": [{"block": [compute(1e-4)]}]},
        COUNTED,
    ),
    scenario(
        {"model": "flux.1-dev", "height": 256, "width": 256, "layers": 3, "steps": 2, "parallelism": {"ring": 2}}
        | {"weights": {"bytes_per_parameter": 0.56}},
        COUNTED,
    ),
]
"""Every form of placement, layout, block entry and phase."""

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


EXTREMES = [0, 1, 5e-324, 1e-60, 1e-30, 1e-12, 1e-3, 0.5, 10, 1e6, 1e12, 1e20, 1e30]
"""Numbers that many keys take, and that figures may still not survive."""


def of_processes(random: Random) -> Found:
    """A scenario in a process of its own, in some encoding: it ends as it does in this one."""
    Path(FILE).write_bytes(to_yaml(odd(random, random.choice(good_scenarios()))))
    args = runs(random)
    here = run_scenario(random, args)
    if here is TOO_LARGE or not here.ended.isdigit():
        return here
    encoding = random.choice(
        ({"LC_ALL": "C.UTF-8"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONUTF8": "0"})
    )
    line = [sys.executable, "-m", "sim", *args]
    environment = os.environ | {"PYTHONPATH": str(Path(sim.__file__).parents[1])} | encoding
    done = subprocess.run(line, env=environment, capture_output=True, timeout=SECONDS, check=False)
    faults = list(here.faults)
    if b"Traceback" in done.stderr:
        faults.append(f"a traceback: {done.stderr[-400:]!r}")
    if str(done.returncode) != here.ended:
        faults.append(f"exit code {done.returncode} in a process of its own, {here.ended} in this one")
    return Found(here.ended, faults)


SIZES = {
    "value",
    "layer_bytes",
    "bytes",
    "chunk_bytes",
    "activation_bytes",
    "seconds",
    "flops",
    "poll",
    "resident_fraction",
}
"""Keys of numbers that have a unit, or are shares."""


def of_extremes(random: Random) -> Found:
    """A profile and a scenario of the right form, some of whose numbers are as small or large as may be."""
    host = extreme(
        random,
        random.choice(good_hosts()) if random.random() < 0.5 else plain_profile(random.choice(hardware.shipped())),
    )
    plain = extreme(random, random.choice(good_scenarios()) if random.random() < 0.7 else SMALL)
    Path(HOST).write_bytes(to_yaml(host))
    Path(FILE).write_bytes(to_yaml(plain | {"hardware": HOST, "world_size": random.choice((1, 2, 2, 3))}))
    if random.random() < 0.2:
        return command(
            ["hardware", HOST, *random.choice((["--json"], [], ["--html", "page.html"], ["--check"]))], [HOST]
        )
    return run_scenario(random, runs(random), HOST)


def extreme(random: Random, good: Plain) -> Plain:
    numbers = [path for path, _ in leaves(good) if path[-1] in SIZES]
    for path in random.sample(numbers, min(len(numbers), random.choice((0, 1, 2, 4, 16)))):
        good = put(good, path, random.choice(EXTREMES))
    return good


def leaves(data: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Key paths of values that hold no others."""
    for path in keys(data):
        value = data
        for key in path:
            value = value[key]
        if not isinstance(value, dict | list):
            yield path, value


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
