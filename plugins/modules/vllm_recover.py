#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: vllm_recover
short_description: Bring vLLM instances back with the least that helps
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Looks at each instance, what its servers have left, who has its port, its GPUs, and at memory and disks of the node,
    and takes the mildest step that brings it back.
  - That is to start what is stopped or quarantined, to kill first what its own servers have left, to restart what has
    failed, and to kill what is hung. What serves or loads is left alone; so is every process that is not the
    instance's own.
  - Resets no GPU and reboots nothing. Where that would help it says so, and the playbook C(recover.yml) does it if
    asked.
attributes:
  check_mode:
    description: Tells of each instance which step it would take and why.
    support: full
  diff_mode:
    description: There is never a difference.
    support: none
extends_documentation_fragment:
  - inferops.vllm.instances
options:
  gpu_reset:
    description: Whether somebody will reset GPUs, so that RV(gpu_reset) is to tell which.
    type: bool
    default: false
  reboot:
    description: Whether somebody will reboot the node, so that RV(reboot) is to tell whether that would help.
    type: bool
    default: false
  timeout_seconds:
    description: Seconds that the look at an instance may take, and the answer of the driver.
    type: int
    default: 10
  stop_timeout_seconds:
    description: Seconds within which a server that is restarted must have stopped.
    type: int
    default: 120
notes:
  - Runs as root on the node.
  - Does not wait until what was started serves. M(inferops.vllm.vllm_probe) does that.
seealso:
  - module: inferops.vllm.vllm_instance_info
  - module: inferops.vllm.vllm_instance
  - module: inferops.vllm.gpu_reset
"""

EXAMPLES = r"""
- name: See what would help
  inferops.vllm.vllm_recover:
  check_mode: true
  register: plan

- name: Do it
  inferops.vllm.vllm_recover:
    names: [qwen3vl]
"""

RETURN = r"""
instances:
  description: What was found of each instance and what was done, or would be, by its name.
  type: dict
  returned: success
  contains:
    step:
      description: V(nothing), V(start), V(release), V(kill leftovers), V(restart), V(kill), V(reset gpu) or V(reboot).
      type: str
      sample: start
    why:
      description: What it is for.
      type: str
      sample: it is stopped
    hindrance:
      description: What a person has to do, where no step helps; else empty.
      type: str
      sample: "port 8000 is held by nc (pid 4242), which is not touched: stop it, or give the instance another port"
    state:
      description: Verdict of one look.
      type: str
      sample: down
    evidence:
      description: What it is made from.
      type: str
      sample: it is stopped
    log:
      description: The last lines of its log, of an instance that does not serve.
      type: list
      elements: str
      sample: ["INFO:     Application shutdown complete."]
changed_instances:
  description: Names of the instances that were started, restarted or killed, or would be.
  type: list
  elements: str
  returned: success
  sample: [qwen3vl]
gpu_reset:
  description: GPUs to reset, and units of the instances that have them.
  type: dict
  returned: success
  sample: {"gpus": ["0"], "instances": ["qwen3vl"], "services": ["vllm@qwen3vl.service"]}
reboot:
  description: Whether a reboot was allowed and would help.
  type: bool
  returned: success
  sample: false
node:
  description: Memory and disks of the node, and what its agent and its GPUs say.
  type: dict
  returned: success
  sample:
    memory_available_mib: 120000
    shm_free_mib: 1024
    disk_free_mib: {"/": 40000, "/var/lib/vllm": 40000}
    gpus: ok
    gpu_reasons: []
report:
  description: All of it in lines for a person.
  type: list
  elements: str
  returned: success
  sample: ["qwen3vl: start, for it is stopped"]
