# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What NVML tells of the GPUs, through nvidia-ml-py. It may hang: to be asked in a child only."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any

from . import pci
from .facts import (
    ARGUMENT_VERSION_MISMATCH,
    CLOCK_EVENT_REASONS,
    FABRIC_STATES,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    NVML,
    RECOVERY_ACTIONS,
    RESET_REQUIRED,
    Driver,
    Gpu,
    Node,
    Process,
    reason,
)

ESSENTIAL = (
    "NVMLError",
    "nvmlInit",
    "nvmlShutdown",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetFieldValues",
)

# Numbers of fields, which one call reads together; the names of the newest are not in every nvidia-ml-py.
MEMORY_TEMPERATURE = 82
NVLINK_ERRORS = (38, 45, 52, 59)
"""CRC of flow control and of data, replays, recoveries: totals of all links."""
RECOVERY_ACTION = 230
FIELDS = (MEMORY_TEMPERATURE, *NVLINK_ERRORS, RECOVERY_ACTION)
RETIREMENT_CAUSES = (0, 1)
"""Of a page: many single-bit errors, a double-bit error."""
VALUE_TYPES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")

FABRIC_FAULTS = ("degraded_bandwidth", "route_recovery", "route_unhealthy", "access_timeout")
"""In the order of their two bits each in the health mask, where 1 says that it is so."""
SOUND_CONFIGURATIONS = (0, 1)

MODULE = "pynvml"
ENVIRONMENTS = "/opt/vllm/current/lib/python3*/site-packages"
"""vLLM brings nvidia-ml-py with it, which the system's Python mostly lacks; it is one file, for any Python."""


class Unusable(Exception):
    """There is no nvidia-ml-py to ask NVML through."""


def preload() -> None:
    """Have children find it imported, which takes longer than a look."""
    with contextlib.suppress(Exception):
        _import()


def load() -> Any:
    """The module, imported where and when it is needed: it may be missing, damaged, or another of the same name."""
    try:
        nvml = _import()
    except Exception as error:
        raise Unusable(f"pynvml cannot be imported: {error}") from error
    missing = [name for name in ESSENTIAL if not hasattr(nvml, name)]
    if missing:
        raise Unusable(f"{getattr(nvml, '__file__', 'pynvml')} is not nvidia-ml-py: it has no {missing[0]}")
    return nvml


def _import() -> Any:
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.import_module(MODULE)
    spec = PathFinder.find_spec(MODULE, sorted(glob.glob(ENVIRONMENTS)))
    if spec is None or spec.loader is None or not _is_trusted(spec.origin):
        raise ModuleNotFoundError(f"neither this Python has it, nor {ENVIRONMENTS}")
    found = module_from_spec(spec)
    spec.loader.exec_module(found)
    sys.modules[MODULE] = found
    return found


def _is_trusted(path: str | None) -> bool:
    """Whether nobody but root and who runs this could have written it."""
    if not path:
        return False
    about = os.stat(path)
    return about.st_uid in (0, os.geteuid()) and not about.st_mode & 0o022


def read(nvml: Any) -> Node:
    """All that NVML tells. The session is shut again, for an open one keeps a GPU from being reset."""
    try:
        nvml.nvmlInit()
    except Exception as error:
        return _unanswered(error)
    try:
        return Node(source=NVML, driver=_driver(nvml), gpus=tuple(_gpus(nvml)))
    except Exception as error:
        return _unanswered(error)
    finally:
        with contextlib.suppress(Exception):
            nvml.nvmlShutdown()


