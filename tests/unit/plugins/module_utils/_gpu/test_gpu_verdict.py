# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What looks at GPUs mean: tables of one fault each, then any faults at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import facts, xid, xid_table
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.facts import Driver, Gpu, Node, Process
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.verdict import (
    ACTIONS,
    OK,
    RECOVERY,
    STATES,
    Expectation,
    Limits,
    NodeVerdict,
    judge,
)
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.xid import Event

NOW = 10_000.0
RECENT = NOW - 35
LONG_AGO = NOW - 7200
GIB = 1 << 30
PID = 4242
NOTHING_EXPECTED = Expectation()
SWITCH = "0000:05:00"


def address(index: int) -> str:
    return f"0000:{0x19 + index:02x}:00"


def uuid(index: int) -> str:
    return f"GPU-{index}"


def gpu(index: int = 0, **words: object) -> Gpu:
    """A healthy H100 that serves."""
    return replace(
        Gpu(
            index=index,
            uuid=uuid(index),
            name="NVIDIA H100 80GB HBM3",
            pci_address=address(index),
            memory_total_bytes=80 * GIB,
            memory_used_bytes=72 * GIB,
            temperature_celsius=60,
            slowdown_celsius=89,
            ecc_mode=True,
            ecc_mode_pending=True,
            ecc_corrected_volatile=0,
            ecc_uncorrected_volatile=0,
            sram_threshold_exceeded=False,
            rows_remapped_corrected=0,
            rows_remapped_uncorrected=0,
            remap_pending=False,
            remap_failed=False,
            clock_event_reasons=("sw_power_cap",),
            pcie_width=16,
            nvlinks_active=18,
            fabric_state="completed",
            fabric_status=0,
            fabric_faults=(),
            recovery_action="none",
            processes=(Process(PID, "VLLM::EngineCor", 72 * GIB),),
        ),
        **words,
    )


def node(*gpus: Gpu, **words: object) -> Node:
    """A healthy node of these GPUs, or of two."""
    gpus = gpus or (gpu(0), gpu(1))
    return replace(
        Node(
            source="nvml",
            driver=Driver(loaded="580.95.05", installed="580.95.05", library="580.95.05", cuda="13.0"),
            gpus=gpus,
            pci_addresses=tuple(each.pci_address for each in gpus if each.pci_address),
            at=NOW,
        ),
        **words,
    )


def judged(
    look: Node,
    *events: Event,
    resets: Mapping[str, float] | None = None,
    expectation: Expectation = NOTHING_EXPECTED,
    instances: Mapping[str, Sequence[int]] | None = None,
    throttled_seconds: Mapping[str, float] | None = None,
) -> NodeVerdict:
    return judge(look, events, resets or {}, expectation, Limits(), instances or {}, throttled_seconds or {})


def event(code: int, at: float = RECENT, index: int = 0, **words: object) -> Event:
    return replace(Event(xid.XID, at=at, code=code, pci_address=address(index), pid=PID + 1), **words)


def first(verdict: NodeVerdict) -> tuple[str, str]:
    """State and action of the first GPU."""
    return verdict.gpus[0].state, verdict.gpus[0].action


def test_healthy() -> None:
    verdict = judged(node(), instances={"a": (0,), "b": ()})
    assert (verdict.state, verdict.action, verdict.reasons, verdict.restart_safe) == ("ok", "none", (), True)
    assert [each.state for each in (*verdict.gpus, *verdict.instances.values())] == [OK] * 4
    assert [(each.index, each.uuid, each.pci_address) for each in verdict.gpus] == [
        (0, "GPU-0", "0000:19:00"),
        (1, "GPU-1", "0000:1a:00"),
    ]


# One fault of one GPU


