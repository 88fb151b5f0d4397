# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fake NVML library answers the real pynvml as the real one does, the fake nvidia-smi prints like the real, and the
fake CUDA library meets what is wrong with a program as a GPU does."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from doubles.nvml import fake

SCENARIOS = sorted(path.stem for path in (fake.HERE / "scenarios").iterdir())
MIB = 1 << 20

# Reads expressions from stdin, a line each, and answers with their values as JSON.
INTERPRETER = """
import ctypes, json, sys
import pynvml as n

def filled(call, structure, **fields):
    # Given as it is, the structure would go by value, and the library write to where it likes.
    for name, value in fields.items():
        setattr(structure, name, value)
    code = n._nvmlGetFunctionPointer(call)(gpu(0), ctypes.byref(structure))
    return f"error {code}" if code else plain(structure)

def field(index, number):
    value = n.nvmlDeviceGetFieldValues(gpu(index), [number])[0]
    return f"error {value.nvmlReturn}" if value.nvmlReturn else [value.valueType, value.value.ullVal]

def gpu(index):
    return n.nvmlDeviceGetHandleByIndex(index)

def plain(structure):
    return {name: getattr(structure, name) for name, _ in structure._fields_}

def answer(expression):
    try:
        return eval(expression)
    except n.NVMLError as error:
        return f"error {error.value}"

print(json.dumps(answer("n.nvmlInit()")), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(line), default=list), flush=True)
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.build(tmp_path_factory.mktemp("fake_nvml"))


class Node:
    """A node with the GPUs of a scenario, and a program there that asks pynvml."""

    def __init__(self, folder: Path, scenario: Path, kernel_log: Path | None = None) -> None:
        self.scenario = scenario
        self.environment = {**os.environ, **fake.environment(folder, scenario, kernel_log)}
        self.started: list[subprocess.Popen[str]] = []

    def edit(self, section: str, **values: object) -> None:
        fake.edit(self.scenario, section, **values)

    def start(self, *command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        self.started.append(subprocess.Popen(command, env=self.environment, stdin=pipe, stdout=pipe, text=True))
        return self.started[-1]

    def pynvml(self) -> subprocess.Popen[str]:
        return self.start(sys.executable, "-c", INTERPRETER)

    def ask(self, *expressions: str) -> Any:
        """Return the value of the expression, or those of several; "error N" where NVML answers so."""
        process = self.pynvml()
        output, _errors = process.communicate("".join(f"{expression}\n" for expression in expressions), timeout=60)
        assert process.returncode == 0
        initialized, *values = map(json.loads, output.splitlines())
        if initialized:
            return initialized
        return values if len(values) > 1 else values[0]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)

    def smi(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("nvidia-smi", *arguments)

    def xml(self) -> ET.Element:
        return ET.fromstring(self.smi("-q", "-x").stdout)

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()


@pytest.fixture
def node(folder: Path, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    nodes = []

    def make(scenario: str, kernel_log: str = "") -> Node:
        log = fake.kernel_log(kernel_log, tmp_path) if kernel_log else None
        nodes.append(Node(folder, fake.scenario(scenario, tmp_path), log))
        return nodes[-1]

    yield make
    for made in nodes:
        made.close()


def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.01)


def deaf(process: subprocess.Popen[str]) -> bool:
    """Tell whether the process blocks SIGTERM."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    blocked = re.search(r"^SigBlk:\t(\w+)", status, flags=re.MULTILINE)
    return bool(blocked and int(blocked[1], 16) >> (signal.SIGTERM - 1) & 1)


