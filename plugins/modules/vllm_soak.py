#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_soak
short_description: Watch vLLM instances under their users' load
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Watches servers for a while after they were put back in service, and fails where one ends, or fails more of the
    requests that it is sent than it may.
  - Counts answers of status 5xx and requests that an engine ended with an error, by the servers' own metrics. Sends
    nothing itself.
attributes:
  action:
    description: Has a half on the controller, which shows the progress.
    support: full
  check_mode:
    description: Changes nothing, and watches nothing in check mode.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
extends_documentation_fragment:
  - inferops.vllm.instances
  - inferops.vllm.instances.slices
options:
  seconds:
    description: How long to watch them.
    type: float
    default: 30
  errors_max_percent:
    description: Part of the requests in this time that may fail.
    type: float
    default: 1
seealso:
  - module: inferops.vllm.vllm_probe
"""

EXAMPLES = r"""
- name: Watch a new version under load
  inferops.vllm.vllm_soak:
    names: [qwen3vl]
    seconds: 60
"""

RETURN = r"""
instances:
  description: What was counted, by the instance's name.
  type: dict
  returned: success, and failure of an instance
  contains:
    requests:
      description: Requests answered while it was watched.
      type: int
      sample: 250
    errors:
      description: Those of them that failed.
      type: int
      sample: 0
"""

import asyncio
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._serving import client, generations, metrics
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving

LOOK_SECONDS = 1.0
ANSWER_SECONDS = 5.0


class Broken(Exception):
    """An instance did not stand it; the message says what happened."""


class Soak:
    """One instance, from the first look at it on."""

    def __init__(self, instance: serving.Instance, errors_max_percent: float, progress: dict) -> None:
        self._instance = instance
        self._most = errors_max_percent
        self._pid = progress.get("pid", 0) or generations.main_pid(instance)
        self._first = metrics.Served(*progress["first"]) if "first" in progress else None
        self._last = metrics.Served(*progress["last"]) if "last" in progress else metrics.Served()

    def dump(self) -> dict:
        first = {"first": [self._first.requests, self._first.errors]} if self._first else {}
        return {"pid": self._pid, "last": [self._last.requests, self._last.errors], **first}

    @property
    def shown(self) -> dict[str, int]:
        first = self._first or self._last
        return {
            "requests": int(self._last.requests - first.requests),
            "errors": int(self._last.errors - first.errors),
        }

    async def run(self, until: float) -> None:
        while True:
            await self._look()
            if time.monotonic() >= until:
                return
            await asyncio.sleep(min(LOOK_SECONDS, max(0.0, until - time.monotonic())))

    async def _look(self) -> None:
        if not self._pid or generations.main_pid(self._instance) != self._pid:
            raise Broken(f"instance {self._instance.name}: its server has ended while it was watched")
        page = await client.request(self._instance.address, self._instance.port, "GET", "/metrics", ANSWER_SECONDS)
        if not page.ok:
            # A server that has too much to do answers late; one that hangs is the health check's to find.
            return
        self._last = metrics.served(page.body)
        self._first = self._first or self._last
        requests, errors = self.shown["requests"], self.shown["errors"]
        if errors > requests * self._most / 100:
            raise Broken(
                f"instance {self._instance.name} failed {errors} of {requests} requests while it was watched,"
                f" and {self._most:g} % may fail"
            )


async def watch(soaks: dict[str, Soak], until: float) -> list[str]:
    """What broke."""
    found = await asyncio.gather(*(soak.run(until) for soak in soaks.values()), return_exceptions=True)
    for error in found:
        if isinstance(error, BaseException) and not isinstance(error, Broken):
            raise error
    return [str(error) for error in found if error]


def run(module: AnsibleModule) -> dict:
    params = module.params
    instances = serving.load_all(params["names"], params["config_dir"])
    step = params["_slice"] or {}
    progress = step.get("progress") or {}
    soaks = {found.name: Soak(found, params["errors_max_percent"], progress.get(found.name, {})) for found in instances}
    now = time.monotonic()
    end = now - step.get("waited", 0.0) + params["seconds"]
    result = {"changed": False, "instances": {name: soak.shown for name, soak in soaks.items()}}
    if module.check_mode:
        return result
    broken = asyncio.run(watch(soaks, min(end, now + step.get("seconds", params["seconds"]))))
    result["instances"] = {name: soak.shown for name, soak in soaks.items()}
    if broken:
        module.fail_json(msg="; ".join(broken), **result)
    if time.monotonic() < end:
        result["_slice"] = {name: soak.dump() for name, soak in soaks.items()}
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str"},
            "seconds": {"type": "float", "default": 30},
            "errors_max_percent": {"type": "float", "default": 1},
            "config_dir": {"type": "path", "default": serving.CONFIG_DIR},
            "_slice": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
