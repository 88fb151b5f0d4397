# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A GPU at work for a few seconds: memory that keeps what it is given, tensor cores that compute right, and how fast.

Needs the driver's library and nothing else, so that a host can be tried before anything is installed on it.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

from . import kernels
from .child import ChildFailed, Unresponsive, call
from .cuda import (
    CAPABILITY_MAJOR,
    CAPABILITY_MINOR,
    INTEGRATED,
    MULTIPROCESSORS,
    Cuda,
    CudaError,
    Device,
    Stopwatch,
)

SPARED_BYTES = 256 << 20
"""Of the free memory, for what the driver itself needs meanwhile."""
HOST_BYTES = 256 << 20
PEER_BYTES = 256 << 20
COPIES = 4
THREADS = 256
BLOCKS_PER_MULTIPROCESSOR = 4
SEEDS = (0x5EED1234, 0xA112EDCB)
"""Each is the other's complement, so that every bit is once 0 and once 1."""
LOOPS = 100_000


@dataclass(frozen=True)
class SmokeTest:
    """What became of one GPU; None is what could not be measured."""

    index: int
    error: str = ""
    """What failed, in one sentence."""
    unresponsive: bool = False
    memory_tested_bytes: int | None = None
    memory_errors: int | None = None
    """Words of four bytes that did not hold what was written."""
    compute_errors: int | None = None
    """Sums of products that are wrong."""
    compute_tflops: float | None = None
    """In bfloat16 by the instruction that all cards since Ampere have; newer ones have a faster one beside it."""
    memory_gbps: float | None = None
    """Read and written, in 10^9 bytes a second."""
    to_device_gbps: float | None = None
    from_device_gbps: float | None = None
    peer_gbps: float | None = None
    """To the next GPU, where it can be reached without the host."""


def test(index: int, pci_address: str, next_address: str, deadline_seconds: float) -> SmokeTest:
    """Have one GPU work in a child. Never fails.

    :param next_address: Of the GPU to copy to; empty where there is none.
    """
    try:
        return SmokeTest(index, **call(measure, pci_address, next_address, deadline_seconds=deadline_seconds))
    except Unresponsive as error:
        return SmokeTest(index, error=str(error), unresponsive=True)
    except ChildFailed as error:
        return SmokeTest(index, error=str(error).partition("CudaError: ")[2] or str(error))


def measure(pci_address: str, next_address: str) -> dict[str, Any]:
    """What a child answers: the members of a SmokeTest."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # may hide the GPU
    os.environ["CUDA_CACHE_DISABLE"] = "1"  # writes to the home of the user
    device = Device(Cuda(), pci_address)
    capability = (device.attribute(CAPABILITY_MAJOR), device.attribute(CAPABILITY_MINOR))
    if capability < kernels.CAPABILITY:
        raise CudaError(f"a GPU of compute capability {capability[0]}.{capability[1]} has no bfloat16 to try")
    fill, check, multiply = device.functions(kernels.source(), "fill", "check", "multiply")
    errors = device.allocate(4)
    device.clear(errors)
    return {
        **_compute(device, multiply, errors),
        **_hosts_copies(device),
        **_peers_copies(device, next_address),
        **_memory(device, fill, check, errors),
    }


def _compute(device: Device, multiply: ctypes.c_void_p, errors: ctypes.c_uint64) -> dict[str, Any]:
    blocks = device.attribute(MULTIPROCESSORS) * BLOCKS_PER_MULTIPROCESSOR
    # The first run raises the clocks.
    for _run in range(2):
        with Stopwatch(device) as watch:
            device.launch(multiply, blocks, THREADS, ctypes.c_uint(LOOPS), errors)
    warps = blocks * THREADS // kernels.WARP_THREADS
    flops = warps * LOOPS * kernels.FLOPS_PER_WARP_AND_LOOP
    found = device.word(errors)
    device.clear(errors)
    return {"compute_errors": found, "compute_tflops": round(flops / watch.seconds / 1e12, 1)}


def _memory(device: Device, fill: ctypes.c_void_p, check: ctypes.c_void_p, errors: ctypes.c_uint64) -> dict[str, Any]:
    """Last of all: it takes what is free."""
    free = device.free_bytes()
    # The host's own memory is not to be used up.
    spared = free // 2 if device.attribute(INTEGRATED) else SPARED_BYTES
    size = max(0, free - spared) & ~0xFFF
    if not size:
        raise CudaError("no memory is free")
    start, words = device.allocate(size), ctypes.c_uint64(size // 4)
    blocks = device.attribute(MULTIPROCESSORS) * BLOCKS_PER_MULTIPROCESSOR
    for seed in map(ctypes.c_uint32, SEEDS):
        device.launch(fill, blocks, THREADS, start, words, seed)
        device.launch(check, blocks, THREADS, start, words, seed, errors)
    found, half = device.word(errors), size // 2
    upper = ctypes.c_uint64(start.value + half)
    with Stopwatch(device) as watch:
        for _copy in range(COPIES):
            device.cuda.cuMemcpyDtoDAsync_v2(upper, start, ctypes.c_size_t(half), ctypes.c_void_p())
    # A copy reads and writes.
    return {"memory_tested_bytes": size, "memory_errors": found, "memory_gbps": _gbps(2 * half, watch)}


def _hosts_copies(device: Device) -> dict[str, Any]:
    ours, theirs, size = device.allocate_host(HOST_BYTES), device.allocate(HOST_BYTES), ctypes.c_size_t(HOST_BYTES)
    told = {}
    for name, function, target, origin in (
        ("to_device_gbps", device.cuda.cuMemcpyHtoDAsync_v2, theirs, ours),
        ("from_device_gbps", device.cuda.cuMemcpyDtoHAsync_v2, ours, theirs),
    ):
        with Stopwatch(device) as watch:
            for _copy in range(COPIES):
                function(target, origin, size, ctypes.c_void_p())
        told[name] = _gbps(HOST_BYTES, watch)
    return told


def _peers_copies(device: Device, next_address: str) -> dict[str, Any]:
    if not next_address:
        return {}
    try:
        peer = Device(device.cuda, next_address)
        theirs = peer.allocate(PEER_BYTES)
    except CudaError:
        return {}  # its own test tells
    finally:
        device.use()
    reachable = ctypes.c_int()
    device.cuda.cuDeviceCanAccessPeer(ctypes.byref(reachable), device.number, peer.number)
    if not reachable.value:
        return {}
    device.cuda.cuCtxEnablePeerAccess(peer.context, ctypes.c_uint(0))
    ours, size = device.allocate(PEER_BYTES), ctypes.c_size_t(PEER_BYTES)
    with Stopwatch(device) as watch:
        for _copy in range(COPIES):
            device.cuda.cuMemcpyPeerAsync(theirs, peer.context, ours, device.context, size, ctypes.c_void_p())
    return {"peer_gbps": _gbps(PEER_BYTES, watch)}


def _gbps(size: int, watch: Stopwatch) -> float:
    return round(COPIES * size / watch.seconds / 1e9, 1)
