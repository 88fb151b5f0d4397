# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look at the GPUs and the kernel's words on them mean: for each GPU, each instance and the node. Worst wins.

A GPU that the driver calls lost or in need of a reset is so; then its counters count, then the XIDs of this boot since
it was last reset or the driver loaded, then what was expected of it, then heat and throttling.

What the driver itself asks for, its recovery action, decides about resets: where it is known, an XID that the table
answers by a reset is only watched, for the driver tells contained faults from others and the sources of the table do
not agree. The same holds for uncorrectable errors that are counted. Where the field is not known, the last XID 154
stands for it, for XIDs until then; before R565 there is neither, and the table decides. XIDs that call for a reboot or
an inspection do so whatever the driver asks for.

A fault of a program asks for a restart only while the process that met it still holds the GPU. That, and whatever is
only watched, is forgotten after `recent_seconds`; the rest stays until a reset, a load of the driver or a reboot.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from . import xid_table
from .facts import GPU_IS_LOST, RESET_REQUIRED, UNKNOWN, VERSION_MISMATCH, Driver, Gpu, Node
from .xid import LOAD, RESET, SXID, XID, Event
from .xid_table import CHECK_APP, INSPECT, MONITOR, NONE, REBOOT, RESET_GPU, RESET_WHEN_IDLE, RESTART_APP

OK = "ok"
DEGRADED = "degraded"
"""Serves on; somebody should know."""
DRAIN = "drain"
"""What is in flight may finish before the action."""
UNHEALTHY = "unhealthy"
STATES = (OK, DEGRADED, DRAIN, UNHEALTHY)

RECOVER_FABRIC = "recover_fabric"
"""Restart what runs the fabric (fabric manager, IMEX), then reset all GPUs on it."""
ACTIONS = (NONE, MONITOR, CHECK_APP, RESTART_APP, RESET_WHEN_IDLE, RESET_GPU, RECOVER_FABRIC, REBOOT, INSPECT)

RECOVERY = {
    "gpu_reset": (UNHEALTHY, RESET_GPU),
    "node_reboot": (UNHEALTHY, REBOOT),
    # Once the processes that talk to peers have gone, the driver asks for something else.
    "drain_p2p": (DRAIN, RESTART_APP),
    "drain_and_reset": (DRAIN, RESET_GPU),
    "recover_imex": (UNHEALTHY, RECOVER_FABRIC),
    # nvidia-smi has no such reset; a reboot does it.
    "bus_reset": (UNHEALTHY, REBOOT),
    "system_reboot": (UNHEALTHY, REBOOT),
}
"""What becomes of a GPU for which the driver asks this."""
FABRIC_FAULTS = {"degraded_bandwidth": (DEGRADED, RECOVER_FABRIC), "route_recovery": (DEGRADED, MONITOR)}
"""Any other takes the GPU off the fabric."""
WITHOUT_ANSWER = {GPU_IS_LOST: REBOOT, RESET_REQUIRED: RESET_GPU, UNKNOWN: REBOOT}
"""What to do where NVML fails with this code. Any other needs somebody to look."""
HARDWARE_THROTTLING = ("hw_slowdown", "hw_thermal", "hw_power_brake")
THROTTLING = (*HARDWARE_THROTTLING, "sw_thermal")
"""Clock event reasons that are not part of normal work."""
HARMLESS_LINK_REASONS = (0x26, 0x28)
FOLLOWS_RECOVERY_ACTION = ("RLW_REMAP", "RLW_SRC_TRACK")
"""Units of NVLink 5 whose errors end the work of a program."""


@dataclass(frozen=True)
class Expectation:
    """What the inventory says of a node's GPUs; None where it says nothing. Never learned from the node itself."""

    count: int | None = None
    """Where it is not given, as many as there are on the PCI bus."""
    name: str | None = None
    """Part of the model's name."""
    memory_total_bytes: int | None = None
    """At least."""
    ecc_mode: bool | None = None
    nvlinks_active: int | None = None
    """At least."""
    pcie_width: int | None = None
    """At least."""
    driver: str | None = None
    """At least."""


@dataclass(frozen=True)
class Limits:
    """What is still normal."""

    idle_memory_bytes: int = 1 << 30
    """In use while no process holds the GPU."""
    temperature_margin_celsius: int = 2
    """Below the temperature at which the GPU slows down."""
    ecc_corrected: int = 50_000_000
    """Since the last reset."""
    rows_remapped_uncorrected: int = 512
    pages_retired: int = 63
    throttled_seconds: float = 360.0
    recent_seconds: float = 3600.0


