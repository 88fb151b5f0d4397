# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""GPUs of the fake CUDA library at work, each test in a process of its own, as on a node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu.smoke import SmokeTest
from doubles.nvml import fake

LONG_SECONDS = 60.0
SHORT_SECONDS = 1.0
FIRST, SECOND = "0000:00:06", "0000:00:07"
MIB = 1 << 20
PROGRAM = """
import dataclasses, json, os, sys
from ansible_collections.inferops.vllm.plugins.module_utils._gpu import child, smoke
child.NAME = f"look-{os.getpid()}"
found = smoke.test(0, sys.argv[1], sys.argv[2], float(sys.argv[3]))
json.dump(dataclasses.asdict(found), sys.stdout)
"""
TOTAL_MIB, RESERVED_MIB = 81559, 480
TAKEN_MIB = 2 * 256 + 256
"""By the copies to the host and to the next GPU, and spared."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.build(tmp_path_factory.mktemp("fake_nvml"))


class Host:
    """A node with two GPUs."""

    def __init__(self, folder: Path, here: Path) -> None:
        self.scenario = fake.scenario("healthy_2", here)
        self.environment = {**os.environ, **fake.environment(folder, self.scenario)}
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))

    def edit(self, section: str, **values: object) -> None:
        fake.edit(self.scenario, section, **values)

    def test(self, address: str = FIRST, following: str = "", deadline_seconds: float = LONG_SECONDS) -> SmokeTest:
        finished = subprocess.run(
            [sys.executable, "-c", PROGRAM, address, following, str(deadline_seconds)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            # A child that ignores SIGTERM must not keep the test waiting.
            timeout=LONG_SECONDS,
        )
        assert finished.stderr == ""
        return SmokeTest(**json.loads(finished.stdout))


@pytest.fixture
def host(folder: Path, tmp_path: Path) -> Host:
    return Host(folder, tmp_path)


def test_sound(host: Host) -> None:
    assert host.test(FIRST, SECOND) == SmokeTest(
        0,
        memory_tested_bytes=(TOTAL_MIB - RESERVED_MIB - TAKEN_MIB) * MIB - 4096,
        memory_errors=0,
        compute_errors=0,
        compute_tflops=600.0,
        memory_gbps=3000.0,
        to_device_gbps=50.0,
        from_device_gbps=50.0,
        peer_gbps=200.0,
    )


def test_its_own_speeds(host: Host) -> None:
    host.edit("gpu1", cuda_tflops=61.5, cuda_memory_gbps=1555, cuda_host_gbps=6.2, cuda_peer_gbps=21)
    found = host.test(SECOND, FIRST)
    assert (found.compute_tflops, found.memory_gbps, found.peer_gbps) == (61.5, 1555.0, 21.0)
    assert (found.to_device_gbps, found.from_device_gbps) == (6.2, 6.2)
    assert host.test(FIRST).compute_tflops == 600.0


def test_memory_errors(host: Host) -> None:
    """Bits that are stuck at 1 show with one of the two seeds."""
    host.edit("gpu1", memory_errors=3)
    found = host.test(SECOND)
    assert (found.error, found.memory_errors, found.compute_errors) == ("", 3, 0)
    assert host.test(FIRST).memory_errors == 0


def test_compute_errors(host: Host) -> None:
    host.edit("gpu0", compute_errors=5)
    found = host.test()
    assert (found.error, found.memory_errors, found.compute_errors) == ("", 0, 2 * 5)


def test_only_gpu(host: Host) -> None:
    found = host.test()
    assert (found.error, found.peer_gbps, found.memory_errors) == ("", None, 0)


def test_next_gpu_that_cannot_be_reached(host: Host) -> None:
    host.edit("gpu1", cuda_peer_access=0)
    found = host.test(FIRST, SECOND)
    assert (found.error, found.peer_gbps, found.memory_errors) == ("", None, 0)


@pytest.mark.parametrize(
    "values",
    [{"handle": "error 15"}, {"cuDevicePrimaryCtxRetain": "error 214"}, {"cuMemAlloc": "error 2"}],
)
def test_next_gpu_that_fails(host: Host, values: dict[str, str]) -> None:
    """Its own test tells."""
    host.edit("gpu1", **values)
    found = host.test(FIRST, SECOND)
    assert (found.error, found.peer_gbps, found.compute_errors, found.memory_errors) == ("", None, 0, 0)
    assert host.test(SECOND).error


def test_link_that_fails(host: Host) -> None:
    host.edit("gpu0", cuMemcpyPeerAsync="error 220")
    assert host.test(FIRST, SECOND) == SmokeTest(
        0, error="cuMemcpyPeerAsync: uncorrectable NVLink error detected during the execution"
    )


@pytest.mark.parametrize(
    ("section", "values", "error"),
    [
        ("system", {"cuInit": "error 100"}, "cuInit: no CUDA-capable device is detected"),
        ("system", {"cuInit": "error 802"}, "cuInit: system not yet initialized"),
        ("system", {"nvmlInit": "error 9"}, "cuInit: no CUDA-capable device is detected"),
        (
            "system",
            {"nvmlInit": "error 18"},
            "cuInit: system has unsupported display driver / cuda driver combination",
        ),
        ("gpu0", {"handle": "error 15"}, "cuDeviceGetByPCIBusId: invalid device ordinal"),
        (
            "gpu0",
            {"cuDevicePrimaryCtxRetain": "error 46"},
            "cuDevicePrimaryCtxRetain: CUDA-capable device(s) is/are busy or unavailable",
        ),
        ("gpu0", {"cuda_calls": "error 999"}, "cuDeviceGetByPCIBusId: unknown error"),
        ("gpu0", {"cuMemAlloc": "error 2"}, "cuMemAlloc_v2: out of memory"),
        (
            "gpu0",
            {"cuMemHostAlloc": "error 304"},
            "cuMemHostAlloc: OS call failed or operation not supported on this OS",
        ),
        ("gpu0", {"cuModuleLoadData": "error 221"}, "cuModuleLoadData: PTX JIT compiler library not found"),
        ("gpu0", {"cuMemcpyDtoH_v2": "error 214"}, "cuMemcpyDtoH_v2: uncorrectable ECC error encountered"),
        ("gpu0", {"cuEventSynchronize": "error 719"}, "cuEventSynchronize: unspecified launch failure"),
        ("gpu0", {"cuLaunchKernel": "error 4242"}, "cuLaunchKernel: CUDA error 4242"),
        ("gpu0", {"compute_capability": "7.5"}, "a GPU of compute capability 7.5 has no bfloat16 to try"),
        ("gpu0", {"cuda_free_mib": "200"}, "cuMemAlloc_v2: out of memory"),
        ("gpu0", {"cuda_free_mib": "512"}, "no memory is free"),
    ],
)
def test_failure(host: Host, section: str, values: dict[str, str], error: str) -> None:
    host.edit(section, **values)
    assert host.test() == SmokeTest(0, error=error)


def test_unknown_address(host: Host) -> None:
    assert host.test("0000:ff:00").error == "cuDeviceGetByPCIBusId: invalid device ordinal"


def test_no_library(host: Host) -> None:
    del host.environment["LD_LIBRARY_PATH"]
    found = host.test()
    assert found.error.startswith("libcuda.so.1 cannot be loaded: ")
    assert not found.unresponsive


def test_library_that_lacks_a_function(host: Host, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").symlink_to(folder / "lib" / "libnvidia-ml.so.1")
    host.environment["LD_LIBRARY_PATH"] = str(tmp_path)
    assert host.test() == SmokeTest(0, error="libcuda.so.1 has no cuInit")


@pytest.mark.parametrize(
    ("section", "call"), [("system", "cuInit"), ("gpu0", "cuMemcpyDtoH"), ("gpu0", "cuEventSynchronize")]
)
def test_hang(host: Host, section: str, call: str) -> None:
    """Such a call is deaf to SIGTERM."""
    host.edit(section, **{call: "hang 3600"})
    assert host.test(deadline_seconds=SHORT_SECONDS) == SmokeTest(
        0, error="no answer from the GPUs in 1 s", unresponsive=True
    )


def test_call_that_takes_its_time(host: Host) -> None:
    host.edit("gpu0", cuMemcpyDtoH="hang 0.2")
    assert host.test().memory_errors == 0


def test_memory_in_use(host: Host) -> None:
    host.edit("gpu0", processes="4242:VLLM::EngineCor:78000")
    tested = (TOTAL_MIB - RESERVED_MIB - 78000 - TAKEN_MIB + 256) * MIB - 4096
    assert host.test().memory_tested_bytes == tested


def test_memory_of_the_host(host: Host) -> None:
    """Half of it is left to the host."""
    host.edit("gpu0", cuda_integrated=1, cuda_free_mib=1280)
    assert host.test().memory_tested_bytes == 512 * MIB - 4096


def test_gpus_that_the_user_does_not_see(host: Host) -> None:
    host.environment["CUDA_VISIBLE_DEVICES"] = ""
    assert host.test().error == ""
