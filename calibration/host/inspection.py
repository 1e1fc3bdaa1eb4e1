"""A host as a whole, and what tells it from others."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import re
import resource
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec

from calibration.host import kernel
from calibration.host.facts import Host, Torch, by_kind
from calibration.host.nvidia_smi import GPU_FIELDS, known_fields, parse_gpus, parse_peers, parse_topology, query
from calibration.host.shell import read, run

HOST_MEMORY = "host memory"
"""Key of a fingerprint: the host's memory, or what its control group allows."""

ENVIRONMENT = ("NCCL_", "CUDA_", "PYTORCH_", "TORCH_NCCL_")
"""Beginnings of the environment variables that matter."""

PACKAGES = ("torch", "triton", "cuda-bindings", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "chunkflow-sim")

TORCH = """
import json, os
os.environ.pop("CUDA_VISIBLE_DEVICES", None)
os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
import torch
count = torch.cuda.device_count()
print(json.dumps({
    "gpus": count,
    "cuda": torch.version.cuda,
    "nccl": ".".join(map(str, torch.cuda.nccl.version())) if count else None,
    "peers": [[a == b or torch.cuda.can_device_access_peer(a, b) for b in range(count)] for a in range(count)],
}))
"""
"""Asked in a process of its own: torch would keep a context on every GPU."""


def inspect() -> Host:
    """This host."""
    fields = known_fields(GPU_FIELDS)
    listed = run("nvidia-smi", *query(fields))
    busy = run("nvidia-smi", "--query-compute-apps=gpu_uuid,pid", "--format=csv,noheader,nounits")
    gpus = tuple(kernel.with_ports(gpu) for gpu in parse_gpus(listed, busy, fields))
    links, nodes = parse_topology(run("nvidia-smi", "topo", "-m"), len(gpus))
    version = re.search(r"CUDA (?:UMD )?Version: *([\d.]+)", run("nvidia-smi"))
    torch = torch_facts() if gpus else None
    sockets, cores = kernel.parse_cpuinfo(read("/proc/cpuinfo"))
    memory = kernel.parse_meminfo(read("/proc/meminfo"))
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    processor = read("/proc/cpuinfo")
    model = re.search(r"model name\s*: *(.+)", processor)
    return Host(
        gpus=gpus,
        links=links,
        peers=parse_peers(run("nvidia-smi", "topo", "-p2p", "r"), len(gpus)),
        gpu_nodes=nodes or tuple(kernel.numa_node(gpu) for gpu in gpus),
        cpu=model[1].strip() if model else platform.processor() or None,
        sockets=sockets,
        cores=cores,
        cpus=len(os.sched_getaffinity(0)),
        cpu_limit=kernel.cpu_limit(),
        numa_nodes=max(len(list(kernel.NODES.glob("node[0-9]*"))), 1),
        own_nodes=kernel.own_nodes(),
        memory_total=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        memory_limit=kernel.memory_limit(),
        lock_limit=None if locked == resource.RLIM_INFINITY else locked,
        shared_memory=kernel.free_bytes("/dev/shm"),
        kernel=platform.release(),
        virtual="hypervisor" in processor,
        iommu=any(Path("/sys/class/iommu").glob("*")),
        acs=kernel.parse_acs(run("lspci", "-D", "-vvv"), {port.bus for gpu in gpus for port in gpu.ports[1:]}),
        torch=torch,
        cuda=version[1] if version else None,
        nccl=(torch and torch.nccl) or _nccl(),
        packages=_packages(),
        environment={k: v for k, v in sorted(os.environ.items()) if k.startswith(ENVIRONMENT)},
    )


def fingerprint(host: Host) -> dict[str, str]:
    """What tells this host and its software from others, as a profile's `fingerprint` holds it."""
    first = host.gpus[0] if host.gpus else None
    kinds = by_kind(host.gpus, lambda gpu: gpu.name)
    links = dict.fromkeys(f"PCIe Gen{gpu.link_generation_max} x{gpu.link_width_max}" for gpu in host.gpus)
    hardware = {
        "gpu": " + ".join(f"{len(gpus)} x {name}" for name, gpus in kinds.items()) or "none",
        "link": " / ".join(links) or "none",
        "peers": " / ".join(sorted({c for row in host.links for c in row if c != "X"})) or "none",
        "power limit": " / ".join(sorted({f"{g.power_limit:g} W" for g in host.gpus if g.power_limit})) or "unknown",
        "cpu": f"{host.cpu or 'unknown'}, {host.cpus} processors, {host.numa_nodes} NUMA nodes",
    }
    ids = [g.uuid or g.name for g in host.gpus]
    digest = hashlib.sha256(msgspec.json.encode([hardware, ids, [g.bus for g in host.gpus]])).hexdigest()[:12]
    software = {
        "driver": first.driver if first and first.driver else "unknown",
        "cuda": host.cuda or "unknown",
        "nccl": host.nccl or "unknown",
        "kernel": host.kernel + (", virtual machine" if host.virtual else ""),
        **{name: version for name, version in host.packages.items() if "nccl" not in name},
        "environment": " ".join(f"{k}={v}" for k, v in host.environment.items() if k.startswith("NCCL_")) or "default",
    }
    memory = {f"{g.memory:g} MiB" for g in host.gpus if g.memory}
    reported = {"memory": " / ".join(sorted(memory))} if memory else {}
    room = [size for size in (host.memory_total, host.memory_limit) if size is not None]
    if room:
        reported[HOST_MEMORY] = f"{min(room) // 2**20} MiB"
    return {**hardware, **reported, "host": digest, **software}


def now() -> str:
    """The date and time, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def torch_facts() -> Torch | None:
    """What torch says; None where it is not installed or cannot."""
    if find_spec("torch") is None:
        return None
    said = run(sys.executable, "-c", TORCH)
    try:
        return msgspec.json.decode(said.strip().rpartition("\n")[2], type=Torch)
    except msgspec.MsgspecError:
        return None


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _nccl() -> str | None:
    for name, version in _packages().items():
        if "nccl" in name:
            return version
    return None