@dataclass(frozen=True)
class Verdict:
    state: str = OK
    action: str = NONE
    """What the worst of the reasons calls for."""
    reasons: tuple[str, ...] = ()
    """One sentence each, the worst first."""


@dataclass(frozen=True)
class GpuVerdict(Verdict):
    index: int = 0
    """Its place on the bus, also where the driver does not list a GPU before it."""
    uuid: str = ""
    pci_address: str = ""


@dataclass(frozen=True)
class NodeVerdict(Verdict):
    gpus: tuple[GpuVerdict, ...] = ()
    instances: Mapping[str, Verdict] = field(default_factory=dict)
    restart_safe: bool = True
    """False where a server that runs may be the last that does: a new one would not find the GPUs."""


class Finding(NamedTuple):
    state: str
    action: str
    reason: str

    @property
    def weight(self) -> tuple[int, int]:
        return STATES.index(self.state), ACTIONS.index(self.action)


@dataclass(frozen=True)
class _Place:
    """Where a GPU is, or should be."""

    index: int
    pci_address: str
    gpu: Gpu | None


def judge(
    node: Node,
    events: Sequence[Event],
    resets: Mapping[str, float],
    expectation: Expectation,
    limits: Limits,
    instances: Mapping[str, Sequence[int]],
    throttled_seconds: Mapping[str, float],
    installation_faults: Sequence[str] = (),
) -> NodeVerdict:
    """Judge one look.

    :param events: Of this boot.
    :param resets: When a GPU was last reset, by UUID, where that is known from elsewhere than the events.
    :param instances: Indices of each instance's GPUs; none are all.
    :param throttled_seconds: For how long a GPU has been slowed down, by UUID; see is_throttled.
    :param installation_faults: What is wrong with the driver as it is installed: what runs goes on, until it is started
        again or the host boots.
    """
    expected = len(node.pci_addresses) if expectation.count is None else expectation.count
    places = _places(node, expected)
    kernel = _Kernel(node, events, resets, limits.recent_seconds)
    blind = list(_blindness(node, expected))
    installed = [Finding(DEGRADED, INSPECT, fault) for fault in installation_faults if not _out_of_step(node)]
    shared = [*blind, *_of_driver(node, expectation), *installed, *kernel.of_switches()]
    addresses = {place.pci_address for place in places if place.pci_address}
    own = [*_of_count(node, expectation, expected, len(places)), *kernel.elsewhere(addresses)]
    case = _Case(node, kernel, expectation, limits, throttled_seconds)
    found = {place.index: list(_of_place(place, case)) for place in places}
    named = {index: [_prefixed(f"GPU {index}", finding) for finding in findings] for index, findings in found.items()}
    everything = [*shared, *own, *itertools.chain(*named.values())]

    def of_instance(indices: Sequence[int]) -> Verdict:
        if not indices:
            return Verdict(*_worst(everything))
        findings = (named[index] if index in named else _of_absent(node, index) for index in indices)
        return Verdict(*_worst([*shared, *itertools.chain(*findings)]))

    return NodeVerdict(
        *_worst(everything),
        gpus=tuple(_gpu_verdict(place, [*blind, *found[place.index]]) for place in places),
        instances={name: of_instance(indices) for name, indices in instances.items()},
        restart_safe=not (node.unresponsive or _out_of_step(node)),
    )


def is_throttled(gpu: Gpu) -> bool:
    """Whether something slows it down that should not."""
    return any(reason in THROTTLING for reason in gpu.clock_event_reasons or ())


def _worst(findings: Iterable[Finding]) -> tuple[str, str, tuple[str, ...]]:
    ranked = sorted(findings, key=lambda finding: finding.weight, reverse=True)
    if not ranked:
        return OK, NONE, ()
    return ranked[0].state, ranked[0].action, tuple(dict.fromkeys(finding.reason for finding in ranked))


def _prefixed(subject: str, finding: Finding) -> Finding:
    return finding._replace(reason=f"{subject}: {finding.reason}")


