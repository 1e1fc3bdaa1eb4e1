"""An all-to-all of the ranks of one host by copy engines, through host memory that their processes share.

Where GPUs cannot reach each other (consumer cards, or NCCL_P2P_DISABLE=1), NCCL's kernels move the bytes through host
memory. Copy engines do so faster and take no SMs. A piece goes down while the one before comes up:

    rank s, stream "send":     wait until the slot has been read;  copy down to it;    filled[s] = n
    rank r, stream "receive":  wait until filled[s] >= n;          copy up from it;    read[r] = n

`filled` and `read` are words in that memory, which streams write and wait for. On CPUs, threads stand for streams.

    torchrun --nproc-per-node 2 examples/copy_engine_all_to_all.py

checks and measures it (on GPUs with cuda-bindings). Use it as `dist.all_to_all_single` with equal parts:

    exchange = CopyEngineAllToAll()          # on all ranks
    exchange(output, input)                  # on the current stream; of the same size on all ranks
    exchange.close()                         # on all ranks
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import torch.distributed as dist

LINE = 64  # bytes from one word to the next: words of two ranks share no cache line


class CopyEngineAllToAll:
    """`slots` slots of `piece_bytes` a rank. All ranks of `group` make one together."""

    def __init__(self, piece_bytes: int = 4 << 20, slots: int = 4, group: dist.ProcessGroup | None = None) -> None:
        self.ranks, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.group, self.piece, self.slots, self.turn = group, piece_bytes, slots, 0
        self.readers: deque[int] = deque(maxlen=slots)  # who reads what was sent in the last turns
        flags = -(-2 * self.ranks * LINE // mmap.PAGESIZE) * mmap.PAGESIZE
        self.memory = shared_memory(flags + self.ranks * slots * piece_bytes, group)
        base = self.memory.data_ptr()
        self.filled = [base + rank * LINE for rank in range(self.ranks)]
        self.read = [base + (self.ranks + rank) * LINE for rank in range(self.ranks)]
        self.ring = self.memory[flags:].view(self.ranks, slots, piece_bytes)
        self.streams = CudaStreams(self.memory) if torch.cuda.is_available() else CpuStreams()
        dist.barrier(group)  # nobody's peer maps memory, which may synchronise its GPU, while a stream waits

    def __call__(self, output: torch.Tensor, input: torch.Tensor) -> None:
        """Part r of `input` becomes part `rank` of rank r's `output`. Both are contiguous, of as many bytes."""
        size = input.nbytes // self.ranks
        if not size * self.ranks == input.nbytes == output.nbytes:
            raise ValueError(f"{input.nbytes} and {output.nbytes} bytes: expected {self.ranks} equal parts")
        sent, received = (t.view(-1).view(torch.uint8).view(self.ranks, size) for t in (input, output))
        streams, rank = self.streams, self.rank
        streams.begin(input, output)
        for distance in range(1, self.ranks):
            to, source = (rank + distance) % self.ranks, (rank - distance) % self.ranks
            for start in range(0, size, self.piece):
                slot, length = self.turn % self.slots, min(self.piece, size - start)
                piece = slice(start, start + length)
                if len(self.readers) == self.slots:
                    streams.flag("send", "wait", self.read[self.readers[0]], self.turn - self.slots + 1)
                streams.copy("send", self.ring[rank, slot, :length], sent[to, piece])
                self.turn += 1
                streams.flag("send", "write", self.filled[rank], self.turn)
                self.readers.append(to)
                streams.flag("receive", "wait", self.filled[source], self.turn)
                streams.copy("receive", received[source, piece], self.ring[source, slot, :length])
                streams.flag("receive", "write", self.read[rank], self.turn)
        received[rank].copy_(sent[rank])
        streams.end()

    def close(self) -> None:
        self.streams.close()
        dist.barrier(self.group)


def shared_memory(size: int, group: dist.ProcessGroup | None) -> torch.Tensor:
    """`size` bytes of zeros that all ranks share. They have no name: the kernel frees them with the last process."""
    file = os.memfd_create("copy-engine")
    os.ftruncate(file, size)
    where = [(os.getpid(), file)]
    dist.broadcast_object_list(where, group=group, group_src=0)
    shared = os.open("/proc/{}/fd/{}".format(*where[0]), os.O_RDWR)
    memory = torch.frombuffer(mmap.mmap(shared, size), dtype=torch.uint8)
    os.close(shared)
    dist.barrier(group)  # until all have opened it
    os.close(file)
    return memory


