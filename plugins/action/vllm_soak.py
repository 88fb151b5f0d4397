# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of the module of the same name: shows what is counted while it watches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ansible_collections.inferops.vllm.plugins.plugin_utils.slices import SlicedAction


class ActionModule(SlicedAction):
    MODULE = "vllm_soak"

    def lines(self, outcome: dict[str, Any]) -> Iterator[tuple[str, str]]:
        for name, found in outcome["instances"].items():
            yield name, f"{name} is watched: {found['errors']} of {found['requests']} requests failed"
