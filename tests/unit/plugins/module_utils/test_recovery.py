# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The least that helps, row by row."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._recovery import STEPS, Allowed, Facts, plan

STOPPED: dict[str, Any] = {"unit": "stopped", "state": "down", "evidence": "it is stopped"}
GPU: dict[str, Any] = {"gpu_state": "unhealthy", "gpu_reason": "GPU 0: gone"}
RESET: dict[str, Any] = {**GPU, "gpu_action": "reset_gpu"}
REBOOT: dict[str, Any] = {**GPU, "gpu_action": "reboot"}
ALL = Allowed(reset_gpu=True, reboot=True)


@pytest.mark.parametrize(
    ("facts", "allowed", "step", "hindrance"),
    [
        ({}, ALL, "nothing", ""),
        ({"state": "busy"}, ALL, "nothing", ""),
        # Who serves has the port, and a quarantine that somebody has just lifted may still be on file.
        ({"holder": "x (pid 1)", "quarantine": "crashes"}, ALL, "nothing", ""),
        ({"state": "loading"}, ALL, "nothing", ""),
        (STOPPED, ALL, "start", ""),
        ({**STOPPED, "unit": "failed"}, ALL, "start", ""),
        # What refused the last start may be mended, and if not the next start is refused as well.
        ({**STOPPED, "obstacle": "no space"}, ALL, "start", ""),
        ({**STOPPED, "quarantine": "crashes"}, ALL, "release", ""),
        ({**STOPPED, "leftovers": ("VLLM::EngineCor",)}, ALL, "kill leftovers", ""),
        ({**STOPPED, "leftovers": ("VLLM::EngineCor",), "quarantine": "crashes"}, ALL, "kill leftovers", ""),
        ({**STOPPED, "port": 8, "holder": "nc (pid 4)"}, ALL, "nothing", "port 8 is held by nc (pid 4), which is not"),
        ({**STOPPED, "unit": "stopping"}, ALL, "nothing", "it is being stopped"),
        ({"state": "hung", "evidence": "no step"}, ALL, "kill", ""),
        ({"state": "failed", "evidence": "503"}, ALL, "restart", ""),
        ({"unit": "starting", "state": "down", "obstacle": "no space"}, ALL, "nothing", "it cannot start: no space"),
        (
            {"unit": "starting", "state": "down", "evidence": "it has ended"},
            ALL,
            "nothing",
            "it has ended: see its log",
        ),
        ({"unit": "", "state": "unknown"}, ALL, "nothing", "nothing is known of it: see its log"),
        (RESET, ALL, "reset gpu", ""),
        (RESET, Allowed(reboot=True), "nothing", "GPU 0: gone: say -e recover_gpu_reset=true"),
        ({**RESET, "gpu_action": "reset_when_idle"}, ALL, "reset gpu", ""),
        (REBOOT, ALL, "reboot", ""),
        (REBOOT, Allowed(reset_gpu=True), "nothing", "GPU 0: gone: say -e recover_reboot=true"),
        # Neither a start nor a kill mends a GPU.
        ({**STOPPED, **REBOOT}, Allowed(), "nothing", "GPU 0: gone: say"),
        ({**RESET, "state": "hung"}, ALL, "reset gpu", ""),
        ({**GPU, "gpu_action": "inspect"}, ALL, "nothing", "GPU 0: gone: nothing that a program may do mends that"),
        # It serves on.
        ({"gpu_state": "degraded", "gpu_action": "reset_when_idle"}, ALL, "nothing", ""),
    ],
)
def test_plan(facts: dict[str, Any], allowed: Allowed, step: str, hindrance: str) -> None:
    found = plan(Facts(**facts), allowed)
    assert found.step == step
    assert found.hindrance.startswith(hindrance)
    assert bool(found.hindrance) == bool(hindrance)


def test_whatever_was_seen_nothing_is_done_unasked() -> None:
    units = ("running", "starting", "stopping", "stopped", "failed", "")
    states = ("loading", "ready", "busy", "hung", "down", "draining", "failed", "unknown")
    gpus = ({}, RESET, REBOOT, {**GPU, "gpu_state": "drain", "gpu_action": "restart_app"})
    for unit, state, gpu, left, holder in product(units, states, gpus, ((), ("VLLM::x",)), ("", "nc")):
        facts = Facts(unit=unit, state=state, leftovers=left, holder=holder, **gpu)
        found = plan(facts, Allowed())
        assert found.step in STEPS
        assert found.step not in ("reset gpu", "reboot")
        # What somebody else holds the port of is not started, and what serves not touched.
        if holder or (state in ("ready", "busy") and not gpu):
            assert found.step == "nothing"
        assert found.why
