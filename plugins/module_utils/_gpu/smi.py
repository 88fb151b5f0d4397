# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia-smi tells of the GPUs, where NVML cannot be asked directly. It may hang: to be asked in a child only."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar
from xml.etree.ElementTree import Element, ParseError, XMLPullParser

from . import pci
from .child import ending, run
from .facts import (
    FABRIC_STATES,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    NO_PERMISSION,
    NOT_SUPPORTED,
    NVIDIA_SMI,
    REASONS,
    RESET_REQUIRED,
    UNKNOWN,
    Driver,
    Gpu,
    Node,
    Process,
    reason,
)

MIB = 1024 * 1024
GPU = "gpu"
FAILED_GPU = "error_string"
"""Stands for a GPU that can be opened, and no more."""
CLOSED_GPU = re.compile(
    r"Unable to determine the device handle for GPU ?(?P<index>\d{1,4}): (?P<address>[0-9A-F:.]+): (?P<words>.*)",
    re.ASCII | re.IGNORECASE,
)
"""What is said of a GPU that cannot be opened, on standard error and with no effect on the exit code."""
FAILURES = {
    "gpu is lost": GPU_IS_LOST,
    "gpu requires reset": RESET_REQUIRED,
    "a gpu reset must occur": RESET_REQUIRED,
}
UNTOLD = "nvidia-smi does not tell"
NOT_TOLD = ("compute_capability", "nvlinks_active", "nvlinks_inactive", "nvlink_errors")
REFUSALS = {
    "n/a": reason(NOT_SUPPORTED),
    "not supported": reason(NOT_SUPPORTED),
    "gpu is lost": reason(GPU_IS_LOST),
    "gpu requires reset": reason(RESET_REQUIRED),
    "function not found": reason(FUNCTION_NOT_FOUND),
    "unknown error": reason(UNKNOWN),
    "insufficient permissions": reason(NO_PERMISSION),
    "requested functionality has been deprecated": "deprecated",
}
"""What is told in the place of a value, some of it at times in brackets."""
SWITCHES = {"enabled": True, "disabled": False, "yes": True, "no": False, "true": True, "false": False}
RECOVERY_ACTIONS = {
    "none": "none",
    "reset": "gpu_reset",
    "gpu reset": "gpu_reset",
    "reboot": "node_reboot",
    "node reboot": "node_reboot",
    "drain p2p": "drain_p2p",
    "drain and reset": "drain_and_reset",
    "recover imex domain": "recover_imex",
    "bus reset": "bus_reset",
    "system reboot": "system_reboot",
}
CLOCK_EVENTS = {
    "idle": "gpu_idle",
    "app_clocks": "applications_clocks_setting",
    "sw_power_cap": "sw_power_cap",
    "hw_slowdown": "hw_slowdown",
    "sync_boost": "sync_boost",
    "sw_thermal": "sw_thermal_slowdown",
    "hw_thermal": "hw_thermal_slowdown",
    "hw_power_brake": "hw_power_brake_slowdown",
    "display_clocks": "display_clocks_setting",
}
FABRIC_FAULTS = {
    "degraded_bandwidth": ("bandwidth", "degraded"),
    "route_recovery": ("route_recovery_in_progress", "true"),
    "route_unhealthy": ("route_unhealthy", "true"),
    "access_timeout": ("access_timeout_recovery", "true"),
}
"""Where each is told, and by what word."""
CONFIGURATIONS = {
    "incorrect systemguid": 2,
    "incorrect chassis serial number": 3,
    "no partition": 4,
    "insufficient nvlink resources": 5,
}
"""What is wrong with a fabric, by NVML's numbers."""
SOUND_CONFIGURATIONS = ("", "n/a", "none")
PAGE_CAUSES = ("multiple_single_bit_retirement", "double_bit_retirement")
PCIE = "pci/pci_gpu_link_info"
NUMBER = re.compile(r"-?\d{1,18}(?:\.\d+)?", re.ASCII)
VERSION = re.compile(r"\d+(?:\.\d+)*", re.ASCII)
LONGEST_TROUBLE = 200

Word = TypeVar("Word")


class Refused(Exception):
    """There is no value, and this is why."""


def read() -> Node:
    try:
        status, text, errors = run("nvidia-smi", "-q", "-x")
    except OSError as error:
        return Node(error=str(error))
    return parse(status, text, errors)


