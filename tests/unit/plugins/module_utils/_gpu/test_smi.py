# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What nvidia-smi prints: of two H100, with made-up identities, and of the same in other states."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import child, smi
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Driver, Gpu, Node, Process
from doubles.nvml import fake

# Test runners have threads of their own.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

WHOLE = fake.REAL_XML.read_text(encoding="utf-8")
H100X2 = re.sub("<supported_clocks>.*?</supported_clocks>", "", WHOLE, flags=re.DOTALL)
"""Without three quarters of it, a list that nobody here reads."""
MIB = 1024 * 1024
UNTOLD = "nvidia-smi does not tell"
FACTS = {field.name for field in dataclasses.fields(Gpu)} - {"index", "errors", "lost", "reset_required"}
SECOND_GPU = H100X2.index('<gpu id="00000000:00:07.0">')
LEAVES = sorted(set(re.findall(r"<(\w+)>[^<]+</\1>", H100X2)))
"""Elements that have a text."""
CLOSED = "Unable to determine the device handle for GPU0: 0000:00:05.0:"
LOST_LINE = f"{CLOSED} GPU is lost.  Reboot the system to recover this GPU\n\n"
RESET_LINE = f"{CLOSED} A GPU reset must occur before this GPU can be used again.\n\n.\n"

FIRST = Gpu(
    index=0,
    uuid="GPU-5eed0000-1111-4222-8333-000000000001",
    name="NVIDIA H100 80GB HBM3",
    serial="1653223000001",
    pci_address="0000:00:06",
    memory_total_bytes=81559 * MIB,
    memory_used_bytes=0,
    memory_free_bytes=81079 * MIB,
    memory_reserved_bytes=480 * MIB,
    temperature_celsius=34,
    memory_temperature_celsius=38,
    power_watts=71.59,
    power_limit_watts=700.0,
    utilization_percent=0,
    vbios="96.00.DA.00.0C",
    persistence_mode=True,
    mig_mode=False,
    ecc_mode=True,
    ecc_mode_pending=True,
    ecc_corrected_volatile=0,
    ecc_uncorrected_volatile=0,
    ecc_corrected_aggregate=0,
    ecc_uncorrected_aggregate=0,
    sram_threshold_exceeded=False,
    rows_remapped_corrected=0,
    rows_remapped_uncorrected=0,
    remap_pending=False,
    remap_failed=False,
    clock_event_reasons=("idle",),
    pcie_generation=5,
    pcie_generation_max=5,
    pcie_width=16,
    pcie_width_max=16,
    pcie_replays=0,
    fabric_state="completed",
    fabric_status=0,
    fabric_faults=(),
    recovery_action="none",
    processes=(),
    errors={
        "compute_capability": UNTOLD,
        "nvlinks_active": UNTOLD,
        "nvlinks_inactive": UNTOLD,
        "nvlink_errors": UNTOLD,
        "slowdown_celsius": UNTOLD,
        "shutdown_celsius": UNTOLD,
        "pages_retired": "not supported",
        "pages_pending": "not supported",
    },
)


def parse(text: str, status: int = 0, errors: str = "") -> Node:
    node = smi.parse(status, text, errors)
    assert Node.from_json(json.loads(json.dumps(node.to_json()))) == node
    for gpu in node.gpus:
        assert {name for name in FACTS if getattr(gpu, name) is None} == gpu.errors.keys()
    return node


def with_text(changes: dict[str, str]) -> str:
    """The document, with another text in some elements of the first GPU."""
    first, second = H100X2[:SECOND_GPU], H100X2[SECOND_GPU:]
    for tag, text in changes.items():
        element = f"<{tag}>{escape(text)}</{tag}>".replace("\\", r"\\")
        first, count = re.subn(f"<{tag}>[^<]*</{tag}>", element, first)
        assert count, tag
    return first + second


def with_word(tag: str, word: str) -> str:
    """The document, where a part of the first GPU is but one word."""
    return re.sub(f"<{tag}>.*?</{tag}>", f"<{tag}>{word}</{tag}>", H100X2, count=1, flags=re.DOTALL)


def told(text: str, *names: str) -> dict[str, Any]:
    first, second = parse(text).gpus
    assert second.temperature_celsius == 39
    return {name: getattr(first, name) for name in names}


