#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_probe
short_description: Look at vLLM instances, or wait until they serve
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Looks at each instance as the node's own health check does, and asks it for one token, or one embedding where the
    model makes those. Nothing less reaches the engine, C(/health) is answered while it hangs.
  - An instance serves when the answer comes, and from a server of the model name that the instance is configured for.
  - With O(wait=true) it waits until all instances serve, and shows how they come up while it does. It fails when the
    time is over, or as soon as the server has been restarted three times since, with the end of the instance's journal.
  - Restarts nothing.
notes:
  - One look cannot tell a hung server from a busy one, which takes longer than its grace time. For that see the view of
    the node's agent in M(inferops.vllm.vllm_instance_info).
  - Runs as root on the node, for it reads the configuration of the instances and what their processes do.
attributes:
  action:
    description: Has a half on the controller, which shows the progress.
    support: full
  check_mode:
    description: Changes nothing in any mode. In check mode it takes one look, whatever O(wait) says.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
extends_documentation_fragment:
  - inferops.vllm.instances
  - inferops.vllm.instances.slices
options:
  wait:
    description: Wait until all of them serve, instead of one look.
    type: bool
    default: false
  consecutive_successes:
    description: Completions in a row, half a second or more apart, that make an instance a serving one.
    type: int
    default: 1
  approve:
    description:
      - Keep the configuration of those that serve, where O(wait=true), as one to go back to, unless their servers were
        started with another one.
    type: bool
    default: false
  questions:
    description: What those that serve are asked besides, where O(wait=true), and how their answers have to look like.
    type: list
    elements: dict
    default: []
    suboptions:
      prompt:
        description: The beginning of a text.
        type: str
        required: true
      expect:
        description: Regular expression that is found in what the server adds to it, with temperature 0.
        type: str
        required: true
      max_tokens:
        description: Tokens that it may add.
        type: int
        default: 16
      names:
        description: Instances that are asked this; all where not set.
        type: list
        elements: str
  timeout_seconds:
    description: Seconds within which all of them must serve; without O(wait) the seconds that one look may take.
    type: int
seealso:
  - module: inferops.vllm.vllm_drain
  - module: inferops.vllm.vllm_instance_info
"""

EXAMPLES = r"""
- name: Wait until the instances serve
  inferops.vllm.vllm_probe:
    wait: true
    consecutive_successes: 3
    timeout_seconds: 600

- name: Look at one instance
  inferops.vllm.vllm_probe:
    names: [qwen3vl]
  register: probed

- name: Tell why it does not serve
  ansible.builtin.debug:
    msg: "{{ probed.instances.qwen3vl.evidence }}"
  when: not probed.instances.qwen3vl.serves
"""

RETURN = r"""
instances:
  description: What was seen of each instance, by its name.
  type: dict
  returned: always, where the instances could be looked at
  contains:
    state:
      description:
        - One of V(loading), V(ready), V(busy), V(hung), V(down), V(draining), V(failed) and V(unknown).
        - V(draining) is a server that its runtime is stopping.
      type: str
      sample: ready
    evidence:
      description: Why, in one sentence.
      type: str
      sample: answers; 3 requests run, 0 wait
    serves:
      description: Whether its last completion was one.
      type: bool
      sample: true
    successes:
      description: Completions in a row.
      type: int
      sample: 3
    restarts:
      description: How often its runtime has restarted the server meanwhile.
      type: int
      sample: 0
    seconds:
      description: Seconds until it served, or spent on it so far.
      type: float
      sample: 87.5
