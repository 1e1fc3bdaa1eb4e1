"""What no run can beat, known before anything is simulated: floors of step time and of peak memory."""

from __future__ import annotations

from sim.hardware import collectives
from sim.policies import Policy
from sim.program import Kernel
from sim.sweeps.job import Job
from sim.workloads.block_items import CollectiveOp, Compute
from sim.workloads.named import remembered


class Floors:
    """Proved floors for one workload on one host, under any policy.

    Of the step time (s), in the steady state, the largest of

    - the isolated kernels and collectives of the block, which rank 0 runs one after the other;
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
        self.stream_s, taken = 0.0, [0.0] * len(profile.capacities)
        buffers = [0]
        isolated: dict[tuple[str, int], tuple[float, list[float]]] = {}
        for layer in workload.layers:
            for op in (op for form in workload.steady for op in layer.blocks[form]):
                if isinstance(op, Compute):
                    self.stream_s += profile.kernel_seconds(Kernel("", op.name, **op.work()), gpus[0])
                # what only some ranks do, or what runs beside the compute stream, is left out: the floor is lower
                if not isinstance(op, CollectiveOp) or op.group is not None or op.stream is not None:
                    continue
                size = int(op.bytes)
                if (op.kind, size) not in isolated:
                    loads = [0.0] * len(taken)
                    for phase in collectives.flows(profile, op.kind, size, gpus):
                        for spec, part in phase.flows:
                            for resource, multiplier in spec.route:
                                loads[resource] += multiplier * part.size
                    lasts = collectives.isolated_times(profile, op.kind, size, gpus)[0]
                    isolated[op.kind, size] = lasts, loads
                seconds, loads = isolated[op.kind, size]
                self.stream_s += seconds
                taken = [t + load for t, load in zip(taken, loads, strict=True)]
                if seconds > 0:  # one that takes no time holds its buffers for none
                    buffers.append(op.buffer_bytes)
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
        return max(self.stream_s, copied / self._cap, *shared)

    def memory(self, policy: Policy) -> int:
        """No run under `policy` has a smaller peak than this, B."""
        return policy.weight_bytes(self.workload, self.world_size) + self.beside
