# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps tests that run at the same time apart."""

from __future__ import annotations

import os

import pytest

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import child


@pytest.fixture(autouse=True)
def _own_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of another test that hangs, as it shall, is none of an earlier look here."""
    monkeypatch.setattr(child, "NAME", f"look-{os.getpid()}")