@pytest.mark.parametrize(
    ("words", "state", "action", "reason"),
    [
        ({"lost": True}, "unhealthy", "reboot", "the driver has lost it"),
        ({"reset_required": True}, "unhealthy", "reset_gpu", "the driver does not use it before it is reset"),
        ({"recovery_action": "gpu_reset"}, "unhealthy", "reset_gpu", "the driver asks for gpu_reset"),
        ({"recovery_action": "node_reboot"}, "unhealthy", "reboot", "the driver asks for node_reboot"),
        ({"recovery_action": "drain_p2p"}, "drain", "restart_app", "the driver asks for drain_p2p"),
        ({"recovery_action": "drain_and_reset"}, "drain", "reset_gpu", "the driver asks for drain_and_reset"),
        ({"recovery_action": "recover_imex"}, "unhealthy", "recover_fabric", "the driver asks for recover_imex"),
        ({"recovery_action": "bus_reset"}, "unhealthy", "reboot", "the driver asks for bus_reset"),
        ({"recovery_action": "system_reboot"}, "unhealthy", "reboot", "the driver asks for system_reboot"),
        (
            {"remap_failed": True},
            "unhealthy",
            "inspect",
            "a row of its memory could not be remapped: it qualifies for replacement",
        ),
        (
            {"sram_threshold_exceeded": True},
            "drain",
            "inspect",
            "its SRAM errors exceed the threshold: it qualifies for replacement",
        ),
        ({"pages_retired": 63}, "drain", "inspect", "63 pages of its memory are retired"),
        (
            {"rows_remapped_uncorrected": 512},
            "degraded",
            "inspect",
            "512 rows were remapped for uncorrectable errors",
        ),
        (
            {"ecc_uncorrected_volatile": 2},
            "degraded",
            "monitor",
            "2 uncorrectable memory errors since its last reset",
        ),
        (
            {"ecc_uncorrected_volatile": 2, "recovery_action": None},
            "unhealthy",
            "reset_gpu",
            "2 uncorrectable memory errors since its last reset",
        ),
        ({"remap_pending": True}, "degraded", "reset_when_idle", "a row of its memory is remapped at the next reset"),
        ({"pages_pending": True}, "degraded", "reset_when_idle", "a page of its memory is retired at the next reset"),
        ({"ecc_mode_pending": False}, "degraded", "reset_when_idle", "ECC is switched off at the next reset"),
        (
            {"ecc_corrected_volatile": 50_000_000},
            "degraded",
            "monitor",
            "50000000 corrected memory errors since its last reset",
        ),
        ({"fabric_state": "not_started"}, "unhealthy", "recover_fabric", "it has not joined the NVLink fabric"),
        ({"fabric_state": "in_progress"}, "degraded", "monitor", "it is about to join the NVLink fabric"),
        ({"fabric_status": 3}, "unhealthy", "recover_fabric", "the NVLink fabric refused it with NVML code 3"),
        ({"fabric_faults": ("route_recovery",)}, "degraded", "monitor", "NVLink fabric: route_recovery"),
        (
            {"fabric_faults": ("degraded_bandwidth",)},
            "degraded",
            "recover_fabric",
            "NVLink fabric: degraded_bandwidth",
        ),
        ({"fabric_faults": ("configuration_5",)}, "unhealthy", "recover_fabric", "NVLink fabric: configuration_5"),
        ({"temperature_celsius": 87}, "degraded", "monitor", "87 C, and it slows down at 89 C"),
        (
            {"processes": ()},
            "degraded",
            "monitor",
            "73728 MiB in use by no process that is seen: try fuser -v /dev/nvidia*",
        ),
    ],
)
def test_fault(words: dict[str, object], state: str, action: str, reason: str) -> None:
    verdict = judged(node(gpu(0, **words), gpu(1)), instances={"sick": (0,), "well": (1,), "both": (0, 1), "all": ()})
    assert (verdict.gpus[0].state, verdict.gpus[0].action, verdict.gpus[0].reasons) == (state, action, (reason,))
    assert verdict.gpus[1].state == OK
    for rolled_up in (verdict, *(verdict.instances[name] for name in ("sick", "both", "all"))):
        assert (rolled_up.state, rolled_up.action, rolled_up.reasons) == (state, action, (f"GPU 0: {reason}",))
    assert verdict.instances["well"].state == OK
    assert verdict.restart_safe


@pytest.mark.parametrize(
    "words",
    [
        {"recovery_action": None},
        {"recovery_action": "what a later driver says"},
        {"ecc_mode_pending": None},
        {"ecc_corrected_volatile": 49_999_999},
        {"rows_remapped_uncorrected": 511},
        {"temperature_celsius": 86},
        {"slowdown_celsius": None},
        {"fabric_state": "not_supported", "fabric_status": 3},
        {"processes": None},
        {"processes": (), "memory_used_bytes": GIB},
        {"processes": (), "mig_mode": True},
        {"persistence_mode": False},
        {"clock_event_reasons": ("hw_slowdown",)},
    ],
)
def test_no_fault(words: dict[str, object]) -> None:
    assert judged(node(gpu(0, **words), gpu(1))).state == OK


