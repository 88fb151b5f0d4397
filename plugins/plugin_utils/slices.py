# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module that waits, called for a slice of the time at once, so that the operator sees how it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from ansible.plugins.action import ActionBase

SLICE_SECONDS = 10.0
FIRST_SLICE_SECONDS = 3.0
"""Most waits are shorter than this, and whoever waits for long wants to know soon."""


class SlicedAction(ActionBase):
    """Calls the module of the task's name until it is done.

    The module takes `_slice` with the seconds waited so far, those that this slice may take, and what the last slice
    returned under the same name; where there is more to wait for it returns `_slice` again.
    """

    TRANSFERS_FILES = False
    MODULE = ""

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        self._host = (task_vars or {}).get("inventory_hostname", "localhost")
        self._shown: dict[str, str] = {}
        started = time.monotonic()
        progress: Any = {}
        # A later slice finds done what the first one did.
        first: dict[str, Any] = {}
        while True:
            seconds = SLICE_SECONDS if progress else FIRST_SLICE_SECONDS
            step = {"seconds": seconds, "waited": time.monotonic() - started, "progress": progress}
            outcome = self._execute_module(
                module_name=f"inferops.vllm.{self.MODULE}",
                module_args={**self._task.args, "_slice": step},
                task_vars=task_vars,
            )
            progress = outcome.pop("_slice", None)
            first = first or {word: outcome[word] for word in ("changed", "diff") if word in outcome}
            if progress is None or outcome.get("failed") or outcome.get("unreachable"):
                result.update({**outcome, **first})
                return result
            self._show(outcome)

    def _show(self, outcome: dict[str, Any]) -> None:
        for name, line in self.lines(outcome):
            if self._shown.get(name) != line:
                self._shown[name] = line
                self._display.display(f"{self._host}: {line}")

    def lines(self, outcome: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """What to tell of each instance."""
        raise NotImplementedError