def parse(status: int, text: str, errors: str = "") -> Node:
    """What it printed, or a part of that: it may end early where a GPU fails."""
    words, mark, document = text.partition("<")
    driver, elements, whole = _elements(mark + document)
    gpus = _gpus(elements, errors)
    trouble = "" if whole and not status else _trouble(status, words, errors)
    return Node(
        source=NVIDIA_SMI if whole or gpus else "",
        error=trouble and f"nvidia-smi: {trouble}",
        code=_code(status, trouble),
        driver=driver,
        gpus=gpus,
    )


def _elements(document: str) -> tuple[Driver, list[Element], bool]:
    """The driver, the GPUs of which all is there, and whether the document has its end."""
    parser: XMLPullParser[Element] = XMLPullParser()
    versions: dict[str, Element] = {}
    gpus: list[Element] = []
    whole = False
    with contextlib.suppress(ParseError):
        parser.feed(document)
        events: Any = parser.read_events()
        for _event, element in events:
            if element.tag in (GPU, FAILED_GPU):
                gpus.append(element)
            elif element.tag == "nvidia_smi_log":
                whole = True
            elif element.tag in ("driver_version", "cuda_version"):
                versions[element.tag] = element
    driver = Driver(library=_version(versions, "driver_version"), cuda=_version(versions, "cuda_version"))
    return driver, gpus, whole


def _version(elements: dict[str, Element], name: str) -> str:
    found = VERSION.fullmatch((elements[name].text or "").strip()) if name in elements else None
    return found.group() if found else ""


def _trouble(status: int, *words: str) -> str:
    said = [line.strip() for text in words for line in text.splitlines() if line.strip()]
    if said:
        return said[0][:LONGEST_TROUBLE]
    if status in REASONS:
        return reason(status)
    return f"it {ending(status)}" if status else "its answer ends early"


def _code(status: int, trouble: str) -> int | None:
    """Of NVML, which is the exit code as far as that can hold it."""
    told = _failures(trouble)
    if told:
        return told[0]
    if status in (UNKNOWN & 0xFF, 0xFF):
        return UNKNOWN
    return status if status in REASONS else None


def _gpus(elements: list[Element], errors: str) -> tuple[Gpu, ...]:
    """In the order of their indices; those that could not be opened are left out of the document."""
    closed = {int(found["index"]): found for found in CLOSED_GPU.finditer(errors)}
    indices = (index for index in itertools.count() if index not in closed)
    opened = [_gpu(index, element) for index, element in zip(indices, elements)]
    refused = [_failed_gpu(index, found["words"], found["address"]) for index, found in closed.items()]
    return tuple(sorted([*opened, *refused], key=lambda gpu: gpu.index))


def _gpu(index: int, element: Element) -> Gpu:
    if element.tag == FAILED_GPU:
        return _failed_gpu(index, element.text or "")
    facts: dict[str, Any] = {}
    errors = dict.fromkeys(NOT_TOLD, UNTOLD)
    for name, ask in QUESTIONS.items():
        try:
            facts[name] = ask(element)
        except Refused as refusal:
            errors[name] = str(refusal)
    codes = _failures("".join(element.itertext()))
    return Gpu(index, **facts, errors=errors, lost=GPU_IS_LOST in codes, reset_required=RESET_REQUIRED in codes)


def _failed_gpu(index: int, words: str, address: str = "") -> Gpu:
    """One that tells nothing of itself."""
    codes = _failures(words)
    trouble = reason(codes[0]) if codes else words.strip()[:LONGEST_TROUBLE]
    place = pci.normalize(address)
    return Gpu(
        index,
        pci_address=place or None,
        errors={name: trouble for name in (*NOT_TOLD, *QUESTIONS) if name != "pci_address" or not place},
        lost=GPU_IS_LOST in codes,
        reset_required=RESET_REQUIRED in codes,
    )


def _failures(text: str) -> list[int]:
    return [code for words, code in FAILURES.items() if words in text.lower()]


def _text(element: Element, *paths: str) -> str:
    """What is at the first of the paths that there is: names have changed over the years."""
    for path in paths:
        found = _find(element, path)
        if found is not None:
            text = (found.text or "").strip()
            # N/A may be followed by its reason in parentheses.
            refusal = REFUSALS.get(text.strip("[]").partition(" (")[0].lower()) if text else UNTOLD
            if refusal:
                raise Refused(refusal)
            return text
    raise Refused(UNTOLD)


