# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin has its options twice, in its documentation and in its code: they must agree."""

from __future__ import annotations

import yaml

from ansible_collections.inferops.vllm.plugins.action import preflight as action
from ansible_collections.inferops.vllm.plugins.modules import preflight as module


def test_documented_options() -> None:
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]
    described = {
        name: {key: value for key, value in option.items() if key != "description"}
        for name, option in documented.items()
    }
    assert described == action.ARGUMENTS
