"""How long serving takes: 100,000 requests of 20 steps on 8 GPUs, by scheduler. CPU time of one core.

python benchmarks/serving.py [requests [load [scheduler ...]]]
"""

from __future__ import annotations

import sys
import time

from sim.serving import ServingScenario, prepare, serve
from sim.serving.schedulers import kinds


def scenario(kind: str, requests: int, load: float) -> ServingScenario:
    """Short requests on one GPU and long ones on up to eight: `requests` of them at such a load."""
    classes = {
        "image": {
            "steps": 20,
            "degrees": [1, 2],
            "step_times": {1: 0.1, 2: 0.06},
            "batches": [1, 2, 4],
            "batch_factors": {2: 1.9, 4: 3.7},
            "deadline": {"scale": 2.0},
            "encode": 0.01,
            "decode": 0.1,
            "preemptible": False,
            "priority": 1,
            "share": 0.9,
        },
        "video": {
            "steps": 20,
            "degrees": [1, 2, 4, 8],
            "degree": 2,
            "step_times": {1: 2.0, 2: 1.05, 4: 0.58, 8: 0.36},
            "deadline": {"scale": 2.0},
            "encode": 0.01,
            "decode": 1.0,
            "share": 0.1,
        },
    }
    plain = {"gpus": 8, "classes": classes, "arrivals": {"kind": "poisson", "load": load}, "scheduler": {"kind": kind}}
    rate = prepare(ServingScenario.from_plain(plain)).rate
    return ServingScenario.from_plain(plain | {"duration": requests / rate})


def main() -> None:
    """Print CPU seconds, and microseconds a request, of each scheduler."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    load = float(sys.argv[2]) if len(sys.argv) > 2 else 0.7
    for kind in sys.argv[3:] or sorted(kinds()):
        prepared = prepare(scenario(kind, requests, load))
        began = time.process_time()
        served = serve(prepared)
        took = time.process_time() - began
        count = len(served.requests)
        steps = sum(request.steps for request in served.requests)
        print(
            f"{kind:17} {count:7} requests, {steps:8} steps: {took:6.1f} s, {1e6 * took / count:5.0f} us a request",
            flush=True,
        )


if __name__ == "__main__":
    main()
