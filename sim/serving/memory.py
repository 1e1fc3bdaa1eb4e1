"""The memory of each GPU: models that are loaded, what runs, and states of paused requests.

One group at a time runs on a GPU. To make room, models that do not run are dropped, those used longest ago first; then
states of paused requests go to host memory. What fits an empty GPU therefore always fits, once room is made: classes
that do not are left out before anything runs (`fits`).
"""

from __future__ import annotations

from collections.abc import Iterable

from sim.serving.jobs import Job


class Memory:
    """Of `gpus` GPUs with `limit` bytes each. `peak` is the most that each has held."""

    def __init__(self, gpus: int, limit: int) -> None:
        self.limit = limit
        self.peak = [0] * gpus
        self._models: list[dict[str, int]] = [{} for _ in range(gpus)]
        """Weights, B, of each loaded model; the one used last is the last."""
        self._states: list[dict[int, int]] = [{} for _ in range(gpus)]
        """B of each paused job whose state is there."""
        self._working = [0] * gpus
        self._home: dict[int, int] = {}
        """The GPU that has the state of each paused job."""

    def has_model(self, gpu: int, name: str) -> bool:
        """Whether a model is loaded."""
        return name in self._models[gpu]

    def used(self, gpu: int) -> int:
        """B."""
        return sum(self._models[gpu].values()) + sum(self._states[gpu].values()) + self._working[gpu]

    def take(self, job: Job, gpus: Iterable[int], weights: int, working: int) -> list[int]:
        """Make room for a job that starts on `gpus`; the GPUs to which its model must be loaded."""
        name, load = job.cls.weights_name, []
        if (home := self._home.pop(job.number, None)) is not None:
            del self._states[home][job.number]
        for gpu in gpus:
            models, states = self._models[gpu], self._states[gpu]
            if weights:
                if models.pop(name, None) is None:
                    load.append(gpu)
                models[name] = weights
            self._working[gpu] = working
            excess = self.used(gpu) - self.limit
            while excess > 0 and (other := next((m for m in models if m != name), None)) is not None:
                excess -= models.pop(other)
            while excess > 0 and states:
                number = next(iter(states))
                del self._home[number]
                excess -= states.pop(number)
            self.peak[gpu] = max(self.peak[gpu], self.used(gpu))
        return load

    def release(self, gpus: Iterable[int]) -> None:
        """What a job took besides its weights is free again."""
        for gpu in gpus:
            self._working[gpu] = 0

    def keep_state(self, job: Job, gpu: int) -> None:
        """Keep the state of a paused job on a GPU, if there is room without dropping anything."""
        size = job.cls.state * job.batch
        if self.used(gpu) + size <= self.limit:
            self._states[gpu][job.number] = size
            self._home[job.number] = gpu
            self.peak[gpu] = max(self.peak[gpu], self.used(gpu))

    def has_state(self, job: Job) -> bool:
        """Whether the state of a paused job is on a GPU."""
        return job.number in self._home