"""

import asyncio
import contextlib
import os
import signal
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils import _recovery as recovery
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.survey import survey
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.verdict import Expectation, Limits, NodeVerdict, judge
from ansible_collections.inferops.vllm.plugins.module_utils._health import memory, trial
from ansible_collections.inferops.vllm.plugins.module_utils._health import settings as health_settings
from ansible_collections.inferops.vllm.plugins.module_utils._serving import instance as serving
from ansible_collections.inferops.vllm.plugins.module_utils._serving import process, runtime
from ansible_collections.inferops.vllm.plugins.module_utils._serving.runtime import CommandFailed
from ansible_collections.inferops.vllm.plugins.module_utils._support import redact

LOG_LINES = 5
DISKS = ("/", "/var/lib/vllm", "/var/log/vllm", "/dev/shm")
DEATH_SECONDS = 10
OWN_STEPS = (recovery.START, recovery.RELEASE, recovery.KILL_LEFTOVERS, recovery.RESTART, recovery.KILL)


def judge_gpus(instances: list[serving.Instance], seconds: float) -> NodeVerdict | None:
    """None where no instance was given any."""
    given = {instance.name: instance.gpus for instance in instances if instance.gpus}
    if not given:
        return None
    found = survey(seconds)
    return judge(found.node, found.events, {}, Expectation(), Limits(), given, {})


async def look(instances: list[serving.Instance], seconds: float) -> dict[str, trial.Seen]:
    now = time.monotonic()
    settings = health_settings.load()
    plan = trial.Plan(
        limits={instance.name: settings.thresholds(instance.start_grace_seconds) for instance in instances},
        successes=1,
        began=now,
        deadline=now + seconds,
        slice_end=now + seconds,
        once=True,
    )
    return await trial.run(instances, runtime.of, plan, {})


def read(path: str) -> str:
    """A short text that others may have planted; empty where there is none."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, encoding="utf-8", errors="replace") as stream:
            return stream.read(1000).strip()
    return ""


def holder_of(instance: serving.Instance) -> str:
    """The program that has its port and is none of its own."""
    found = process.listeners({instance.port})
    if instance.port not in found:
        return ""
    held_by = found[instance.port]
    if held_by is None:
        return "a program that cannot be seen"
    return "" if process.belongs_to(held_by.pid, instance.name) else f"{held_by.name} (pid {held_by.pid})"


def leftovers(name: str) -> tuple[str, ...]:
    found = (process.stat(pid) for pid in process.marked(name))
    return tuple(sorted({seen.name for seen in found if seen and seen.state not in "ZX"}))


def facts_of(instance: serving.Instance, seen: trial.Seen, unit: str, verdict: NodeVerdict | None) -> recovery.Facts:
    remembered, _trouble = memory.load(memory.path_of(instance.name), process.boot_id(), time.monotonic())
    gpu = verdict.instances.get(instance.name) if verdict else None
    return recovery.Facts(
        port=instance.port,
        unit=unit,
        state=seen.state,
        evidence=seen.evidence,
        quarantine=remembered.quarantine,
        obstacle=read(instance.obstacle_path),
        leftovers=leftovers(instance.name) if unit in recovery.AT_REST else (),
        holder=holder_of(instance),
        **({"gpu_state": gpu.state, "gpu_action": gpu.action, "gpu_reason": "; ".join(gpu.reasons)} if gpu else {}),
    )


async def log_of(instance: serving.Instance) -> list[str]:
    secrets = redact.Redactor(
        secret
        for path in (instance.config_path, instance.description_path)
        for secret in redact.found_in(path, read_all(path))
    )
    try:
        text = await runtime.of(instance).log(instance.name, LOG_LINES)
    except (CommandFailed, OSError) as error:
        return [str(error)]
    return secrets.clean("log", text).splitlines()[-LOG_LINES:]


