# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks through the real nvidia-ml-py at the fake library, each in a process of its own, as on a node."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Driver, Node
from doubles.nvml import fake

pytest.importorskip("pynvml")

LONG_SECONDS = 60.0
MIB = 1024 * 1024
PROGRAM = """
import json, os, sys
from ansible_collections.inferops.vllm.plugins.module_utils._gpu import child, look
child.NAME = f"look-{os.getpid()}"
if "hide" in sys.argv:
    sys.modules["pynvml"] = None
node = look.look(float(sys.argv[1]), sys.argv[2])
json.dump(node.to_json(), sys.stdout)
"""
# The reasons differ with who is asked.
BY_NVML_ALONE = {
    "compute_capability",
    "nvlinks_active",
    "nvlinks_inactive",
    "nvlink_errors",
    "slowdown_celsius",
    "shutdown_celsius",
    "errors",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.build(tmp_path_factory.mktemp("fake_nvml"))


class Host:
    """A node whose GPUs are those of a scenario."""

    def __init__(self, folder: Path, here: Path) -> None:
        self._folder = folder
        self._here = here
        self.hidden: set[str] = set()
        """Variables that the process does not get."""

    def look(self, name: str, *options: str, deadline_seconds: float = LONG_SECONDS) -> Node:
        scenario = fake.scenario(name, self._here)
        root = fake.root(self._here / "root", scenario)
        environment = {**os.environ, **fake.environment(self._folder, scenario)}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        for variable in self.hidden:
            del environment[variable]
        command = [sys.executable, "-c", PROGRAM, str(deadline_seconds), str(root), *options]
        finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert finished.stderr == ""
        return Node.from_json(json.loads(finished.stdout))


@pytest.fixture
def host(folder: Path, tmp_path: Path) -> Host:
    return Host(folder, tmp_path)


def comparable(node: Node) -> list[dict[str, object]]:
    """What both tell; the fake library does not know the names of processes."""
    gpus = [
        dataclasses.replace(gpu, processes=tuple(dataclasses.replace(seen, name="") for seen in gpu.processes or ()))
        for gpu in node.gpus
    ]
    return [
        {name: value for name, value in dataclasses.asdict(gpu).items() if name not in BY_NVML_ALONE} for gpu in gpus
    ]


def test_healthy(host: Host) -> None:
    node = host.look("healthy_8")
    assert (node.source, node.fallback, node.error, node.unresponsive) == ("nvml", "", "", False)
    assert node.driver == Driver("580.159.04", "580.159.04", "580.159.04", "13.0")
    assert not node.driver.mismatch
    assert [gpu.index for gpu in node.gpus] == list(range(8))
    assert tuple(gpu.pci_address for gpu in node.gpus) == node.pci_addresses
    assert node.nvswitches == 4
    assert not any(gpu.lost or gpu.reset_required for gpu in node.gpus)
    fourth = node.gpus[3]
    assert (fourth.name, fourth.uuid) == ("NVIDIA H100 80GB HBM3", "GPU-00005a13-7b1c-4d20-9e5f-000000000003")
    assert [(process.pid, process.used_bytes) for process in fourth.processes or ()] == [(4203, 73214 * MIB)]
    assert (fourth.memory_used_bytes, fourth.memory_reserved_bytes) == (73214 * MIB, 480 * MIB)
    assert (fourth.temperature_celsius, fourth.memory_temperature_celsius, fourth.power_watts) == (58, 64, 412.37)
    assert (fourth.slowdown_celsius, fourth.shutdown_celsius, fourth.compute_capability) == (89, 95, "9.0")
    assert (fourth.nvlinks_active, fourth.nvlinks_inactive) == (18, 0)
    assert (fourth.fabric_state, fourth.fabric_status, fourth.fabric_faults) == ("completed", 0, ())
    assert (fourth.recovery_action, fourth.sram_threshold_exceeded, fourth.remap_pending) == ("none", False, False)
    assert fourth.errors["pages_retired"] == "not supported"


@pytest.mark.parametrize("scenario", ["healthy_8", "mig", "remap_pending", "recovery_reset", "throttled"])
def test_nvidia_smi_tells_the_same(host: Host, scenario: str) -> None:
    told = host.look(scenario)
    instead = host.look(scenario, "hide")
    assert (instead.source, instead.error) == ("nvidia-smi", "")
    assert instead.fallback.startswith("pynvml cannot be imported: ")
    assert instead.driver == told.driver
    assert comparable(instead) == comparable(told)


@pytest.mark.parametrize("options", [(), ("hide",)])
def test_lost(host: Host, options: tuple[str, ...]) -> None:
    node = host.look("lost", *options)
    assert (node.source, node.error) == ("nvidia-smi" if options else "nvml", "")
    assert [gpu.index for gpu in node.gpus if gpu.lost] == [3]
    lost = node.gpus[3]
    assert (lost.uuid, lost.pci_address, set(lost.errors.values())) == (None, "0000:61:00", {"GPU is lost"})
    assert tuple(gpu.pci_address for gpu in node.gpus) == node.pci_addresses
    assert node.gpus[4].uuid == "GPU-00005a14-7b1c-4d20-9e5f-000000000004"


@pytest.mark.parametrize("options", [(), ("hide",)])
def test_driver_mismatch(host: Host, options: tuple[str, ...]) -> None:
    node = host.look("driver_mismatch", *options)
    assert (node.source, node.code, node.unresponsive, node.gpus) == ("", 18, False, ())
    assert "mismatch" in node.error or "of different versions" in node.error
    assert node.driver == Driver(loaded="580.95.05", installed="580.159.04", library="580.159.04")
    assert node.driver.mismatch
    assert len(node.pci_addresses) == 2


@pytest.mark.parametrize("options", [(), ("hide",)])
def test_hang(host: Host, options: tuple[str, ...]) -> None:
    started = time.monotonic()
    node = host.look("hang", *options, deadline_seconds=2.0)
    assert time.monotonic() - started < LONG_SECONDS
    assert (node.source, node.unresponsive, node.gpus) == ("", True, ())
    assert node.error == "no answer from the GPUs in 2 s"
    assert (node.driver.loaded, node.driver.library) == ("580.159.04", "580.159.04")
    assert len(node.pci_addresses) == 2


def test_no_library(host: Host) -> None:
    host.hidden = {"LD_LIBRARY_PATH"}
    node = host.look("healthy_2")
    assert (node.source, node.fallback, node.code) == ("", "NVML: library not found", 12)
    assert node.error.startswith("nvidia-smi: NVIDIA-SMI couldn't find libnvidia-ml.so")
    assert len(node.pci_addresses) == 2


def test_no_driver(host: Host) -> None:
    node = host.look("driver_not_loaded")
    assert (node.source, node.error, node.code) == ("", "NVML: driver not loaded", 9)
    assert node.driver.loaded == ""


def test_reset_required(host: Host) -> None:
    node = host.look("reset_required")
    assert any(gpu.reset_required for gpu in node.gpus)


def test_old_driver(host: Host) -> None:
    """It knows less, and what it knows is told."""
    node = host.look("old_driver")
    assert (node.source, node.error) == ("nvml", "")
    assert all(gpu.uuid and gpu.temperature_celsius for gpu in node.gpus)
    assert {gpu.recovery_action for gpu in node.gpus} == {None}
