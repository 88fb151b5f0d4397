# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of the module of the same name: prints one line of JSON for each host."""

from __future__ import annotations

import json
from typing import Any

from ansible.plugins.action import ActionBase

TOLD = ("ok", "reasons", "state", "driver", "gpus", "dcgm")


class ActionModule(ActionBase):
    TRANSFERS_FILES = False
    _supports_check_mode = True
    _supports_diff = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        result.update(self._execute_module(module_name="inferops.vllm.gpu_acceptance", task_vars=task_vars))
        if "ok" in result:
            host = (task_vars or {}).get("inventory_hostname", "localhost")
            self._display.display(json.dumps({"host": host, **{name: result[name] for name in TOLD}}))
        return result
