#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_instance
short_description: Start, stop, restart or remove vLLM instances, whatever keeps them running
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Has the runtime of instances start or stop them, now and at every boot.
  - An instance that another runtime still keeps is left with it by O(state=started), and moved by O(state=restarted).
    The old one is stopped and removed before the new one starts, so no two of them ever serve.
  - Waits until servers are gone, and not until they serve. M(inferops.vllm.vllm_probe) does that.
attributes:
  check_mode:
    description: Tells which instances would be started, stopped or removed.
    support: full
  diff_mode:
    description: Shows what keeps each instance, before and after.
    support: full
extends_documentation_fragment:
  - inferops.vllm.instances
options:
  names:
    description: Instances.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(started) starts what does not run, and has it start at boot.
      - V(restarted) always restarts, by the present configuration of the runtime.
      - V(stopped) stops it until somebody starts it or the node boots.
      - V(absent) stops it for good, and removes its configuration.
    type: str
    choices: [started, restarted, stopped, absent]
    default: started
  runtime:
    description:
      - What is to keep them running; what their configuration says where not set.
      - Not needed for V(stopped) and V(absent), which find out what keeps them.
    type: str
    choices: [systemd, supervisor, docker, tmux, screen]
  staged:
    description:
      - Whether what M(inferops.vllm.instance_config) has put aside for a running server becomes its configuration.
      - It stays aside otherwise, whatever becomes of the server.
    type: bool
    default: true
  timeout_seconds:
    description: Seconds within which a server must have stopped.
    type: int
    default: 120
"""

EXAMPLES = r"""
- name: Stop an instance
  inferops.vllm.vllm_instance:
    names: [qwen3vl]
    state: stopped
"""

RETURN = r"""
changed_instances:
  description: Names of the instances that were started, stopped or removed, or would be.
  type: list
  elements: str
  returned: success
  sample: [qwen3vl]
"""

import asyncio
import contextlib
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._serving import generations, runtime
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed

LIVE = ("running", "starting")
SUFFIXES = ("yaml", "json")


class Instances:
    """The named instances, and what keeps each of them."""

    def __init__(self, module: AnsibleModule) -> None:
        self._params = module.params
        self._check = module.check_mode
        self._timeout = float(module.params["timeout_seconds"])
        self._runtimes = {name: runtime.named(name) for name in serving.RUNTIMES}
        self._kept: dict[str, dict[str, bool]] = {}
        self.before: dict[str, list[str]] = {}
        self.after: dict[str, list[str]] = {}
        self.changed: list[str] = []

    async def apply(self) -> None:
        self._kept = {name: await found.kept() for name, found in self._runtimes.items()}
        for name in self._params["names"]:
            self.before[name] = [keeper for keeper, names in self._kept.items() if name in names]
            self.after[name] = self.before[name]
            await getattr(self, f"_{self._params['state']}")(name)

    def _wanted(self, name: str) -> str:
        """The runtime that an instance is to have."""
        folder = self._params["config_dir"]
        if self._params["staged"]:
            folder = generations.next_folder(name, folder)
        return self._params["runtime"] or serving.load(name, folder).runtime

    def _activate(self, name: str) -> None:
        if self._params["staged"]:
            generations.activate(name, self._params["config_dir"])

    async def _started(self, name: str) -> None:
        wanted = self._wanted(name)
        if self.before[name] == [wanted] and self._kept[wanted][name] and await self._live(wanted, name):
            return
        others = [keeper for keeper in self.before[name] if keeper != wanted]
        if [keeper for keeper in others if await self._live(keeper, name)]:
            # It serves: whoever restarts it moves it.
            return
        self._note(name, [wanted])
        if not self._check:
            self._activate(name)
            await self._drop(name, others)
            await self._runtimes[wanted].keep(name)

    async def _restarted(self, name: str) -> None:
        wanted = self._wanted(name)
        self._note(name, [wanted])
        if not self._check:
            self._activate(name)
            await self._drop(name, [keeper for keeper in self.before[name] if keeper != wanted])
            await self._runtimes[wanted].renew(name, self._timeout)

    async def _stopped(self, name: str) -> None:
        for keeper in self.before[name]:
            if await self._live(keeper, name):
                self._note(name, self.before[name])
                if not self._check:
                    await self._runtimes[keeper].halt(name, self._timeout)

    async def _absent(self, name: str) -> None:
        paths = [os.path.join(self._params["config_dir"], f"{name}.{suffix}") for suffix in SUFFIXES]
        if not self.before[name] and not any(map(os.path.exists, paths)):
            return
        self._note(name, [])
        if not self._check:
            await self._drop(name, self.before[name])
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            generations.forget(name, self._params["config_dir"])

    async def _drop(self, name: str, keepers: list[str]) -> None:
        for keeper in keepers:
            await self._runtimes[keeper].drop(name, self._timeout)

    async def _live(self, keeper: str, name: str) -> bool:
        return (await self._runtimes[keeper].units([name]))[name].state in LIVE

    def _note(self, name: str, after: list[str]) -> None:
        self.after[name] = after
        self.changed.append(name)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["started", "restarted", "stopped", "absent"],
                "default": "started",
            },
            "runtime": {"type": "str", "choices": list(serving.RUNTIMES)},
            "staged": {"type": "bool", "default": True},
            "timeout_seconds": {"type": "int", "default": 120},
            "config_dir": {"type": "path", "default": serving.CONFIG_DIR},
        },
        supports_check_mode=True,
    )
    found = Instances(module)
    try:
        asyncio.run(found.apply())
    except (CommandFailed, OSError, ValueError) as error:
        module.fail_json(msg=str(error), changed_instances=found.changed)
    module.exit_json(
        changed=bool(found.changed),
        changed_instances=found.changed,
        diff={"before": {"kept_by": found.before}, "after": {"kept_by": found.after}},
    )


if __name__ == "__main__":
    main()