def _gpu_verdict(place: _Place, findings: list[Finding]) -> GpuVerdict:
    uuid = (place.gpu.uuid if place.gpu else None) or ""
    return GpuVerdict(*_worst(findings), index=place.index, uuid=uuid, pci_address=place.pci_address)


def _places(node: Node, expected: int) -> list[_Place]:
    """Where a GPU that is expected is not listed, the driver's indices beyond it are too low; the bus has the order."""
    listed = {gpu.pci_address: gpu for gpu in node.gpus}
    missing = set(node.pci_addresses).difference(listed)
    if not missing or len(node.gpus) >= expected or None in listed:
        return [_Place(gpu.index, gpu.pci_address or "", gpu) for gpu in node.gpus]
    addresses = sorted({*node.pci_addresses, *(gpu.pci_address or "" for gpu in node.gpus)})
    return [_Place(index, address, listed.get(address)) for index, address in enumerate(addresses)]


# The node


def _out_of_step(node: Node) -> bool:
    return node.driver.mismatch or node.code == VERSION_MISMATCH


def _hidden(node: Node) -> bool:
    """Whether the GPUs cannot be seen for driver and library out of step, while what runs on them still does."""
    return not node.source and _out_of_step(node)


def _blindness(node: Node, expected: int) -> Iterator[Finding]:
    """Why nothing is known of any GPU."""
    if node.unresponsive:
        yield Finding(UNHEALTHY, REBOOT, f"the driver does not answer in time{_because(node.error)}")
    elif not node.source and not _hidden(node):
        if expected:
            action = INSPECT if node.code is None else WITHOUT_ANSWER.get(node.code, INSPECT)
            yield Finding(UNHEALTHY, action, f"none of {expected} GPUs can be seen{_because(node.error)}")
        else:
            yield Finding(OK, NONE, f"no GPU is expected, and none can be seen{_because(node.error)}")


def _of_driver(node: Node, expectation: Expectation) -> Iterator[Finding]:
    driver = node.driver
    if _out_of_step(node):
        versions = (
            f"{driver.loaded or 'unknown'} is loaded, the library is {_library(driver) or 'unknown'},"
            f" the module on disk {driver.installed or 'unknown'}"
        )
        yield Finding(DEGRADED, REBOOT, f"the driver was exchanged while in use ({versions}): do not restart servers")
    found = driver.loaded or driver.library
    if expectation.driver and found and _version(found) < _version(expectation.driver):
        yield Finding(DEGRADED, INSPECT, f"driver {found} is older than {expectation.driver}")


def _library(driver: Driver) -> str:
    """The one that is out of step, where one is."""
    return driver.libcuda if driver.libcuda and driver.library == driver.loaded else driver.library


def _of_count(node: Node, expectation: Expectation, expected: int, places: int) -> Iterator[Finding]:
    if not node.source or node.unresponsive:
        return
    if node.error:
        yield Finding(DEGRADED, MONITOR, f"the look at the GPUs may lack some: {node.error}")
    if places < expected:
        yield Finding(UNHEALTHY, REBOOT, f"{places} of {expected} GPUs are there")
    elif expectation.count is not None and len(node.gpus) > expectation.count:
        yield Finding(DEGRADED, MONITOR, f"there are {len(node.gpus)} GPUs where {expectation.count} are expected")


def _because(error: str) -> str:
    return f": {error}" if error else ""


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]{1,9}", text))


# A GPU


class _Case(NamedTuple):
    """What each GPU is judged by."""

    node: Node
    kernel: _Kernel
    expectation: Expectation
    limits: Limits
    throttled_seconds: Mapping[str, float]


def _of_place(place: _Place, case: _Case) -> Iterator[Finding]:
    gpu = place.gpu
    if gpu is None:
        if case.node.source:
            yield Finding(UNHEALTHY, REBOOT, f"{place.pci_address} is on the PCI bus, but the driver does not list it")
        yield from case.kernel.of_gpu(place.pci_address, None)
        return
    yield from _of_own_word(gpu)
    yield from _of_counters(gpu, case.limits)
    if place.pci_address:
        yield from case.kernel.of_gpu(place.pci_address, gpu)
    if len(case.node.gpus) > 1:
        yield from _of_fabric(gpu)  # one alone has no peers, whatever it says
    yield from _of_expectation(gpu, case.expectation)
    yield from _of_strain(gpu, case.limits, case.throttled_seconds.get(gpu.uuid or "", 0.0))


