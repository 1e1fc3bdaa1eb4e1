"""What `adaptive` loses to the best fixed schedule, over generated scenarios: `make regret`.

Each scenario is one host, one workload and one residency, drawn from a seed. `adaptive` is simulated, and so is a grid
of fixed schedules: whole layers, chunks, and gates of several sizes and sets of collectives, with and without drain. A
row a scenario is appended to a file as JSON; a run goes on behind the rows that are there. Prints the distribution of
the regret, step / shortest fixed step - 1, and every scenario beyond the bound. Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sim.hardware import load_profile
from sim.inputs.config import InputError
from sim.machine import DeadlockError
from sim.policies import Policy, describe
from sim.run import simulate
from sim.scenario import Scenario

BOUND = 0.005
"""Regret that is allowed."""
HOSTS = (
    "h200x2-hostpath",
    "h200x2-hostpath-20261121i",
    "h200x2-hostpath-20261128k",
    "h200x2-nvlink",
    "h200x4-hostpath",
    "h100x2-pcie",
    "h100x4-pcie-uplink",
    "rtx4090x2-gen4-x8",
    "rtx5090x2-gen5-x8",
    "h200x2-gen3",
    "l40x8-pcie",
)
MODELS: dict[str, dict[str, Any]] = {
    "wan2.1-14b": {"frames": (5, 13, 21, 41, 81), "height": 480, "width": 832},
    "wan2.2-5b": {"frames": (5, 21, 61, 121), "height": 704, "width": 1280},
    "hunyuanvideo": {"frames": (5, 17, 33, 61), "height": 544, "width": 960},
    "flux.1-dev": {"batch": (1, 2, 4, 8), "height": 1024, "width": 1024},
    "qwen-image": {"batch": (1, 2, 4), "height": 1024, "width": 1024},
}
KINDS = ("all_to_all", "all_to_all", "all_to_all", "all_reduce", "all_gather")
SIZES = tuple(2**e for e in range(21, 29))
"""Sizes of chunks of fixed schedules, B."""
MOST_CHUNKS = 150
"""Of a layer, of fixed schedules: smaller ones take long to simulate, and are seldom best."""
Plain = dict[str, Any]


def between(chance: random.Random, low: float, high: float) -> float:
    """A number between two, as likely in each decade."""
    return math.exp(chance.uniform(math.log(low), math.log(high)))


def scenario(number: int, seed: int) -> Plain:
    """Scenario `number` of a seed, as plain data, but for its kind of policy."""
    chance = random.Random(f"{seed}/{number}")
    host = chance.choice(HOSTS)
    ranks = chance.choice([n for n in (2, 2, 2, 4) if n <= load_profile(host).gpus])
    return {
        "hardware": host,
        "world_size": ranks,
        "workload": (_model if chance.random() < 0.5 else _blocks)(chance) | {"steps": 3},
        "policy": {
            "resident_fraction": chance.choice([0, 0, 0.25, 0.5, 0.75]),
            "prefetch_layers": chance.choice([0, 1, 1, 1, 2]),
        },
    }


def _model(chance: random.Random) -> Plain:
    name = chance.choice(list(MODELS))
    sizes = {key: chance.choice(v) if isinstance(v, tuple) else v for key, v in MODELS[name].items()}
    return {"model": name, "parallelism": chance.choice(["ulysses", "ulysses", "tensor"]), "layers": 6} | sizes


def _blocks(chance: random.Random) -> Plain:
    block: list[Plain] = []
    scale = between(chance, 0.2e-3, 10e-3)
    collectives = chance.randint(0, 4)
    for i in range(collectives):
        block.append({"compute": {"name": f"before {i}", "seconds": scale * between(chance, 0.01, 1)}})
        kind = chance.choice(KINDS)
        size = round(between(chance, 1e6, 150e6)) // 16 * 16
        block.append({"collective": {"kind": kind, "name": f"c{i}", "bytes": size}})
    block.append({"compute": {"name": "rest", "seconds": scale}})
    return {"layers": 6, "layer_bytes": round(between(chance, 20e6, 1e9)) // 2 * 2, "block": block}


def fixed(plain: Plain) -> Iterator[Plain]:
    """The fixed schedules that a scenario is compared with."""
    given = Scenario.from_plain(plain | {"policy": plain["policy"] | {"kind": "whole_layer"}})
    workload = given.workload.resolve(given.world_size)
    copied = max(given.policy.copied_of_layer(i, layer.bytes) for i, layer in enumerate(workload.layers))
    names = list(workload.collective_names)
    yield {"kind": "whole_layer"}
    for size in (s for s in SIZES if copied / MOST_CHUNKS <= s < 2 * copied):
        yield {"kind": "chunked", "chunk_bytes": size}
        yield {"kind": "yielding", "chunk_bytes": size, "drain": True}
        for count in range(1, len(names), 1 + len(names) // 4):
            yield {"kind": "yielding", "chunk_bytes": size, "yield_to": names[:count]}
            yield {"kind": "yielding", "chunk_bytes": size, "yield_to": names[-count:]}
        yield {"kind": "yielding", "chunk_bytes": size}


def step(plain: Plain, policy: Plain) -> tuple[float, Policy]:
    """Seconds of a step under a policy, and what ran."""
    result = simulate(Scenario.from_plain(plain | {"policy": plain["policy"] | policy}))
    return result.metrics["step_time_s"], result.policy


def compared(number: int, seed: int) -> Plain:
    """One row: a scenario, what `adaptive` chose, and the best fixed schedule."""
    plain = scenario(number, seed)
    row: Plain = {"number": number, "seed": seed, "scenario": plain}
    try:
        own, chosen = step(plain, {"kind": "adaptive"})
        found = [(step(plain, policy)[0], policy) for policy in fixed(plain)]
    except (InputError, DeadlockError) as error:
        return row | {"error": str(error)}
    best, policy = min(found, key=lambda one: one[0])
    row |= {"adaptive_s": own, "chose": describe(chosen), "best_s": best, "best": policy, "fixed": len(found)}
    return row | {"regret": own / best - 1}


def main() -> int:
    """Run, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--out", type=Path, default=Path("out/regret.jsonl"))
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    known = {row["number"] for row in rows if row["seed"] == asked.seed}
    with asked.out.open("a") as file:
        for number in range(asked.first, asked.first + asked.scenarios):
            if number not in known:
                rows.append(compared(number, asked.seed))
                file.write(json.dumps(rows[-1]) + "\n")
                file.flush()
    return summary([row for row in rows if row["seed"] == asked.seed])