def read_all(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def node_facts(verdict: NodeVerdict | None) -> dict:
    meminfo = dict(line.split(":", 1) for line in read_all("/proc/meminfo").splitlines() if ":" in line)
    disks = {}
    for path in DISKS:
        with contextlib.suppress(OSError):
            seen = os.statvfs(path)
            disks[path] = seen.f_bavail * seen.f_frsize >> 20
    return {
        "memory_available_mib": int(meminfo.get("MemAvailable", "0 kB").split()[0]) >> 10,
        "shm_free_mib": disks.pop("/dev/shm", 0),
        "disk_free_mib": disks,
        "gpus": verdict.state if verdict else "",
        "gpu_reasons": list(verdict.reasons) if verdict else [],
    }


async def take(step: str, instance: serving.Instance, stop_seconds: float) -> None:
    keeping = runtime.of(instance)
    if step == recovery.KILL_LEFTOVERS:
        for pid in process.marked(instance.name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        stuck = process.wait_gone(process.marked(instance.name), DEATH_SECONDS)
        if stuck:
            raise CommandFailed(
                f"process {stuck[0]} of an earlier server of {instance.name} does not die: reboot the node"
            )
    if step == recovery.KILL:
        await keeping.kill(instance.name)
    elif step == recovery.RESTART:
        await keeping.renew(instance.name, stop_seconds)
    else:
        await keeping.keep(instance.name)


def lines(plans: dict[str, recovery.Plan], found: dict, node: dict) -> list[str]:
    shown = [
        f"node: {node['memory_available_mib']} MiB of memory available, {node['shm_free_mib']} MiB of /dev/shm free, "
        + ", ".join(f"{free} MiB of {path} free" for path, free in node["disk_free_mib"].items())
        + (f", GPUs {node['gpus']}" if node["gpus"] else "")
        + "".join(f"; {reason}" for reason in node["gpu_reasons"])
    ]
    for name, plan in plans.items():
        shown.append(f"{name}: {plan.step}, for {plan.why}{'; ' if plan.hindrance else ''}{plan.hindrance}")
        shown += [f"{name} | {line}" for line in found[name]["log"]]
    return shown


async def run(module: AnsibleModule) -> dict:
    params = module.params
    instances = serving.load_all(params["names"], params["config_dir"])
    # First, and not beside the others: it forks.
    verdict = judge_gpus(instances, params["timeout_seconds"])
    allowed = recovery.Allowed(params["gpu_reset"], params["reboot"])
    seen, units = await asyncio.gather(look(instances, params["timeout_seconds"]), runtime.units(instances))
    plans, found = {}, {}
    for instance in instances:
        name = instance.name
        unit = units[name].state if name in units else ""
        plan = recovery.plan(facts_of(instance, seen[name], unit, verdict), allowed)
        plans[name] = plan
        found[name] = {
            "step": plan.step,
            "why": plan.why,
            "hindrance": plan.hindrance,
            "state": seen[name].state,
            "evidence": seen[name].evidence,
            "log": [] if seen[name].serves else await log_of(instance),
        }
    changed = [name for name, plan in plans.items() if plan.step in OWN_STEPS]
    if not module.check_mode:
        for instance in instances:
            if instance.name in changed:
                await take(plans[instance.name].step, instance, params["stop_timeout_seconds"])
    reset = [instance for instance in instances if plans[instance.name].step == recovery.RESET_GPU]
    node = node_facts(verdict)
    return {
        "changed": bool(changed),
        "changed_instances": changed,
        "instances": found,
        "gpu_reset": {
            "gpus": [str(gpu) for gpu in sorted({gpu for instance in reset for gpu in instance.gpus})],
            "instances": [instance.name for instance in reset],
            "services": [instance.unit for instance in reset if instance.runtime == "systemd"],
        },
        "reboot": any(plan.step == recovery.REBOOT for plan in plans.values()),
        "node": node,
        "report": lines(plans, found, node),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str"},
            "gpu_reset": {"type": "bool", "default": False},
            "reboot": {"type": "bool", "default": False},
            "timeout_seconds": {"type": "int", "default": 10},
            "stop_timeout_seconds": {"type": "int", "default": 120},
            "config_dir": {"type": "path", "default": serving.CONFIG_DIR},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**asyncio.run(run(module)))
    except (CommandFailed, OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