def test_nothing_is_known_of_a_gpu() -> None:
    assert judged(node(Gpu(0, pci_address=address(0)))).state == OK


def test_pci_bus_cannot_be_seen() -> None:
    assert judged(node(pci_addresses=())).state == OK


def test_one_gpu_alone_needs_no_fabric() -> None:
    assert judged(node(gpu(0, fabric_state="not_started", fabric_faults=("access_timeout",)))).state == OK


@pytest.mark.parametrize(
    ("reasons", "seconds", "state", "action"),
    [
        (("hw_slowdown", "hw_thermal"), 360, "degraded", "inspect"),
        (("hw_power_brake",), 360, "degraded", "inspect"),
        (("sw_thermal",), 360, "degraded", "monitor"),
        (("hw_slowdown",), 359, "ok", "none"),
        (("sw_power_cap", "idle", "sync_boost"), 9999, "ok", "none"),
        (None, 9999, "ok", "none"),
    ],
)
def test_throttling(reasons: tuple[str, ...] | None, seconds: float, state: str, action: str) -> None:
    verdict = judged(node(gpu(0, clock_event_reasons=reasons)), throttled_seconds={uuid(0): seconds})
    assert first(verdict) == (state, action)


@pytest.mark.parametrize(
    ("expectation", "state", "action", "reason"),
    [
        (Expectation(name="H200"), "degraded", "inspect", "it is a NVIDIA H100 80GB HBM3, not a H200"),
        (
            Expectation(memory_total_bytes=81 * GIB),
            "degraded",
            "inspect",
            "it has 81920 MiB of memory, not 82944 MiB",
        ),
        (Expectation(ecc_mode=False), "degraded", "inspect", "ECC is on"),
        (Expectation(nvlinks_active=19), "drain", "reset_gpu", "18 of 19 NVLinks are active"),
        (Expectation(pcie_width=32), "degraded", "inspect", "16 of 32 PCIe lanes are in use"),
    ],
)
def test_unlike_expected(expectation: Expectation, state: str, action: str, reason: str) -> None:
    verdict = judged(node(), expectation=expectation)
    assert (verdict.gpus[0].state, verdict.gpus[0].action, verdict.gpus[0].reasons) == (state, action, (reason,))


@pytest.mark.parametrize(
    "expectation",
    [
        Expectation(2, "H100", 80 * GIB, True, 18, 16, "580.95.05"),
        Expectation(driver="580.9"),
        Expectation(driver="570.172.08"),
    ],
)
def test_as_expected(expectation: Expectation) -> None:
    assert judged(node(), expectation=expectation).state == OK
    unknown = node(Gpu(0, pci_address=address(0)), Gpu(1, pci_address=address(1)), driver=Driver())
    assert judged(unknown, expectation=expectation).state == OK


# XIDs

WITHOUT_FIELD = {"recovery_action": None}


