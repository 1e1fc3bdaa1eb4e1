"""As GENSERVE, but it knows the host: what groups cost each other, and where they cost each other least."""

from __future__ import annotations

from sim.inputs.units import Number, Seconds
from sim.serving.host import Decider, Host, slowdowns
from sim.serving.jobs import Job
from sim.serving.schedulers.base import Scheduler
from sim.serving.schedulers.elastic import Elastic
from sim.serving.schedulers.registry import register
from sim.serving.step_times import Running


@register
class ContentionAware(Scheduler, frozen=True, tag="contention_aware"):
    """Predicts by simulation what groups take that run together, where `genserve` goes by times uncontended.

    A job's time on some GPUs is what it takes beside the groups that run now. A job is put where it, and what it
    does to groups that run, costs the fewest GPU-seconds; it is not started where that would make running groups late
    that are in time now, more of them than it brings. Other parameters as of `genserve`.
    """

    batching: bool = True
    hysteresis: Number = Number(0.02)
    late: Number = Number(0.1)
    period: Seconds | None = None

    def decider(self, host: Host) -> Decider:
        """As `Scheduler` says."""
        return _Decider(host, self.batching, float(self.hysteresis), float(self.late), self.period)


class _Decider(Elastic):
    by_stage = True

    def __init__(self, host: Host, batching: bool, hysteresis: float, late: float, period: float | None = None) -> None:
        super().__init__(host, batching, hysteresis, late, period)
        self._groups: frozenset[Running] | None = None
        """Those that run, of the present decision about videos."""
        self._factors: dict[tuple[frozenset[Running], str, int, int], float] = {}

    def decide(self) -> None:
        """As `Decider` says."""
        self._groups = None
        super().decide()

    def needs(self, job: Job, alone: dict[int, float]) -> dict[int, float]:
        """Beside the groups that run now, on the GPUs where they slow it least."""
        host = self.host
        if host.contention is None or not job.denoising:
            return alone
        if self._groups is None:
            self._groups = frozenset(host.groups())
        others = self._groups - {job.group} if job.rate else self._groups
        found = {degree: needs * self._factor(job, degree, others) for degree, needs in alone.items()}
        if job.rate:
            own = slowdowns(host.contention, self._groups)[job.group]
            found[len(job.gpus)] = alone[len(job.gpus)] * own
        return found

    def _factor(self, job: Job, degree: int, others: frozenset[Running]) -> float:
        """How much longer its steps take on the best GPUs that the others leave, whichever it has now."""
        key = others, job.cls.name, job.batch, degree
        if (known := self._factors.get(key)) is not None:
            return known
        host = self.host
        taken = {gpu for other in others for gpu in other.gpus}
        mine = (Running(job.cls.name, job.batch, block) for block in host.blocks(degree))
        apart = [group for group in mine if taken.isdisjoint(group.gpus)]
        # what runs where it would be moves, or ends: then it is alone there
        found = min((slowdowns(host.contention, others | {group})[group] for group in apart), default=1.0)
        self._factors[key] = found
        return found

    def place(self, job: Job, degree: int) -> tuple[int, ...] | None:
        """Where it costs the fewest GPU-seconds, of itself and of groups that run; None where it does more harm."""
        host = self.host
        places = host.places(job, degree)
        if host.contention is None or not job.denoising or not places:
            return next(iter(places), None)
        running = host.groups()
        now = slowdowns(host.contention, frozenset(running))
        best: tuple[float, tuple[int, ...]] | None = None
        for gpus in places:
            group = Running(job.cls.name, job.batch, gpus)
            then = slowdowns(host.contention, frozenset((*running, group)))
            cost = degree * host.remaining(job, degree) * then[group]
            gain = 1 if host.now + host.remaining(job, degree) * then[group] <= job.deadline else 0
            for of, other in running.items():
                left = host.remaining(other, len(of.gpus))
                cost += len(of.gpus) * left * (then[of] - now[of])
                room = other.deadline - host.now
                gain -= left * now[of] <= room < left * then[of]
            if gain >= 0 and (best is None or cost < best[0] * (1.0 - 1e-9)):
                best = cost, gpus
        if best is None and not running:
            return places[0]
        return None if best is None else best[1]
