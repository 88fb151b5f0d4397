# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of the module of the same name: who holds the roll, and whether an earlier holder lives."""

from __future__ import annotations

import getpass
import os
import socket
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.inferops.vllm.plugins.module_utils._serving import process


class ActionModule(ActionBase):
    TRANSFERS_FILES = False

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        outcome = self._note(task_vars)
        if is_gone(outcome.get("held_by")):
            # It was of this very controller, so there is no doubt.
            outcome = self._note(task_vars, take_over=True)
        result.update(outcome)
        return result

    def _note(self, task_vars: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
        arguments = {**self._task.args, "_holder": holder(), **more}
        outcome: dict[str, Any] = self._execute_module(
            module_name="inferops.vllm.vllm_roll", module_args=arguments, task_vars=task_vars
        )
        return outcome


def holder() -> dict[str, Any]:
    """The run of ansible-playbook that this worker belongs to."""
    pid = os.getppid()
    seen = process.stat(pid)
    return {
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "boot": process.boot_id(),
        "pid": pid,
        "start": seen.start_ticks if seen else 0,
    }


def is_gone(held_by: dict[str, Any] | None) -> bool:
    """Whether a holder was a process of this controller that does not run any more."""
    if not held_by or held_by["host"] != socket.gethostname():
        return False
    if held_by["boot"] != process.boot_id():
        return True
    seen = process.living(held_by["pid"])
    return seen is None or seen.start_ticks != held_by["start"]