@pytest.mark.parametrize(
    ("code", "words", "told", "untold"),
    [
        # The driver itself decides about resets where it can be asked.
        (46, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (48, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (64, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (74, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (95, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (109, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (119, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (150, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (171, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (172, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (144, {"fatal": True}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (148, {"fatal": True}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (149, {"fatal": True, "link_reason": 0x25}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        (149, {}, ("degraded", "monitor"), ("unhealthy", "reset_gpu")),
        # It does not decide about reboots, inspections and programs.
        (79, {}, ("unhealthy", "reboot"), ("unhealthy", "reboot")),
        (167, {}, ("unhealthy", "reboot"), ("unhealthy", "reboot")),
        (54, {}, ("unhealthy", "inspect"), ("unhealthy", "inspect")),
        (157, {}, ("degraded", "inspect"), ("degraded", "inspect")),
        (13, {}, ("degraded", "monitor"), ("degraded", "monitor")),
        (13, {"pid": PID}, ("degraded", "check_app"), ("degraded", "check_app")),
        (94, {"pid": None}, ("degraded", "monitor"), ("degraded", "monitor")),
        (94, {"pid": PID}, ("degraded", "restart_app"), ("degraded", "restart_app")),
        (
            145,
            {"fatal": False, "unit": "RLW_REMAP", "pid": PID},
            ("degraded", "restart_app"),
            ("degraded", "restart_app"),
        ),
        (145, {"fatal": False, "unit": "RLW_CTRL", "pid": PID}, ("degraded", "monitor"), ("degraded", "monitor")),
        (146, {}, ("degraded", "monitor"), ("degraded", "monitor")),
        # What is only watched, and what is worth no alarm.
        (92, {}, ("degraded", "monitor"), ("degraded", "monitor")),
        (175, {}, ("degraded", "monitor"), ("degraded", "monitor")),
        (4711, {}, ("degraded", "monitor"), ("degraded", "monitor")),
        (121, {}, ("ok", "monitor"), ("ok", "monitor")),
        (149, {"fatal": False}, ("ok", "monitor"), ("ok", "monitor")),
        (149, {"fatal": True, "link_reason": 0x26}, ("ok", "monitor"), ("ok", "monitor")),
        (149, {"fatal": True, "link_reason": 0x28}, ("ok", "monitor"), ("ok", "monitor")),
        (160, {}, ("ok", "monitor"), ("ok", "monitor")),
        (45, {}, ("ok", "none"), ("ok", "none")),
        # The words of 154 count where the field is not known.
        (154, {"recovery_action": "gpu_reset"}, ("ok", "none"), ("unhealthy", "reset_gpu")),
        (154, {"recovery_action": "node_reboot"}, ("ok", "none"), ("unhealthy", "reboot")),
        (154, {"recovery_action": "drain_and_reset"}, ("ok", "none"), ("drain", "reset_gpu")),
        (154, {"recovery_action": "none"}, ("ok", "none"), ("ok", "none")),
        (154, {"recovery_action": None}, ("degraded", "monitor"), ("degraded", "monitor")),
        # Recorded, and done where nothing is pending.
        (63, {}, ("ok", "none"), ("ok", "none")),
    ],
)
def test_xid(code: int, words: dict[str, object], told: tuple[str, str], untold: tuple[str, str]) -> None:
    assert first(judged(node(), event(code, **words))) == told
    assert first(judged(node(gpu(0, **WITHOUT_FIELD), gpu(1)), event(code, **words))) == untold


def test_reset_of_xid_63_where_the_counter_is_not_known() -> None:
    assert first(judged(node(gpu(0, remap_pending=None)), event(63))) == ("degraded", "reset_when_idle")


@pytest.mark.parametrize(
    ("events", "state", "action"),
    [
        ([event(48), event(63)], "drain", "reset_gpu"),
        ([event(172), event(63)], "drain", "reset_gpu"),
        ([event(48), event(64)], "unhealthy", "reset_gpu"),
        ([event(48), event(63, index=1)], "unhealthy", "reset_gpu"),
        ([event(94, pid=PID), event(48), event(79)], "unhealthy", "reboot"),
        # The driver took an XID in, and then said what it asks for.
        ([event(95), event(154, RECENT + 1, recovery_action="none")], "degraded", "monitor"),
        ([event(95), event(154, RECENT + 1, recovery_action="drain_p2p")], "drain", "restart_app"),
        ([event(154, recovery_action="none"), event(95, RECENT + 1)], "unhealthy", "reset_gpu"),
        (
            [event(154, recovery_action="gpu_reset"), event(154, RECENT + 1, recovery_action="none")],
            "ok",
            "none",
        ),
    ],
)
def test_xids_together_where_the_field_is_not_known(events: list[Event], state: str, action: str) -> None:
    assert first(judged(node(gpu(0, **WITHOUT_FIELD), gpu(1)), *events)) == (state, action)


@pytest.mark.parametrize(
    ("code", "words", "state", "action"),
    [
        # Until somebody acts
        (95, {}, "unhealthy", "reset_gpu"),
        (79, {}, "unhealthy", "reboot"),
        (157, {}, "degraded", "inspect"),
        (13, {"pid": PID}, "degraded", "check_app"),
        # for an hour.
        (13, {}, "ok", "none"),
        (92, {}, "ok", "none"),
        (160, {}, "ok", "none"),
        (4711, {}, "ok", "none"),
    ],
)
def test_how_long_an_xid_counts(code: int, words: dict[str, object], state: str, action: str) -> None:
    assert first(judged(node(gpu(0, **WITHOUT_FIELD)), event(code, LONG_AGO, **words))) == (state, action)


@pytest.mark.parametrize(
    ("handled", "resets"),
    [
        ([], {uuid(0): RECENT + 1}),
        ([Event(xid.RESET, at=RECENT + 1, uuid=uuid(0))], {}),
        ([Event(xid.LOAD, at=RECENT + 1)], {}),
        ([], {uuid(0): RECENT}),
    ],
)
def test_xid_before_a_reset(handled: list[Event], resets: dict[str, float]) -> None:
    assert judged(node(), event(79), *handled, resets=resets).state == OK


@pytest.mark.parametrize(
    ("other", "resets"),
    [
        ([], {uuid(1): RECENT + 1}),
        ([], {uuid(0): RECENT - 1}),
        ([Event(xid.RESET, at=RECENT + 1, uuid=uuid(1))], {}),
        ([Event(xid.RESET, at=RECENT - 1, uuid=uuid(0))], {}),
        ([Event(xid.LOAD, at=RECENT - 1)], {}),
    ],
)
def test_xid_after_a_reset_or_of_another_gpu(other: list[Event], resets: dict[str, float]) -> None:
    assert first(judged(node(), event(79), *other, resets=resets)) == ("unhealthy", "reboot")


def test_xid_of_the_other_gpu() -> None:
    verdict = judged(node(), event(79, index=1), instances={"a": (0,), "b": (1,)})
    assert [each.state for each in verdict.gpus] == ["ok", "unhealthy"]
    assert (verdict.instances["a"].state, verdict.instances["b"].state) == ("ok", "unhealthy")


def test_xids_of_one_code_are_one_reason() -> None:
    events = [event(31, RECENT - 10), event(31, RECENT - 5), event(31), event(79)]
    assert judged(node(), *events).gpus[0].reasons == (
        "XID 79, GPU fell off the bus, 35 s ago; the driver asks for none",
        "XID 31, GPU MMU page fault, 3 times, 35 s ago; the driver asks for none",
    )


@pytest.mark.parametrize(("pci_address", "place"), [(address(7), address(7)), ("", "a GPU that is not named")])
def test_xid_of_a_gpu_that_is_not_there(pci_address: str, place: str) -> None:
    verdict = judged(node(), event(79, pci_address=pci_address), instances={"a": (0,), "all": ()})
    assert (verdict.state, verdict.action) == ("unhealthy", "reboot")
    assert verdict.reasons == (f"{place}: XID 79, GPU fell off the bus, 35 s ago",)
    assert [each.state for each in (*verdict.gpus, verdict.instances["a"])] == [OK] * 3
    assert verdict.instances["all"].state == "unhealthy"


def test_xid_of_a_gpu_without_address() -> None:
    verdict = judged(node(gpu(0, pci_address=None)), event(79), event(79, pci_address=""))
    assert verdict.gpus[0].state == OK
    assert len(verdict.reasons) == 2


def switch(fatal: bool, at: float = RECENT) -> Event:
    return Event(xid.SXID, at=at, code=24007, pci_address=SWITCH, fatal=fatal)


def test_fatal_sxid_concerns_every_instance_until_every_gpu_is_reset() -> None:
    look, instances = node(), {"a": (0,)}
    verdict = judged(look, switch(True), instances=instances)
    for each in (verdict, verdict.instances["a"]):
        assert (each.state, each.action) == ("unhealthy", "recover_fabric")
        assert each.reasons == ("SXID 24007 of NVSwitch 0000:05:00 is fatal, 35 s ago",)
    assert judged(look, switch(True), resets={uuid(0): NOW}).state == "unhealthy"
    assert judged(look, switch(True), resets={uuid(0): NOW, uuid(1): NOW}).state == OK
    assert judged(look, switch(True), Event(xid.LOAD, at=NOW)).state == OK


def test_sxid_that_is_not_fatal_concerns_the_node_for_a_while() -> None:
    verdict = judged(node(), switch(False), instances={"a": (0,)})
    assert (verdict.state, verdict.action) == ("degraded", "monitor")
    assert verdict.instances["a"].state == OK
    assert judged(node(), switch(False, LONG_AGO)).state == OK
    assert judged(node(), switch(True), switch(False)).state == "unhealthy"


@pytest.mark.parametrize("recovery_action", [None, *facts.RECOVERY_ACTIONS])
@pytest.mark.parametrize("row", xid_table.TABLE, ids=lambda row: str(row.code))
def test_every_xid_of_the_table(row: xid_table.Xid, recovery_action: str | None) -> None:
    alone = judged(node(gpu(0, recovery_action=recovery_action, remap_pending=None), gpu(1)))
    verdict = judged(
        node(gpu(0, recovery_action=recovery_action, remap_pending=None), gpu(1)),
        event(row.code, recovery_action="gpu_reset" if row.action == "follow_text" else None),
    )
    silent = row.action == "none" or (row.action == "follow_text" and recovery_action is not None)
    assert any(f"XID {row.code}," in reason for reason in verdict.reasons) != silent
    assert STATES.index(verdict.state) >= STATES.index(alone.state)
    if recovery_action in RECOVERY and row.action == "reset_gpu":
        assert first(verdict) == first(alone)


# The node


@pytest.mark.parametrize(
    ("driver", "code"),
    [
        (Driver(loaded="580.95.05", library="580.105.08", installed="580.105.08"), None),
        (Driver(loaded="580.95.05", library="580.105.08"), facts.VERSION_MISMATCH),
        (Driver(), facts.VERSION_MISMATCH),
    ],
)
@pytest.mark.parametrize("addresses", [(), (address(0), address(1))])
def test_driver_and_library_out_of_step(driver: Driver, code: int | None, addresses: tuple[str, ...]) -> None:
    look = Node(driver=driver, code=code, error="versions differ", pci_addresses=addresses, at=NOW)
    verdict = judged(look, expectation=Expectation(count=2), instances={"a": (0,), "b": ()})
    assert not verdict.restart_safe
    for each in (verdict, *verdict.instances.values()):
        assert (each.state, each.action) == ("degraded", "reboot")
    assert all(each.state == OK for each in verdict.gpus)


def test_module_on_disk_is_another_while_the_gpus_answer() -> None:
    look = node(driver=Driver(loaded="580.95.05", library="580.95.05", installed="580.105.08"))
    verdict = judged(look)
    assert (verdict.state, verdict.action, verdict.restart_safe) == ("degraded", "reboot", False)
    assert verdict.reasons == (
        "the driver was exchanged while in use (580.95.05 is loaded, the library is 580.95.05,"
        " the module on disk 580.105.08): do not restart servers",
    )
    lost = replace(look, gpus=(gpu(0, lost=True), gpu(1)))
    assert (judged(lost).state, judged(lost).restart_safe) == ("unhealthy", False)


def test_old_driver() -> None:
    verdict = judged(node(), expectation=Expectation(driver="595.10"))
    assert (verdict.state, verdict.action) == ("degraded", "inspect")
    assert verdict.reasons == ("driver 580.95.05 is older than 595.10",)


def test_unresponsive() -> None:
    look = Node(unresponsive=True, error="no answer from the GPUs in 10 s", pci_addresses=(address(0), address(1)))
    verdict = judged(look, instances={"a": (0,)})
    for each in (verdict, *verdict.gpus, verdict.instances["a"]):
        assert (each.state, each.action) == ("unhealthy", "reboot")
        assert each.reasons == ("the driver does not answer in time: no answer from the GPUs in 10 s",)
    assert len(verdict.gpus) == 2
    assert not verdict.restart_safe


@pytest.mark.parametrize(
    ("expected", "addresses", "state"),
    [
        (None, (), "ok"),
        (0, (address(0),), "ok"),
        (1, (), "unhealthy"),
        (None, (address(0),), "unhealthy"),
    ],
)
def test_nothing_is_seen(expected: int | None, addresses: tuple[str, ...], state: str) -> None:
    look = Node(error="there is no driver", code=facts.DRIVER_NOT_LOADED, pci_addresses=addresses)
    verdict = judged(look, expectation=Expectation(count=expected), instances={"a": ()})
    assert (verdict.state, verdict.instances["a"].state) == (state, state)
    assert all(each.state == state for each in verdict.gpus)
    assert "there is no driver" in verdict.reasons[0]


@pytest.mark.parametrize(
    ("code", "action"),
    [(None, "inspect"), (9, "inspect"), (12, "inspect"), (15, "reboot"), (16, "reset_gpu"), (999, "reboot")],
)
def test_what_to_do_where_nothing_is_seen(code: int | None, action: str) -> None:
    assert judged(Node(code=code, pci_addresses=(address(0),))).action == action


def test_gpu_that_the_driver_does_not_list() -> None:
    """Its place is kept, so that the indices of those beyond it still mean what the inventory means."""
    gpus = (gpu(0), gpu(1, pci_address=address(2), uuid=uuid(2), remap_pending=True))
    look = node(*gpus, pci_addresses=(address(0), address(1), address(2)))
    verdict = judged(look, event(79, index=1), instances={"a": (0,), "b": (1,), "c": (2,)})
    assert [(each.index, each.uuid, each.state, each.action) for each in verdict.gpus] == [
        (0, uuid(0), "ok", "none"),
        (1, "", "unhealthy", "reboot"),
        (2, uuid(2), "degraded", "reset_when_idle"),
    ]
    assert verdict.gpus[1].reasons == (
        f"{address(1)} is on the PCI bus, but the driver does not list it",
        "XID 79, GPU fell off the bus, 35 s ago",
    )
    assert {name: each.state for name, each in verdict.instances.items()} == {
        "a": "ok",
        "b": "unhealthy",
        "c": "degraded",
    }


def test_gpu_on_the_bus_that_nobody_expects() -> None:
    look = node(gpu(0), gpu(1), pci_addresses=(address(0), address(1), address(7)))
    assert judged(look, expectation=Expectation(count=2)).state == OK
    assert judged(look).state == "unhealthy"


@pytest.mark.parametrize(
    ("count", "state", "reason"),
    [
        (3, "unhealthy", "2 of 3 GPUs are there"),
        (1, "degraded", "there are 2 GPUs where 1 are expected"),
    ],
)
def test_count(count: int, state: str, reason: str) -> None:
    verdict = judged(node(), expectation=Expectation(count=count), instances={"a": (0,), "all": ()})
    assert (verdict.state, verdict.reasons) == (state, (reason,))
    assert (verdict.instances["a"].state, verdict.instances["all"].state) == (OK, state)


def test_instance_on_a_gpu_that_is_not_there() -> None:
    verdict = judged(node(), instances={"a": (1, 2)})
    assert (verdict.instances["a"].state, verdict.instances["a"].reasons) == ("unhealthy", ("GPU 2 is not there",))
    assert verdict.state == OK


def test_answer_that_may_lack_some() -> None:
    verdict = judged(node(error="nvidia-smi ended with 15"))
    assert verdict.state == "degraded"
    assert verdict.reasons == ("the look at the GPUs may lack some: nvidia-smi ended with 15",)


def test_the_worst_comes_first_and_gives_the_action() -> None:
    verdict = judged(node(gpu(0, remap_pending=True, rows_remapped_uncorrected=512, reset_required=True)))
    assert first(verdict) == ("unhealthy", "reset_gpu")
    assert verdict.gpus[0].reasons == (
        "the driver does not use it before it is reset",
        "512 rows were remapped for uncorrectable errors",
        "a row of its memory is remapped at the next reset",
    )


# Anything at once

FLAGS = st.none() | st.booleans()
COUNTS = st.none() | st.integers(0, 1000)


@st.composite
def gpus(draw: st.DrawFn, index: int) -> Gpu:
    fields = {
        "uuid": st.none() | st.just(uuid(index)),
        "pci_address": st.none() | st.just(address(index)),
        "lost": st.booleans(),
        "reset_required": st.booleans(),
        "recovery_action": st.none() | st.sampled_from(facts.RECOVERY_ACTIONS),
        "remap_pending": FLAGS,
        "remap_failed": FLAGS,
        "sram_threshold_exceeded": FLAGS,
        "ecc_mode": FLAGS,
        "ecc_mode_pending": FLAGS,
        "ecc_uncorrected_volatile": COUNTS,
        "temperature_celsius": COUNTS,
        "nvlinks_active": COUNTS,
        "fabric_state": st.none() | st.sampled_from(facts.FABRIC_STATES),
        "fabric_status": COUNTS,
        "processes": st.none() | st.just(()) | st.just((Process(PID),)),
    }
    # Most are healthy but for some fields, or no two faults would ever be told from one.
    return gpu(index, **{name: draw(values) for name, values in fields.items() if draw(st.booleans())})


EVENTS = st.lists(
    st.builds(
        Event,
        st.sampled_from(xid.KINDS),
        at=st.floats(0, NOW + 10),
        code=st.sampled_from([row.code for row in xid_table.TABLE]) | st.integers(0, 200),
        pci_address=st.sampled_from([address(0), address(1), address(9), ""]),
        uuid=st.sampled_from([uuid(0), uuid(1), "GPU-9"]),
        pid=st.sampled_from([None, PID, 1]),
        fatal=FLAGS,
        unit=st.sampled_from(["", "RLW_REMAP", "NETIR_LINK_EVT"]),
        link_reason=st.sampled_from([None, 0x25, 0x26]),
        recovery_action=st.none() | st.sampled_from(facts.RECOVERY_ACTIONS),
    ),
    max_size=6,
)
EXPECTATIONS = st.builds(
    Expectation, count=st.none() | st.integers(0, 3), ecc_mode=FLAGS, nvlinks_active=COUNTS, driver=st.just("590.1")
)
INSTANCES = {"first": (0,), "second": (1,), "both": (0, 1), "all": ()}


@st.composite
def nodes(draw: st.DrawFn) -> Node:
    listed = [draw(gpus(index)) for index in range(draw(st.integers(0, 2)))]
    return Node(
        source=draw(st.sampled_from(["", "nvml"])),
        error=draw(st.sampled_from(["", "trouble"])),
        code=draw(st.none() | st.sampled_from(sorted(facts.REASONS))),
        unresponsive=draw(st.booleans()),
        driver=Driver(loaded="580.95.05", library=draw(st.sampled_from(["", "580.95.05", "590.1"]))),
        gpus=tuple(listed),
        pci_addresses=tuple(draw(st.sets(st.sampled_from([address(index) for index in range(3)])))),
        at=NOW,
    )


def rank(state: str) -> int:
    return STATES.index(state)


@given(nodes(), EVENTS, EXPECTATIONS)
def test_verdicts_add_up(look: Node, events: list[Event], expectation: Expectation) -> None:
    verdict = judged(look, *events, expectation=expectation, instances=INSTANCES)
    parts = (*verdict.gpus, *verdict.instances.values())
    for each in (verdict, *parts):
        assert each.state in STATES
        assert each.action in ACTIONS
        assert (each.state == OK) or each.reasons
        assert (each.state == OK) or each.action != "none"
        assert len(set(each.reasons)) == len(each.reasons)
    # No part is worse than the whole, but for an instance whose GPUs are nowhere.
    absent = any("is not there" in reason for each in verdict.instances.values() for reason in each.reasons)
    assert absent or rank(verdict.state) == max(rank(each.state) for each in (*parts, verdict))
    assert rank(verdict.instances["all"].state) == rank(verdict.state)
    of_gpus = {each.index: each for each in verdict.gpus}
    for name, indices in INSTANCES.items():
        for index in indices:
            assert index not in of_gpus or rank(verdict.instances[name].state) >= rank(of_gpus[index].state)
    if look.unresponsive:
        assert {each.state for each in (verdict, *parts)} == {"unhealthy"}
    assert json.loads(json.dumps(asdict(verdict)))["state"] == verdict.state


@given(nodes(), EVENTS, EVENTS)
def test_more_xids_never_make_it_better(look: Node, events: list[Event], more: list[Event]) -> None:
    """But for those that change what the driver asks for, or tell of a reset."""
    added = [each for each in more if each.kind in (xid.XID, xid.SXID) and each.code not in (63, 154)]
    before, after = judged(look, *events), judged(look, *events, *added)
    assert rank(after.state) >= rank(before.state)


@given(nodes(), EVENTS)
def test_what_the_driver_does_not_ask_for_is_no_reset(look: Node, events: list[Event]) -> None:
    healthy = replace(look, gpus=(gpu(0), gpu(1)))
    for each in judged(healthy, *events).gpus[:2]:
        assert look.unresponsive or not look.source or each.action != "reset_gpu"


@pytest.mark.parametrize(
    ("look", "told"),
    [
        (node(), ["the host waits for a reboot"]),
        # That says it already, and how.
        (replace(node(), driver=Driver(loaded="580.95.05", library="580.105.08")), ["the driver was exchanged while"]),
    ],
)
def test_driver_that_is_installed_wrongly(look: Node, told: list[str]) -> None:
    verdict = judge(look, [], {}, NOTHING_EXPECTED, Limits(), {"tiny": [0]}, {}, ["the host waits for a reboot"])
    assert verdict.state == verdict.instances["tiny"].state == "degraded"
    assert [reason[: len(words)] for reason, words in zip(verdict.reasons, told, strict=True)] == told