def _of_absent(node: Node, index: int) -> Iterator[Finding]:
    if not _hidden(node):
        yield Finding(UNHEALTHY, INSPECT, f"GPU {index} is not there")


def _of_own_word(gpu: Gpu) -> Iterator[Finding]:
    if gpu.lost:
        yield Finding(UNHEALTHY, REBOOT, "the driver has lost it")
    if gpu.reset_required:
        yield Finding(UNHEALTHY, RESET_GPU, "the driver does not use it before it is reset")
    if gpu.recovery_action in RECOVERY:
        yield Finding(*RECOVERY[gpu.recovery_action], f"the driver asks for {gpu.recovery_action}")


def _of_counters(gpu: Gpu, limits: Limits) -> Iterator[Finding]:
    if gpu.remap_failed:
        yield Finding(UNHEALTHY, INSPECT, "a row of its memory could not be remapped: it qualifies for replacement")
    if gpu.sram_threshold_exceeded:
        yield Finding(DRAIN, INSPECT, "its SRAM errors exceed the threshold: it qualifies for replacement")
    if (gpu.pages_retired or 0) >= limits.pages_retired:
        yield Finding(DRAIN, INSPECT, f"{gpu.pages_retired} pages of its memory are retired")
    if (gpu.rows_remapped_uncorrected or 0) >= limits.rows_remapped_uncorrected:
        yield Finding(DEGRADED, INSPECT, f"{gpu.rows_remapped_uncorrected} rows were remapped for uncorrectable errors")
    if gpu.ecc_uncorrected_volatile:
        weight = (UNHEALTHY, RESET_GPU) if gpu.recovery_action is None else (DEGRADED, MONITOR)
        yield Finding(*weight, f"{gpu.ecc_uncorrected_volatile} uncorrectable memory errors since its last reset")
    if gpu.remap_pending:
        yield Finding(DEGRADED, RESET_WHEN_IDLE, "a row of its memory is remapped at the next reset")
    if gpu.pages_pending:
        yield Finding(DEGRADED, RESET_WHEN_IDLE, "a page of its memory is retired at the next reset")
    if None not in (gpu.ecc_mode, gpu.ecc_mode_pending) and gpu.ecc_mode != gpu.ecc_mode_pending:
        yield Finding(DEGRADED, RESET_WHEN_IDLE, f"ECC is switched {_on(gpu.ecc_mode_pending)} at the next reset")
    if (gpu.ecc_corrected_volatile or 0) >= limits.ecc_corrected:
        yield Finding(DEGRADED, MONITOR, f"{gpu.ecc_corrected_volatile} corrected memory errors since its last reset")


def _of_fabric(gpu: Gpu) -> Iterator[Finding]:
    if gpu.fabric_state == "not_started":
        yield Finding(UNHEALTHY, RECOVER_FABRIC, "it has not joined the NVLink fabric")
    elif gpu.fabric_state == "in_progress":
        yield Finding(DEGRADED, MONITOR, "it is about to join the NVLink fabric")
    elif gpu.fabric_state == "completed" and gpu.fabric_status:
        yield Finding(UNHEALTHY, RECOVER_FABRIC, f"the NVLink fabric refused it with NVML code {gpu.fabric_status}")
    for fault in gpu.fabric_faults or ():
        yield Finding(*FABRIC_FAULTS.get(fault, (UNHEALTHY, RECOVER_FABRIC)), f"NVLink fabric: {fault}")


def _of_expectation(gpu: Gpu, expectation: Expectation) -> Iterator[Finding]:
    if _below(gpu.nvlinks_active, expectation.nvlinks_active):
        yield Finding(DRAIN, RESET_GPU, f"{gpu.nvlinks_active} of {expectation.nvlinks_active} NVLinks are active")
    if expectation.name is not None and gpu.name is not None and expectation.name not in gpu.name:
        yield Finding(DEGRADED, INSPECT, f"it is a {gpu.name}, not a {expectation.name}")
    if _below(gpu.memory_total_bytes, expectation.memory_total_bytes):
        yield Finding(
            DEGRADED,
            INSPECT,
            f"it has {_mib(gpu.memory_total_bytes)} of memory, not {_mib(expectation.memory_total_bytes)}",
        )
    if expectation.ecc_mode is not None and gpu.ecc_mode not in (None, expectation.ecc_mode):
        yield Finding(DEGRADED, INSPECT, f"ECC is {_on(gpu.ecc_mode)}")
    if _below(gpu.pcie_width, expectation.pcie_width):
        yield Finding(DEGRADED, INSPECT, f"{gpu.pcie_width} of {expectation.pcie_width} PCIe lanes are in use")


