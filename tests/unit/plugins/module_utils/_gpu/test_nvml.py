# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read of GPUs whose calls work, and of those whose calls fail one by one or all together.

A made-up module stands for nvidia-ml-py: it answers as an H100 on an NVSwitch board does, counts what it is asked, and
fails where it is told to. That nvidia-ml-py itself is called rightly is shown with the fake library.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import nvml
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Driver, Gpu, Node, Process

GIB = 1024**3
INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED = 2, 3, 4, 13, 15, 16
VERSION_MISMATCH, ARGUMENT_VERSION_MISMATCH, UNKNOWN = 18, 25, 999
UNSIGNED_INT, UNSIGNED_LONG_LONG = 1, 3
REASONS = {
    NOT_SUPPORTED: "not supported",
    NO_PERMISSION: "no permission",
    FUNCTION_NOT_FOUND: "function not found",
    GPU_IS_LOST: "GPU is lost",
    RESET_REQUIRED: "GPU requires reset",
    UNKNOWN: "unknown error",
    4711: "NVML error 4711",
}
FACTS = {field.name for field in dataclasses.fields(Gpu)} - {"index", "errors", "lost", "reset_required"}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


class SramStatus(ctypes.Structure):
    _fields_ = (("bThresholdExceeded", ctypes.c_uint),)


class Fabric(ctypes.Structure):
    _fields_ = (("status", ctypes.c_uint), ("state", ctypes.c_uint), ("healthMask", ctypes.c_uint))


class OlderFabric(Fabric):
    pass


CONSTANTS = {
    "NVMLError": NVMLError,
    "NVML_TEMPERATURE_GPU": 0,
    "NVML_TEMPERATURE_THRESHOLD_SHUTDOWN": 0,
    "NVML_TEMPERATURE_THRESHOLD_SLOWDOWN": 1,
    "NVML_MEMORY_ERROR_TYPE_CORRECTED": 0,
    "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
    "NVML_VOLATILE_ECC": 0,
    "NVML_AGGREGATE_ECC": 1,
    "NVML_NVLINK_MAX_LINKS": 36,
    "nvmlMemory_v2": 0x02000028,
    "c_nvmlEccSramErrorStatus_v1_t": SramStatus,
    "c_nvmlGpuFabricInfo_v3_t": Fabric,
    "c_nvmlGpuFabricInfo_v2_t": OlderFabric,
}
# Number of a field: what reading it returned, the type of its value, the value.
FIELDS = {
    38: (0, UNSIGNED_LONG_LONG, 5_000_000_000),
    45: (0, UNSIGNED_LONG_LONG, 1),
    52: (0, UNSIGNED_LONG_LONG, 2),
    59: (0, UNSIGNED_LONG_LONG, 3),
    82: (0, UNSIGNED_INT, 38),
    230: (0, UNSIGNED_INT, 0),
}


def fill(structure: Any, **values: int) -> None:
    """What a library does with an argument that is passed by reference."""
    for name, value in values.items():
        setattr(structure._obj, name, value)


def field_values(fields: dict[int, tuple[int, int, int]]) -> Callable[[int, list[int]], list[SimpleNamespace]]:
    def value(number: int) -> SimpleNamespace:
        returned, kind, content = fields[number]
        # The other members of the union read the same bytes otherwise.
        content_by_type = dict.fromkeys(nvml.VALUE_TYPES, -1) | {nvml.VALUE_TYPES[kind]: content}
        return SimpleNamespace(nvmlReturn=returned, valueType=kind, value=SimpleNamespace(**content_by_type))

    return lambda _gpu, numbers: [value(number) for number in numbers]


def refuse(code: int) -> Callable[..., Any]:
    def call(*_arguments: Any) -> Any:
        raise NVMLError(code)

    return call


def nvlink_state(_gpu: int, link: int) -> int:
    if link >= 18:
        raise NVMLError(INVALID_ARGUMENT)
    return int(link != 7)