class Outcome:
    """Of a call that is made once: a value, or the exception for whoever needs the value."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self._value: Any = None
        self._refusal: Exception | None = None
        try:
            self._value = call(*arguments)
        except Exception as error:
            self._refusal = error

    def get(self) -> Any:
        if self._refusal is not None:
            raise self._refusal
        return self._value


class Device:
    """A GPU, with the module that answers for it."""

    def __init__(self, nvml: Any, index: int) -> None:
        self.nvml = nvml
        self._handle = Outcome(nvml.nvmlDeviceGetHandleByIndex, index)
        self._fields = Outcome(self._ask_fields)

    def ask(self, question: str, *arguments: Any) -> Any:
        handle = self._handle.get()
        return _text(getattr(self.nvml, f"nvmlDeviceGet{question}")(handle, *arguments))

    def field(self, number: int) -> Any:
        field = self._fields.get()[number]
        if field.nvmlReturn:
            raise self.nvml.NVMLError(field.nvmlReturn)
        return getattr(field.value, VALUE_TYPES[field.valueType])

    def _ask_fields(self) -> dict[int, Any]:
        return dict(zip(FIELDS, self.ask("FieldValues", list(FIELDS))))


def _pci_address(device: Device) -> str:
    address = _text(device.ask("PciInfo").busId)
    if not pci.normalize(address):
        raise ValueError(f"{address!r} is no PCI address")
    return pci.normalize(address)


def _temperature(device: Device) -> Any:
    sensor = device.nvml.NVML_TEMPERATURE_GPU
    try:
        return device.ask("TemperatureV", sensor)
    except Exception as error:
        if _code(error) != FUNCTION_NOT_FOUND:
            raise
    return device.ask("Temperature", sensor)


def _threshold(device: Device, name: str) -> Any:
    return device.ask("TemperatureThreshold", getattr(device.nvml, f"NVML_TEMPERATURE_THRESHOLD_{name}"))


def _memory(device: Device) -> tuple[int, ...]:
    memory = device.ask("MemoryInfo", device.nvml.nvmlMemory_v2)
    return memory.total, memory.used, memory.free, memory.reserved


def _ecc_errors(device: Device, kind: str, counter: str) -> Any:
    nvml = device.nvml
    kinds = getattr(nvml, f"NVML_MEMORY_ERROR_TYPE_{kind}"), getattr(nvml, f"NVML_{counter}_ECC")
    return device.ask("TotalEccErrors", *kinds)


def _sram_threshold_exceeded(device: Device) -> bool:
    status = device.nvml.c_nvmlEccSramErrorStatus_v1_t()
    device.ask("SramEccErrorStatus", ctypes.byref(status))
    return bool(status.bThresholdExceeded)


def _rows_remapped(device: Device) -> tuple[int, int, bool, bool]:
    corrected, uncorrected, pending, failed = device.ask("RemappedRows")
    return corrected, uncorrected, bool(pending), bool(failed)


def _clock_event_reasons(device: Device) -> tuple[str, ...]:
    mask = device.ask("CurrentClocksEventReasons")
    return tuple(name for bit, name in enumerate(CLOCK_EVENT_REASONS) if mask >> bit & 1)


def _nvlinks(device: Device) -> tuple[int, int]:
    """Active ones and inactive ones."""
    active, inactive = 0, 0
    for link in range(device.nvml.NVML_NVLINK_MAX_LINKS):
        try:
            state = device.ask("NvLinkState", link)
        except Exception as error:
            # There is no such link; without the first there is none at all.
            if link and _code(error) in (INVALID_ARGUMENT, NOT_SUPPORTED):
                break
            raise
        active, inactive = active + bool(state), inactive + (not state)
    return active, inactive


def _fabric(device: Device) -> tuple[str, int, tuple[str, ...]]:
    info = device.nvml.c_nvmlGpuFabricInfo_v3_t()
    try:
        device.ask("GpuFabricInfoV", ctypes.byref(info))
    except Exception as error:
        if _code(error) != ARGUMENT_VERSION_MISMATCH:
            raise
        info = device.nvml.c_nvmlGpuFabricInfo_v2_t()
        device.ask("GpuFabricInfoV", ctypes.byref(info))
    return _word(FABRIC_STATES, info.state), info.status, fabric_faults(info.healthMask)


def fabric_faults(mask: int) -> tuple[str, ...]:
    faults = tuple(name for place, name in enumerate(FABRIC_FAULTS) if mask >> 2 * place & 3 == 1)
    configuration = mask >> 8 & 0xF
    return faults if configuration in SOUND_CONFIGURATIONS else (*faults, f"configuration_{configuration}")


def _processes(device: Device) -> tuple[Process, ...]:
    found = device.ask("ComputeRunningProcesses")
    return tuple(Process(process.pid, _name(device.nvml, process.pid), process.usedGpuMemory) for process in found)


def _name(nvml: Any, pid: int) -> str:
    """Empty where the process has gone, or is of another container."""
    try:
        return str(_text(nvml.nvmlSystemGetProcessName(pid)))
    except Exception:
        return ""


QUESTIONS: dict[str, Callable[[Device], Any]] = {
    "uuid": lambda device: device.ask("UUID"),
    "name": lambda device: device.ask("Name"),
    "serial": lambda device: device.ask("Serial"),
    "pci_address": _pci_address,
    "memory_total_bytes memory_used_bytes memory_free_bytes memory_reserved_bytes": _memory,
    "temperature_celsius": _temperature,
    "memory_temperature_celsius": lambda device: device.field(MEMORY_TEMPERATURE),
    "slowdown_celsius": lambda device: _threshold(device, "SLOWDOWN"),
    "shutdown_celsius": lambda device: _threshold(device, "SHUTDOWN"),
    "power_watts": lambda device: device.ask("PowerUsage") / 1000,
    "power_limit_watts": lambda device: device.ask("EnforcedPowerLimit") / 1000,
    "utilization_percent": lambda device: device.ask("UtilizationRates").gpu,
    "compute_capability": lambda device: ".".join(map(str, device.ask("CudaComputeCapability"))),
    "vbios": lambda device: device.ask("VbiosVersion"),
    "persistence_mode": lambda device: bool(device.ask("PersistenceMode")),
    "mig_mode": lambda device: bool(device.ask("MigMode")[0]),
    "ecc_mode ecc_mode_pending": lambda device: map(bool, device.ask("EccMode")),
    "ecc_corrected_volatile": lambda device: _ecc_errors(device, "CORRECTED", "VOLATILE"),
    "ecc_uncorrected_volatile": lambda device: _ecc_errors(device, "UNCORRECTED", "VOLATILE"),
    "ecc_corrected_aggregate": lambda device: _ecc_errors(device, "CORRECTED", "AGGREGATE"),
    "ecc_uncorrected_aggregate": lambda device: _ecc_errors(device, "UNCORRECTED", "AGGREGATE"),
    "sram_threshold_exceeded": _sram_threshold_exceeded,
    "rows_remapped_corrected rows_remapped_uncorrected remap_pending remap_failed": _rows_remapped,
    "pages_retired": lambda device: sum(len(device.ask("RetiredPages", cause)) for cause in RETIREMENT_CAUSES),
    "pages_pending": lambda device: bool(device.ask("RetiredPagesPendingStatus")),
    "clock_event_reasons": _clock_event_reasons,
    "pcie_generation": lambda device: device.ask("CurrPcieLinkGeneration"),
    "pcie_generation_max": lambda device: device.ask("MaxPcieLinkGeneration"),
    "pcie_width": lambda device: device.ask("CurrPcieLinkWidth"),
    "pcie_width_max": lambda device: device.ask("MaxPcieLinkWidth"),
    "pcie_replays": lambda device: device.ask("PcieReplayCounter"),
    "nvlinks_active nvlinks_inactive": _nvlinks,
    "nvlink_errors": lambda device: sum(map(device.field, NVLINK_ERRORS)),
    "fabric_state fabric_status fabric_faults": _fabric,
    "recovery_action": lambda device: _word(RECOVERY_ACTIONS, device.field(RECOVERY_ACTION)),
    "processes": _processes,
}
"""How each fact is asked for, or those that one call tells together."""


def _gpus(nvml: Any) -> Iterator[Gpu]:
    for index in range(nvml.nvmlDeviceGetCount()):
        yield _gpu(Device(nvml, index), index)


def _gpu(device: Device, index: int) -> Gpu:
    facts: dict[str, Any] = {}
    errors: dict[str, str] = {}
    codes: set[int | None] = set()
    for names, ask in QUESTIONS.items():
        fields = names.split()
        try:
            answer = ask(device)
            facts.update(zip(fields, tuple(answer) if len(fields) > 1 else (answer,)))
        except Exception as error:
            errors.update(dict.fromkeys(fields, _reason(error)))
            codes.add(_code(error))
    return Gpu(index, **facts, errors=errors, lost=GPU_IS_LOST in codes, reset_required=RESET_REQUIRED in codes)


def _driver(nvml: Any) -> Driver:
    driver = Driver()
    with contextlib.suppress(Exception):
        driver = replace(driver, library=_text(nvml.nvmlSystemGetDriverVersion()))
    with contextlib.suppress(Exception):
        version = nvml.nvmlSystemGetCudaDriverVersion_v2()
        driver = replace(driver, cuda=f"{version // 1000}.{version % 1000 // 10}")
    return driver


def _unanswered(error: Exception) -> Node:
    return Node(error=f"NVML: {_reason(error)}", code=_code(error))


def _code(error: Exception) -> int | None:
    if isinstance(error, AttributeError):
        return FUNCTION_NOT_FOUND  # this nvidia-ml-py is older
    code = getattr(error, "value", None)
    return code if isinstance(code, int) else None


def _reason(error: Exception) -> str:
    code = _code(error)
    return f"{type(error).__name__}: {error}" if code is None else reason(code)


def _text(answer: Any) -> Any:
    return answer.decode(errors="replace") if isinstance(answer, bytes) else answer


def _word(words: Sequence[str], number: int) -> str:
    if number < len(words):
        return words[number]
    raise ValueError(f"{number} has no meaning known here")
