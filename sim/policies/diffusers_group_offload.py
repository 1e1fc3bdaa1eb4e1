"""Group offload of diffusers as it runs: a copy a tensor, hooks that hold the host, weights of no block copied too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Literal, Self

import msgspec

from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Bandwidth, Seconds
from sim.policies.base import Axes, Policy
from sim.policies.registry import register
from sim.policies.schedule import COPY, Schedule
from sim.program import RankProgram
from sim.workloads.block_commands import COMPUTE
from sim.workloads.block_items import Compute, Op, command_count
from sim.workloads.tensors import tensors_of
from sim.workloads.workload import Layer, Workload

OUTSIDE_TENSORS = 20
"""Tensors of no block: embeddings, the last norm and projection; 20 in FLUX."""
_LIVE = 64
"""Layers whose weights may be on the GPU at once: the caching allocator takes more memory as long as it is in use."""


@register
class DiffusersGroupOffload(Policy, frozen=True, tag="diffusers_group_offload"):
    """`enable_group_offload` of diffusers.

    - `level`: a group is a block, or a leaf module (two tensors, a weight and its bias).
    - `stream`: weights come from pinned memory on a stream of their own, one group ahead; before a group runs, the host
      waits for its copies, and only then issues those of the next one. Without it they come from pageable memory and go
      back to it, while the host waits.
    - `record_stream`: the caching allocator knows when a group is done; without it the host waits for the GPU after
      each group.
    - At block level, weights of no block are copied from pageable memory before each pass, and back after it. With
      `new_pages` the host's allocator has given their memory back, and each page of it is new.
    - `hook` is the host's time for a group, `per_tensor` for a tensor, beyond what the profile says of its call.
    """

    level: Literal["block", "leaf"] = "block"
    stream: bool = True
    record_stream: bool = True
    new_pages: bool = True
    hook: Seconds = Seconds(200e-6)
    per_tensor: Seconds = Seconds(22e-6)
    page_rate: Bandwidth = Bandwidth(1.8e9)
    """Bytes a second of new pages, beyond the copy itself."""

    label_fields: ClassVar[tuple[str, ...]] = ("level",)

    def __post_init__(self) -> None:
        refuse(self._wrong())

    def _wrong(self) -> Iterator[Fault]:
        for name in ("hook", "per_tensor"):
            if getattr(self, name) < 0:
                yield Fault(name, f"is {getattr(self, name)}, expected 0 or more")
        if self.page_rate <= 0:
            yield Fault("page_rate", f"is {self.page_rate}, expected more than 0")

    @property
    def resident_fraction(self) -> float:
        """None of a layer's bytes stay."""
        return 0.0

    @property
    def wrap_around(self) -> bool:
        """A pass fetches its own layers only."""
        return False

    @property
    def prefetch_layers(self) -> int:
        """One group ahead, with a stream."""
        return 1 if self.stream else 0

    @property
    def slot_count(self) -> int:
        """Memory comes from the allocator."""
        return _LIVE

    def copied_of_layer(self, layer: int, layer_bytes: int) -> int:
        """All of it."""
        return layer_bytes // 2 * 2

    @classmethod
    def from_policy(cls, other: Policy, world_size: int) -> Self | None:
        """None: another runtime is no variant of a schedule."""
        return None

    def variants(self, world_size: int) -> Iterator[Policy]:
        """The other level; memory that is not given back; no waits for the GPU."""
        yield from self.changed(level="leaf" if self.level == "block" else "block")
        yield from self.changed(new_pages=False)
        if not self.record_stream:
            yield from self.changed(record_stream=True)
        if not self.stream:
            yield from self.changed(stream=True)

    @classmethod
    def offers(cls, workload: Workload, world_size: int) -> Iterator[Axes]:
        """Both levels, each by itself: leaves take less memory."""
        if any(layer.bytes for layer in workload.layers):
            yield {"level": ("block",)}
            yield {"level": ("leaf",)}

    def flags(self, world_size: int) -> Mapping[str, str]:
        """Of `enable_group_offload`."""
        blocks = ", num_blocks_per_group=1" if self.level == "block" else ""
        streams = ", use_stream=True" * self.stream + ", record_stream=True" * (self.stream and self.record_stream)
        return {"diffusers": f'enable_group_offload(offload_type="{self.level}_level"{blocks}{streams})'}

    def weight_bytes(self, workload: Workload, world_size: int) -> int:
        """The largest layer, and what belongs to none; by leaves, as much as the largest leaf at least."""
        if self.level == "leaf":
            return max((self.copied_of_layer(0, of.bytes) // groups_of(self, of) for of in workload.layers), default=0)
        return max((layer.bytes for layer in workload.layers), default=0) + workload.outside_bytes

    def least_copied(self, layer: int, layer_bytes: int, world_size: int) -> int:
        """All bytes, with a stream of their own."""
        return self.copied_of_layer(layer, layer_bytes) if self.stream else 0

    def commands_per_layer(self, layer: int, workload: Workload, world_size: int) -> int:
        """The block; for each tensor the host's work and a copy, and its way back; what groups wait for."""
        of = workload.all_layers[layer]
        down = 2 + self.new_pages
        count = command_count(of.block) + 1
        if copied := self.copied_of_layer(layer, of.bytes):
            groups = groups_of(self, of)
            waits = 3 + 2 * (not self.record_stream) if self.stream else 1
            tensors = min(max(tensors_of(of), groups), copied // 2)
            count += 1 + waits * groups + tensors * (2 if self.stream else 2 + down)
            count += groups if groups > 1 else 0  # kernels that are cut
        if layer == 0 and self.level == "block":
            count += min(OUTSIDE_TENSORS, workload.outside_bytes // 2) * (2 + down)
        return world_size * count

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """Groups one after the other."""
        return _GroupSchedule(workload, self).build()


def groups_of(policy: DiffusersGroupOffload, layer: Layer) -> int:
    """Groups that a layer is: one, or as many as leaf modules."""
    if policy.level == "block" or layer.bytes < 2:
        return 1
    return max(tensors_of(layer) // 2, 1)


class _GroupSchedule(Schedule):
    """What a rank does."""

    def __init__(self, workload: Workload, policy: DiffusersGroupOffload) -> None:
        super().__init__(workload, policy)
        self.of = policy
        self.ready: dict[tuple[int, int], int] = {}
        """(layer executed, group) -> the event after its copies."""

    def declare(self) -> None:
        """Declare also what belongs to no layer, and host memory that is not pinned."""
        super().declare()
        if outside := self._outside():
            self.rank.buffer("outside", outside, "weights", static=True)
            self.rank.host_buffer("outside up", outside, "pageable")
            self.rank.host_buffer("outside down", outside, "pageable")
        if not self.of.stream and self.offloads:
            self.rank.host_buffer("weights up", max(self.copied), "pageable")
            self.rank.host_buffer("weights down", max(self.copied), "pageable")

    def slot_buffers(self) -> Iterator[tuple[str, int]]:
        """A buffer for each group of each of the layers that may be on the GPU at once, as large as what it holds."""
        known: dict[str, int] = {}
        for n in {
            layer: n for n, layer in ((n, self.place(n)[1]) for n in range(self.period)) if self.copied[layer]
        }.values():
            for group in range(groups_of(self.of, self.layers[self.place(n)[1]])):
                sizes = self._sizes(n, group)
                for turn in range(self.slots):
                    known[self._buffer(n, group, turn)] = sum(size for _, size in sizes)
        yield from known.items()

    def _buffer(self, n: int, group: int, turn: int | None = None) -> str:
        layer = self.place(n)[1]
        place = self.turn(n) % self.slots if turn is None else turn
        return f"slot{place} of {self.copied[layer]} B, {group} of {groups_of(self.of, self.layers[layer])}"

    def _outside(self) -> int:
        return self.workload.outside_bytes // 2 * 2 if self.of.level == "block" else 0

    def _prefetch_from(self, n: int) -> None:
        first, _ = self._pass_of(n)
        if n == first:
            self._copy_outside("h2d", self.place(n)[0])
            if self.of.stream and (following := self._next(n - 1, 0, n)) is not None:
                self._bring(*following)

    def _layer(self, n: int) -> None:
        """Issue the layer's groups: for each, wait for its copies, issue those of the next one, and run its kernels."""
        step, layer, copied = self.place(n)
        of = self.layers[layer]
        groups = groups_of(self.of, of)
        writes = (self.memory_of(layer),) if of.memory else ()
        for group, ops in enumerate(_parts(of.block, groups)):
            if copied and self.of.stream:
                self.rank.host_wait(self.ready.pop((n, group)))
                if (following := self._next(n, group + 1, n)) is not None:
                    self._bring(*following)
            elif copied:
                self._bring(n, group)
            reads = (self._buffer(n, group), "resident") if copied else ("resident",)
            self.block.issue(ops, step, layer, reads, writes)
            if copied and not self.of.stream:
                self._return(n, group)
            elif copied and not self.of.record_stream:
                self.rank.host_wait(self.rank.record(COMPUTE))
        if step >= 0:
            self.block.forget_copies()
        self.slot_free.pop(self.turn(n) - self.slots, None)
        self.slot_free[self.turn(n)] = self.rank.record(COMPUTE)
        if n + 1 == self._pass_of(n)[1]:
            self._copy_outside("d2h", step)

    def _next(self, n: int, group: int, within: int) -> tuple[int, int] | None:
        """The first group of copied weights from group `group` of the n-th layer on, in the pass of layer `within`."""
        first, end = self._pass_of(within)
        if first <= n < end and self.place(n)[2] and group < groups_of(self.of, self.layers[self.place(n)[1]]):
            return n, group
        return next(((later, 0) for later in range(max(n + 1, first), end) if self.place(later)[2]), None)

    def _sizes(self, n: int, group: int) -> list[tuple[int, int]]:
        """(offset, bytes) of the tensors of a group: equal ones."""
        copied, layer = self.place(n)[2], self.layers[self.place(n)[1]]
        groups = groups_of(self.of, layer)
        tensors = max(tensors_of(layer), groups)
        units = max(copied // 2, 1)
        bounds = [2 * (units * i // tensors) for i in range(tensors + 1)]
        first, last = tensors * group // groups, tensors * (group + 1) // groups
        return [(a, b - a) for a, b in zip(bounds[first:last], bounds[first + 1 : last + 1], strict=True) if b > a]

    def _bring(self, n: int, group: int) -> None:
        """Issue a group's copies to the GPU."""
        step, layer, _ = self.place(n)
        stream = COPY if self.of.stream else COMPUTE
        other = None if self.of.stream else "weights up"
        self.rank.host_work("hook", float(self.of.hook))
        if group == 0:
            self.wait_for_slot(n, stream)
        sizes, buffer = self._sizes(n, group), self._buffer(n, group)
        for at, size in sizes:
            self.rank.host_work("tensor", float(self.of.per_tensor))
            self.rank.copy(stream, "tensor", size, buffer, offset=at - sizes[0][0], step=step, layer=layer, other=other)
        if self.of.stream:
            self.ready[n, group] = self.rank.record(COPY)

    def _return(self, n: int, group: int) -> None:
        """Copy a group's weights back, where no copy of them stays on the host."""
        step, layer, _ = self.place(n)
        sizes, buffer = self._sizes(n, group), self._buffer(n, group)
        for at, size in sizes:
            self.rank.host_work("tensor", float(self.of.per_tensor))
            self._down(size, buffer, at - sizes[0][0], "weights down", step, layer)

    def _copy_outside(self, kind: Literal["h2d", "d2h"], step: int) -> None:
        """Copy weights of no block, a tensor after the other, while the host waits."""
        total = self._outside()
        if not total:
            return
        units = max(total // 2, 1)
        bounds = [2 * (units * i // OUTSIDE_TENSORS) for i in range(OUTSIDE_TENSORS + 1)]
        for a, b in pairwise(bounds):
            if b == a:
                continue
            self.rank.host_work("tensor", float(self.of.per_tensor))
            if kind == "h2d":
                self.rank.copy(
                    COMPUTE, "outside", b - a, "outside", offset=a, step=step, other="outside up", other_offset=a
                )
            else:
                self._down(b - a, "outside", a, "outside down", step, -1)

    def _down(self, size: int, buffer: str, offset: int, other: str, step: int, layer: int) -> None:
        self.rank.copy(
            COMPUTE,
            "back",
            size,
            buffer,
            kind="d2h",
            offset=offset,
            step=step,
            layer=layer,
            other=other,
            other_offset=offset,
        )
        if self.of.new_pages:
            self.rank.host_work("new pages", size / float(self.of.page_rate))


def _parts(block: Sequence[Op], groups: int) -> list[list[Op]]:
    """A block in as many parts as groups: kernels are cut in proportion to how they take their time."""
    if groups == 1:
        return [list(block)]
    work = [op.weight() if isinstance(op, Compute) else 0.0 for op in block]
    total = sum(work) or 1.0
    parts: list[list[Op]] = [[] for _ in range(groups)]
    done = 0.0
    for op, amount in zip(block, work, strict=True):
        if not isinstance(op, Compute) or amount <= 0:
            parts[min(int(done / total * groups + 1e-9), groups - 1)].append(op)
            continue
        begin, end = done / total * groups, (done + amount) / total * groups
        for number in range(int(begin + 1e-9), min(int(end - 1e-9) + 1, groups)):
            share = (min(end, number + 1) - max(begin, number)) / (end - begin)
            if share > 0:
                parts[number].append(_share(op, share))
        done += amount
    return parts


def _share(op: Compute, share: float) -> Compute:
    changed = {
        name: type(value)(value * share)
        for name in ("seconds", "flops", "bytes")
        if (value := getattr(op, name)) is not None
    }
    return msgspec.structs.replace(op, **changed, launches=max(round(op.launches * share), 1), ops=())
