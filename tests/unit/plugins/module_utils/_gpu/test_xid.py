# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines of the kernel log as drivers of several years write them, and lines that nobody has written yet."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import facts, xid, xid_table
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.xid import Event, parse, parse_all

FALLEN = "GPU has fallen off the bus"
UUID = "GPU-455d8f70-2051-db6c-0430-ffc457bff834"


def found(kind: str = "xid", **words: object) -> Event:
    return Event(kind, **words)


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (
            "NVRM: Xid (PCI:0000:b3:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            found(code=79, pci_address="0000:b3:00", process="<unknown>", text=f"{FALLEN}."),
        ),
        (
            "NVRM: Xid (PCI:0000:B3:00.0): 79, GPU has fallen off the bus.",
            found(code=79, pci_address="0000:b3:00", text=f"{FALLEN}."),
        ),
        (
            "NVRM: Xid (PCI:00000000:B3:00): 43, pid=4242, name=VLLM::EngineCor, channel 0x00000010",
            found(code=43, pci_address="0000:b3:00", pid=4242, process="VLLM::EngineCor", text="channel 0x00000010"),
        ),
        (
            "NVRM: Xid (0000:03:00): 14, Channel 00000001",
            found(code=14, pci_address="0000:03:00", text="Channel 00000001"),
        ),
        (
            "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE User Channel (0x9). RST: No, D-RST: No",
            found(
                code=94,
                pci_address="0000:01:00",
                pid=7194,
                gpu_instance=5,
                text="Contained: CE User Channel (0x9). RST: No, D-RST: No",
            ),
        ),
        (
            "NVRM: Xid (PCI:0000:3b:00 GPU-I:01 GPU-CI:02): 13, pid=9, name=a b, Graphics Exception",
            found(code=13, pci_address="0000:3b:00", pid=9, process="a b", gpu_instance=1, text="Graphics Exception"),
        ),
        ("NVRM: Xid (PCI:0000:01:00): 119, pid=7", found(code=119, pci_address="0000:01:00", pid=7)),
        ("NVRM: Xid (PCI:0000:01:00): 999999", found(code=999999, pci_address="0000:01:00")),
        (f"NVRM: GPU 0000:18:00.0: {FALLEN}.", found(code=79, pci_address="0000:18:00", text=FALLEN)),
        (f"NVRM: GPU at PCI:0000:18:00: {FALLEN}.", found(code=79, pci_address="0000:18:00", text=FALLEN)),
        (
            "NVRM: The NVIDIA GPU 0000:b3:00.0\nNVRM: (PCI ID: 10de:2330) installed in this system has\n"
            "NVRM: fallen off the bus and is not responding to commands.",
            found(code=79, pci_address="0000:b3:00", text=FALLEN),
        ),
        (
            "NVRM: The NVIDIA GPU 0000:01:00.0 (PCI ID: 10de:1e07) installed in this\n"
            "NVRM: system has fallen off the bus and is not responding to commands.",
            found(code=79, pci_address="0000:01:00", text=FALLEN),
        ),
        ("NVRM: fallen off the bus and is not responding to commands.", found(code=79, text=FALLEN)),
        (
            "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 24007, Fatal, Link 28 sourcetrack timeout error (First)",
            found(
                "sxid",
                code=24007,
                pci_address="0000:05:00",
                fatal=True,
                text="Link 28 sourcetrack timeout error (First)",
            ),
        ),
        (
            "nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress non-posted PRIV error (First)",
            found(
                "sxid",
                code=12028,
                pci_address="0000:05:00",
                fatal=False,
                text="Link 32 egress non-posted PRIV error (First)",
            ),
        ),
        (f"GPU reset occurred: {UUID}", found("reset", uuid=UUID)),
        (
            "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder)",
            found("load"),
        ),
        ("NVRM: loading NVIDIA UNIX x86_64 Kernel Module  550.163.01  Tue Apr  8 12:41:17 UTC 2025", found("load")),
    ],
)
def test_line(line: str, event: Event) -> None:
    assert parse(line) == event


