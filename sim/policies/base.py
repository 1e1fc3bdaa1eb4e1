"""What every policy is: parameters that a scenario file gives, and what they make of a workload.

A policy of one's own is a struct that derives from `Policy`, or from `Offload` if it copies weights, in a module of its
own, under `@register` (docs/policies.md has an example).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar, Literal, Self

import msgspec

from sim.inputs import units
from sim.inputs.config import Config, InputError, convert
from sim.inputs.faults import Fault, refuse
from sim.inputs.units import Number
from sim.program import CollectiveKind, RankProgram
from sim.workloads.block_items import MEETINGS, command_count
from sim.workloads.workload import Workload

Counted = Literal["all", "offloaded"]

RESIDENT_STEP = 0.25
"""How far variants change `resident_fraction`."""
OFFERED_FRACTIONS = tuple(round(0.01 * i, 2) for i in range(100))
OFFERED_DEPTHS = (0, 1, 2, 3)
OFFERED_COUNTS = 128
"""Values of `resident_fraction` and `prefetch_layers`, and most numbers of resident layers, that plans choose from."""

Axes = Mapping[str, Sequence[Any]]
"""What a plan may vary of a policy: field -> values as a scenario gives them, numbers ascending."""


def copied_bytes(layer_bytes: int, resident_fraction: float) -> int:
    """Bytes of a layer that are copied: floor(layer_bytes (1 - r)), rounded down to 2 (one bf16)."""
    return math.floor(layer_bytes * (1 - Fraction(str(resident_fraction)))) // 2 * 2


class Policy(Config, frozen=True, tag_field="kind"):
    """Base of all policies: what others may ask of any of them.

    A policy that has one of the parameters below as a field replaces the property by it; the others answer as
    `resident` does, whose weights are all on the GPU.
    """

    label_fields: ClassVar[tuple[str, ...]] = ()
    """Fields whose values become part of the label where they are not the default: `true` or text."""
    ranks_alike: ClassVar[bool] = True
    """Whether all ranks run the same program."""
    own_collectives: ClassVar[frozenset[CollectiveKind]] = frozenset()
    """Kinds of collectives that the policy adds to those of the workload."""

    @property
    def layers_alike(self) -> bool:
        """Whether equal layers in a row, with equal copied bytes, are scheduled alike wherever they stand.

        It lets a simulation stop where such layers repeat. Each class says so for itself: it is not inherited.
        """
        return False

    @property
    def kind(self) -> str:
        """The policy's name in scenario files."""
        return str(self.__struct_config__.tag)

    @property
    def chunk_bytes(self) -> int | None:
        """Bytes of a copy; None: a layer is copied whole, or not at all."""
        return None

    @property
    def resident_fraction(self) -> float:
        """Share of a layer's bytes that stay on the GPU."""
        return 1.0

    @property
    def prefetch_layers(self) -> int:
        """Layers that are prefetched ahead of the one that computes."""
        return 0

    @property
    def prefetch_counts(self) -> Counted:
        """Which layers `prefetch_layers` counts."""
        return "all"

    @property
    def wrap_around(self) -> bool:
        """Whether a pass prefetches the first layers of the next one."""
        return True

    @property
    def resident_layers(self) -> int | tuple[int, ...]:
        """Numbers of layers of which all bytes stay on the GPU; or how many of the first ones."""
        return ()

    @property
    def numbers_of_resident_layers(self) -> Collection[int]:
        """Numbers of layers of which all bytes stay on the GPU."""
        given = self.resident_layers
        return range(given) if isinstance(given, int) else given

    @property
    def slot_count(self) -> int:
        """Slots in device memory, each as large as the largest layer's copied bytes."""
        return 0

    def copied_of_layer(self, layer: int, layer_bytes: int) -> int:
        """Bytes of layer number `layer` that do not stay on the GPU."""
        return 0

    def label(self) -> str:
        """The kind with what sets this policy apart from others of its kind, such as "yielding+drain"."""
        defaults = {f.name: f.default for f in msgspec.structs.fields(self)}
        given = ((name, getattr(self, name)) for name in self.label_fields)
        words = [name if value is True else str(value) for name, value in given if value != defaults[name]]
        return "+".join([self.kind, *words])

    def variants(self, world_size: int) -> Iterator[Policy]:
        """Policies of this kind that differ in one thing, for `explain` to compare; only valid ones."""
        return iter(())

    @classmethod
    def from_policy(cls, other: Policy, world_size: int) -> Self | None:
        """This kind of policy with the values of all fields that `other` has too; None if that is invalid."""
        shared = {name: getattr(other, name) for name in cls.__struct_fields__ if name in other.__struct_fields__}
        return cls.read(shared)

    @classmethod
    def read(cls, fields: dict[str, Any]) -> Self | None:
        """The policy of this kind with these values of its fields; None if they are not valid."""
        plain = msgspec.to_builtins(fields, enc_hook=units.plain)
        try:
            return convert({**plain, "kind": cls.__struct_config__.tag}, cls, "policy")
        except InputError:
            return None

    def changed(self, **fields: object) -> Iterator[Self]:
        """This policy with other values of some fields, if that is a valid one."""
        try:
            yield msgspec.structs.replace(self, **fields)
        except ValueError:
            return

    @classmethod
    def offers(cls, workload: Workload, world_size: int) -> Iterator[Axes]:
        """What a plan may vary: the product of the values of each of these axes, others at their defaults.

        A field of one value sets schedules apart that have nothing to interpolate between.
        """
        yield {}

    def flags(self, world_size: int) -> Mapping[str, str]:
        """Runtime -> the flags by which it runs this schedule today, with NCCL; none where no named runtime does."""
        return {}

    def least_copied(self, layer: int, layer_bytes: int, world_size: int) -> int:
        """H2D bytes of rank 0, at least, each time layer number `layer` runs; as many, on the average, of all ranks.

        They come one after the other on one stream. Proved floors count them: 0 claims nothing.
        """
        return 0

    def weight_bytes(self, workload: Workload, world_size: int) -> int:
        """Device memory for weights, at least: resident bytes, and a slot more than layers are prefetched."""
        copied = [self.copied_of_layer(i, layer.bytes) for i, layer in enumerate(workload.layers)]
        slots = self.prefetch_layers + 1 if any(copied) else 0
        return sum(layer.bytes for layer in workload.layers) - sum(copied) + slots * max(copied)

    def commands_per_layer(self, layer: int, workload: Workload, world_size: int) -> int:
        """Commands that all ranks issue for layer number `layer` each time it runs: its block and its prefetch.

        Scenarios are refused by this number before anything is built: it must not be smaller than what `schedule`
        issues, and should be hardly larger.
        """
        raise NotImplementedError

    def schedule(self, workload: Workload, world_size: int, rank: int) -> RankProgram:
        """The program of `rank`: all that it issues in all steps of `workload`."""
        raise NotImplementedError


