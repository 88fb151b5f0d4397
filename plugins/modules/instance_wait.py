#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: instance_wait
short_description: Wait until vLLM instances of a node serve
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Waits for C(/health), then asks whether the server answers under the expected model name, then for one token, or
    one embedding where the model makes those; only the last of the three reaches the engine.
  - Fails when the time is over, or as soon as systemd has restarted the server three times since, with the end of the
    instance's journal; restarts nothing.
attributes:
  check_mode:
    description: Changes nothing in any mode; in check mode it does not wait.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
options:
  names:
    description: Instances to wait for; all instances of the node where not set.
    type: list
    elements: str
  timeout_seconds:
    description: Seconds within which all of them must serve.
    type: int
    default: 900
  config_dir:
    description: Directory of the instances' files.
    type: path
    default: /etc/vllm/instances
"""

EXAMPLES = r"""
- name: Wait until the instances serve
  inferops.vllm.instance_wait:
    timeout_seconds: 600
"""

RETURN = r"""
seconds:
  description: Seconds waited for each instance, by its name.
  type: dict
  returned: success
  sample: {"qwen3vl": 87.5}
"""

import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving
from ansible_collections.inferops.vllm.plugins.module_utils._serving import probe

POLL_SECONDS = 0.5
PROBE_SECONDS = 10
JOURNAL_LINES = 15
CRASH_LOOP_RESTARTS = 3


class NotServing(Exception):
    """An instance does not serve; the message says which and what was seen."""


def obstacle(instance: serving.Instance, patience_seconds: float) -> str:
    """Why the instance cannot be said to serve, empty where it does."""
    answer = probe.health(instance, min(PROBE_SECONDS, patience_seconds))
    if not answer.ok:
        return f"/health: {answer}"
    key = serving.api_key(instance)
    models = probe.served_models(instance, min(PROBE_SECONDS, patience_seconds), key)
    if instance.served_model_name not in models:
        return f"another server answers on port {instance.port}: it serves {', '.join(models) or 'no model'}"
    answer = probe.inference(instance, patience_seconds, key)
    return "" if answer.ok else f"inference: {answer}"


def restarts(module: AnsibleModule, instance: serving.Instance) -> int:
    """How often systemd restarted the server by itself."""
    _rc, out, _err = module.run_command(["systemctl", "show", "--property=NRestarts", "--value", instance.unit])
    return int(out.strip() or 0)


def wait(module: AnsibleModule, instance: serving.Instance, deadline: float) -> None:
    before = restarts(module, instance)
    while True:
        reason = obstacle(instance, max(1.0, deadline - time.monotonic()))
        if not reason:
            return
        if time.monotonic() >= deadline:
            raise NotServing(failure(module, instance, f"after {module.params['timeout_seconds']} s ({reason})"))
        # Lower than before: the unit was started anew in the meantime, and counts from zero.
        if restarts(module, instance) - before >= CRASH_LOOP_RESTARTS:
            raise NotServing(
                failure(module, instance, f"and ended {CRASH_LOOP_RESTARTS} times while it was waited for")
            )
        time.sleep(POLL_SECONDS)


def failure(module: AnsibleModule, instance: serving.Instance, reason: str) -> str:
    return f"instance {instance.name} does not serve {reason}. The end of its journal:\n{journal(module, instance)}"


def journal(module: AnsibleModule, instance: serving.Instance) -> str:
    command = ["journalctl", "--no-pager", "--output=cat", f"--lines={JOURNAL_LINES}", f"--unit={instance.unit}"]
    _rc, out, _err = module.run_command(command)
    return out.strip()


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str"},
            "timeout_seconds": {"type": "int", "default": 900},
            "config_dir": {"type": "path", "default": serving.CONFIG_DIR},
        },
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=False, seconds={})
    names = serving.names(params["config_dir"]) if params["names"] is None else params["names"]
    started = time.monotonic()
    seconds = {}
    try:
        for name in names:
            wait(module, serving.load(name, params["config_dir"]), started + params["timeout_seconds"])
            seconds[name] = round(time.monotonic() - started, 1)
    except (NotServing, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, seconds=seconds)


if __name__ == "__main__":
    main()