class TestPynvml:
    def test_healthy_node(self, node: Callable[..., Node]) -> None:
        answers = {
            "n.nvmlSystemGetDriverVersion()": "580.159.04",
            "n.nvmlSystemGetNVMLVersion()": "13.580.159.04",
            "n.nvmlSystemGetCudaDriverVersion()": 13000,
            "n.nvmlSystemGetCudaDriverVersion_v2()": 13000,
            "n.nvmlDeviceGetCount()": 8,
            "n.nvmlDeviceGetName(gpu(7))": "NVIDIA H100 80GB HBM3",
            "n.nvmlDeviceGetUUID(gpu(7))": "GPU-00005a17-7b1c-4d20-9e5f-000000000007",
            "n.nvmlDeviceGetSerial(gpu(7))": "1650000000007",
            "n.nvmlDeviceGetBoardPartNumber(gpu(7))": "695-2G520-0200-000",
            "n.nvmlDeviceGetVbiosVersion(gpu(7))": "96.00.DA.00.0C",
            "n.nvmlDeviceGetArchitecture(gpu(7)) == n.NVML_DEVICE_ARCH_HOPPER": True,
            "n.nvmlDeviceGetCudaComputeCapability(gpu(7))": [9, 0],
            "n.nvmlDeviceGetPersistenceMode(gpu(7))": 1,
            "n.nvmlDeviceGetMigMode(gpu(7))": [0, 0],
            "n.nvmlDeviceGetEccMode(gpu(7))": [1, 1],
            "n.nvmlDeviceGetTotalEccErrors(gpu(7), 1, 0)": 0,
            "n.nvmlDeviceGetRemappedRows(gpu(7))": [0, 0, 0, 0],
            "n.nvmlDeviceGetRowRemapperHistogram(gpu(7)).max": 2560,
            "n.nvmlDeviceGetRetiredPages(gpu(7), 1)": "error 3",
            "n.nvmlDeviceGetRetiredPagesPendingStatus(gpu(7))": "error 3",
            "n.nvmlDeviceGetRepairStatus(gpu(7))": [0, 0],
            "n.nvmlDeviceGetUnrepairableMemoryFlag_v1(gpu(7))": 0,
            "n.nvmlDeviceGetCurrentClocksEventReasons(gpu(7))": 0,
            "n.nvmlDeviceGetTemperature(gpu(7), 0)": 58,
            "n.nvmlDeviceGetTemperatureV(gpu(7), 0)": 58,
            "n.nvmlDeviceGetMarginTemperature(gpu(7))": 29,
            "[n.nvmlDeviceGetTemperatureThreshold(gpu(7), kind) for kind in range(4)]": [95, 89, 95, 87],
            "n.nvmlDeviceGetPowerUsage(gpu(7))": 412370,
            "n.nvmlDeviceGetEnforcedPowerLimit(gpu(7))": 700000,
            "n.nvmlDeviceGetPowerManagementLimitConstraints(gpu(7))": [200000, 700000],
            "n.nvmlDeviceGetCurrPcieLinkGeneration(gpu(7))": 5,
            "n.nvmlDeviceGetMaxPcieLinkGeneration(gpu(7))": 5,
            "n.nvmlDeviceGetGpuMaxPcieLinkGeneration(gpu(7))": 5,
            "n.nvmlDeviceGetCurrPcieLinkWidth(gpu(7))": 16,
            "n.nvmlDeviceGetMaxPcieLinkWidth(gpu(7))": 16,
            "n.nvmlDeviceGetPcieReplayCounter(gpu(7))": 0,
            "[n.nvmlDeviceGetNvLinkState(gpu(7), link) for link in range(18)]": [1] * 18,
            "n.nvmlDeviceGetNvLinkState(gpu(7), 18)": "error 2",
            "n.nvmlDeviceGetNvLinkErrorCounter(gpu(7), 0, n.NVML_NVLINK_ERROR_DL_REPLAY)": 0,
            "plain(n.nvmlDeviceGetUtilizationRates(gpu(7)))": {"gpu": 93, "memory": 0},
            "field(7, n.NVML_FI_DEV_MEMORY_TEMP)": [1, 64],
            "field(7, n.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)": [1, 0],
            "field(7, n.NVML_FI_DEV_REMAPPED_PENDING)": [3, 0],
            "field(7, 9999)": "error 2",
            "n.nvmlErrorString(15)": "GPU is lost",
            "n.nvmlErrorString(999)": "Unknown Error",
        }
        assert dict(zip(answers, node("healthy_8").ask(*answers))) == answers

    def test_memory(self, node: Callable[..., Node]) -> None:
        one, two = node("healthy_8").ask(
            "plain(n.nvmlDeviceGetMemoryInfo(gpu(0)))",
            "plain(n.nvmlDeviceGetMemoryInfo(gpu(0), version=n.nvmlMemory_v2))",
        )
        total, reserved, used = 81559, 480, 73214
        free = total - reserved - used
        assert one == {"total": total * MIB, "free": free * MIB, "used": (used + reserved) * MIB}
        del two["version"]
        assert two == {"total": total * MIB, "reserved": reserved * MIB, "free": free * MIB, "used": used * MIB}

    def test_processes(self, node: Callable[..., Node]) -> None:
        machine = node("orphan")
        machine.edit("gpu1", processes="7:a:1, 8:b:c:-")
        orphan, two, memory = machine.ask(
            "[vars(p) for p in n.nvmlDeviceGetComputeRunningProcesses(gpu(0))]",
            "[vars(p) for p in n.nvmlDeviceGetComputeRunningProcesses(gpu(1))]",
            "n.nvmlDeviceGetMemoryInfo(gpu(0), version=n.nvmlMemory_v2).used",
        )
        nowhere = 0xFFFFFFFF
        assert orphan == [
            {"pid": 4242, "usedGpuMemory": 78000 * MIB, "gpuInstanceId": nowhere, "computeInstanceId": nowhere}
        ]
        assert [(process["pid"], process["usedGpuMemory"]) for process in two] == [(7, MIB), (8, None)]
        assert memory == 78000 * MIB

    def test_handles(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_8")
        name = "n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleBy{})"
        third = "GPU-00005a13-7b1c-4d20-9e5f-000000000003"
        ways = [f"UUID('{third}')"]
        ways += [f"PciBusId('{address}')" for address in ("00000000:61:00.0", "0000:61:00.0", "61:00.0", "0000:61:00")]
        assert machine.ask(*(name.format(way) for way in ways)) == [third] * 5
        ways = ["Index(8)", "UUID('GPU-no')", "PciBusId('0000:ff:00.0')", "PciBusId('nonsense')"]
        assert machine.ask(*(name.format(way) for way in ways)) == ["error 2", "error 6", "error 6", "error 2"]
        pci = machine.ask("plain(n.nvmlDeviceGetPciInfo_v3(gpu(4)))")
        assert pci["busId"] == "00000000:9D:00.0"
        assert pci["busIdLegacy"] == "0000:9D:00.0"
        assert (pci["domain"], pci["bus"], pci["device"], pci["pciDeviceId"]) == (0, 0x9D, 0, 0x233010DE)

    def test_fabric_and_sram(self, node: Callable[..., Node]) -> None:
        machine = node("uncorrectable_ecc")
        machine.edit("gpu0", fabric_health_mask="0x1a9", fabric_health_summary=2, sram_threshold_exceeded=1)
        two, three, sram, *memories = machine.ask(
            "filled('nvmlDeviceGetGpuFabricInfoV', n.c_nvmlGpuFabricInfo_v2_t())",
            "filled('nvmlDeviceGetGpuFabricInfoV', n.c_nvmlGpuFabricInfo_v3_t())",
            "filled('nvmlDeviceGetSramEccErrorStatus', n.c_nvmlEccSramErrorStatus_v1_t())",
            "n.nvmlDeviceGetMemoryErrorCounter(gpu(0), 1, 0, n.NVML_MEMORY_LOCATION_DRAM)",
            "n.nvmlDeviceGetMemoryErrorCounter(gpu(0), 1, 1, n.NVML_MEMORY_LOCATION_SRAM)",
            "n.nvmlDeviceGetMemoryErrorCounter(gpu(0), 1, 0, n.NVML_MEMORY_LOCATION_L1_CACHE)",
            "n.nvmlDeviceGetMemoryErrorCounter(gpu(0), 1, 0, 8)",
        )
        assert (two["state"], two["status"], two["healthMask"]) == (3, 0, 0x1A9)
        assert (three["state"], three["healthMask"], three["healthSummary"]) == (3, 0x1A9, 2)
        assert (sram["volatileUncSecDed"], sram["aggregateUncSecDed"], sram["bThresholdExceeded"]) == (1, 1, 1)
        assert memories == [1, 1, "error 3", "error 2"]

    def test_version_words(self, node: Callable[..., Node]) -> None:
        assert node("healthy_2").ask(
            "filled('nvmlDeviceGetGpuFabricInfoV', n.c_nvmlGpuFabricInfo_v3_t(), version=0)",
            "filled('nvmlDeviceGetGpuFabricInfoV', n.c_nvmlGpuFabricInfo_v3_t(), version=0x09000028)",
            "filled('nvmlDeviceGetSramEccErrorStatus', n.c_nvmlEccSramErrorStatus_v1_t(), version=0x02000068)",
            "filled('nvmlDeviceGetTemperatureV', n.c_nvmlTemperature_v1_t(), version=0x02000010)",
            "filled('nvmlDeviceGetRepairStatus', n.c_nvmlRepairStatus_t(), version=0x0200000C)",
            "filled('nvmlDeviceGetUnrepairableMemoryFlag_v1', n.c_nvmlUnrepairableMemory_v1_t(), version=0)",
            "filled('nvmlDeviceGetMarginTemperature', n.c_nvmlMarginTemperature_v1_t(), version=0)",
            "n.nvmlDeviceGetMemoryInfo(gpu(0), version=0x03000028)",
        ) == ["error 25"] * 7 + ["error 13"]

    def test_what_is_not_there(self, node: Callable[..., Node]) -> None:
        assert node("healthy_2").ask("n.nvmlDeviceGetMinorNumber(gpu(0))") == "error 13"

    def test_before_and_after(self, node: Callable[..., Node]) -> None:
        handle = "globals().setdefault('first', gpu(0))"
        assert (
            node("healthy_2").ask(f"bool({handle})", "n.nvmlShutdown()", "n.nvmlDeviceGetName(first)")[2] == "error 1"
        )

    def test_nvlinks(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.edit("gpu0", nvlinks=16, nvlink_errors=7)
        machine.edit("gpu1", nvlinks_total=0, nvlinks=0)
        active, errors, none = machine.ask(
            "[n.nvmlDeviceGetNvLinkState(gpu(0), link) for link in range(18)]",
            "sum(n.nvmlDeviceGetNvLinkErrorCounter(gpu(0), link, kind) for link in range(18) for kind in range(5))",
            "n.nvmlDeviceGetNvLinkState(gpu(1), 0)",
        )
        assert active == [1] * 16 + [0] * 2
        assert errors == 7
        assert none == "error 3"

    def test_retired_pages(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.edit("gpu", pages_retired=2, pages_pending=1)
        assert machine.ask(
            "n.nvmlDeviceGetRetiredPages(gpu(0), 0)",
            "n.nvmlDeviceGetRetiredPages(gpu(0), 1)",
            "n.nvmlDeviceGetRetiredPagesPendingStatus(gpu(0))",
        ) == [[], [0x10000, 0x20000], 1]

    def test_bare_gpu(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.scenario.write_text("[system]\n[gpu0]\n[gpu1]\n[gpu2] ; nothing said\n")
        assert machine.ask(
            "n.nvmlDeviceGetCount()", "n.nvmlDeviceGetUUID(gpu(2))", "n.nvmlDeviceGetPciInfo(gpu(2)).bus"
        ) == [
            3,
            "GPU-00000000-0000-0000-0000-000000000002",
            2,
        ]
        machine.edit("system", count=1)
        assert machine.ask("n.nvmlDeviceGetCount()") == 1

    def test_no_scenario(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.scenario.unlink()
        assert machine.ask("1") == "error 9"


ANSWERS: dict[str, dict[str, object]] = {
    "driver_mismatch": {"1": "error 18"},
    "driver_not_loaded": {"1": "error 9"},
    "healthy_2": {
        "[n.nvmlDeviceGetTemperature(gpu(index), 0) for index in (0, 1)]": [34, 39],
        "n.nvmlDeviceGetPowerUsage(gpu(1))": 82180,
    },
    "healthy_8": {"n.nvmlDeviceGetCount()": 8},
    "h200": {
        "n.nvmlDeviceGetMemoryInfo(gpu(0)).total": 150754820096,
        "n.nvmlDeviceGetNvLinkState(gpu(0), 0)": "error 3",
    },
    "hang": {"n.nvmlDeviceGetName(gpu(0))": "NVIDIA H100 80GB HBM3"},
    "lost": {
        "n.nvmlDeviceGetCount()": 8,
        "gpu(3)": "error 15",
        "n.nvmlDeviceGetHandleByPciBusId('0000:61:00.0')": "error 15",
        "n.nvmlDeviceGetName(gpu(4))": "NVIDIA H100 80GB HBM3",
    },
    "mig": {
        "n.nvmlDeviceGetMigMode(gpu(0))": [1, 1],
        "n.nvmlDeviceGetMigMode(gpu(1))": [0, 1],
        "n.nvmlDeviceGetUtilizationRates(gpu(0))": "error 3",
    },
    "old_driver": {
        "n.nvmlSystemGetDriverVersion()": "535.261.03",
        "field(0, 230)": "error 2",
        "n.nvmlDeviceGetTemperature(gpu(0), 0)": 34,
        "n.nvmlDeviceGetTemperatureV(gpu(0), 0)": "error 13",
        "n.nvmlDeviceGetRepairStatus(gpu(0))": "error 13",
        "filled('nvmlDeviceGetGpuFabricInfoV', n.c_nvmlGpuFabricInfo_v3_t())": "error 13",
    },
    "orphan": {"[p.pid for p in n.nvmlDeviceGetComputeRunningProcesses(gpu(0))]": [4242]},
    "recovery_reboot": {"field(1, 230)": [1, 2], "field(0, 230)": [1, 0]},
    "recovery_reset": {"field(1, 230)": [1, 1]},
    "remap_pending": {"n.nvmlDeviceGetRemappedRows(gpu(1))": [0, 1, 1, 0], "field(1, 144)": [3, 1]},
    "reset_required": {
        "bool(gpu(1))": True,
        "n.nvmlDeviceGetName(gpu(1))": "error 16",
        "field(1, 230)": "error 16",
    },
    "throttled": {
        "n.nvmlDeviceGetCurrentClocksEventReasons(gpu(0))": 0x48,
        "n.nvmlDeviceGetCurrentClocksEventReasons(gpu(1))": 0x4,
    },
    "uncorrectable_ecc": {
        "n.nvmlDeviceGetTotalEccErrors(gpu(0), 1, 0)": 2,
        "n.nvmlDeviceGetTotalEccErrors(gpu(0), 1, 1)": 5,
        "n.nvmlDeviceGetTotalEccErrors(gpu(0), 0, 0)": 0,
    },
}


class TestScenarios:
    def test_each_is_here(self) -> None:
        assert sorted(ANSWERS) == SCENARIOS

    @pytest.mark.parametrize("name", SCENARIOS)
    def test_answers(self, node: Callable[..., Node], name: str) -> None:
        answers = ANSWERS[name]
        told = node(name).ask(*answers, "None")
        assert (told if isinstance(told, str) else dict(zip(answers, told))) == (answers.get("1") or answers)

    def test_no_library(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        del machine.environment["LD_LIBRARY_PATH"]
        assert machine.ask("1") == "error 12"
        told = machine.smi("-q", "-x")
        assert told.returncode == 12
        assert told.stdout.startswith("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.")


class TestOrders:
    def test_scenario_is_read_at_each_call(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        process = machine.pynvml()
        assert process.stdin
        assert process.stdout

        def ask(expression: str) -> Any:
            print(expression, file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        assert json.loads(process.stdout.readline()) is None
        assert ask("n.nvmlDeviceGetTemperature(gpu(1), 0)") == 39
        machine.edit("gpu1", temperature_celsius=91)
        assert ask("n.nvmlDeviceGetTemperature(gpu(1), 0)") == 91
        machine.edit("gpu1", handle="error 15", temperature_celsius=None)
        assert ask("n.nvmlDeviceGetTemperature(gpu(1), 0)") == "error 15"
        machine.edit("gpu1", handle=None)
        assert ask("n.nvmlDeviceGetTemperature(gpu(1), 0)") == 34

    def test_where_orders_stand(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.edit("system", nvmlDeviceGetSerial="error 4", nvmlDeviceGetCount="error 999")
        machine.edit("gpu", nvmlDeviceGetTemperature="error 3", vbios="error 17")
        machine.edit("gpu1", nvmlDeviceGetTemperature="error 16", nvmlDeviceGetMemoryInfo_v2="error 20")
        assert machine.ask(
            "n.nvmlDeviceGetCount()",
            "n.nvmlDeviceGetSerial(gpu(0))",
            "n.nvmlDeviceGetTemperature(gpu(0), 0)",
            "n.nvmlDeviceGetTemperatureV(gpu(1), 0)",
            "n.nvmlDeviceGetVbiosVersion(gpu(1))",
            "n.nvmlDeviceGetMemoryInfo(gpu(1)).total > 0",
            "n.nvmlDeviceGetMemoryInfo(gpu(1), version=n.nvmlMemory_v2)",
        ) == ["error 999", "error 4", "error 3", "error 16", "error 17", True, "error 20"]

    def test_hang_is_deaf_to_sigterm(self, node: Callable[..., Node]) -> None:
        machine = node("hang")
        process = machine.pynvml()
        print("n.nvmlDeviceGetTemperature(gpu(1), 0)", file=process.stdin, flush=True)
        eventually(lambda: deaf(process))
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
        process.kill()
        assert process.wait(timeout=10) == -signal.SIGKILL

    def test_hang_ends(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.edit("system", nvmlInit="hang 0.5")
        started = time.monotonic()
        process = machine.pynvml()
        eventually(lambda: deaf(process))
        process.terminate()
        assert process.wait(timeout=30) == -signal.SIGTERM
        assert time.monotonic() - started > 0.5

    def test_nvidia_smi_hangs_too(self, node: Callable[..., Node]) -> None:
        machine = node("hang")
        process = machine.start("nvidia-smi", "-q", "-x")
        eventually(lambda: deaf(process))
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)
        process.kill()
        assert process.stdout
        with closing(process.stdout) as output:
            assert "<product_name>NVIDIA H100 80GB HBM3</product_name>" in output.read()


def paths(element: ET.Element, above: str = "") -> Iterator[tuple[str, str]]:
    """Return path and text of each element."""
    path = f"{above}/{element.tag}"
    yield path, (element.text or "").strip()
    for child in element:
        yield from paths(child, path)


class TestXml:
    # Values that no scenario knows, or that differ from look to look.
    FREE = (
        "accounting|supported_clocks|timestamp|tx_util|rx_util|serial|uuid|clusterUuid|pdi|board_id|module_id|"
        "gpu_power_readings/instant_power_draw|gpu_memory_power_readings"
    )

    @pytest.mark.parametrize("name", [name for name in SCENARIOS if not name.startswith("driver_") and name != "hang"])
    def test_every_element_exists_in_the_real_one(self, node: Callable[..., Node], name: str) -> None:
        # In the real one nothing ran and nothing was wrong; these two are in its document type definition.
        real = {path for path, _text in paths(ET.parse(fake.REAL_XML).getroot())} | {"/nvidia_smi_log/error_string"}
        process = "/nvidia_smi_log/gpu/processes/process_info"
        parts = ("gpu_instance_id", "compute_instance_id", "pid", "type", "process_name", "used_memory")
        real |= {process, *(f"{process}/{part}" for part in parts)}
        ours = {path for path, _text in paths(node(name).xml())}
        assert ours <= real
        if name in ("healthy_2", "orphan"):
            missing = real - ours - {"/nvidia_smi_log/error_string"}
            assert all(process in path for path in missing)

    def test_values_are_those_of_the_real_one(self, node: Callable[..., Node]) -> None:
        ours, real = (
            [list(paths(gpu)) for gpu in log.findall("gpu")]
            for log in (node("healthy_2").xml(), ET.parse(fake.REAL_XML).getroot())
        )
        for our_gpu, real_gpu in zip(ours, real, strict=True):
            kept, expected = (
                [pair for pair in pairs if not re.search(self.FREE, pair[0])] for pairs in (our_gpu, real_gpu)
            )
            assert kept == expected

    def test_head(self, node: Callable[..., Node]) -> None:
        told = node("healthy_2").smi("-q", "-x")
        real = fake.REAL_XML.read_text().splitlines()
        ours = told.stdout.splitlines()
        assert ours[:3] == real[:3]
        assert ours[4:8] == real[4:8]
        assert ours[-2:] == real[-2:]
        assert re.fullmatch(r"\t<timestamp>\w{3} \w{3} [ \d]\d [\d:]{8} \d{4}</timestamp>", ours[3])
        assert (told.returncode, told.stderr) == (0, "")

    @pytest.mark.parametrize(
        ("name", "index", "expected"),
        [
            ("remap_pending", 1, {"remapped_rows/remapped_row_pending": "Yes", "remapped_rows/remapped_row_unc": "1"}),
            ("recovery_reset", 1, {"gpu_recovery_action": "Reset"}),
            ("recovery_reboot", 1, {"gpu_recovery_action": "Reboot"}),
            ("throttled", 0, {"clocks_event_reasons/clocks_event_reason_hw_thermal_slowdown": "Active"}),
            (
                "uncorrectable_ecc",
                0,
                {
                    "ecc_errors/volatile/dram_uncorrectable": "1",
                    "ecc_errors/volatile/sram_uncorrectable_secded": "1",
                    "ecc_errors/aggregate/dram_uncorrectable": "4",
                },
            ),
            ("mig", 0, {"mig_mode/current_mig": "Enabled", "utilization/gpu_util": "N/A"}),
            (
                "orphan",
                0,
                {
                    "fb_memory_usage/used": "78000 MiB",
                    "processes/process_info/process_name": "VLLM::EngineCor",
                    "processes/process_info/used_memory": "78000 MiB",
                },
            ),
            ("old_driver", 0, {"gpu_recovery_action": None, "temperature/gpu_temp": "34 C"}),
        ],
    )
    def test_scenario(self, node: Callable[..., Node], name: str, index: int, expected: dict[str, str | None]) -> None:
        gpu = node(name).xml().findall("gpu")[index]
        assert {path: gpu.findtext(path) for path in expected} == expected

    def test_gpu_without_a_handle(self, node: Callable[..., Node]) -> None:
        told = node("lost").smi("-q", "-x")
        log = ET.fromstring(told.stdout)
        assert log.findtext("attached_gpus") == "8"
        assert "00000000:61:00.0" not in [gpu.get("id") for gpu in log.findall("gpu")]
        assert told.stderr.strip() == (
            "Unable to determine the device handle for GPU3: 0000:61:00.0: GPU is lost.  "
            "Reboot the system to recover this GPU"
        )
        assert told.returncode == 0

    def test_gpu_that_answers_nothing(self, node: Callable[..., Node]) -> None:
        told = node("reset_required").smi("-q", "-x")
        log = ET.fromstring(told.stdout)
        assert [child.tag for child in log][-2:] == ["gpu", "error_string"]
        words = "Unable to determine the PCI bus id for the target device: GPU requires reset"
        assert log.findtext("error_string") == words
        assert told.returncode == 255

    def test_call_that_fails(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.edit(
            "gpu1", temperature_celsius="error 15", nvmlDeviceGetMemoryInfo="error 999", remap_pending="error 16"
        )
        gpu = machine.xml().findall("gpu")[1]
        assert gpu.findtext("temperature/gpu_temp") == "GPU is lost"
        assert gpu.findtext("temperature/gpu_temp_tlimit") == "GPU is lost"
        assert gpu.findtext("fb_memory_usage/free") == "Unknown Error"
        assert gpu.findtext("remapped_rows") == "GPU requires reset"

    def test_fabric(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.edit("gpu0", fabric_health_mask=0x15A6, fabric_health_summary=2)
        machine.edit("gpu1", fabric_state=2)
        first, second = (gpu.find("fabric") for gpu in machine.xml().findall("gpu"))
        assert first is not None
        assert second is not None
        assert [text for _path, text in paths(first)][-7:] == [
            "Unhealthy",
            "Full",
            "True",
            "False",
            "False",
            "Insufficient NVLink Resources",
            "True",
        ]
        assert [second.findtext(path) for path in ("state", "status", "cliqueId")] == ["In Progress", "N/A", "N/A"]


class TestSmi:
    @pytest.mark.parametrize(
        ("code", "status", "text"),
        [
            (9, 9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."),
            (15, 15, "Failed to initialize NVML: GPU is lost"),
            (18, 18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159\n"),
            (999, 255, "Failed to initialize NVML: Unknown Error"),
        ],
    )
    def test_library_that_does_not_start(self, node: Callable[..., Node], code: int, status: int, text: str) -> None:
        machine = node("healthy_2")
        machine.edit("system", nvmlInit=f"error {code}")
        for arguments in (["-q", "-x"], ["-L"], ["--query-gpu=name", "--format=csv"], ["topo", "-m"]):
            told = machine.smi(*arguments)
            assert told.stdout.startswith(text)
            assert told.returncode == status

    def test_list(self, node: Callable[..., Node]) -> None:
        told = node("lost").smi("-L")
        lines = [line for line in told.stdout.splitlines() if line]
        assert lines[2] == "GPU 2: NVIDIA H100 80GB HBM3 (UUID: GPU-00005a12-7b1c-4d20-9e5f-000000000002)"
        assert lines[3].startswith("Unable to determine the device handle for gpu 0000:61:00.0: GPU is lost.")
        assert len(lines) == 8
        assert told.returncode == 15

    def test_csv(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.edit("gpu1", calls="error 15")
        query = "--query-gpu=index,uuid,memory.used,power.draw,utilization.gpu,clocks_event_reasons.active"
        more = ",fabric.status,retired_pages.pending"
        assert machine.smi(query + more, "--format=csv").stdout.splitlines() == [
            "index, uuid, memory.used [MiB], power.draw [W], utilization.gpu [%], clocks_event_reasons.active, "
            "fabric.status, retired_pages.pending",
            "0, GPU-00005a10-7b1c-4d20-9e5f-000000000000, 0 MiB, 71.59 W, 0 %, 0x0000000000000001, Success, [N/A]",
            ", ".join(["[GPU is lost]"] * 8),
        ]
        told = machine.smi(query, "--format=csv,noheader,nounits", "-i", "0000:00:06.0")
        uuid = "GPU-00005a10-7b1c-4d20-9e5f-000000000000"
        assert told.stdout == f"0, {uuid}, 0, 71.59, 0, 0x0000000000000001\n"
        unknown = machine.smi("--query-gpu=nonsense", "--format=csv")
        assert (unknown.returncode, unknown.stdout) == (2, 'Field "nonsense" is not a valid field to query.\n\n')

    def test_no_such_gpu(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        for name in ("99", "GPU-nope", "00000000:FF:00.0"):
            told = machine.smi("-q", "-x", "-i", name)
            assert (told.returncode, told.stdout) == (6, "No devices were found\n")
        machine.edit("system", count=0)
        assert machine.smi("-q", "-x").returncode == 6
        assert machine.smi("-L").stdout == "No devices found.\n"

    def test_topology(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        assert machine.smi("topo", "-m").stdout.splitlines()[:4] == [
            "\t\x1b[4mGPU0\tGPU1\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m",
            "GPU0\t X \tNV18\t0-31\t0\t\tN/A",
            "GPU1\tNV18\t X \t0-31\t0\t\tN/A",
            "",
        ]
        machine.edit("gpu1", nvlinks=0)
        assert "SYS" in machine.smi("topo", "-m").stdout.splitlines()[1]
        machine.edit("gpu1", handle="error 15")
        told = machine.smi("topo", "-m")
        assert (told.returncode, told.stdout) == (255, "Failed to run topology matrix\n\n")

    def test_unknown_option(self, node: Callable[..., Node]) -> None:
        assert node("healthy_2").smi("--nonsense").returncode == 255


class TestReset:
    def test_puts_right(self, node: Callable[..., Node]) -> None:
        machine = node("remap_pending")
        machine.edit("gpu", ecc_uncorrected_volatile=3)
        machine.edit("gpu1", recovery_action=1)
        uuid = "GPU-00005a11-7b1c-4d20-9e5f-000000000001"
        told = machine.smi("--gpu-reset", "-i", uuid)
        assert (told.returncode, told.stdout) == (0, "GPU 00000000:43:00.0 was successfully reset.\n")
        assert machine.ask(
            "n.nvmlDeviceGetRemappedRows(gpu(1))",
            "field(1, 230)",
            "n.nvmlDeviceGetTotalEccErrors(gpu(1), 1, 0)",
            "n.nvmlDeviceGetTotalEccErrors(gpu(1), 1, 1)",
            "n.nvmlDeviceGetTotalEccErrors(gpu(0), 1, 0)",
        ) == [[0, 1, 0, 0], [1, 0], 0, 1, 3]

    def test_of_a_gpu_that_requires_it(self, node: Callable[..., Node]) -> None:
        machine = node("reset_required")
        assert machine.smi("--gpu-reset", "-i", "1").returncode == 0
        assert machine.ask("n.nvmlDeviceGetName(gpu(1))") == "NVIDIA H100 80GB HBM3"

    def test_applies_pending_modes(self, node: Callable[..., Node]) -> None:
        machine = node("mig")
        assert machine.smi("--gpu-reset", "-i", "1").returncode == 0
        assert machine.ask("n.nvmlDeviceGetMigMode(gpu(1))") == [1, 1]
        assert machine.scenario.stat().st_mode & 0o777 == (fake.HERE / "scenarios" / "mig.ini").stat().st_mode & 0o777

    def test_refused(self, node: Callable[..., Node]) -> None:
        machine = node("orphan")
        before = machine.scenario.read_text()
        told = machine.smi("--gpu-reset", "-i", "0")
        assert told.returncode == 255
        assert told.stdout.startswith(
            "The following GPUs could not be reset:\n  GPU 00000000:1B:00.0: In use by another client\n\n1 device is "
        )
        assert machine.scenario.read_text() == before
        machine.edit("gpu1", reset="refused")
        assert machine.smi("--gpu-reset", "-i", "1").returncode == 255

    def test_fails(self, node: Callable[..., Node]) -> None:
        machine = node("recovery_reset")
        machine.edit("gpu1", reset="fails")
        told = machine.smi("--gpu-reset", "-i", "1")
        assert told.returncode == 255
        assert "1 device did not complete reset successfully, and may be in an unstable state." in told.stdout
        assert machine.ask("field(1, 230)") == [1, 1]

    def test_hangs(self, node: Callable[..., Node]) -> None:
        machine = node("recovery_reset")
        machine.edit("gpu1", reset="hang")
        process = machine.start("nvidia-smi", "--gpu-reset", "-i", "1")
        eventually(lambda: deaf(process))
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.3)

    def test_lost_gpu_cannot_be_reset(self, node: Callable[..., Node]) -> None:
        assert node("lost").smi("--gpu-reset", "-i", "00000000:61:00.0").returncode == 6


CUDA = """
import os
from ctypes import c_size_t, c_uint32, c_uint64, c_void_p
from ansible_collections.inferops.vllm.plugins.module_utils._gpu import kernels
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.cuda import Cuda, CudaError, Device, Stopwatch
cuda = Cuda()
first, second = Device(cuda, "0000:00:07"), Device(cuda, "0000:00:06")
first.use()
fill, check = first.functions(kernels.source(), "fill", "check")
errors, memory = first.allocate(4), first.allocate(4 << 20)
first.clear(errors)

def launch(function, start, words, seed, *more):
    first.launch(function, 4, 64, c_uint64(start), c_uint64(words), c_uint32(seed), *more)

try:
{lines}
except CudaError as error:
    print(error)
"""


class TestCuda:
    """Through the calls of the collection."""

    @staticmethod
    def run(machine: Node, *lines: str) -> list[str]:
        machine.environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        program = CUDA.replace("{lines}", "\n".join(f"    {line}" for line in lines))
        told = machine.run(sys.executable, "-c", program)
        assert (told.returncode, told.stderr) == (0, "")
        return told.stdout.splitlines()

    @pytest.mark.parametrize(
        ("fills", "found"),
        [
            ([], 1 << 20),
            (["launch(fill, memory.value, 1 << 20, 7)"], 0),
            (["launch(fill, memory.value, 1 << 20, 8)"], 1 << 20),
            (["launch(fill, memory.value, 1 << 19, 7)"], 1 << 20),
            (["launch(fill, memory.value, 1 << 20, 7)", "first.clear(memory)"], 1 << 20),
        ],
    )
    def test_memory_holds_what_was_written(self, node: Callable[..., Node], fills: list[str], found: int) -> None:
        checked = ["launch(check, memory.value, 1 << 20, 7, errors)", "print(first.word(errors))"]
        assert self.run(node("healthy_2"), *fills, *checked) == [str(found)]

    def test_stuck_bits_show_with_one_of_two_seeds(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.edit("gpu1", memory_errors=3)
        lines = []
        for seed in (6, 7):
            lines += [
                f"launch(fill, memory.value, 1 << 20, {seed})",
                f"launch(check, memory.value, 1 << 20, {seed}, errors)",
                "print(first.word(errors))",
                "first.clear(errors)",
            ]
        assert self.run(machine, *lines) == ["3", "0"]

    @pytest.mark.parametrize("words", ["(1 << 20) + 1", "1 << 62"])
    def test_program_that_leaves_its_memory(self, node: Callable[..., Node], words: str) -> None:
        """The launch succeeds, and nothing after it."""
        launched = [f"launch(fill, memory.value, {words}, 7)", "print('launched')"]
        assert self.run(node("healthy_2"), *launched, "first.word(errors)") == [
            "launched",
            "cuMemcpyDtoH_v2: an illegal memory access was encountered",
        ]

    @pytest.mark.parametrize(
        ("line", "error"),
        [
            ("first.functions(kernels.source(), 'divide')", "cuModuleGetFunction: named symbol not found"),
            ("first.functions('nonsense', 'fill')", "cuModuleLoadData: device kernel image is invalid"),
            ("first.launch(fill, 1, 2048, memory)", "cuLaunchKernel: invalid argument"),
            ("first.allocate(200 << 30)", "cuMemAlloc_v2: out of memory"),
            ("first.allocate(0)", "cuMemAlloc_v2: invalid argument"),
            ("second.use(); first.word(errors)", "cuMemcpyDtoH_v2: invalid argument"),
            ("cuda.cuCtxSetCurrent(c_void_p(0))", "cuCtxSetCurrent: invalid device context"),
            (
                "cuda.cuMemcpyDtoDAsync_v2(memory, memory, c_size_t((4 << 20) + 1), c_void_p())",
                "cuMemcpyDtoDAsync_v2: invalid argument",
            ),
            ("first.attribute(1)", "cuDeviceGetAttribute: invalid argument"),
            ("watch = Stopwatch(first); watch.__exit__()", "cuEventElapsedTime: invalid resource handle"),
            (
                "watch = Stopwatch(second); watch.__enter__(); second.use(); watch.__exit__()",
                "cuEventRecord: invalid resource handle",
            ),
            (
                "for _twice in 'ab': cuda.cuCtxEnablePeerAccess(second.context, 0)",
                "cuCtxEnablePeerAccess: peer access is already enabled",
            ),
            (
                "cuda.cuCtxEnablePeerAccess(first.context, 0)",
                "cuCtxEnablePeerAccess: peer access is not supported between these two devices",
            ),
        ],
    )
    def test_wrong_call(self, node: Callable[..., Node], line: str, error: str) -> None:
        assert self.run(node("healthy_2"), line) == [error]

    def test_memory_that_was_taken(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.edit("gpu1", cuda_free_mib=12)
        free = "print(first.free_bytes())"
        assert self.run(machine, free, "first.allocate(1 << 20)", free, "first.allocate(8 << 20)") == [
            str((8 << 20) - 4),
            str((7 << 20) - 4),
            "cuMemAlloc_v2: out of memory",
        ]

    def test_child_of_who_has_begun(self, node: Callable[..., Node]) -> None:
        lines = ["if os.fork(): os.wait()", "else: first.word(errors)"]
        assert self.run(node("healthy_2"), *lines) == ["cuMemcpyDtoH_v2: initialization error"]

    def test_copy_to_a_peer_goes_through_the_host_until_it_may_be_reached(self, node: Callable[..., Node]) -> None:
        machine = node("healthy_2")
        machine.edit("gpu1", cuda_host_gbps=4, cuda_peer_gbps=8)
        copy = [
            "with Stopwatch(first) as watch:",
            "    cuda.cuMemcpyPeerAsync(theirs, second.context, memory, first.context, c_size_t(4000000), c_void_p())",
            "print(round(watch.seconds, 6))",
        ]
        prepared = ["second.use(); theirs = second.allocate(4 << 20); first.use()"]
        enabled = ["cuda.cuCtxEnablePeerAccess(second.context, 0)"]
        assert self.run(machine, *prepared, *copy, *enabled, *copy) == ["0.001", "0.0005"]


class TestKernelLog:
    @staticmethod
    def entries(machine: Node) -> list[dict[str, str]]:
        told = machine.run("journalctl", "-k", "-b", "--no-pager", "-o", "json")
        assert told.returncode == 0
        return [json.loads(line) for line in told.stdout.splitlines()]

    def test_entries(self, node: Callable[..., Node]) -> None:
        first, *_between, last = self.entries(node("lost", "xid_79"))
        assert first["MESSAGE"].startswith("NVRM: Xid (PCI:0000:43:00): 79, pid='<unknown>', name=<unknown>, GPU has")
        assert first["_SOURCE_MONOTONIC_TIMESTAMP"] == "23114550"
        assert last["MESSAGE"].endswith(
            "154, GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
        )
        assert Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "") == first["_BOOT_ID"]
        assert all(isinstance(value, str) for value in first.values())

    def test_record_of_several_lines(self, node: Callable[..., Node]) -> None:
        first, *rest = self.entries(node("healthy_2", "fallen_off_at_probe"))
        assert first["MESSAGE"] == (
            "NVRM: The NVIDIA GPU 0000:5d:00.0\n"
            "NVRM: (PCI ID: 10de:2330) installed in this system has\n"
            "NVRM: fallen off the bus and is not responding to commands."
        )
        assert len(rest) == 2

    @pytest.mark.parametrize("name", sorted(path.stem for path in (fake.HERE / "kernel_logs").iterdir()))
    def test_each_has_what_its_name_says(self, node: Callable[..., Node], name: str) -> None:
        messages = [entry["MESSAGE"] for entry in self.entries(node("healthy_8", name))]
        number = re.fullmatch(r"xid_(\d+)", name)
        assert messages
        if number:
            assert re.match(rf"NVRM: Xid \(PCI:[0-9a-f:]+\): {number[1]}, ", messages[0])

    def test_none(self, node: Callable[..., Node]) -> None:
        assert self.entries(node("healthy_2")) == []


class TestHarness:
    @pytest.mark.parametrize("source", ["fake_nvml.c", "fake_cuda.c"])
    def test_compiles_without_warnings(self, source: str) -> None:
        compiler = ["gcc", "-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow"]
        told = subprocess.run([*compiler, fake.HERE / source], capture_output=True, text=True, check=True)
        assert told.stderr == ""

    def test_builds_once(self, folder: Path) -> None:
        library = folder / "lib" / "libnvidia-ml.so.1"
        before = library.stat().st_mtime_ns
        assert fake.build(folder) == folder
        assert library.stat().st_mtime_ns == before

    def test_root(self, tmp_path: Path) -> None:
        root = fake.root(tmp_path / "root", fake.scenario("healthy_8", tmp_path))
        assert (root / "sys/module/nvidia/version").read_text() == "580.159.04\n"
        assert "  580.159.04  " in (root / "proc/driver/nvidia/version").read_text()
        devices = root / "sys/bus/pci/devices"
        assert (devices / "0000:1b:00.0" / "vendor").read_text() == "0x10de\n"
        classes = [(device / "class").read_text().strip() for device in devices.iterdir()]
        assert (classes.count("0x030200"), classes.count("0x068000")) == (8, 4)

    def test_root_of_a_mismatch(self, node: Callable[..., Node], tmp_path: Path) -> None:
        machine = node("driver_mismatch")
        for _attempt in range(2):
            root = fake.root(tmp_path / "root", machine.scenario)
        assert (root / "sys/module/nvidia/version").read_text() == "580.95.05\n"
        link = root / "usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
        assert os.readlink(link) == "libnvidia-ml.so.580.159.04"
        assert machine.run("modinfo", "-F", "version", "nvidia").stdout == "580.159.04\n"

    def test_root_without_a_driver(self, tmp_path: Path) -> None:
        root = fake.root(tmp_path / "root", fake.scenario("driver_not_loaded", tmp_path))
        assert not (root / "proc").exists()
        assert not (root / "sys/module").exists()
        assert len(list((root / "sys/bus/pci/devices").iterdir())) == 2