def test_real_one() -> None:
    node = parse(WHOLE)
    assert (node.source, node.error, node.code) == ("nvidia-smi", "", None)
    assert node.driver == Driver(library="580.159.04", cuda="13.0")
    first, second = node.gpus
    assert first == FIRST
    assert (second.index, second.uuid, second.pci_address) == (1, f"{FIRST.uuid[:-1]}2", "0000:00:07")
    assert (second.temperature_celsius, second.memory_temperature_celsius, second.power_watts) == (39, 41, 82.18)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"current_mig": "Enabled"}, {"mig_mode": True}),
        ({"persistence_mode": "Disabled"}, {"persistence_mode": False}),
        ({"current_ecc": "Disabled", "pending_ecc": "Enabled"}, {"ecc_mode": False, "ecc_mode_pending": True}),
        ({"gpu_recovery_action": "Reset"}, {"recovery_action": "gpu_reset"}),
        ({"gpu_recovery_action": "Reboot"}, {"recovery_action": "node_reboot"}),
        ({"gpu_recovery_action": "Drain P2P"}, {"recovery_action": "drain_p2p"}),
        ({"gpu_recovery_action": "Drain and Reset"}, {"recovery_action": "drain_and_reset"}),
        ({"gpu_recovery_action": "N/A"}, {"recovery_action": None}),
        (
            {"remapped_row_pending": "Yes", "remapped_row_unc": "3"},
            {"remap_pending": True, "rows_remapped_uncorrected": 3},
        ),
        ({"remapped_row_failure": "Yes"}, {"remap_failed": True}),
        ({"retired_count": "2", "pending_retirement": "Yes"}, {"pages_retired": 4, "pages_pending": True}),
        ({"sram_threshold_exceeded": "Yes"}, {"sram_threshold_exceeded": True}),
        (
            {"dram_uncorrectable": "1", "sram_uncorrectable_parity": "2", "sram_uncorrectable_secded": "4"},
            {"ecc_uncorrected_volatile": 7, "ecc_uncorrected_aggregate": 7, "ecc_corrected_volatile": 0},
        ),
        ({"dram_correctable": "N/A", "sram_correctable": "5"}, {"ecc_corrected_volatile": 5}),
        ({"current_link_gen": "1", "current_link_width": "8x"}, {"pcie_generation": 1, "pcie_width": 8}),
        (
            {"clocks_event_reason_hw_thermal_slowdown": "Active", "clocks_event_reason_gpu_idle": "Not Active"},
            {"clock_event_reasons": ("hw_thermal",)},
        ),
        ({"state": "In Progress"}, {"fabric_state": "in_progress"}),
        ({"status": "Insufficient Permissions"}, {"fabric_status": 999}),
        (
            {
                "bandwidth": "Degraded",
                "route_unhealthy": "True",
                "incorrect_configuration": "Insufficient NVLink Resources",
            },
            {"fabric_faults": ("degraded_bandwidth", "route_unhealthy", "configuration_5")},
        ),
        (
            {"bandwidth": "Full", "route_recovery_in_progress": "False", "incorrect_configuration": "None"},
            {"fabric_faults": ()},
        ),
        ({"incorrect_configuration": "Something new"}, {"fabric_faults": ("configuration_unknown",)}),
        ({"average_power_draw": "1023.5 W"}, {"power_watts": 1023.5}),
        ({"gpu_temp": "-3 C"}, {"temperature_celsius": -3}),
    ],
)
def test_values(changes: dict[str, str], expected: dict[str, Any]) -> None:
    assert told(with_text(changes), *expected) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("N/A", "not supported"),
        ("[N/A]", "not supported"),
        ("N/A (Insufficient Permissions)", "not supported"),
        ("[Not Supported]", "not supported"),
        ("[Unknown Error]", "unknown error"),
        ("Function Not Found", "function not found"),
        ("Insufficient Permissions", "no permission"),
        ("GPU is lost", "GPU is lost"),
        ("[GPU requires reset]", "GPU requires reset"),
        ("Requested functionality has been deprecated", "deprecated"),
        ("", UNTOLD),
    ],
)
@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("gpu_temp", "temperature_celsius"),
        ("total", "memory_total_bytes"),
        ("persistence_mode", "persistence_mode"),
        ("current_ecc", "ecc_mode"),
        ("remapped_row_pending", "remap_pending"),
        ("gpu_recovery_action", "recovery_action"),
        ("pci_bus_id", "pci_address"),
        ("clocks_event_reason_hw_slowdown", "clock_event_reasons"),
        ("replay_counter", "pcie_replays"),
        ("serial", "serial"),
    ],
)
def test_no_value(tag: str, name: str, text: str, reason: str) -> None:
    gpu = parse(with_text({tag: text})).gpus[0]
    assert (getattr(gpu, name), gpu.errors[name]) == (None, reason)
    assert gpu.lost == ("lost" in text)
    assert gpu.reset_required == ("reset" in text)
    assert gpu.uuid == FIRST.uuid


