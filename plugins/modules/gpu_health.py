#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_health
short_description: Judge the NVIDIA GPUs of a host
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Looks at the GPUs once, reads what the kernel of this boot has logged of them, and tells for each GPU, each
    instance and the host whether it is fit to serve, why not, and what would mend it.
  - What the driver itself says of a GPU comes first, then its counters, then XIDs since the GPU was last reset, then
    what O(expect) says. Old XIDs, of an earlier boot or from before a reset, count for nothing.
  - The verdict is V(ok), V(degraded) (serves on; somebody should know), V(drain) (what is in flight may finish first)
    or V(unhealthy).
  - A driver that is installed in part, of several versions, without a module for a kernel that may boot, or that waits
    for a reboot makes it V(degraded), and the reason says which command mends it.
  - What should be there is never learned from the host. Without O(expect) a GPU that is missing is noticed only where
    the PCI bus still shows it.
extends_documentation_fragment:
  - inferops.vllm.attributes.info_module
  - inferops.vllm.gpu
options:
  instances:
    description: Indices of the GPUs of each instance, by its name. An empty list means all GPUs.
    type: dict
    default: {}
  fail_on:
    description: The mildest verdict on the host with which the module fails; with V(never) it does not.
    type: str
    choices: [degraded, drain, unhealthy, never]
    default: unhealthy
notes:
  - Reading the kernel log needs root, or where it is restricted the capability for it. Where it cannot be read,
    RV(log_error) says so, and XIDs are not judged.
  - How long a GPU was slowed down takes more than one look; only the node agent judges it.
seealso:
  - module: inferops.vllm.gpu_info
"""

EXAMPLES = r"""
- name: Let no host join whose GPUs are not as ordered
  inferops.vllm.gpu_health:
    expect:
      count: 8
      name: H100
      ecc_mode: true
      nvlinks_active: 18
    fail_on: degraded

- name: See what the GPUs mean for the instances on them
  inferops.vllm.gpu_health:
    instances:
      qwen3vl: [0, 1]
    fail_on: never
  register: gpu
"""

RETURN = r"""
state:
  description: Verdict on the host, the worst of all; V(ok), V(degraded), V(drain) or V(unhealthy).
  type: str
  returned: always
  sample: degraded
action:
  description: What the worst reason calls for.
  type: str
  returned: always
  sample: reset_when_idle
reasons:
  description: One sentence each, the worst first.
  type: list
  elements: str
  returned: always
  sample: ["GPU 1: a row of its memory is remapped at the next reset"]
restart_safe:
  description: False where a server that runs may be the last that does, because a new one would not find the GPUs.
  type: bool
  returned: always
  sample: true
gpus:
  description: Verdict on each GPU.
  type: list
  elements: dict
  returned: always
  sample:
    - index: 1
      uuid: GPU-00000000-0000-0000-0000-000000000001
      pci_address: "0000:3b:00"
      state: degraded
      action: reset_when_idle
      reasons: ["a row of its memory is remapped at the next reset"]
instances:
  description: Verdict on each instance, which is that on its GPUs and on what it shares with all.
  type: dict
  returned: always
  sample: {"qwen3vl": {"state": "ok", "action": "none", "reasons": []}}
source:
  description: Who answered for the GPUs, V(nvml) or V(nvidia-smi); empty where neither did.
  type: str
  returned: always
  sample: nvml
error:
  description: Why nothing, or not all, is known of the GPUs.
  type: str
  returned: always
  sample: ""
log_error:
  description: Why the kernel's words are not known; empty where they are.
  type: str
  returned: always
  sample: ""
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._driver import look
from ansible_collections.inferops.vllm.plugins.module_utils._driver.faults import faults
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.arguments import ARGUMENTS
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.survey import survey
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.verdict import (
    STATES,
    Expectation,
    Limits,
    NodeVerdict,
    judge,
)

NEVER = "never"


def indices(module: AnsibleModule, instances: dict) -> dict[str, list[int]]:
    for name, gpus in instances.items():
        if not isinstance(gpus, list) or not all(isinstance(gpu, int) and gpu >= 0 for gpu in gpus):
            module.fail_json(msg=f"instances has {name}: {gpus}: write a list of GPU numbers, such as [0, 1]")
    return instances


def is_failure(verdict: NodeVerdict, fail_on: str) -> bool:
    return fail_on != NEVER and STATES.index(verdict.state) >= STATES.index(fail_on)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **ARGUMENTS,
            "instances": {"type": "dict", "default": {}},
            "fail_on": {"type": "str", "default": "unhealthy", "choices": [*STATES[1:], NEVER]},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["timeout_seconds"] < 1:
        module.fail_json(msg=f"timeout_seconds is {params['timeout_seconds']}: write 1 or more")
    instances = indices(module, params["instances"])
    found = survey(params["timeout_seconds"])
    expectation, limits = Expectation(**params["expect"]), Limits(**params["limits"])
    verdict = judge(
        found.node, found.events, {}, expectation, limits, instances, {}, list(faults(look.files()).values())
    )
    result = {
        "changed": False,
        **asdict(verdict),
        "source": found.node.source,
        "error": found.node.error,
        "log_error": found.log_error,
    }
    if is_failure(verdict, params["fail_on"]):
        module.fail_json(msg=f"the GPUs are {verdict.state}: {'; '.join(verdict.reasons)}", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
