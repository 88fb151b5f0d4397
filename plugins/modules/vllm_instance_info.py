#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_instance_info
short_description: Gather information about the vLLM instances of a node
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Tells of each instance how it is configured, what its runtime and the node's agent say of it, whether it is drained,
    and what one look at it finds.
  - No secret is told. Options that hold one are left out, and of the environment the names alone are told.
extends_documentation_fragment:
  - inferops.vllm.attributes.info_module
  - inferops.vllm.instances
  - inferops.vllm.instances.drain
options:
  timeout_seconds:
    description: Seconds that the look at an instance may take, and the answer of the agent.
    type: int
    default: 10
seealso:
  - module: inferops.vllm.vllm_probe
  - module: inferops.vllm.vllm_drain
"""

EXAMPLES = r"""
- name: Gather information about all instances
  inferops.vllm.vllm_instance_info:
  register: vllm

- name: Show what the node's agent thinks of them
  ansible.builtin.debug:
    msg: "{{ vllm.instances | dict2items | map(attribute='value.agent') }}"
"""

RETURN = r"""
instances:
  description: What is known of each instance, by its name.
  type: dict
  returned: success
  contains:
    port:
      description: TCP port of the server.
      type: int
      sample: 8000
    served_model_name:
      description: The first name under which the model is served.
      type: str
      sample: Qwen/Qwen3-VL-8B-Instruct
    options:
      description: Options of C(vllm serve), without those that hold secrets; none where their file is damaged.
      type: dict
      sample: {"max-model-len": 32768, "port": 8000}
    environment:
      description: Names of the environment variables that are set for the server.
      type: list
      elements: str
      sample: [CUDA_VISIBLE_DEVICES]
    runtime:
      description: What keeps it running.
      type: str
      sample: systemd
    unit:
      description: What the runtime says, null where it says nothing.
      type: dict
      contains:
        state:
          description: One of V(running), V(starting), V(stopping), V(stopped) and V(failed).
          type: str
          sample: running
        restarts:
          description: How often it has restarted the server by itself since somebody started it.
          type: int
          sample: 0
        detail:
          description: How the last end of the server is called.
          type: str
          sample: success
    record:
      description:
        - What the running server was started with; empty where none was started since the node booted.
        - C(digest) is of its configuration, C(venv) its virtual environment.
      type: dict
      sample: {"pid": 4242, "digest": "9f86d081", "venv": "/opt/vllm/venvs/0.33.0"}
    current:
      description: Whether the running server was started with the present configuration.
      type: bool
      sample: true
    probe:
      description: What one look found, as M(inferops.vllm.vllm_probe) returns it.
      type: dict
      sample: {"state": "ready", "evidence": "answers; 0 requests run, 0 wait", "serves": true}
    in_flight:
      description: Requests of the server, those that wait included; null where it does not tell.
      type: int
      sample: 3
    drain:
      description: Whether it is drained, since when, and why.
      type: dict
      sample: {"drained": false, "since": "", "reason": ""}
    agent:
      description: What the node's agent says of it, null where it does not answer or does not know it.
      type: dict
      sample: {"state": "ready", "evidence": "answers; 0 requests run, 0 wait", "ready": true, "quarantine": ""}
agent_error:
  description: Why the agent has not answered; empty where it has.
  type: str
  returned: success
  sample: ""
"""

import asyncio
import json
import re
import time
from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._health import drain, trial
from ansible_collections.inferops.vllm.plugins.module_utils._health import settings as health_settings
from ansible_collections.inferops.vllm.plugins.module_utils._serving import client, flight, runtime
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving

SECRET = re.compile(r"(^|[-_])(key|token|secret|password)$")


def read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except (OSError, ValueError):
        return ""


def read_record(instance: serving.Instance) -> dict:
    try:
        record = json.loads(read(instance.record_path))
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def configuration(instance: serving.Instance) -> dict:
    text = read(instance.config_path)
    record = read_record(instance)
    try:
        options = serving.load_config(text)
    except ValueError:
        options = {}
    return {
        "port": instance.port,
        "served_model_name": instance.served_model_name,
        "options": {name: value for name, value in options.items() if not SECRET.search(name)},
        "environment": sorted(instance.environment),
        "record": record,
        "current": record.get("digest") == serving.digest(text, read(instance.description_path)),
    }


def drained(name: str, directory: str) -> dict:
    found = drain.read(name, directory)
    return {
        "drained": drain.is_drained(name, directory),
        "since": str(found.get("since", "")),
        "reason": str(found.get("reason", "")),
    }


async def ask_agent(settings: health_settings.Settings, timeout_seconds: float) -> tuple[dict, str]:
    """What the agent says of each instance, and why it says nothing."""
    answer = await client.request(settings.asked_address, settings.agent_port, "GET", "/status", timeout_seconds)
    if not answer.ok:
        return {}, str(answer)
    try:
        return {found["instance"]: found for found in answer.json()["instances"]}, ""
    except (KeyError, TypeError):
        return {}, f"what answers on port {settings.agent_port} is not the agent"


async def in_flight(instance: serving.Instance, timeout_seconds: float) -> int | None:
    """Those in the API server, in which the engines' are; those of the engines where it does not count."""
    found = await flight.count(instance, timeout_seconds)
    if found.load is not None or found.running is None:
        return found.load
    return found.running + (found.waiting or 0)


async def gather(params: dict) -> dict:
    instances = serving.load_all(params["names"], params["config_dir"])
    settings = health_settings.load()
    now = time.monotonic()
    deadline = now + params["timeout_seconds"]
    plan = trial.Plan(
        limits={instance.name: settings.thresholds(instance.start_grace_seconds) for instance in instances},
        successes=1,
        began=now,
        deadline=deadline,
        slice_end=deadline,
        once=True,
    )
    counted = [in_flight(instance, params["timeout_seconds"]) for instance in instances]
    seen, (agent, agent_error), found_units, *requests = await asyncio.gather(
        trial.run(instances, runtime.of, plan, {}),
        ask_agent(settings, params["timeout_seconds"]),
        runtime.units(instances),
        *counted,
    )
    return {
        "agent_error": agent_error,
        "instances": {
            instance.name: {
                **configuration(instance),
                "runtime": instance.runtime,
                "unit": asdict(found_units[instance.name]) if instance.name in found_units else None,
                "probe": trial.shown(seen[instance.name]),
                "in_flight": flying,
                "drain": drained(instance.name, params["drain_dir"]),
                "agent": agent.get(instance.name),
            }
            for instance, flying in zip(instances, requests)
        },
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str"},
            "timeout_seconds": {"type": "int", "default": 10},
            "config_dir": {"type": "path", "default": serving.CONFIG_DIR},
            "drain_dir": {"type": "path", "default": drain.DIRECTORY},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **asyncio.run(gather(module.params)))
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