class Offload(Policy, frozen=True):
    """Base of policies that copy weights to the GPU. `resident_fraction` of a layer's bytes stays on the GPU.

    Of `resident_layers`, counted from 0 through all blocks, all bytes do; a number stands for so many first ones.
    With `prefetch_counts: offloaded`, `prefetch_layers` counts layers of which bytes are copied, and slots are theirs.
    Without `wrap_around` a pass prefetches its own layers only: the first ones are fetched when it begins.
    """

    resident_fraction: Number = Number(0.0)
    prefetch_layers: int = 1
    resident_layers: int | tuple[int, ...] = ()
    prefetch_counts: Counted = "all"
    wrap_around: bool = True

    def __post_init__(self) -> None:
        refuse(self.wrong_parameters())

    def wrong_parameters(self) -> Iterator[Fault]:
        """What is wrong with the values of fields, with their key paths; kinds with fields of their own add to it."""
        if not 0.0 <= self.resident_fraction <= 1.0:
            yield Fault("resident_fraction", f"is {self.resident_fraction}, expected 0 to 1")
        if self.prefetch_layers < 0:
            yield Fault("prefetch_layers", f"is {self.prefetch_layers}, expected 0 or more")
        if isinstance(self.resident_layers, int) and self.resident_layers < 0:
            yield Fault("resident_layers", f"is {self.resident_layers}, expected 0 or more, or a list of layers")

    @property
    def slot_count(self) -> int:
        """One slot more than layers are prefetched."""
        return self.prefetch_layers + 1

    def copied_of_layer(self, layer: int, layer_bytes: int) -> int:
        """Bytes of layer number `layer` that do not stay on the GPU."""
        return 0 if layer in self.numbers_of_resident_layers else copied_bytes(layer_bytes, self.resident_fraction)

    def copies_of_layer(self, layer: int, workload: Workload) -> int:
        """Number of copies for layer `layer`: its chunks, or one."""
        copied = self.copied_of_layer(layer, workload.all_layers[layer].bytes)
        return -(-copied // (self.chunk_bytes or max(copied, 1)))

    @classmethod
    def offers(cls, workload: Workload, world_size: int) -> Iterator[Axes]:
        """Residency by a fraction of each layer, and how many layers ahead."""
        yield {"resident_fraction": OFFERED_FRACTIONS, "prefetch_layers": OFFERED_DEPTHS}

    def variants(self, world_size: int) -> Iterator[Policy]:
        """One layer more ahead; a quarter more of the bytes resident, a quarter less, none."""
        yield from self.changed(prefetch_layers=self.prefetch_layers + 1)
        now = self.resident_fraction
        for fraction in (min(now + RESIDENT_STEP, 1.0), max(now - RESIDENT_STEP, 0.0), 0.0):
            yield from self.changed(resident_fraction=Number(round(fraction, 6)))

    def commands_per_layer(self, layer: int, workload: Workload, world_size: int) -> int:
        """The block; if anything is copied, the copies, two events and their waits, and what `commands_around` adds."""
        block = max(workload.all_layers[layer].blocks, key=command_count)
        if self.resident_fraction == 1.0:
            return world_size * command_count(block)
        copies = self.copies_of_layer(layer, workload)
        collectives = sum(isinstance(op, MEETINGS) for op in block)
        layer_adds, copy_adds, collective_adds = self.commands_around()
        per_rank = command_count(block) + 1 + layer_adds + collectives * collective_adds
        if copies:
            per_rank += 3 + copies * (1 + copy_adds)
        return world_size * per_rank

    def commands_around(self) -> tuple[int, int, int]:
        """Commands that a rank issues besides: for each layer, for each copy and for each collective."""
        return 0, 0, 0