@pytest.mark.parametrize(
    "line",
    [
        "",
        "NVRM: Xid (PCI:0000:66:00): abc, pid=2280636",
        "NVRM: Xid : 32, pid=2280636",
        "NVRM: Xid (PCI:0000:66:00): 1234567, more digits than any code has",
        "NVRM: The NVIDIA GPU 0000:b3:00.0",
        "NVRM: GPU0 nvAssertOkFailedNoLog: Assertion failed: Reset required [NV_ERR_RESET_REQUIRED]",
        "nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): garbled, Fatal",
        "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 24007, Severity 1 Engine instance 28 Sub-engine instance 00",
        "nvidia-nvswitch0: SXid (PCI:0000:a9:00.0): 24007, Data {0x00000000, 0x00000000}",
        "GPU reset occurred: all of them",
        # What others can have logged for them.
        f"Invalid user GPU reset occurred: {UUID} from 192.0.2.1",
        "usb 1-1: Product: NVRM: Xid (PCI:0000:b3:00): 79, GPU has fallen off the bus.",
        f"python3[7]: NVRM: GPU 0000:18:00.0: {FALLEN}.",
    ],
)
def test_line_that_says_nothing(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("text", "unit", "fatal", "link_reason"),
    [
        ("NETIR_LINK_EVT  Fatal   XC0 i0 Link 08 (0x004505c6 0x00000000 0x00000000)", "NETIR_LINK_EVT", True, 0x04),
        ("NETIR_LINK_EVT Fatal XC0 i0 Link 00 (0x026001c6 0x00000000)", "NETIR_LINK_EVT", True, 0x26),
        ("NETIR_BER_EVENT Nonfatal XC0 i0 Link 01 (0x00082226 0x00000001)", "NETIR_BER_EVENT", False, 0x00),
        ("NETIR_LINK_EVT Fatal XC 1 i 2 Link 01 [0x0000000a]", "NETIR_LINK_EVT", True, None),
        ("NETIR_LINK_EVT Non-fatal", "NETIR_LINK_EVT", False, None),
        ("pid=4, name=<unknown>, RLW_SRC_TRACK Fatal XC0 i1 Link 00 (0x00000001 0x02)", "RLW_SRC_TRACK", True, 0x00),
        ("NETIR_LINK_EVT", "", None, None),
    ],
)
@pytest.mark.parametrize("code", range(144, 151))
def test_nvlink(code: int, text: str, unit: str, fatal: bool | None, link_reason: int | None) -> None:
    event = parse(f"NVRM: Xid (PCI:0009:01:00): {code}, {text}")
    assert event is not None
    assert (event.unit, event.fatal, event.link_reason) == (unit, fatal, link_reason)


def test_fatal_means_nothing_in_other_xids() -> None:
    event = parse("NVRM: Xid (PCI:0009:01:00): 158, TIMEOUT Fatal")
    assert event is not None
    assert event.fatal is None


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)", "gpu_reset"),
        ("GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)", "node_reboot"),
        ("GPU recovery action changed from 0x0 (None) to 0x3 (Drain P2P)", "drain_p2p"),
        ("GPU recovery action changed from 0x3 (Drain P2P) to 0x4 (Drain and Reset)", "drain_and_reset"),
        ("GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)", "none"),
        ("GPU recovery action changed from 0x0 (None) to 0x1 (PF FLR)", "gpu_reset"),
        ("GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)", "node_reboot"),
        ("GPU recovery action changed from 0x0 (None) to 0x5 (Recover IMEX Domain)", "recover_imex"),
        ("GPU recovery action changed from 0x0 (None) to 0x6 (Bus Reset)", "bus_reset"),
        ("GPU recovery action changed from 0x0 (None) to 0x7 (System Reboot)", "system_reboot"),
        ("Node Reboot Required", "node_reboot"),
        ("GPU recovery action changed from 0x0 (None) to 0x4 (Repose)", "drain_and_reset"),
        # Beyond 4 drivers have numbered differently.
        ("GPU recovery action changed from 0x0 (None) to 0x5 (Repose)", None),
        ("something else", None),
    ],
)
def test_recovery_action(text: str, action: str | None) -> None:
    event = parse(f"NVRM: Xid (PCI:0000:18:00): 154, {text}")
    assert event is not None
    assert event.recovery_action == action