def test_value_that_is_none_of_its_kind() -> None:
    gpu = parse(with_text({"gpu_temp": "ERR!"})).gpus[0]
    assert (gpu.temperature_celsius, gpu.errors["temperature_celsius"]) == (None, "ERR!")


def test_one_word_for_many_values() -> None:
    gpu = parse(with_word("remapped_rows", "GPU is lost")).gpus[0]
    assert gpu.errors["remap_pending"] == gpu.errors["rows_remapped_corrected"] == "GPU is lost"
    assert gpu.lost
    gpu = parse(with_word("clocks_event_reasons", "N/A")).gpus[0]
    assert gpu.errors["clock_event_reasons"] == "not supported"


def test_names_of_older_drivers() -> None:
    text = H100X2.replace("clocks_event_reason", "clocks_throttle_reason").replace("average_power_draw", "power_draw")
    assert told(text, "clock_event_reasons", "power_watts") == {"clock_event_reasons": ("idle",), "power_watts": 71.59}


def test_processes() -> None:
    def info(pid: str, kind: str, name: str, used: str) -> str:
        return (
            f"<process_info><pid>{pid}</pid><type>{kind}</type><process_name>{name}</process_name>"
            f"<used_memory>{used}</used_memory></process_info>"
        )

    listed = [
        info("4242", "C", "VLLM::EngineCore", "78000 MiB"),
        info("4343", "C+G", "[Not Found]", "N/A"),
        info("4444", "M+C", "", "1 MiB"),
        info("4545", "G", "Xorg", "12 MiB"),
    ]
    text = re.sub(r"<processes>\s*</processes>", f"<processes>{''.join(listed)}</processes>", H100X2, count=1)
    assert told(text, "processes")["processes"] == (
        Process(4242, "VLLM::EngineCore", 78000 * MIB),
        Process(4343, "[Not Found]", None),
        Process(4444, "", 1 * MIB),
    )


def test_process_without_a_number() -> None:
    text = re.sub(r"<processes>\s*<", "<processes><process_info><pid>?</pid></process_info><", H100X2, count=1)
    gpu = parse(text).gpus[0]
    assert (gpu.processes, gpu.errors["processes"]) == (None, "?")


def test_gpu_that_cannot_be_opened() -> None:
    """It is in no document; only a line elsewhere tells of it, and the exit code tells nothing."""
    node = parse(H100X2, 0, LOST_LINE)
    assert (node.source, node.error, node.code) == ("nvidia-smi", "", None)
    lost, first, second = node.gpus
    errors = dict.fromkeys(FACTS - {"pci_address"}, "GPU is lost")
    assert lost == Gpu(0, pci_address="0000:00:05", errors=errors, lost=True)
    assert (first.index, second.index) == (1, 2)
    assert first == dataclasses.replace(FIRST, index=1)


def test_only_gpu_cannot_be_opened() -> None:
    node = parse("No devices were found\n", 6, RESET_LINE)
    assert (node.source, node.error, node.code) == ("nvidia-smi", "nvidia-smi: No devices were found", 6)
    (gpu,) = node.gpus
    assert (gpu.index, gpu.lost, gpu.reset_required) == (0, False, True)


def test_gpu_that_can_only_be_opened() -> None:
    words = "<error_string>Unable to determine the PCI bus id for the target device: GPU is lost</error_string>\n"
    node = parse(H100X2[:SECOND_GPU] + words + H100X2[SECOND_GPU:], 15)
    assert (node.source, node.error, node.code) == ("nvidia-smi", "nvidia-smi: GPU is lost", 15)
    assert [(gpu.index, gpu.uuid, gpu.lost) for gpu in node.gpus] == [
        (0, FIRST.uuid, False),
        (1, None, True),
        (2, f"{FIRST.uuid[:-1]}2", False),
    ]
    assert node.gpus[1] == Gpu(1, errors=dict.fromkeys(FACTS, "GPU is lost"), lost=True)


