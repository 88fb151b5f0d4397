# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The XID table: what its rows must keep to, and the codes that fleets meet most."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import xid_table
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.xid_table import ACTIONS, SEVERITIES, TABLE, Xid


def test_codes_are_unique_and_in_order() -> None:
    codes = [row.code for row in TABLE]
    assert codes == sorted(set(codes))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.code))
def test_row(row: Xid) -> None:
    assert row.severity in SEVERITIES
    assert row.action in ACTIONS
    assert row.name
    assert not row.name.endswith(".")
    assert not row.note or row.note.endswith(".")


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row.code))
def test_actions_are_worth_their_severity(row: Xid) -> None:
    needs = {
        xid_table.RESET_GPU: {xid_table.CRITICAL},
        xid_table.REBOOT: {xid_table.CRITICAL, xid_table.FATAL},
        xid_table.CHECK_APP: {xid_table.ERROR},
        xid_table.RESTART_APP: {xid_table.WARNING, xid_table.ERROR},
        xid_table.NONE: {xid_table.INFO},
    }
    assert row.severity in needs.get(row.action, set(SEVERITIES))


@pytest.mark.parametrize(
    ("code", "severity", "action"),
    [
        (13, "error", "check_app"),
        (31, "error", "check_app"),
        (43, "warning", "restart_app"),
        (45, "info", "none"),
        (48, "critical", "reset_gpu"),
        (63, "warning", "reset_when_idle"),
        (64, "critical", "reset_gpu"),
        (74, "critical", "reset_gpu"),
        (79, "fatal", "reboot"),
        (94, "error", "restart_app"),
        (95, "critical", "reset_gpu"),
        (109, "critical", "reset_gpu"),
        (119, "critical", "reset_gpu"),
        (120, "critical", "reset_gpu"),
        (149, "critical", "decode"),
        (154, "info", "follow_text"),
        (171, "info", "follow_48"),
        (175, "warning", "follow_recovery_action"),
    ],
)
def test_lookup(code: int, severity: str, action: str) -> None:
    row = xid_table.lookup(code)
    assert (row.code, row.severity, row.action) == (code, severity, action)


@given(st.integers(min_value=177))
def test_unknown_codes_are_watched(code: int) -> None:
    assert xid_table.lookup(code) == Xid(code, "unknown XID", "warning", "monitor")