def _of_strain(gpu: Gpu, limits: Limits, throttled_seconds: float) -> Iterator[Finding]:
    if is_throttled(gpu) and throttled_seconds >= limits.throttled_seconds:
        reasons = [reason for reason in gpu.clock_event_reasons or () if reason in THROTTLING]
        action = INSPECT if any(reason in HARDWARE_THROTTLING for reason in reasons) else MONITOR
        yield Finding(DEGRADED, action, f"slowed down for {throttled_seconds:.0f} s: {', '.join(reasons)}")
    temperature, slowdown = gpu.temperature_celsius, gpu.slowdown_celsius
    if temperature is not None and slowdown is not None and temperature >= slowdown - limits.temperature_margin_celsius:
        yield Finding(DEGRADED, MONITOR, f"{temperature} C, and it slows down at {slowdown} C")
    held = (gpu.memory_used_bytes or 0) > limits.idle_memory_bytes
    # With MIG the processes are listed by GPU instance.
    if held and gpu.processes == () and not gpu.mig_mode:
        used = _mib(gpu.memory_used_bytes)
        yield Finding(DEGRADED, MONITOR, f"{used} in use by no process that is seen: try fuser -v /dev/nvidia*")


def _below(value: int | None, least: int | None) -> bool:
    return value is not None and least is not None and value < least


def _mib(count: int | None) -> str:
    return f"{(count or 0) >> 20} MiB"


def _on(mode: bool | None) -> str:
    return "on" if mode else "off"


# The kernel's words


class _Told(NamedTuple):
    """What the driver last asked for, and until when that is known to hold."""

    recovery_action: str | None = None
    at: float = -math.inf