ANSWERS: dict[str, Any] = {
    "nvmlInit": None,
    "nvmlShutdown": None,
    "nvmlSystemGetDriverVersion": "580.95.05",
    "nvmlSystemGetCudaDriverVersion_v2": 13000,
    "nvmlSystemGetProcessName": lambda pid: f"VLLM::Worker_{pid}",
    "nvmlDeviceGetCount": 1,
    "nvmlDeviceGetHandleByIndex": lambda index: index,
    "nvmlDeviceGetUUID": lambda gpu: f"GPU-{gpu}",
    "nvmlDeviceGetName": b"NVIDIA H100 80GB HBM3",
    "nvmlDeviceGetSerial": "1650000000001",
    "nvmlDeviceGetPciInfo": lambda gpu: SimpleNamespace(busId=b"00000000:%02X:00.0" % (0xA3 + gpu)),
    "nvmlDeviceGetMemoryInfo": lambda _gpu, _version: SimpleNamespace(
        total=80 * GIB, used=72 * GIB, free=7 * GIB, reserved=1 * GIB
    ),
    "nvmlDeviceGetTemperatureV": 41,
    "nvmlDeviceGetTemperature": 42,
    "nvmlDeviceGetTemperatureThreshold": lambda _gpu, threshold: (92, 87)[threshold],
    "nvmlDeviceGetPowerUsage": 71_590,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=97, memory=12),
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetVbiosVersion": "96.00.DA.00.0C",
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetMigMode": [0, 1],
    "nvmlDeviceGetEccMode": [1, 0],
    "nvmlDeviceGetTotalEccErrors": lambda _gpu, kind, counter: 10 * kind + counter,
    "nvmlDeviceGetSramEccErrorStatus": lambda _gpu, status: fill(status, bThresholdExceeded=1),
    "nvmlDeviceGetRemappedRows": (2, 1, 1, 0),
    "nvmlDeviceGetRetiredPages": refuse(NOT_SUPPORTED),
    "nvmlDeviceGetRetiredPagesPendingStatus": refuse(NOT_SUPPORTED),
    "nvmlDeviceGetCurrentClocksEventReasons": 0x48,
    "nvmlDeviceGetCurrPcieLinkGeneration": 4,
    "nvmlDeviceGetMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetCurrPcieLinkWidth": 8,
    "nvmlDeviceGetMaxPcieLinkWidth": 16,
    "nvmlDeviceGetPcieReplayCounter": 6,
    "nvmlDeviceGetNvLinkState": nvlink_state,
    "nvmlDeviceGetFieldValues": field_values(FIELDS),
    "nvmlDeviceGetGpuFabricInfoV": lambda _gpu, info: fill(info, state=3, status=0, healthMask=0x5A9),
    "nvmlDeviceGetComputeRunningProcesses": lambda gpu: [
        SimpleNamespace(pid=4242 + gpu, usedGpuMemory=70 * GIB),
        SimpleNamespace(pid=4343 + gpu, usedGpuMemory=None),
    ],
}
HEALTHY = Gpu(
    index=0,
    uuid="GPU-0",
    name="NVIDIA H100 80GB HBM3",
    serial="1650000000001",
    pci_address="0000:a3:00",
    memory_total_bytes=80 * GIB,
    memory_used_bytes=72 * GIB,
    memory_free_bytes=7 * GIB,
    memory_reserved_bytes=1 * GIB,
    temperature_celsius=41,
    memory_temperature_celsius=38,
    slowdown_celsius=87,
    shutdown_celsius=92,
    power_watts=71.59,
    power_limit_watts=700.0,
    utilization_percent=97,
    compute_capability="9.0",
    vbios="96.00.DA.00.0C",
    persistence_mode=True,
    mig_mode=False,
    ecc_mode=True,
    ecc_mode_pending=False,
    ecc_corrected_volatile=0,
    ecc_uncorrected_volatile=10,
    ecc_corrected_aggregate=1,
    ecc_uncorrected_aggregate=11,
    sram_threshold_exceeded=True,
    rows_remapped_corrected=2,
    rows_remapped_uncorrected=1,
    remap_pending=True,
    remap_failed=False,
    pages_retired=None,
    pages_pending=None,
    clock_event_reasons=("hw_slowdown", "hw_thermal"),
    pcie_generation=4,
    pcie_generation_max=5,
    pcie_width=8,
    pcie_width_max=16,
    pcie_replays=6,
    nvlinks_active=17,
    nvlinks_inactive=1,
    nvlink_errors=5_000_000_006,
    fabric_state="completed",
    fabric_status=0,
    fabric_faults=("degraded_bandwidth", "configuration_5"),
    recovery_action="none",
    processes=(Process(4242, "VLLM::Worker_4242", 70 * GIB), Process(4343, "VLLM::Worker_4343", None)),
    errors={"pages_retired": "not supported", "pages_pending": "not supported"},
)
# What is not known where a call fails.
TOLD_BY = {
    "HandleByIndex": FACTS,
    "UUID": {"uuid"},
    "Name": {"name"},
    "Serial": {"serial"},
    "PciInfo": {"pci_address"},
    "MemoryInfo": {"memory_total_bytes", "memory_used_bytes", "memory_free_bytes", "memory_reserved_bytes"},
    "TemperatureV": {"temperature_celsius"},
    "TemperatureThreshold": {"slowdown_celsius", "shutdown_celsius"},
    "PowerUsage": {"power_watts"},
    "EnforcedPowerLimit": {"power_limit_watts"},
    "UtilizationRates": {"utilization_percent"},
    "CudaComputeCapability": {"compute_capability"},
    "VbiosVersion": {"vbios"},
    "PersistenceMode": {"persistence_mode"},
    "MigMode": {"mig_mode"},
    "EccMode": {"ecc_mode", "ecc_mode_pending"},
    "TotalEccErrors": {name for name in FACTS if name.startswith(("ecc_corrected", "ecc_uncorrected"))},
    "SramEccErrorStatus": {"sram_threshold_exceeded"},
    "RemappedRows": {"rows_remapped_corrected", "rows_remapped_uncorrected", "remap_pending", "remap_failed"},
    "CurrentClocksEventReasons": {"clock_event_reasons"},
    "CurrPcieLinkGeneration": {"pcie_generation"},
    "MaxPcieLinkGeneration": {"pcie_generation_max"},
    "CurrPcieLinkWidth": {"pcie_width"},
    "MaxPcieLinkWidth": {"pcie_width_max"},
    "PcieReplayCounter": {"pcie_replays"},
    "NvLinkState": {"nvlinks_active", "nvlinks_inactive"},
    "RetiredPages": {"pages_retired"},
    "RetiredPagesPendingStatus": {"pages_pending"},
    "FieldValues": {"memory_temperature_celsius", "nvlink_errors", "recovery_action"},
    "GpuFabricInfoV": {"fabric_state", "fabric_status", "fabric_faults"},
    "ComputeRunningProcesses": {"processes"},
}


