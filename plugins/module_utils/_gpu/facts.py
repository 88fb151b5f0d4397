# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What one look at the GPUs of a node found. None is what is not known, never what is not there."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# Codes of NVML, which nvidia-smi exits with as well.
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
VERSION_MISMATCH = 18
ARGUMENT_VERSION_MISMATCH = 25
UNKNOWN = 999
REASONS = {
    1: "not initialized",
    INVALID_ARGUMENT: "invalid argument",
    NOT_SUPPORTED: "not supported",
    NO_PERMISSION: "no permission",
    6: "not found",
    7: "insufficient size",
    8: "power cable not attached",
    DRIVER_NOT_LOADED: "driver not loaded",
    10: "timeout",
    11: "interrupt request issue",
    LIBRARY_NOT_FOUND: "library not found",
    FUNCTION_NOT_FOUND: "function not found",
    14: "InfoROM is corrupted",
    GPU_IS_LOST: "GPU is lost",
    RESET_REQUIRED: "GPU requires reset",
    17: "access denied by the operating system",
    VERSION_MISMATCH: "driver and library are of different versions",
    19: "in use",
    20: "insufficient memory",
    21: "no data",
    ARGUMENT_VERSION_MISMATCH: "argument of another version",
    UNKNOWN: "unknown error",
}

NVML = "nvml"
NVIDIA_SMI = "nvidia-smi"

CLOCK_EVENT_REASONS = (
    "idle",
    "app_clocks",
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal",
    "hw_thermal",
    "hw_power_brake",
    "display_clocks",
)
"""Why a GPU does not run at full clocks, in the order of the bits of NVML's mask."""
FABRIC_STATES = ("not_supported", "not_started", "in_progress", "completed")
RECOVERY_ACTIONS = (
    "none",
    "gpu_reset",
    "node_reboot",
    "drain_p2p",
    "drain_and_reset",
    "recover_imex",
    "bus_reset",
    "system_reboot",
)
"""What the driver itself asks for, in the order of NVML's numbers."""


def reason(code: int) -> str:
    return REASONS.get(code, f"NVML error {code}")


@dataclass(frozen=True)
class Process:
    """A process that computes on a GPU."""

    pid: int
    name: str = ""
    used_bytes: int | None = None


@dataclass(frozen=True)
class Gpu:
    index: int
    uuid: str | None = None
    name: str | None = None
    serial: str | None = None
    pci_address: str | None = None
    """As pci.normalize writes it."""
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    """Without what the driver has reserved."""
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    temperature_celsius: int | None = None
    memory_temperature_celsius: int | None = None
    slowdown_celsius: int | None = None
    shutdown_celsius: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    utilization_percent: int | None = None
    compute_capability: str | None = None
    vbios: str | None = None
    persistence_mode: bool | None = None
    mig_mode: bool | None = None
    ecc_mode: bool | None = None
    ecc_mode_pending: bool | None = None
    """The mode after the next reset."""
    ecc_corrected_volatile: int | None = None
    """Volatile counts begin anew when the driver is loaded or the GPU is reset."""
    ecc_uncorrected_volatile: int | None = None
    ecc_corrected_aggregate: int | None = None
    ecc_uncorrected_aggregate: int | None = None
    sram_threshold_exceeded: bool | None = None
    rows_remapped_corrected: int | None = None
    rows_remapped_uncorrected: int | None = None
    remap_pending: bool | None = None
    remap_failed: bool | None = None
    pages_retired: int | None = None
    pages_pending: bool | None = None
    clock_event_reasons: tuple[str, ...] | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    pcie_replays: int | None = None
    nvlinks_active: int | None = None
    nvlinks_inactive: int | None = None
    nvlink_errors: int | None = None
    fabric_state: str | None = None
    fabric_status: int | None = None
    """Code of NVML, 0 where the fabric accepted the GPU."""
    fabric_faults: tuple[str, ...] | None = None
    recovery_action: str | None = None
    processes: tuple[Process, ...] | None = None
    errors: dict[str, str] = field(default_factory=dict)
    """Why a field is None, by its name."""
    lost: bool = False
    reset_required: bool = False

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Gpu:
        processes = document["processes"]
        if processes is not None:
            processes = [Process(**process) for process in processes]
        return cls(**_with_tuples({**document, "processes": processes}))


@dataclass(frozen=True)
class Driver:
    """Versions, each empty where it is not known or there is none."""

    loaded: str = ""
    """Of the kernel module that runs."""
    installed: str = ""
    """Of the kernel module on disk, which the next boot loads."""
    library: str = ""
    """Of the library that programs load."""
    cuda: str = ""
    """The newest that the driver serves."""
    libcuda: str = ""
    """Of the library that servers compute by, where a file tells it."""

    @property
    def mismatch(self) -> bool:
        """Whether the driver was exchanged under the running module: programs that start now may not find the GPUs."""
        others = (self.installed, self.library, self.libcuda)
        return bool(self.loaded) and any(version not in ("", self.loaded) for version in others)


@dataclass(frozen=True)
class Node:
    """One look at all GPUs of a host."""

    source: str = ""
    """Who answered: NVML or NVIDIA_SMI, empty where neither did."""
    fallback: str = ""
    """Why nvidia-smi was asked, empty where it was not."""
    error: str = ""
    """What failed, in one sentence; with a source, its answer may lack some GPUs."""
    code: int | None = None
    """Of NVML, with the error."""
    unresponsive: bool = False
    """Nobody answered in time, as where the driver hangs."""
    driver: Driver = Driver()
    gpus: tuple[Gpu, ...] = ()
    pci_addresses: tuple[str, ...] = ()
    """Of the GPUs that the host has, whether or not the driver answers for them."""
    nvswitches: int = 0
    at: float = 0.0
    """On the monotonic clock, in seconds."""
    boot_id: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Node:
        driver, gpus = Driver(**document["driver"]), [Gpu.from_json(gpu) for gpu in document["gpus"]]
        return cls(**_with_tuples({**document, "driver": driver, "gpus": gpus}))


def _with_tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
