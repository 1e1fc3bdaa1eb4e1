"""What no run can beat, known before anything is simulated: floors of step time and of peak memory."""

from __future__ import annotations

import math
from collections import Counter

from sim.hardware import Profile
from sim.hardware.host_flows import HostFlows
from sim.policies import Policy
from sim.program import Kernel
from sim.sweeps.job import Job
from sim.timeline.floor_terms import (
    Segment,
    Turn,
    chain_floor,
    collective_segments,
    kernel_segment,
    merged,
    overlap_floor,
    rest_rate,
)
from sim.workloads.block_items import CollectiveOp, Compute
from sim.workloads.engine_collectives import EnginePart
from sim.workloads.named import remembered


def _engine_seconds(profile: Profile, part: EnginePart, gpu: int) -> float:
    """A collective by copy engines lasts at least as long as its copies of one direction, s."""
    down = sum(part.sent(turn)[1] for turn in part.turns())
    up = sum(size for turn in part.turns() for _, _, size in part.sources(turn))
    return max(down / profile.copy_flow("d2h", gpu).cap, up / profile.copy_flow("h2d", gpu).cap)


class Floors:
    """Proved floors for one workload on one host, under any policy.

    Of the step time (s), in the steady state, the largest of

    - the isolated kernels and collectives of the block, which rank 0 runs one after the other, and what copies cost
      them where they cost least (`sim.timeline.floor_terms`);
    - the chain of layers, their copies, and the slots that layers leave to copies;
    - the bytes that it copies at least (`Policy.least_copied`) at their demand cap;
    - for each resource, what the copies of all ranks and the block's collectives take of it, at its capacity.

    Of the peak memory (B): weights (`Policy.weight_bytes`), activations, and the largest of the collective buffers.
    """

    def __init__(self, job: Job) -> None:
        profile, self.world_size = job.profile, job.scenario.world_size
        with remembered(job.models):
            whole = job.scenario.workload.resolve(self.world_size)
        workload = whole.of(0)
        self.workload = workload
        self.ranks_differ = bool(whole.ranks)
        """Whether ranks have workloads of their own: what the others copy is not known here."""
        gpus = job.scenario.gpus
        flows = HostFlows(profile, gpus)
        self.stream_s, taken = 0.0, [0.0] * len(profile.capacities)
        segments: list[Segment] = []
        known: dict[tuple[str, int], list[Segment]] = {}
        self._passes: list[tuple[int, list[Turn]]] = []
        """How many passes of a step are of a form, and the layers of one of them, without copies."""
        buffers = [0]
        isolated: dict[tuple[str, int], tuple[float, list[float]]] = {}
        for form, count in Counter(workload.steady).items():
            of_pass: list[Segment] = []
            turns: list[Turn] = []
            for layer in workload.layers:
                held = whole_s = 0.0
                for op in layer.blocks[form]:
                    if isinstance(op, Compute):
                        seconds = profile.kernel_seconds(Kernel("", op.name, **op.work()), gpus[0])
                        self.stream_s += count * seconds
                        of_pass.append(kernel_segment(profile, gpus[0], seconds, op.launches))
                        whole_s += seconds
                        held = whole_s
                    if isinstance(op, EnginePart) and op.whole.stream is None:
                        held_by = _engine_seconds(profile, op, gpus[0])
                        self.stream_s += count * held_by
                        of_pass.append(Segment(held_by, 0.0, math.inf))
                        whole_s += held_by if held else 0.0
                        buffers.append(op.whole.buffer_bytes)
                    # what only some ranks do, or what runs beside the compute stream, is left out: the floor is lower
                    if not isinstance(op, CollectiveOp) or op.group is not None or op.stream is not None:
                        continue
                    size = int(op.bytes)
                    if (op.kind, size) not in isolated:
                        loads = [0.0] * len(taken)
                        for phase in flows.collective(op.kind, size, None):
                            for spec, part in phase.flows:
                                for resource, multiplier in spec.route:
                                    loads[resource] += multiplier * part.size
                        lasts = flows.isolated(op.kind, size, None)[0]
                        isolated[op.kind, size] = lasts, loads
                        known[op.kind, size] = list(collective_segments(flows, op.kind, size, None, 0))
                    seconds, loads = isolated[op.kind, size]
                    self.stream_s += count * seconds
                    of_pass += known[op.kind, size]
                    if held:  # what comes before the first kernel may come before the weights
                        whole_s += seconds
                    taken = [t + count * load for t, load in zip(taken, loads, strict=True)]
                    if seconds > 0:  # one that takes no time holds its buffers for none
                        buffers.append(op.buffer_bytes)
                turns.append(Turn(0.0, held, whole_s))
            segments += of_pass * count
            self._passes.append((count, turns))
        self._segments = merged(segments)
        self._rest = rest_rate(profile, gpus[0])
        self._loads = [t / c for t, c in zip(taken, profile.capacities, strict=True)]
        self._each = [0.0] * len(taken)
        """Seconds of each resource for one byte that every rank copies."""
        # of ranks that differ, only what rank 0 copies is known here
        for gpu in gpus[:1] if whole.ranks else gpus:
            for resource, multiplier in profile.copy_flow("h2d", gpu).route:
                self._each[resource] += multiplier / profile.capacities[resource]
        self._cap = profile.copy_flow("h2d", gpus[0]).cap
        self.beside = workload.activation_bytes + workload.scratch_bytes + workload.cache_bytes + max(buffers)
        """Of a peak, what is not weights, at least, B."""

    def copied(self, policy: Policy) -> int:
        """Bytes that a rank copies in a step, at least."""
        layers = enumerate(self.workload.layers)
        once = sum(policy.least_copied(i, layer.bytes, self.world_size) for i, layer in layers)
        return once * self.workload.passes_per_step

    def step_s(self, policy: Policy) -> float:
        """No step under `policy` takes less than this, s."""
        copied = self.copied(policy)
        shared = (load + copied * each for load, each in zip(self._loads, self._each, strict=True))
        overlap = overlap_floor(self._segments, copied, self._rest)
        return max(self.stream_s, copied / self._cap, overlap, self._chain(policy), *shared)

    def _chain(self, policy: Policy) -> float:
        """The chain of slots, s."""
        copies = [
            policy.least_copied(i, layer.bytes, self.world_size) / self._cap
            for i, layer in enumerate(self.workload.layers)
        ]
        return sum(
            count * chain_floor([t._replace(copy=c) for t, c in zip(turns, copies, strict=True)], policy.slot_count)
            for count, turns in self._passes
        )

    def memory(self, policy: Policy) -> int:
        """No run under `policy` has a smaller peak than this, B."""
        return policy.weight_bytes(self.workload, self.world_size) + self.beside
