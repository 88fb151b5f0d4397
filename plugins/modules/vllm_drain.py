#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_drain
short_description: Take vLLM instances out of service, or back in
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - A drained instance finishes the requests that it has and is sent no new ones. Load balancers learn of it by their
    own checks of the node's agent, so nothing needs access to them.
  - The drain is a file on the node. It survives restarts of the instance, the agent and the node, until it is
    undrained.
  - Waits until nothing is in flight any more, which is so when two looks in a row find no request in the engines and
    none in the API server. A server that does not run has none.
  - Stops and starts nothing.
notes:
  - Requests sent to an instance directly, past the load balancers, are answered as before, and counted as in flight.
  - Runs as root on the node.
attributes:
  action:
    description: Has a half on the controller, which shows the progress.
    support: full
  check_mode:
    description: Reports which instances would be drained or undrained, and does not wait.
    support: full
  diff_mode:
    description: Shows which instances are drained before and after.
    support: full
extends_documentation_fragment:
  - inferops.vllm.instances
  - inferops.vllm.instances.drain
  - inferops.vllm.instances.slices
options:
  state:
    description: Whether the instances are to be out of service or in service.
    type: str
    choices: [drained, undrained]
    default: drained
  reason:
    description: Why, for those who find it drained. One that is drained already keeps its first reason.
    type: str
    default: drained by Ansible
  wait:
    description: Wait until nothing is in flight, where O(state=drained).
    type: bool
    default: true
  timeout_seconds:
    description:
      - Seconds within which nothing may be in flight any more. When they are over the module fails with what still is,
        and the instances stay drained.
    type: int
    default: 300
  overdue:
    description:
      - What to do when O(timeout_seconds) are over and something is still in flight.
      - V(fail) fails, V(wait) waits for as long as it takes, and V(cut) goes on, which ends what is in flight if the
        server is stopped next.
    type: str
    choices: [fail, wait, cut]
    default: fail
  settle_seconds:
    description:
      - Seconds that load balancers take to learn of a new drain, before which no look counts. Longer than the time
        between two of their checks.
    type: int
    default: 5
seealso:
  - module: inferops.vllm.vllm_probe
  - module: inferops.vllm.vllm_instance_info
"""

EXAMPLES = r"""
- name: Take the node out of service
  inferops.vllm.vllm_drain:
    reason: kernel upgrade
    timeout_seconds: 600

- name: Take it back in
  inferops.vllm.vllm_drain:
    state: undrained
"""

RETURN = r"""
instances:
  description: What was done and found, by the instance's name.
  type: dict
  returned: success, and failure to become empty in time
  contains:
    drained:
      description: Whether it is drained now, or would be.
      type: bool
      sample: true
    since:
      description: Since when, in UTC; empty where it is not drained.
      type: str
      sample: "2026-03-01T04:05:06Z"
    reason:
      description: Why; empty where it is not drained.
      type: str
      sample: kernel upgrade
    in_flight:
      description: Requests in flight at the last look; none where nothing was waited for. What is not known is null.
      type: dict
      sample: {"running": 0, "waiting": 0, "load": 0}
    in_flight_text:
      description: The same as a sentence.
      type: str
      sample: 0 requests running, 0 waiting and 0 in the API server
"""

import asyncio
import math
import time
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._health import drain
from ansible_collections.inferops.vllm.plugins.module_utils._serving import flight
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving


class Flags:
    """The drain flags of the instances, as they are and as they shall be."""

    def __init__(self, module: AnsibleModule, names: list[str]) -> None:
        self._dir = module.params["drain_dir"]
        self._wanted = module.params["state"] == "drained"
        self._reason = module.params["reason"]
        self.before = {name: drain.is_drained(name, self._dir) for name in names}
        self.changed = [name for name in names if self.before[name] != self._wanted]

    def apply(self) -> None:
        for name in self.changed:
            if self._wanted:
                drain.set_flag(name, self._reason, self._dir)
            else:
                drain.clear(name, self._dir)

    def diff(self) -> dict:
        before = [name for name, drained in self.before.items() if drained]
        after = list(self.before) if self._wanted else []
        return {"before": {"drained": before}, "after": {"drained": after}}

    def shown(self, name: str) -> dict:
        found = drain.read(name, self._dir) if self._wanted else {}
        return {
            "drained": self._wanted,
            "since": str(found.get("since", "")),
            "reason": str(found.get("reason", self._reason if self._wanted else "")),
        }


async def wait(
    instances: list[serving.Instance], not_before: float, until: float
) -> dict[str, tuple[flight.InFlight, bool]]:
    found = await asyncio.gather(*(flight.until_none(instance, not_before, until) for instance in instances))
    return {instance.name: seen for instance, seen in zip(instances, found)}


def run(module: AnsibleModule) -> dict:
    params = module.params
    instances = serving.load_all(params["names"], params["config_dir"])
    flags = Flags(module, [instance.name for instance in instances])
    if not module.check_mode:
        flags.apply()
    shown = {name: flags.shown(name) for name in flags.before}
    result = {"changed": bool(flags.changed), "diff": flags.diff(), "instances": shown}
    if module.check_mode or params["state"] == "undrained" or not params["wait"]:
        return result
    step = params["_slice"] or {}
    now = time.monotonic()
    began = now - step.get("waited", 0.0)
    # The first slice knows what was drained anew, and the later ones learn it from there.
    fresh = (step.get("progress") or {}).get("fresh", bool(flags.changed))
    deadline = began + (math.inf if params["overdue"] == "wait" else params["timeout_seconds"])
    found = asyncio.run(
        wait(
            instances,
            began + params["settle_seconds"] if fresh else began,
            min(deadline, now + step.get("seconds", math.inf)),
        )
    )
    for name, (in_flight, _empty) in found.items():
        shown[name].update(in_flight=asdict(in_flight), in_flight_text=str(in_flight))
    rest = [f"{name} has {in_flight}" for name, (in_flight, empty) in found.items() if not empty]
    if not rest:
        return result
    if time.monotonic() >= deadline:
        numbers = "; ".join(rest)
        if params["overdue"] == "cut":
            module.warn(f"after {params['timeout_seconds']} s not everything is finished: {numbers}")
            return result
        module.fail_json(
            msg=f"after {params['timeout_seconds']} s not everything is finished: {numbers}."
            " The instances stay drained: wait longer with timeout_seconds or overdue=wait, or go on with overdue=cut",
            **result,
        )
    return {**result, "_slice": {"fresh": fresh}}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str"},
            "state": {"type": "str", "choices": ["drained", "undrained"], "default": "drained"},
            "reason": {"type": "str", "default": "drained by Ansible"},
            "wait": {"type": "bool", "default": True},
            "timeout_seconds": {"type": "int", "default": 300},
            "overdue": {"type": "str", "choices": ["fail", "wait", "cut"], "default": "fail"},
            "settle_seconds": {"type": "int", "default": 5},
            "config_dir": {"type": "path", "default": serving.CONFIG_DIR},
            "drain_dir": {"type": "path", "default": drain.DIRECTORY},
            "_slice": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["timeout_seconds"] <= params["settle_seconds"] and params["wait"]:
        module.fail_json(
            msg=f"timeout_seconds is {params['timeout_seconds']}, no more than settle_seconds"
            f" ({params['settle_seconds']}): write more"
        )
    try:
        module.exit_json(**run(module))
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
