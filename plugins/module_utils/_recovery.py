# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The least that would bring an instance back, from what was seen of it. Pure: it looks at nothing and does nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ._gpu import verdict as gpu
from ._gpu.xid_table import NONE, RESET_WHEN_IDLE
from ._gpu.xid_table import REBOOT as REBOOT_NODE
from ._gpu.xid_table import RESET_GPU as RESET
from ._serving import verdict

NOTHING = "nothing"
START = "start"
RELEASE = "release"
"""Start what was quarantined: that lifts the quarantine."""
KILL_LEFTOVERS = "kill leftovers"
"""And start it."""
RESTART = "restart"
KILL = "kill"
"""A hung server does not leave by SIGTERM; its runtime starts it again."""
RESET_GPU = "reset gpu"
REBOOT = "reboot"
STEPS = (NOTHING, START, RELEASE, KILL_LEFTOVERS, RESTART, KILL, RESET_GPU, REBOOT)
"""The mildest first."""

AT_REST = ("stopped", "failed")
"""States of a unit of which nothing should run."""
RESETS = (RESET, RESET_WHEN_IDLE)


@dataclass(frozen=True)
class Facts:
    """What was seen of an instance."""

    port: int = 0
    unit: str = "running"
    """State by its runtime; empty where that does not answer."""
    state: str = verdict.READY
    """Verdict of one look."""
    evidence: str = ""
    quarantine: str = ""
    obstacle: str = ""
    """Why the last start was refused."""
    leftovers: tuple[str, ...] = ()
    """Processes that its servers have left."""
    holder: str = ""
    """Program that has its port and is none of its own."""
    gpu_state: str = gpu.OK
    gpu_action: str = NONE
    gpu_reason: str = ""


@dataclass(frozen=True)
class Allowed:
    """What a person has asked for beyond what costs no other instance anything."""

    reset_gpu: bool = False
    reboot: bool = False


@dataclass(frozen=True)
class Plan:
    step: str
    why: str
    hindrance: str = ""
    """What a person has to do, where no step helps; empty where one does, or none is needed."""


def plan(facts: Facts, allowed: Allowed) -> Plan:
    """The least that helps."""
    if facts.gpu_state in (gpu.DRAIN, gpu.UNHEALTHY):
        return _of_gpu(facts, allowed)
    if facts.state in (verdict.READY, verdict.BUSY):
        return Plan(NOTHING, f"it is {facts.state}")
    if facts.unit == "stopping":
        return Plan(NOTHING, "it is on its way out", "it is being stopped: run again once it has ended")
    if facts.holder:
        held = f"port {facts.port} is held by {facts.holder}, which is not touched"
        return Plan(NOTHING, "its port is taken", f"{held}: stop it, or give the instance another port")
    if facts.unit in AT_REST:
        return _at_rest(facts)
    if facts.state == verdict.HUNG:
        return Plan(KILL, f"it is hung: {facts.evidence}")
    if facts.state == verdict.FAILED:
        return Plan(RESTART, f"it has failed: {facts.evidence}")
    if facts.state == verdict.LOADING:
        return Plan(NOTHING, "it is loading")
    if facts.obstacle:
        return Plan(NOTHING, "its start is refused", f"it cannot start: {facts.obstacle}")
    return Plan(NOTHING, f"it is {facts.state}", f"{facts.evidence or 'nothing is known of it'}: see its log")


def _of_gpu(facts: Facts, allowed: Allowed) -> Plan:
    why = f"its GPUs are {facts.gpu_state}: {facts.gpu_reason}"
    if facts.gpu_action in RESETS:
        if allowed.reset_gpu:
            return Plan(RESET_GPU, why)
        return Plan(NOTHING, why, f"{facts.gpu_reason}: say -e recover_gpu_reset=true to have its GPUs reset")
    if facts.gpu_action == REBOOT_NODE:
        if allowed.reboot:
            return Plan(REBOOT, why)
        return Plan(
            NOTHING, why, f"{facts.gpu_reason}: say -e recover_reboot=true to have the node drained and rebooted"
        )
    return Plan(NOTHING, why, f"{facts.gpu_reason}: nothing that a program may do mends that")


def _at_rest(facts: Facts) -> Plan:
    if facts.leftovers:
        return Plan(KILL_LEFTOVERS, f"its servers have left {', '.join(facts.leftovers)}")
    if facts.quarantine:
        return Plan(RELEASE, f"it is quarantined: {facts.quarantine}")
    return Plan(START, f"it is {facts.unit}")