def _find(element: Element, path: str) -> Element | None:
    """The element, or the one around it where that has nothing but words, which then are of all that it should have."""
    found = element.find(path)
    folder = path.rpartition("/")[0]
    if found is not None or not folder:
        return found
    around = element.find(folder)
    return around if around is not None and not len(around) else None


def _number(element: Element, *paths: str) -> float:
    text = _text(element, *paths)
    found = NUMBER.match(text)
    if not found:
        raise Refused(text[:LONGEST_TROUBLE])
    return float(found.group())


def _integer(element: Element, *paths: str) -> int:
    return round(_number(element, *paths))


def _bytes(element: Element, path: str) -> int:
    return _integer(element, path) * MIB


def _switch(element: Element, *paths: str) -> bool:
    return _word(SWITCHES, _text(element, *paths))


def _word(words: dict[str, Word], text: str) -> Word:
    try:
        return words[text.lower()]
    except KeyError:
        raise Refused(text[:LONGEST_TROUBLE]) from None


def _sum(element: Element, *paths: str) -> int:
    """Of those that are told: which ones there are depends on the GPU."""
    numbers, refusals = [], []
    for path in paths:
        try:
            numbers.append(_integer(element, path))
        except Refused as refusal:
            refusals.append(refusal)
    if not numbers:
        raise refusals[0]
    return sum(numbers)


def _corrected(gpu: Element, counter: str) -> int:
    folder = f"ecc_errors/{counter}"
    return _sum(gpu, f"{folder}/dram_correctable", f"{folder}/sram_correctable")


def _uncorrected(gpu: Element, counter: str) -> int:
    folder = f"ecc_errors/{counter}"
    kinds = ("dram_uncorrectable", "sram_uncorrectable", "sram_uncorrectable_parity", "sram_uncorrectable_secded")
    return _sum(gpu, *[f"{folder}/{kind}" for kind in kinds])


def _pci_address(gpu: Element) -> str:
    text = _text(gpu, "pci/pci_bus_id")
    if not pci.normalize(text):
        raise Refused(text[:LONGEST_TROUBLE])
    return pci.normalize(text)


def _clock_event_reasons(gpu: Element) -> tuple[str, ...]:
    return tuple(name for name, tag in CLOCK_EVENTS.items() if _clock_event(gpu, tag))


def _clock_event(gpu: Element, tag: str) -> bool:
    paths = [f"clocks_{word}_reasons/clocks_{word}_reason_{tag}" for word in ("event", "throttle")]
    return _word({"active": True, "not active": False}, _text(gpu, *paths))


def _fabric_state(gpu: Element) -> str:
    return _word({state.replace("_", " "): state for state in FABRIC_STATES}, _text(gpu, "fabric/state"))


def _fabric_status(gpu: Element) -> int:
    """Other words than success are those of NVML's errors, which here mean no more than that it failed."""
    text = (gpu.findtext("fabric/status") or "N/A").strip()
    if text == "N/A":
        raise Refused(reason(NOT_SUPPORTED))
    return 0 if text == "Success" else UNKNOWN


def _fabric_faults(gpu: Element) -> tuple[str, ...]:
    health = gpu.find("fabric/health")
    if health is None:
        raise Refused(UNTOLD)
    told = {element.tag: (element.text or "").strip().lower() for element in health}
    faults = tuple(name for name, (tag, word) in FABRIC_FAULTS.items() if told.get(tag) == word)
    configuration = told.get("incorrect_configuration", "n/a")
    if configuration in SOUND_CONFIGURATIONS:
        return faults
    return (*faults, f"configuration_{CONFIGURATIONS.get(configuration, 'unknown')}")


def _processes(gpu: Element) -> tuple[Process, ...]:
    if gpu.find("processes") is None:
        raise Refused(UNTOLD)
    found = gpu.findall("processes/process_info")
    return tuple(_process(element) for element in found if "C" in element.findtext("type", "C"))


def _process(element: Element) -> Process:
    process = Process(_integer(element, "pid"))
    with contextlib.suppress(Refused):
        process = replace(process, name=_text(element, "process_name"))
    with contextlib.suppress(Refused):
        process = replace(process, used_bytes=_bytes(element, "used_memory"))
    return process


