# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The little of CUDA's driver library that a smoke test of a GPU needs. It may hang: to be used in a child only."""

from __future__ import annotations

import ctypes
from typing import Any

LIBRARY = "libcuda.so.1"
MULTIPROCESSORS = 16
INTEGRATED = 18
CAPABILITY_MAJOR = 75
CAPABILITY_MINOR = 76
"""Numbers of attributes of a device."""


class CudaError(Exception):
    """A call failed; the message says which and why."""


class Cuda:
    """Calls by name: `cuda.cuMemAlloc_v2(...)` raises CudaError where it does not return 0."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise CudaError(f"{LIBRARY} cannot be loaded: {error}") from error
        self.cuInit(ctypes.c_uint(0))

    def __getattr__(self, name: str) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise CudaError(f"{LIBRARY} has no {name}") from None

        def call(*arguments: Any) -> None:
            code = function(*arguments)
            if code:
                raise CudaError(f"{name}: {self._reason(code)}")

        return call

    def _reason(self, code: int) -> str:
        text = ctypes.c_char_p()
        if self._library.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text)) == 0 and text.value:
            return text.value.decode(errors="replace")
        return f"CUDA error {code}"


class Device:
    """One GPU, with a context of its own that is current from now on.

    :param pci_address: As pci.normalize writes it.
    """

    def __init__(self, cuda: Cuda, pci_address: str) -> None:
        self.cuda = cuda
        self.number = ctypes.c_int()
        cuda.cuDeviceGetByPCIBusId(ctypes.byref(self.number), f"{pci_address}.0".encode())
        self._context = ctypes.c_void_p()
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), self.number)
        self.use()

    @property
    def context(self) -> ctypes.c_void_p:
        return self._context

    def use(self) -> None:
        """Make its context the current one."""
        self.cuda.cuCtxSetCurrent(self._context)

    def attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self.cuda.cuDeviceGetAttribute(ctypes.byref(value), ctypes.c_int(number), self.number)
        return value.value

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> ctypes.c_uint64:
        """Memory of the GPU, which goes with the process."""
        pointer = ctypes.c_uint64()
        self.cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size))
        return pointer

    def allocate_host(self, size: int) -> ctypes.c_void_p:
        """Memory of the host that the GPU reaches without a copy."""
        pointer = ctypes.c_void_p()
        self.cuda.cuMemHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(size), ctypes.c_uint(0))
        return pointer

    def functions(self, source: str, *names: str) -> list[ctypes.c_void_p]:
        """The programs of that text."""
        module = ctypes.c_void_p()
        self.cuda.cuModuleLoadData(ctypes.byref(module), source.encode())
        found = []
        for name in names:
            function = ctypes.c_void_p()
            self.cuda.cuModuleGetFunction(ctypes.byref(function), module, name.encode())
            found.append(function)
        return found

    def launch(self, function: ctypes.c_void_p, blocks: int, threads: int, *arguments: Any) -> None:
        """Have a program run; its arguments are of ctypes."""
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        one, none = ctypes.c_uint(1), ctypes.c_void_p()
        sizes = (ctypes.c_uint(blocks), one, one, ctypes.c_uint(threads), one, one)
        self.cuda.cuLaunchKernel(function, *sizes, ctypes.c_uint(0), none, pointers, none)

    def word(self, pointer: ctypes.c_uint64) -> int:
        """A word of its memory, once all that was begun is done."""
        value = ctypes.c_uint32()
        self.cuda.cuMemcpyDtoH_v2(ctypes.byref(value), pointer, ctypes.c_size_t(4))
        return value.value

    def clear(self, pointer: ctypes.c_uint64) -> None:
        self.cuda.cuMemsetD32_v2(pointer, ctypes.c_uint(0), ctypes.c_size_t(1))


class Stopwatch:
    """What a GPU takes for the work that is begun within the block, by its own clock."""

    def __init__(self, device: Device) -> None:
        self._cuda = device.cuda
        self._began, self._ended = ctypes.c_void_p(), ctypes.c_void_p()
        for event in (self._began, self._ended):
            self._cuda.cuEventCreate(ctypes.byref(event), ctypes.c_uint(0))
        self.seconds = 0.0

    def __enter__(self) -> Stopwatch:
        self._cuda.cuEventRecord(self._began, ctypes.c_void_p())
        return self

    def __exit__(self, *_exception: object) -> None:
        self._cuda.cuEventRecord(self._ended, ctypes.c_void_p())
        self._cuda.cuEventSynchronize(self._ended)
        milliseconds = ctypes.c_float()
        self._cuda.cuEventElapsedTime(ctypes.byref(milliseconds), self._began, self._ended)
        self.seconds = milliseconds.value / 1000