class Library:
    """In the place of the module; `faults` has the code or the exception that a function, or it and its first
    argument, ends with."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {**ANSWERS, **answers}
        self.faults: dict[Any, int | Exception] = {}
        self.asked: Counter[tuple[Any, ...]] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name in CONSTANTS:
            return CONSTANTS[name]
        if name not in self.answers:
            raise AttributeError(name)
        return functools.partial(self._call, name)

    def _call(self, name: str, *arguments: Any) -> Any:
        self.asked[(name, *[str(value) for value in arguments if isinstance(value, (int, list))])] += 1
        fault = self.faults.get(name) or self.faults.get((name, *arguments[:1]))
        if fault:
            raise NVMLError(fault) if isinstance(fault, int) else fault
        answer = self.answers[name]
        return answer(*arguments) if callable(answer) else answer


def read_one(library: Library) -> Gpu:
    node = nvml.read(library)
    assert (node.source, node.error, node.code) == ("nvml", "", None)
    assert Node.from_json(json.loads(json.dumps(node.to_json()))) == node
    (gpu,) = node.gpus
    assert {name for name in FACTS if getattr(gpu, name) is None} == gpu.errors.keys()
    return gpu


def test_healthy() -> None:
    node = nvml.read(Library())
    assert node == Node(source="nvml", driver=Driver(library="580.95.05", cuda="13.0"), gpus=(HEALTHY,))


def test_all_facts_are_asked_for() -> None:
    assert {name for names in nvml.QUESTIONS for name in names.split()} == FACTS == set().union(*TOLD_BY.values())


def test_nothing_is_asked_twice() -> None:
    library = Library(nvmlDeviceGetCount=8)
    node = nvml.read(library)
    assert [gpu.uuid for gpu in node.gpus] == [f"GPU-{index}" for index in range(8)]
    assert set(library.asked.values()) == {1}
    assert "nvmlDeviceGetTemperature" not in {name for name, *_arguments in library.asked}


@pytest.mark.parametrize("code", REASONS)
@pytest.mark.parametrize("function", TOLD_BY)
def test_one_call_fails(function: str, code: int) -> None:
    library = Library()
    library.faults[f"nvmlDeviceGet{function}"] = code
    gpu = read_one(library)
    expected = dict.fromkeys(TOLD_BY[function], REASONS[code])
    if (function, code) == ("TemperatureV", FUNCTION_NOT_FOUND):
        # The driver is older, and knows the call's older name.
        assert gpu == dataclasses.replace(HEALTHY, temperature_celsius=42)
        return
    flags = {"lost": code == GPU_IS_LOST, "reset_required": code == RESET_REQUIRED}
    errors = {**HEALTHY.errors, **expected}
    assert gpu == dataclasses.replace(HEALTHY, **dict.fromkeys(expected), errors=errors, **flags)


@pytest.mark.parametrize("function", TOLD_BY)
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AttributeError("module 'pynvml' has no attribute"), "function not found"),
        (TypeError("an unexpected argument"), "TypeError: an unexpected argument"),
        (OSError(5, "Input/output error"), "OSError: [Errno 5] Input/output error"),
    ],
)
def test_module_itself_fails(function: str, error: Exception, reason: str) -> None:
    library = Library()
    library.faults[f"nvmlDeviceGet{function}"] = error
    gpu = read_one(library)
    if function == "TemperatureV" and isinstance(error, AttributeError):
        assert gpu.temperature_celsius == 42
        return
    assert {name for name, text in gpu.errors.items() if text == reason} == TOLD_BY[function]


@pytest.mark.parametrize("code", REASONS)
def test_all_calls_fail(code: int) -> None:
    library = Library()
    library.faults = dict.fromkeys(ANSWERS.keys() - {*nvml.ESSENTIAL} | {"nvmlDeviceGetFieldValues"}, code)
    gpu = read_one(library)
    flags = {"lost": code == GPU_IS_LOST, "reset_required": code == RESET_REQUIRED}
    assert gpu == Gpu(0, errors=dict.fromkeys(FACTS, REASONS[code]), **flags)
    assert set(library.asked.values()) == {1}


def test_module_without_functions() -> None:
    """As of years ago, or of years to come."""
    library = Library()
    for name in ANSWERS:
        if name.startswith("nvmlDeviceGet") and name not in nvml.ESSENTIAL:
            del library.answers[name]
    gpu = read_one(library)
    assert set(gpu.errors.values()) == {"function not found"}
    assert gpu.recovery_action == "none"


def test_lost_gpu_beside_others() -> None:
    library = Library(nvmlDeviceGetCount=3)
    library.faults["nvmlDeviceGetHandleByIndex", 1] = GPU_IS_LOST
    first, second, third = nvml.read(library).gpus
    assert first == HEALTHY
    assert second == Gpu(1, errors=dict.fromkeys(FACTS, "GPU is lost"), lost=True)
    assert (third.index, third.uuid, third.lost) == (2, "GPU-2", False)


@pytest.mark.parametrize(
    ("function", "code", "error"),
    [
        ("nvmlInit", 9, "NVML: driver not loaded"),
        ("nvmlInit", 12, "NVML: library not found"),
        ("nvmlInit", GPU_IS_LOST, "NVML: GPU is lost"),
        ("nvmlInit", VERSION_MISMATCH, "NVML: driver and library are of different versions"),
        ("nvmlInit", UNKNOWN, "NVML: unknown error"),
        ("nvmlDeviceGetCount", UNKNOWN, "NVML: unknown error"),
        ("nvmlDeviceGetCount", 4711, "NVML: NVML error 4711"),
    ],
)
def test_no_answer_at_all(function: str, code: int, error: str) -> None:
    library = Library()
    library.faults[function] = code
    assert nvml.read(library) == Node(error=error, code=code)


@pytest.mark.parametrize("error", [OSError("cannot allocate memory"), TypeError("broken")])
def test_init_fails_in_the_module(error: Exception) -> None:
    library = Library()
    library.faults["nvmlInit"] = error
    assert nvml.read(library) == Node(error=f"NVML: {type(error).__name__}: {error}")


@pytest.mark.parametrize("fault", [None, "nvmlDeviceGetCount", "nvmlShutdown"])
def test_session_is_shut(fault: str | None) -> None:
    library = Library()
    if fault:
        library.faults[fault] = UNKNOWN
    nvml.read(library)
    assert (library.asked["nvmlInit",], library.asked["nvmlShutdown",]) == (1, 1)


def test_no_gpus() -> None:
    node = nvml.read(Library(nvmlDeviceGetCount=0))
    assert (node.source, node.error, node.gpus) == ("nvml", "", ())


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({230: (0, UNSIGNED_INT, 1)}, {"recovery_action": "gpu_reset"}),
        ({230: (0, UNSIGNED_INT, 7)}, {"recovery_action": "system_reboot"}),
        ({230: (0, UNSIGNED_INT, 8)}, {"recovery_action": None}),
        ({45: (NOT_SUPPORTED, 0, 0)}, {"nvlink_errors": None}),
        ({82: (GPU_IS_LOST, 0, 0)}, {"memory_temperature_celsius": None, "lost": True}),
    ],
)
def test_fields(changed: dict[int, tuple[int, int, int]], expected: dict[str, Any]) -> None:
    gpu = read_one(Library(nvmlDeviceGetFieldValues=field_values(FIELDS | changed)))
    assert {name: getattr(gpu, name) for name in expected} == expected


def test_older_gpu_that_retires_pages() -> None:
    pages = {0: [0x10000, 0x20000], 1: [0x30000]}
    library = Library(
        nvmlDeviceGetRetiredPages=lambda _gpu, cause: pages[cause], nvmlDeviceGetRetiredPagesPendingStatus=1
    )
    gpu = read_one(library)
    assert (gpu.pages_retired, gpu.pages_pending) == (3, True)


def test_action_that_is_not_known_yet() -> None:
    library = Library(nvmlDeviceGetFieldValues=field_values(FIELDS | {230: (0, UNSIGNED_INT, 8)}))
    assert read_one(library).errors["recovery_action"] == "ValueError: 8 has no meaning known here"


@pytest.mark.parametrize("fault", [ARGUMENT_VERSION_MISMATCH, NOT_SUPPORTED])
def test_older_fabric(fault: int) -> None:
    def inform(_gpu: int, info: Any) -> None:
        if info._obj.__class__ is Fabric:
            raise NVMLError(fault)
        fill(info, state=2, status=UNKNOWN, healthMask=0)

    gpu = read_one(Library(nvmlDeviceGetGpuFabricInfoV=inform))
    told = ("in_progress", UNKNOWN, ()) if fault == ARGUMENT_VERSION_MISMATCH else (None, None, None)
    assert (gpu.fabric_state, gpu.fabric_status, gpu.fabric_faults) == told


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (0, ()),
        (0b10_10_10_10, ()),
        (0x1AA, ()),
        (0b01, ("degraded_bandwidth",)),
        (0b01_01_01_01, ("degraded_bandwidth", "route_recovery", "route_unhealthy", "access_timeout")),
        (0x200, ("configuration_2",)),
        (0x8AA, ("configuration_8",)),
    ],
)
def test_fabric_faults(mask: int, expected: tuple[str, ...]) -> None:
    assert nvml.fabric_faults(mask) == expected


@given(st.integers(0, 0xFFFFFFFF))
def test_any_mask(mask: int) -> None:
    assert len(nvml.fabric_faults(mask)) <= 5
    gpu = read_one(Library(nvmlDeviceGetCurrentClocksEventReasons=mask))
    assert gpu.clock_event_reasons is not None
    assert len(gpu.clock_event_reasons) == bin(mask & 0x1FF).count("1")


def test_no_links() -> None:
    """The first one is refused, which is no number of links."""
    assert read_one(Library(nvmlDeviceGetNvLinkState=refuse(INVALID_ARGUMENT))).nvlinks_active is None


def test_link_that_fails() -> None:
    library = Library(nvmlDeviceGetNvLinkState=lambda _gpu, link: 1 if link < 3 else nvlink_state(0, 99 if link else 0))
    gpu = read_one(library)
    assert (gpu.nvlinks_active, gpu.nvlinks_inactive) == (3, 0)


def test_process_of_another_container() -> None:
    library = Library()
    library.faults["nvmlSystemGetProcessName"] = 6
    assert read_one(library).processes == (Process(4242, "", 70 * GIB), Process(4343, "", None))


def test_address_that_is_none() -> None:
    gpu = read_one(Library(nvmlDeviceGetPciInfo=SimpleNamespace(busId=b"\xff")))
    assert gpu.errors["pci_address"].endswith("is no PCI address")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            None,
            "pynvml cannot be imported: neither this Python has it, nor /opt/vllm/current/lib/python3*/site-packages",
        ),
        ("def nvmlInit(:\n", "pynvml cannot be imported: "),
        ("raise RuntimeError('half installed')\n", "pynvml cannot be imported: half installed"),
        ("nvmlInit = NVMLError = nvmlShutdown = None\n", "is not nvidia-ml-py: it has no nvmlDeviceGetCount"),
    ],
)
def test_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, reason: str) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    if text is not None:
        (tmp_path / "pynvml.py").write_text(text)
    with pytest.raises(nvml.Unusable) as caught:
        nvml.load()
    assert reason in str(caught.value)
    sys.modules.pop("pynvml", None)


@pytest.mark.parametrize(("mode", "trusted"), [(0o644, True), (0o664, False), (0o646, False)])
def test_load_what_vllm_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, trusted: bool) -> None:
    """Root runs nothing that somebody else could have written."""
    folder = tmp_path / "python3.12" / "site-packages"
    folder.mkdir(parents=True)
    (folder / "pynvml.py").write_text("".join(f"{name} = None\n" for name in nvml.ESSENTIAL))
    (folder / "pynvml.py").chmod(mode)
    monkeypatch.setattr(nvml, "ENVIRONMENTS", f"{tmp_path}/python3*/site-packages")
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with contextlib.nullcontext() if trusted else pytest.raises(nvml.Unusable, match="neither this Python has it"):
        assert nvml.load().__file__ == str(folder / "pynvml.py")


def test_load_what_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setitem(sys.modules, "pynvml", library)
    assert nvml.load() is library