class _Kernel:
    """What the kernel has said of the GPUs of this boot, and what of it still holds."""

    def __init__(self, node: Node, events: Sequence[Event], resets: Mapping[str, float], recent_seconds: float) -> None:
        self._node = node
        self._events = events
        self._resets = resets
        self._recent_seconds = recent_seconds
        self._loaded_at = max((event.at for event in events if event.kind == LOAD), default=-math.inf)

    def of_gpu(self, pci_address: str, gpu: Gpu | None) -> Iterator[Finding]:
        """What its XIDs since its last reset mean, each code once."""
        begin = self._reset_at(gpu)
        xids = [
            event
            for event in self._events
            if event.kind == XID and event.pci_address == pci_address and event.at > begin
        ]
        told = self._told(gpu, xids)
        codes = {event.code for event in xids}
        for code in sorted(code for code in codes if code is not None):
            same = [event for event in xids if event.code == code]
            weights = [weight for weight in (self._weigh(event, gpu, told, codes) for event in same) if weight]
            if weights:
                worst = max((Finding(*weight, "") for weight in weights), key=lambda finding: finding.weight)
                yield worst._replace(reason=self._sentence(code, same, told))

    def elsewhere(self, pci_addresses: set[str]) -> Iterator[Finding]:
        """Of GPUs that are not there any more, or that the line does not name."""
        for address in sorted({event.pci_address for event in self._events if event.kind == XID} - pci_addresses):
            for finding in self.of_gpu(address, None):
                yield _prefixed(address or "a GPU that is not named", finding)
        for event in self._switch_events():
            if not event.fatal and self._is_recent(event):
                yield Finding(DEGRADED, MONITOR, self._switch_sentence(event, "is not fatal"))

    def of_switches(self) -> Iterator[Finding]:
        """What NVSwitches said that concerns all GPUs: it holds until each of them was reset."""
        begin = min((self._reset_at(gpu) for gpu in self._node.gpus), default=self._loaded_at)
        for event in self._switch_events():
            if event.fatal and event.at > begin:
                yield Finding(UNHEALTHY, RECOVER_FABRIC, self._switch_sentence(event, "is fatal"))

    def _switch_events(self) -> list[Event]:
        """The last of each kind."""
        last = {(event.pci_address, event.code, event.fatal): event for event in self._events if event.kind == SXID}
        return list(last.values())

    def _switch_sentence(self, event: Event, fatality: str) -> str:
        return f"SXID {event.code} of NVSwitch {event.pci_address} {fatality}, {self._age(event):.0f} s ago"

    def _reset_at(self, gpu: Gpu | None) -> float:
        uuid = (gpu.uuid if gpu else None) or ""
        told = [event.at for event in self._events if event.kind == RESET and event.uuid == uuid]
        return max([self._loaded_at, self._resets.get(uuid, -math.inf), *told])

    def _told(self, gpu: Gpu | None, xids: list[Event]) -> _Told:
        if gpu and gpu.recovery_action is not None:
            return _Told(gpu.recovery_action, math.inf)
        changes = [event for event in xids if event.recovery_action is not None]
        return _Told(changes[-1].recovery_action, changes[-1].at) if changes else _Told()

    def _weigh(self, event: Event, gpu: Gpu | None, told: _Told, codes: set[int | None]) -> tuple[str, str] | None:
        """State and action for one XID; None where it means nothing any more."""
        severity, action = _meaning(event)
        if action == NONE:
            return None
        if action == xid_table.FOLLOW_TEXT:
            return self._changed(event, told)
        if severity == xid_table.INFO:
            return self._watched(event, OK)
        if action == RESET_GPU:
            return self._reset(event, told, codes)
        if action == REBOOT:
            return UNHEALTHY, REBOOT
        if action == INSPECT:
            return (UNHEALTHY if severity == xid_table.FATAL else DEGRADED), INSPECT
        if action == RESET_WHEN_IDLE:
            done = gpu is not None and gpu.remap_pending is False and not gpu.pages_pending
            return None if done else (DEGRADED, RESET_WHEN_IDLE)
        if action in (CHECK_APP, RESTART_APP) and _holds(gpu, event.pid):
            return DEGRADED, action
        return self._watched(event, DEGRADED)

    def _changed(self, event: Event, told: _Told) -> tuple[str, str] | None:
        """Of XID 154, whose last words count where the driver cannot be asked."""
        if event.recovery_action is None:
            return self._watched(event, DEGRADED)
        return RECOVERY.get(event.recovery_action) if event.at == told.at else None

    def _reset(self, event: Event, told: _Told, codes: set[int | None]) -> tuple[str, str] | None:
        if event.at <= told.at:
            return self._watched(event, DEGRADED)
        if event.code in xid_table.DOUBLE_BIT_ERRORS and xid_table.MEMORY_REMAPPED in codes:
            return DRAIN, RESET_GPU
        return UNHEALTHY, RESET_GPU

    def _watched(self, event: Event, state: str) -> tuple[str, str] | None:
        return (state, MONITOR) if self._is_recent(event) else None

    def _is_recent(self, event: Event) -> bool:
        return self._age(event) < self._recent_seconds

    def _age(self, event: Event) -> float:
        return max(self._node.at - event.at, 0.0)

    def _sentence(self, code: int, events: list[Event], told: _Told) -> str:
        last = events[-1]
        name = xid_table.lookup(code).name
        times = f", {len(events)} times" if len(events) > 1 else ""
        asked = f"; the driver asks for {told.recovery_action}" if last.at <= told.at else ""
        return f"XID {code}, {name}{times}, {self._age(last):.0f} s ago{asked}"


def _holds(gpu: Gpu | None, pid: int | None) -> bool:
    return gpu is not None and any(process.pid == pid for process in gpu.processes or ())


def _meaning(event: Event) -> tuple[str, str]:
    """Severity and action of an XID, which some rows of the table leave to others."""
    row = xid_table.lookup(event.code or 0)
    if event.fatal and event.link_reason in HARMLESS_LINK_REASONS and row.code == xid_table.NVLINK_NETIR:
        return xid_table.INFO, MONITOR
    if event.fatal or row.action == xid_table.FOLLOW_48:
        return xid_table.CRITICAL, RESET_GPU
    if row.action != xid_table.DECODE:
        return row.severity, row.action
    if event.fatal is None and row.severity == xid_table.CRITICAL:
        return xid_table.CRITICAL, RESET_GPU
    if event.unit in FOLLOWS_RECOVERY_ACTION:
        return xid_table.ERROR, RESTART_APP
    return (xid_table.INFO if row.code == xid_table.NVLINK_NETIR else xid_table.WARNING), MONITOR