class CudaStreams:
    """Two streams of the current GPU that copy, and write and wait for words of `memory`."""

    def __init__(self, memory: torch.Tensor) -> None:
        from cuda.bindings import driver

        self.driver, self.memory = driver, memory
        self.streams = {"send": torch.cuda.Stream(), "receive": torch.cuda.Stream()}
        self.handles = {name: driver.CUstream(stream.cuda_stream) for name, stream in self.streams.items()}
        self.call("cuMemHostRegister", memory.data_ptr(), memory.nbytes, 0x01 | 0x02)  # portable, mapped
        self.shift = int(self.call("cuMemHostGetDevicePointer", memory.data_ptr(), 0)) - memory.data_ptr()

    def call(self, name: str, *arguments: Any) -> Any:
        result = getattr(self.driver, name)(*arguments)
        if int(result[0]) != 0:
            raise RuntimeError(f"{name} answered {result[0]!r}")
        return result[1] if len(result) > 1 else None

    def begin(self, *tensors: torch.Tensor) -> None:
        for stream in self.streams.values():
            stream.wait_stream(torch.cuda.current_stream())
            for tensor in tensors:
                tensor.record_stream(stream)

    def copy(self, stream: str, target: torch.Tensor, source: torch.Tensor) -> None:
        to, at, gpu = target.data_ptr(), source.data_ptr(), self.driver.CUdeviceptr
        name, *ends = ("cuMemcpyHtoDAsync", gpu(to), at) if target.is_cuda else ("cuMemcpyDtoHAsync", to, gpu(at))
        self.call(name, *ends, target.nbytes, self.handles[stream])

    def flag(self, stream: str, does: str, address: int, value: int) -> None:
        """Write a word, or wait until it is at least `value` (cyclically, which is what flags of 0 mean)."""
        word = self.driver.CUdeviceptr(address + self.shift)
        self.call(f"cuStream{does.title()}Value32", self.handles[stream], word, value % 2**32, 0)

    def end(self) -> None:
        for stream in self.streams.values():
            torch.cuda.current_stream().wait_stream(stream)

    def close(self) -> None:
        torch.cuda.synchronize()
        self.call("cuMemHostUnregister", self.memory.data_ptr())


class CpuStreams:
    """Two threads as streams; `end` waits for both."""

    def __init__(self) -> None:
        self.pools = {name: ThreadPoolExecutor(1) for name in ("send", "receive")}
        self.pending: list[Future[Any]] = []

    def begin(self, *tensors: torch.Tensor) -> None:
        """What is on the CPU is there."""

    def copy(self, stream: str, target: torch.Tensor, source: torch.Tensor) -> None:
        self.pending.append(self.pools[stream].submit(target.copy_, source))

    def flag(self, stream: str, does: str, address: int, value: int) -> None:
        word = ctypes.c_uint32.from_address(address)

        def wait() -> None:
            while (word.value - value) % 2**32 >= 2**31:
                time.sleep(20e-6)

        call = wait if does == "wait" else lambda: setattr(word, "value", value % 2**32)
        self.pending.append(self.pools[stream].submit(call))

    def end(self) -> None:
        while self.pending:
            self.pending.pop(0).result()

    def close(self) -> None:
        for pool in self.pools.values():
            pool.shutdown()


def main(size: int = 80_000_000, repeats: int = 12) -> None:
    """Compare with torch.distributed's, on the ranks that torchrun has started."""
    gpu, local = torch.cuda.is_available(), int(os.environ["LOCAL_RANK"])
    synchronize = torch.cuda.synchronize if gpu else lambda: None
    if gpu:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpu else "gloo")
    exchange, ranks = CopyEngineAllToAll(), dist.get_world_size()
    given = torch.randn(size // 2 // ranks * ranks, device="cuda" if gpu else "cpu").to(torch.bfloat16)
    found, wanted = torch.empty_like(given), torch.empty_like(given)
    for name, call, target in (("copy engines", exchange, found), ("torch", dist.all_to_all_single, wanted)):
        times = []
        for _ in range(repeats):
            synchronize()
            dist.barrier()
            start = time.perf_counter()
            call(target, given)
            synchronize()
            times.append(time.perf_counter() - start)
        print(f"rank {dist.get_rank()}, {name}: {sorted(times)[repeats // 2] * 1e3:.2f} ms\n", end="")
    exchange.close()
    dist.destroy_process_group()
    sys.exit(not torch.equal(found.view(torch.int16), wanted.view(torch.int16)))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