"""

import asyncio
import re
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._health import settings as health_settings
from ansible_collections.inferops.vllm.plugins.module_utils._health import trial
from ansible_collections.inferops.vllm.plugins.module_utils._serving import generations, probe, runtime
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed

LOG_LINES = 15
WAIT_TIMEOUT_SECONDS = 900
LOOK_TIMEOUT_SECONDS = 10
ANSWER_SECONDS = 30


def plan(params: dict, wait: bool, instances: list[serving.Instance]) -> trial.Plan:
    settings = health_settings.load()
    now = time.monotonic()
    step = params["_slice"] or {"waited": 0.0}
    timeout = params["timeout_seconds"] or (WAIT_TIMEOUT_SECONDS if wait else LOOK_TIMEOUT_SECONDS)
    began = now - step["waited"]
    return trial.Plan(
        limits={instance.name: settings.thresholds(instance.start_grace_seconds) for instance in instances},
        successes=params["consecutive_successes"] if wait else 1,
        began=began,
        deadline=began + timeout,
        slice_end=min(now + step["seconds"], began + timeout) if "seconds" in step else began + timeout,
        once=not wait,
    )


def failure(instance: serving.Instance, seen: trial.Seen, reason: str) -> str:
    return (
        f"instance {instance.name} does not serve {reason}. It is {seen.state}: {seen.evidence}."
        f"\nThe end of its log:\n{log(instance)}"
    )


def log(instance: serving.Instance) -> str:
    try:
        return asyncio.run(runtime.of(instance).log(instance.name, LOG_LINES)).strip()
    except CommandFailed as error:
        return str(error)


def approve(instances: list[serving.Instance], config_dir: str) -> None:
    for instance in instances:
        config, _description = generations.texts(instance.name, config_dir)
        if not generations.is_stale(instance, config, generations.main_pid(instance)):
            generations.approve(instance.name, config_dir)


async def wrong_answers(instances: list[serving.Instance], questions: list[dict], deadline: float) -> list[str]:
    """What is wrong with the answers, a sentence for each."""
    wrong = []
    for instance in instances:
        for question in questions:
            if question["names"] is not None and instance.name not in question["names"]:
                continue
            seconds = max(ANSWER_SECONDS, deadline - time.monotonic())
            text, answer = await probe.completion(instance, question["prompt"], question["max_tokens"], seconds)
            if not re.search(question["expect"], text):
                said = repr(text) if answer.ok else str(answer)
                wrong.append(
                    f"instance {instance.name} completes {question['prompt']!r} with {said},"
                    f" in which {question['expect']!r} is not found"
                )
    return wrong


def report(module: AnsibleModule, instances: list[serving.Instance], seen: dict, made: trial.Plan) -> dict:
    shown = {name: trial.shown(found) for name, found in seen.items()}
    result = {"changed": False, "instances": shown}
    missing = [instance for instance in instances if seen[instance.name].successes < made.successes]
    if made.once:
        return result
    if not missing:
        wrong = asyncio.run(wrong_answers(instances, module.params["questions"], made.deadline))
        if wrong:
            module.fail_json(msg="; ".join(wrong), **result)
        if module.params["approve"]:
            approve(instances, module.params["config_dir"])
        return result
    for instance in missing:
        found = seen[instance.name]
        if found.crashes:
            reason = f"and ended {found.restarts} times while it was waited for"
            module.fail_json(msg=failure(instance, found, reason), **result)
        if time.monotonic() >= made.deadline:
            reason = f"after {round(made.deadline - made.began)} s"
            module.fail_json(msg=failure(instance, found, reason), **result)
    return {**result, "_slice": trial.dump(seen)}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str"},
            "wait": {"type": "bool", "default": False},
            "consecutive_successes": {"type": "int", "default": 1},
            "approve": {"type": "bool", "default": False},
            "questions": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "prompt": {"type": "str", "required": True},
                    "expect": {"type": "str", "required": True},
                    "max_tokens": {"type": "int", "default": 16, "no_log": False},
                    "names": {"type": "list", "elements": "str"},
                },
            },
            "timeout_seconds": {"type": "int"},
            "config_dir": {"type": "path", "default": serving.CONFIG_DIR},
            "_slice": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    params = module.params
    for option in ("consecutive_successes", "timeout_seconds"):
        if params[option] is not None and params[option] < 1:
            module.fail_json(msg=f"{option} is {params[option]}: write 1 or more")
    for question in params["questions"]:
        try:
            re.compile(question["expect"])
        except re.error as error:
            module.fail_json(
                msg=f"questions: expect is {question['expect']!r}, which is no regular expression: {error}"
            )
    names = params["names"]
    if module.check_mode and names is not None:
        # What is set up in the same run is not there in check mode.
        names = [name for name in names if name in serving.names(params["config_dir"])]
    try:
        instances = serving.load_all(names, params["config_dir"])
        made = plan(params, params["wait"] and not module.check_mode, instances)
    except (OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    progress = (params["_slice"] or {}).get("progress") or {}
    seen = asyncio.run(trial.run(instances, runtime.of, made, progress))
    module.exit_json(**report(module, instances, seen, made))


if __name__ == "__main__":
    main()