@pytest.mark.parametrize(
    ("status", "text", "error", "code"),
    [
        (
            9,
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n\n",
            "nvidia-smi: NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            9,
        ),
        (
            18,
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.159\n",
            "nvidia-smi: Failed to initialize NVML: Driver/library version mismatch",
            18,
        ),
        (
            255,
            "Failed to initialize NVML: Unknown Error\n",
            "nvidia-smi: Failed to initialize NVML: Unknown Error",
            999,
        ),
        (
            255,
            "Failed to initialize NVML: GPU requires reset",
            "nvidia-smi: Failed to initialize NVML: GPU requires reset",
            16,
        ),
        (231, "", "nvidia-smi: it ended with exit code 231", 999),
        (
            15,
            "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.",
            "nvidia-smi: Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.",
            15,
        ),
        (12, "", "nvidia-smi: library not found", 12),
        (77, "", "nvidia-smi: it ended with exit code 77", None),
        (-9, "", "nvidia-smi: it was killed: Killed", None),
        (0, "", "nvidia-smi: its answer ends early", None),
        (0, "x" * 1000, f"nvidia-smi: {'x' * 200}", None),
    ],
)
def test_no_document(status: int, text: str, error: str, code: int | None) -> None:
    assert parse(text, status) == Node(error=error, code=code)


def test_no_gpus() -> None:
    node = parse("<nvidia_smi_log><attached_gpus>0</attached_gpus></nvidia_smi_log>")
    assert node == Node(source="nvidia-smi")


def test_document_with_an_exit_code() -> None:
    node = parse(H100X2, 14)
    assert (node.source, node.error, node.code) == ("nvidia-smi", "nvidia-smi: InfoROM is corrupted", 14)
    assert node.gpus[0] == FIRST


def test_words_around_the_document() -> None:
    node = parse(f"WARNING: infoROM is corrupted\n{H100X2}\nWARNING: once more\n")
    assert (node.source, node.error, len(node.gpus)) == ("nvidia-smi", "", 2)


def test_early_end() -> None:
    """Whatever is whole counts."""
    early = parse(H100X2[: SECOND_GPU + 4000])
    assert (early.source, early.error) == ("nvidia-smi", "nvidia-smi: its answer ends early")
    assert early.gpus == (FIRST,)
    assert early.driver.library == "580.159.04"
    earlier = parse(H100X2[: SECOND_GPU // 2])
    assert (earlier.source, earlier.gpus, earlier.driver.cuda) == ("", (), "13.0")


@given(st.integers(0, len(H100X2)))
def test_any_early_end(end: int) -> None:
    node = parse(H100X2[:end])
    assert len(node.gpus) == H100X2[:end].count("</gpu>")


@given(st.integers(-64, 255), st.text(), st.text())
def test_any_text(status: int, text: str, errors: str) -> None:
    node = parse(text, status, errors)
    assert node.error.startswith("nvidia-smi: ")


@given(st.dictionaries(st.sampled_from(LEAVES), st.text() | st.sampled_from([*smi.REFUSALS, "0 %", "-1", "nan"])))
def test_any_values(changes: dict[str, str]) -> None:
    for gpu in parse(with_text(changes)).gpus:
        assert gpu.uuid


@given(st.text(alphabet="<>/gpu &;!-[]\"' x", max_size=300))
def test_any_document(text: str) -> None:
    parse(f"<nvidia_smi_log>{text}")


@pytest.mark.parametrize("status", [0, 9])
def test_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n[ \"$*\" = '-q -x' ] && echo '<nvidia_smi_log/>'; echo told >&2; exit {status}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    node = Node.from_json(child.call(lambda: smi.read().to_json(), deadline_seconds=60))
    assert node == (Node("nvidia-smi") if not status else Node("nvidia-smi", error="nvidia-smi: told", code=9))


@pytest.mark.parametrize("damaged", [False, True])
def test_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool) -> None:
    if damaged:
        (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    node = smi.read()
    assert (node.source, node.code) == ("", None)
    assert ("exit code 126" if damaged else "nvidia-smi is not installed") in node.error