def test_messages_that_the_log_has_split() -> None:
    events = parse_all(
        [
            (5.0, "NVRM: The NVIDIA GPU 0000:b3:00.0"),
            (5.0, "NVRM: (PCI ID: 10de:2330) installed in this system has"),
            (5.0, "NVRM: fallen off the bus and is not responding to commands."),
            (9.0, "NVRM: fallen off the bus and is not responding to commands."),
        ]
    )
    assert [(event.at, event.code, event.pci_address) for event in events] == [(5.0, 79, "0000:b3:00"), (9.0, 79, "")]


def test_events_keep_their_order_and_times() -> None:
    lines = [
        (1.5, "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05"),
        (2.0, "nvidia 0000:b3:00.0: enabling device"),
        (2.5, "NVRM: Xid (PCI:0000:b3:00): 31, pid=7, name=python3, MMU Fault"),
        (3.0, f"GPU reset occurred: {UUID}"),
    ]
    assert [(event.kind, event.at) for event in parse_all(lines)] == [("load", 1.5), ("xid", 2.5), ("reset", 3.0)]


WORDS = st.sampled_from(
    [
        "NVRM: Xid (PCI:0000:b3:00): ",
        "NVRM: Xid (",
        "nvidia-nvswitch0: SXid (PCI:0000:b3:00.0): ",
        "NVRM: GPU 0000:b3:00.0: ",
        "NVRM: The NVIDIA GPU 0000:b3:00.0\n",
        "fallen off the bus",
        "GPU reset occurred: GPU-",
        "154, GPU recovery action changed from ",
        " to 0x",
        "149, NETIR_LINK_EVT Fatal (0x",
        "pid=",
        ", name=",
        "'<unknown>'",
        "9" * 5000,
        "٣",  # a digit, but not one of ASCII
        ": ",
        ")",
        "\n",
    ]
)
LINES = st.lists(WORDS | st.text(max_size=20) | st.integers().map(str), max_size=8).map("".join)


@given(LINES | st.binary().map(lambda line: line.decode(errors="replace")))
def test_no_line_is_too_odd(line: str) -> None:
    event = parse(line, at=1.0)
    assert parse_all([(1.0, line)]) == ([event] if event else [])
    if event is None:
        return
    assert event.kind in xid.KINDS
    assert event.at == 1.0
    assert (event.code is None) == (event.kind in (xid.RESET, xid.LOAD))
    assert event.recovery_action in (None, *facts.RECOVERY_ACTIONS)
    assert xid_table.lookup(event.code or 0)


@given(
    code=st.integers(0, 999_999),
    address=st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.integers(0, 0x1F)),
    pid=st.integers(1, 2**22),
    name=st.text(st.characters(exclude_characters=",\n", codec="ascii"), max_size=15),
    text=st.text(max_size=40),
)
def test_what_the_driver_prints_is_read_back(
    code: int, address: tuple[int, int, int], pid: int, name: str, text: str
) -> None:
    place = "{:04x}:{:02x}:{:02x}".format(*address)
    event = parse(f"NVRM: Xid (PCI:{place}): {code}, pid={pid}, name={name}, {text}")
    assert event is not None
    assert (event.code, event.pci_address, event.pid) == (code, place, pid)
    assert event.process == name.strip()
    assert event.text == text.strip()