QUESTIONS: dict[str, Callable[[Element], Any]] = {
    "uuid": lambda gpu: _text(gpu, "uuid"),
    "name": lambda gpu: _text(gpu, "product_name"),
    "serial": lambda gpu: _text(gpu, "serial"),
    "pci_address": _pci_address,
    "memory_total_bytes": lambda gpu: _bytes(gpu, "fb_memory_usage/total"),
    "memory_used_bytes": lambda gpu: _bytes(gpu, "fb_memory_usage/used"),
    "memory_free_bytes": lambda gpu: _bytes(gpu, "fb_memory_usage/free"),
    "memory_reserved_bytes": lambda gpu: _bytes(gpu, "fb_memory_usage/reserved"),
    "temperature_celsius": lambda gpu: _integer(gpu, "temperature/gpu_temp"),
    "memory_temperature_celsius": lambda gpu: _integer(gpu, "temperature/memory_temp"),
    "slowdown_celsius": lambda gpu: _integer(gpu, "temperature/gpu_temp_slow_threshold"),
    "shutdown_celsius": lambda gpu: _integer(gpu, "temperature/gpu_temp_max_threshold"),
    "power_watts": lambda gpu: _number(
        gpu, *[f"gpu_power_readings/{tag}" for tag in ("average_power_draw", "power_draw")]
    ),
    "power_limit_watts": lambda gpu: _number(gpu, "gpu_power_readings/current_power_limit"),
    "utilization_percent": lambda gpu: _integer(gpu, "utilization/gpu_util"),
    "vbios": lambda gpu: _text(gpu, "vbios_version"),
    "persistence_mode": lambda gpu: _switch(gpu, "persistence_mode"),
    "mig_mode": lambda gpu: _switch(gpu, "mig_mode/current_mig"),
    "ecc_mode": lambda gpu: _switch(gpu, "ecc_mode/current_ecc"),
    "ecc_mode_pending": lambda gpu: _switch(gpu, "ecc_mode/pending_ecc"),
    "ecc_corrected_volatile": lambda gpu: _corrected(gpu, "volatile"),
    "ecc_uncorrected_volatile": lambda gpu: _uncorrected(gpu, "volatile"),
    "ecc_corrected_aggregate": lambda gpu: _corrected(gpu, "aggregate"),
    "ecc_uncorrected_aggregate": lambda gpu: _uncorrected(gpu, "aggregate"),
    "sram_threshold_exceeded": lambda gpu: _switch(gpu, "ecc_errors/aggregate/sram_threshold_exceeded"),
    "rows_remapped_corrected": lambda gpu: _integer(gpu, "remapped_rows/remapped_row_corr"),
    "rows_remapped_uncorrected": lambda gpu: _integer(gpu, "remapped_rows/remapped_row_unc"),
    "remap_pending": lambda gpu: _switch(gpu, "remapped_rows/remapped_row_pending"),
    "remap_failed": lambda gpu: _switch(gpu, "remapped_rows/remapped_row_failure"),
    "pages_retired": lambda gpu: _sum(gpu, *[f"retired_pages/{cause}/retired_count" for cause in PAGE_CAUSES]),
    "pages_pending": lambda gpu: _switch(gpu, "retired_pages/pending_retirement"),
    "clock_event_reasons": _clock_event_reasons,
    "pcie_generation": lambda gpu: _integer(gpu, f"{PCIE}/pcie_gen/current_link_gen"),
    "pcie_generation_max": lambda gpu: _integer(gpu, f"{PCIE}/pcie_gen/max_link_gen"),
    "pcie_width": lambda gpu: _integer(gpu, f"{PCIE}/link_widths/current_link_width"),
    "pcie_width_max": lambda gpu: _integer(gpu, f"{PCIE}/link_widths/max_link_width"),
    "pcie_replays": lambda gpu: _integer(gpu, "pci/replay_counter"),
    "fabric_state": _fabric_state,
    "fabric_status": _fabric_status,
    "fabric_faults": _fabric_faults,
    "recovery_action": lambda gpu: _word(RECOVERY_ACTIONS, _text(gpu, "gpu_recovery_action")),
    "processes": _processes,
}
"""Where each fact is told."""