def summary(rows: list[Plain]) -> int:
    """Print the distribution of the regret, and every scenario beyond the bound."""
    regrets = sorted(row["regret"] for row in rows if "regret" in row)
    if not regrets:
        print("no scenario ran")
        return 1
    beyond = [row for row in rows if row.get("regret", 0) > BOUND]
    quantiles = {q: regrets[min(q * len(regrets) // 100, len(regrets) - 1)] for q in (50, 95, 99)}
    fixed_count = sum(row.get("fixed", 0) for row in rows)
    print(f"{len(regrets)} scenarios, {fixed_count} fixed schedules; refused: {len(rows) - len(regrets)}")
    print("regret: " + ", ".join(f"{q} %: {100 * regret:+.3f} %" for q, regret in quantiles.items()))
    print(f"largest {100 * regrets[-1]:+.3f} %; shorter than every fixed one: {sum(r < -1e-6 for r in regrets)}")
    print(f"beyond {100 * BOUND:g} %: {len(beyond)}")
    for row in sorted(beyond, key=lambda row: -row["regret"]):
        print(f"  {row['number']}: {100 * row['regret']:+.2f} %, chose {row['chose']}; best {row['best']}")
        print(f"    {row['scenario']}")
    return bool(beyond)


if __name__ == "__main__":
    sys.exit(main())
