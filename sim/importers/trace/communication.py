"""Collectives of a trace: which kernels are some, of what kind, how many bytes, between which ranks."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from sim.importers.trace.kineto import Args, Distributed, plain, whole, words
from sim.program import CollectiveKind

_KERNEL = re.compile(r"^(?:nccl|rccl)(?:Symk?)?(?:Dev)?(?:Kernel)?_?([A-Za-z]+)", re.IGNORECASE)
"""`ncclKernel_AllReduce_RING_LL_Sum_float(...)`, `ncclDevKernel_SendRecv(...)`, `ncclAllReduceRingLLKernel_...`,
`ncclSymkDevKernel_AllReduce_...` (on symmetric memory)."""
_OWN_KERNELS = re.compile(
    r"cross_device_reduce_(?:1|2)stage|(?:one|two)_?shot_all_?reduce|multimem_all_?reduce|allreduce_fusion_kernel|"
    r"(multimem_all_?gather)",
    re.IGNORECASE,
)
"""Collectives that vLLM, SGLang, PyTorch (symmetric memory), FlashInfer and TensorRT-LLM bring."""

_KINDS: tuple[tuple[str, CollectiveKind], ...] = (
    ("alltoall", "all_to_all"),
    ("allreduce", "all_reduce"),
    ("reducescatter", "reduce_scatter"),
    ("allgather", "all_gather"),
    ("broadcast", "all_gather"),
    ("scatter", "all_to_all"),
    ("gather", "all_gather"),
    ("barrier", "all_reduce"),
    ("sendrecv", "all_to_all"),
    ("send", "send_recv"),
    ("recv", "send_recv"),
    ("reduce", "reduce_scatter"),
)
"""What a name holds -> the kind that it is taken as; first match."""
_SIZES = {
    "float": 4,
    "half": 2,
    "bfloat16": 2,
    "double": 8,
    "long": 8,
    "long int": 8,
    "int": 4,
    "short": 2,
    "char": 1,
    "signed char": 1,
    "unsigned char": 1,
    "byte": 1,
    "bool": 1,
}


class Exchange(NamedTuple):
    """A collective of one rank: `bytes` as `Collective` counts them, `size` ranks; None where the trace says nothing.

    `ranks` are those of its group, in order. `name` is what the trace calls it.
    """

    kind: CollectiveKind | None
    bytes: int | None
    size: int | None
    ranks: tuple[int, ...] | None
    name: str


def is_collective(kernel: str) -> bool:
    """Whether a kernel of this name is NCCL's or RCCL's, or a collective that a runtime brings."""
    return _called(kernel) is not None


def _called(kernel: str) -> str | None:
    """What a kernel's name says of its collective; None for other kernels."""
    if (found := _KERNEL.match(kernel)) is not None:
        return found[1]
    own = _OWN_KERNELS.search(kernel[:400])
    return None if own is None else "all_gather" if own[1] else "all_reduce"


def exchange(kernel: str, args: Args | None, distributed: Distributed | None) -> Exchange:
    """The collective that a kernel is part of; `args` are those of what describes it, the kernel or its host side."""
    name = words(args.collective if args else None)
    kind = kind_of(name) if name else None
    if kind is None:
        called = _called(kernel)
        kind, name = (kind_of(called), called) if called else (None, name)
    if args is None:
        return Exchange(kind, None, None, None, name)
    into, out = whole(args.elements_in), whole(args.elements_out)
    elements = out if kind == "all_gather" else into
    size = element_size(words(args.dtype))
    count = None if elements is None or size is None else elements * size
    if count is None:
        dims, types = plain(args.dims), plain(args.types)
        count = _described(dims, types) if isinstance(dims, list) and isinstance(types, list) else None
    ranks = _ranks(args, distributed)
    members = whole(args.group_size)
    return Exchange(kind, count or None, members or (len(ranks) if ranks else None), ranks, name)


def kind_of(name: str) -> CollectiveKind | None:
    """The kind of collective that a name stands for."""
    letters = re.sub(r"[^a-z]", "", name.lower())
    return next((kind for part, kind in _KINDS if part in letters), None)


def element_size(dtype: str) -> int | None:
    """Bytes of an element of a torch type, by its name; None if that is not known."""
    name = dtype.lower().removeprefix("c10::")
    return 1 if name.startswith("float8") else _SIZES.get(name)


def _described(dims: list[object], types: list[object]) -> int | None:
    """Bytes of the first tensor that a host-side operator was given."""
    for shape, dtype in zip(dims, types, strict=False):
        if isinstance(shape, list) and shape and all(isinstance(n, int) and 0 < n < 2**40 for n in shape):
            size = element_size(words(dtype))
            return None if size is None else math.prod(shape) * size
    return None


def _ranks(args: Args, distributed: Distributed | None) -> tuple[int, ...] | None:
    text = words(args.ranks)
    if text.startswith("[") and "..." not in text and (parts := re.findall(r"\d+", text)):
        return tuple(map(int, parts))
    name = words(args.group_name)
    for group in distributed.groups if distributed else ():
        if name and words(group.name) == name and group.ranks:
            return group.ranks
    return None
