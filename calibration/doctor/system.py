"""Host memory, processors, software and its environment."""

from __future__ import annotations

import re
from collections.abc import Iterator

from calibration.doctor.findings import Finding, Severity
from calibration.host import Host
from sim.inputs.units import show_bytes

STREAMS = 4
"""Streams of a rank that must not share a queue: compute, copies, collectives, and one to spare."""


def check_memory(host: Host) -> Iterator[Finding]:
    """Whether the models' weights can be pinned."""
    from sim.workloads.named import load_model, parameters, shipped

    room = min((m for m in (host.memory_available, host.memory_limit) if m is not None), default=None)
    ranks = max(len(host.gpus), 1)
    if room is None:
        yield Finding("note", "host memory", "not said", "each rank pins a copy of the model's weights")
    else:
        sizes = {name: 2 * parameters(load_model(name)) * ranks for name in shipped()}
        large = sorted((size, name) for name, size in sizes.items() if size > room)
        limited = " (the control group's limit)" if room == host.memory_limit else " available"
        if large:
            needs = ", ".join(f"{name} {show_bytes(size)}" for size, name in large)
            seen = f"{show_bytes(room)}{limited}: too little for a pinned copy on each rank of {needs}"
            severity: Severity = "warning" if len(large) == len(sizes) else "note"
            yield Finding(severity, "host memory", seen, "measure with fewer layers or ranks, or another model")
        else:
            yield Finding("ok", "host memory", f"{show_bytes(room)}{limited}: enough to pin every shipped model")
    if host.lock_limit is not None:
        seen = f"no more than {show_bytes(host.lock_limit)} may be locked (ulimit -l)"
        yield Finding("note", "host memory", seen, "CUDA's pinned memory does not count; InfiniBand's does")


def check_processors(host: Host) -> Iterator[Finding]:
    """Processors for the ranks, and where they are."""
    ranks = len(host.gpus)
    usable = min(float(host.cpus), host.cpu_limit or float(host.cpus))
    if usable < 2 * ranks:
        advice = "a rank keeps two busy, issuing and polling: late launches would be measured"
        yield Finding("warning", "processors", f"{usable:g} for {ranks} ranks", advice)
    nodes = dict(zip((f"GPU{g.index}" for g in host.gpus), host.gpu_nodes, strict=False))
    known = {node for node in nodes.values() if node is not None}
    if host.numa_nodes < 2 or not ranks:
        return
    if not known:
        advice = "pinned memory may lie far from its GPU: repeat measurements and compare"
        yield Finding("note", "NUMA", f"{host.numa_nodes} nodes; which GPU is at which is not said", advice)
        return
    where = ", ".join(f"{gpu} at {'?' if node is None else node}" for gpu, node in nodes.items())
    bind = f"numactl --cpunodebind={min(known)} --membind={min(known)} chunkflow-sim ..."
    if len(known) > 1:
        advice = (
            "pinned memory may lie at another node than its GPU: repeat and compare, or take the GPUs of one node: "
        )
        yield Finding("warning", "NUMA", f"GPUs at several nodes ({where})", advice + bind)
    elif not known & set(host.own_nodes):
        yield Finding("warning", "NUMA", f"{where}; this process is bound to others", bind)
    elif set(host.own_nodes) != known:
        yield Finding("note", "NUMA", f"{where}; this process may run at any", bind)
    else:
        yield Finding("ok", "NUMA", f"{where}, and so is this process")


def check_software(host: Host) -> Iterator[Finding]:
    """torch, CUDA, and what the torch machine needs."""
    version = host.packages.get("torch")
    if version is None:
        advice = "pip install 'chunkflow-sim[torch]', or a build of torch for these GPUs"
        yield Finding("error", "software", "torch is not installed", advice)
        return
    if not host.gpus:
        return
    if host.torch is None:
        advice = "python -c 'import torch; print(torch.cuda.device_count())' says why"
        yield Finding("error", "software", f"torch {version} could not be asked for its GPUs", advice)
    elif host.torch.cuda is None:
        seen = f"torch {version} is built for CPUs only"
        yield Finding("error", "software", seen, "install a build of torch for CUDA")
    elif host.cuda and _number(host.torch.cuda) > _number(host.cuda):
        seen = f"torch {version} needs CUDA {host.torch.cuda}, the driver supports {host.cuda}"
        yield Finding("error", "software", seen, "install a newer driver, or a build of torch for an older CUDA")
    elif host.torch.gpus < len(host.gpus):
        seen = f"torch sees {host.torch.gpus} of {len(host.gpus)} GPUs"
        yield Finding("error", "software", seen, "dmesg and nvidia-smi -q may say why")
    else:
        seen = f"torch {version}, CUDA {host.torch.cuda}, NCCL {host.nccl or 'unknown'}"
        yield Finding("ok", "software", seen)
    if missing := [name for name in ("cuda-bindings", "triton") if name not in host.packages]:
        seen = f"{' and '.join(missing)} not installed"
        yield Finding("error", "software", seen, f"pip install {' '.join(missing)}: nothing starts on a GPU without")


def check_environment(host: Host) -> Iterator[Finding]:
    """Variables that change what is measured."""
    said = host.environment
    if said.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0"):
        seen = "CUDA_LAUNCH_BLOCKING: every launch waits for its kernel, nothing overlaps"
        yield Finding("error", "environment", seen, "unset it")
    queues = said.get("CUDA_DEVICE_MAX_CONNECTIONS", "")
    if queues.isdigit() and int(queues) < STREAMS:
        seen = f"CUDA_DEVICE_MAX_CONNECTIONS={queues}: streams share a queue, and one that waits on a flag holds others"
        yield Finding("error", "environment", seen, "unset it (8): the gates of `yielding` can hang otherwise")
    if said.get("PYTORCH_NO_CUDA_MEMORY_CACHING", "0") not in ("", "0"):
        seen = "PYTORCH_NO_CUDA_MEMORY_CACHING: every allocation synchronises the device"
        yield Finding("error", "environment", seen, "unset it")
    if "NCCL_LAUNCH_MODE" in said:
        seen = f"NCCL_LAUNCH_MODE={said['NCCL_LAUNCH_MODE']}"
        yield Finding("note", "environment", seen, "collectives start otherwise than by default: unset it")
    if said.get("CUDA_MODULE_LOADING", "LAZY").upper() != "EAGER" and host.gpus:
        seen = "kernels are loaded when first used, which synchronises the device"
        yield Finding(
            "ok", "environment", seen, "all are warmed up before; CUDA_MODULE_LOADING=EAGER for your own code"
        )
    quiet = {"NCCL_LAUNCH_MODE", "NCCL_P2P_DISABLE", "NCCL_P2P_LEVEL", "NCCL_SHM_DISABLE", "NCCL_NVLS_ENABLE"}
    quiet |= {"NCCL_VERSION"}  # of the container image, not a setting
    if others := [f"{k}={v}" for k, v in said.items() if k.startswith("NCCL_") and k not in quiet]:
        yield Finding("note", "environment", ", ".join(others), "what is measured so holds only for these settings")


def _number(version: str) -> tuple[int, ...]:
    """Only the major version: CUDA's minor ones run on older drivers of the same major."""
    found = re.match(r"\d+", version)
    return (int(found[0]),) if found else ()
