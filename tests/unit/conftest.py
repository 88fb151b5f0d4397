# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What keeps tests apart, and the same in each run.

Property tests take the same examples each time, and the time a busy machine needs. HYPOTHESIS_PROFILE=search has them
look for new examples.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from ansible_collections.inferops.vllm.plugins.module_utils._serving import process
from doubles import node

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


@pytest.fixture(autouse=True)
def _control_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of one test does not see the engine of another test's, which has its name."""
    monkeypatch.setattr(process, "control_group", node.control_group)
