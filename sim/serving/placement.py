"""Which GPUs are free, and on which of them a job had best be put."""

from __future__ import annotations

from functools import partial

from sim.serving.jobs import Job
from sim.serving.memory import Memory


class Gpus:
    """`gpus` GPUs with `limit` bytes of memory each; with `aligned`, groups of n begin at a multiple of n."""

    def __init__(self, gpus: int, limit: int, aligned: bool) -> None:
        self.gpus = gpus
        self.free = [True] * gpus
        self.free_count = gpus
        self.memory = Memory(gpus, limit)
        self._aligned = aligned
        self._blocks: dict[int, list[tuple[int, ...]]] = {}

    def blocks(self, degree: int) -> list[tuple[int, ...]]:
        """Where a group of `degree` may be, by `placement: aligned`."""
        found = self._blocks.get(degree)
        if found is None:
            starts = range(0, self.gpus - degree + 1, degree)
            found = self._blocks[degree] = [tuple(range(start, start + degree)) for start in starts]
        return found

    def places(self, job: Job, degree: int) -> list[tuple[int, ...]]:
        """Free GPUs on which a job could start, the best first: where it was, where its model is, in filled corners."""
        found = self._places(job, degree)
        if len(found) > 1:
            found.sort(key=partial(self._preference, job, degree))
        return found

    def best_place(self, job: Job, degree: int) -> tuple[int, ...] | None:
        """The first of `places`; None where there are none."""
        found = self._places(job, degree)
        if len(found) > 1:
            return min(found, key=partial(self._preference, job, degree))
        return found[0] if found else None

    def _places(self, job: Job, degree: int) -> list[tuple[int, ...]]:
        """In no order."""
        if degree > self.free_count:
            return []
        free = self.free
        if self._aligned:
            if degree == 1:
                return [block for block in self.blocks(1) if free[block[0]]]
            return [block for block in self.blocks(degree) if all(free[gpu] for gpu in block)]
        where = [gpu for gpu in range(self.gpus) if free[gpu]]
        found = [tuple(where[:degree])]
        if len(job.gpus) == degree and all(free[gpu] for gpu in job.gpus) and job.gpus != found[0]:
            found.append(job.gpus)
        return found

    def _preference(self, job: Job, degree: int, block: tuple[int, ...]) -> tuple[bool, int, int, int]:
        name, memory = job.cls.weights_name, self.memory
        loads = sum(not memory.has_model(gpu, name) for gpu in block)
        around, size = 0, degree * 2
        while size <= self.gpus:  # free GPUs around it: larger groups need them together
            start = block[0] // size * size
            around = around * self.gpus + sum(self.free[start : start + size])
            size *= 2
        return block != job.gpus and not (degree == 1 and block[0] in job.gpus), loads, around, block[0]

    def could_have(self, job: Job, degree: int) -> bool:
        """Whether there would be a place for a running job on so many GPUs, if it gave its own back now."""
        mine = set(job.gpus)
        if not self._aligned:
            return degree <= self.free_count + len(mine)
        return any(all(self.free[gpu] or gpu in mine for gpu in block) for block in self.blocks(degree))
