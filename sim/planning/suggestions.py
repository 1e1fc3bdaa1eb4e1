"""What would help most: changed hosts, weights and layouts, each simulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from sim.analysis.fit_collective import with_byte_times
from sim.analysis.sensitivity import factors
from sim.hardware.profile_parameters import changed
from sim.inputs.config import InputError
from sim.inputs.units import Bytes, Number
from sim.planning.floors import Floors
from sim.planning.layouts import by_copy_engines, divided, divisions, with_gpus
from sim.planning.points import plain_policy
from sim.planning.space import Deployment, under
from sim.policies import Offload, Policy, Resident, describe
from sim.policies.adaptive import Adaptive
from sim.scenario import Scenario
from sim.sweeps.evaluation import Evaluator
from sim.sweeps.job import Job
from sim.workloads.explicit import Blocks
from sim.workloads.named import Named
from sim.workloads.recorded import Recorded
from sim.workloads.weight_formats import Weights

ENGINE_STEPS = 2
"""Steps of a schedule by copy engines: the second one is what is told."""
ENGINE_LAYERS = 8
"""Layers of it, for a named model: all have thousands of pieces each, and none is left out."""


class Suggestion(NamedTuple):
    """A change and what it is simulated to do (s, B)."""

    words: str
    policy: Policy
    step_time_s: float
    gain: float | None
    """How much shorter the step is than the plan's best, relative; None where there is none."""
    peak_memory_bytes: int
    fits_memory: bool
    """Whether every rank fits its GPU, and all together the host as far as its memory is known."""

    def rank(self) -> tuple[bool, float]:
        """Its place among others: what fits by its step, the rest by its peak."""
        return not self.fits_memory, self.step_time_s if self.fits_memory else self.peak_memory_bytes

    def to_plain(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = self._asdict()
        return {**plain, "policy": plain_policy(self.policy), "label": describe(self.policy, short=True)}


class Change(NamedTuple):
    """A job of the plan's workload, changed, under any policy."""

    words: str
    job: Job
    adaptive: bool = False
    """Whether schedules of `adaptive` are tried, too: what it needs is no named runtime's anyway."""
    few: tuple[Job, Job] | None = None
    """The changed and the unchanged workload with some of their layers, if the step follows from these two."""


def suggestions(
    job: Job,
    policies: Sequence[Policy],
    best_step_s: float | None,
    evaluator: Evaluator,
    compared: Sequence[Job] = (),
) -> list[Suggestion]:
    """What each change would give with the best of `policies` that fits there; the largest gain first.

    Where none fits under a change, it is the one with the smallest peak. Left out are the layouts of jobs that the plan
    has `compared`, and what is proved to take as long as the plan's best step.
    """
    known = [_layout(other) for other in compared]
    own = None if best_step_s is None else policies[0]
    tried: list[tuple[Change, Deployment, Policy, list[Job]]] = []
    for change in _changes(job):
        if change.job.profile is job.profile and _layout(change.job) in known:
            continue
        at = Deployment(change.job, Floors(change.job))
        worth = _worth_trying(at, _policies(change, policies), best_step_s)
        tried.extend((change, at, policy, made) for policy in worth if (made := _made(change, at, policy, own)))
    found: dict[str, Suggestion] = {}
    evaluated = iter(evaluator.in_order([one for *_, made in tried for one in made]))
    for change, at, policy, made in tried:
        results = [next(evaluated).found for _ in made]
        if None in results:
            continue
        metrics, *others = (result.metrics for result in results if result is not None)
        words, step, peak = change.words, metrics["step_time_s"], metrics["peak_memory_bytes"]
        fits = metrics["fits_memory"] and metrics["fits_host_memory"] is not False
        for few in others:  # memory of a few layers says nothing of that of all
            assert best_step_s is not None
            step *= best_step_s / few["step_time_s"]
            peak, fits = max(peak, at.floors.memory(policy)), at.may_fit(policy)
            words += f" (by {ENGINE_LAYERS} of {len(at.floors.workload.layers)} layers)"
        gain = None if best_step_s is None else 1 - step / best_step_s
        tip = Suggestion(words, policy, step, gain, peak, fits)
        before = found.get(change.words)
        if before is None or tip.rank() < before.rank():
            found[change.words] = tip
    return sorted(found.values(), key=Suggestion.rank)


def _policies(change: Change, policies: Sequence[Policy]) -> list[Policy]:
    """Those to be tried under a change."""
    if not change.adaptive:
        return list(policies)
    ranks = change.job.scenario.world_size
    deciding = [Adaptive.from_policy(policy, ranks) for policy in policies if isinstance(policy, Offload)]
    return [*(policy for policy in deciding if policy is not None), *policies]


def _made(change: Change, at: Deployment, policy: Policy, own: Policy | None) -> list[Job]:
    """What is simulated of a change under `policy`; where it has `few` layers, then those unchanged, under `own`.

    All layers where there is no schedule of the plan's `own` to compare with.
    """
    if change.few is not None and own is not None:
        layers = len(at.floors.workload.layers)
        changed, before = (
            under(job, _by_fraction(of, layers)) for job, of in zip(change.few, (policy, own), strict=True)
        )
        if changed is not None and before is not None:
            return [_few_steps(changed), before]
    whole = under(change.job, policy)
    if whole is None:
        return []
    return [_few_steps(whole) if change.adaptive else whole]


def _by_fraction(policy: Policy, layers: int) -> Policy:
    """The policy with as large a share of few layers resident as of all `layers` by their numbers."""
    if not isinstance(policy, Offload) or not policy.resident_layers:
        return policy
    kept = policy.resident_layers
    share = Number((kept if isinstance(kept, int) else len(kept)) / layers)
    return msgspec.structs.replace(policy, resident_layers=(), resident_fraction=share)


def _few_steps(job: Job) -> Job:
    steps = min(job.scenario.workload.steps, ENGINE_STEPS)
    return job._replace(scenario=job.scenario.with_steps(steps), max_steps=steps)


def _layout(job: Job) -> Scenario:
    """The scenario, whatever its schedule and steps."""
    return job.scenario.with_policy(Resident()).with_steps(1)


def _worth_trying(at: Deployment, policies: Sequence[Policy], best_step_s: float | None) -> list[Policy]:
    """All weights resident if that may fit, by what is proved of its memory; else the first that may, or the first.

    Nothing where that is proved to take `best_step_s` or more.
    """
    may = [policy for policy in policies if at.may_fit(policy)]
    resident: list[Policy] = [policy for policy in may if isinstance(policy, Resident)]
    first = (resident or may or list(policies))[:1]
    return [policy for policy in first if best_step_s is None or at.floors.step_s(policy) < best_step_s]


def _changes(job: Job) -> Iterator[Change]:
    """Those that the host and the workload can express."""
    for make in (_faster_link, _smaller_weights, _copy_engines, _more_gpus, _other_parallelism):
        try:
            yield from make(job)
        except (InputError, ValueError):  # the changed host or workload is none
            continue


def _faster_link(job: Job) -> Iterator[Change]:
    """The link between host and GPU at twice the rate, and collectives that cross it."""
    profile, words = job.profile, "a host link of twice the bandwidth"
    paths = {path for factor in factors(profile) for path in factor.paths if _copies(factor.paths)}
    doubled: dict[str, Callable[[float], float]] = dict.fromkeys(paths, lambda value: 2 * value)
    faster = changed(profile, doubled)
    if profile.topology.peers == "host":
        faster = with_byte_times(faster, 0.5, words)
    yield Change(words, job._replace(profile=faster))


def _copies(paths: Iterable[str]) -> bool:
    return any(path in ("h2d.cap", "d2h.cap") for path in paths)


def _copy_engines(job: Job) -> Iterator[Change]:
    """Collectives as copies through host memory, with prefetches that keep clear of them."""
    if (scenario := by_copy_engines(job.scenario)) is None or job.profile.topology.peers != "host":
        return
    words, few = "collectives by copy engines (docs/beyond.md), and a runtime for it", None
    workload = job.scenario.workload
    whole = workload.resolve(job.scenario.world_size)
    if isinstance(workload, Named) and not whole.ranks and len(whole.layers) > ENGINE_LAYERS:
        shorter = msgspec.structs.replace(workload, layers=ENGINE_LAYERS)
        unchanged = msgspec.structs.replace(job.scenario, workload=shorter)
        if (changed := by_copy_engines(unchanged)) is not None:
            few = _job(changed, job), _job(unchanged, job)
    yield Change(words, _job(scenario, job), adaptive=True, few=few)


def _smaller_weights(job: Job) -> Iterator[Change]:
    """A model's weights as fp8; of blocks as given, layers of half the bytes. Compute and activations as they are."""
    scenario = job.scenario
    replace = msgspec.structs.replace
    workload = scenario.workload
    if isinstance(workload, Named):
        if workload.weights.computable:
            smaller = replace(workload, weights=Weights(dtype="fp8"))
            yield Change("weights in fp8 (compute as it is)", _job(replace(scenario, workload=smaller), job))
        return
    workload = workload.explicit() if isinstance(workload, Recorded) else workload
    halved = replace(workload, layer_bytes=_half(workload.layer_bytes), blocks=_halved(workload.blocks))
    words = "weights of half the bytes (fp8 instead of bf16; compute as it is)"
    yield Change(words, _job(replace(scenario, workload=halved), job))


def _half(size: Bytes | None) -> Bytes | None:
    return None if size is None else Bytes(size // 2)


def _halved(blocks: tuple[Blocks, ...] | None) -> tuple[Blocks, ...] | None:
    return blocks and tuple(msgspec.structs.replace(b, layer_bytes=Bytes(b.layer_bytes // 2)) for b in blocks)


def _more_gpus(job: Job) -> Iterator[Change]:
    """The next number of GPUs among which the model can be divided."""
    scenario = job.scenario
    if not isinstance(scenario.workload, Named):
        return
    for count in range(scenario.world_size + 1, job.profile.gpus + 1):
        try:
            more = _job(with_gpus(scenario, count), job)
        except InputError:
            continue
        yield Change(f"{count} GPUs instead of {scenario.world_size}", more)
        return


def _other_parallelism(job: Job) -> Iterator[Change]:
    """The other ways to divide a named model."""
    scenario = job.scenario
    if not isinstance(scenario.workload, Named) or scenario.world_size == 1:
        return
    for kind in divisions(scenario.world_size):
        if kind != scenario.workload.parallelism:
            try:
                yield Change(f"parallelism: {kind}", _job(divided(scenario, kind), job))
            except InputError:
                continue


def _job(scenario: Scenario, like: Job) -> Job:
    """A job on the same profile. Raises `InputError` where the scenario does not fit it."""
    scenario.check(like.profile)
    return Job.of(scenario, like.profile)._replace(shortcuts=like.shortcuts)
