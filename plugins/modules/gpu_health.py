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
  - What should be there is never learned from the host. Without O(expect) a GPU that is missing is noticed only where
    the PCI bus still shows it.
extends_documentation_fragment:
  - inferops.vllm.attributes.info_module
options:
  expect:
    description: What the host should have. What is not given is not judged.
    type: dict
    default: {}
    suboptions:
      count:
        description: Number of GPUs.
        type: int
      name:
        description: Part of the model's name, such as V(H100).
        type: str
      memory_total_bytes:
        description: Memory of each GPU, at least.
        type: int
      ecc_mode:
        description: Whether ECC is on.
        type: bool
      nvlinks_active:
        description: Active NVLinks of each GPU, at least.
        type: int
      pcie_width:
        description: PCIe lanes of each GPU, at least.
        type: int
      driver:
        description: Version of the driver, at least.
        type: str
  limits:
    description: What is still normal.
    type: dict
    default: {}
    suboptions:
      idle_memory_bytes:
        description: Memory in use while no process is seen to hold the GPU.
        type: int
        default: 1073741824
      temperature_margin_celsius:
        description: How close to the temperature at which it slows down a GPU may come.
        type: int
        default: 2
      ecc_corrected:
        description: Corrected memory errors since the last reset.
        type: int
        default: 50000000
      rows_remapped_uncorrected:
        description: Rows of memory that were remapped for uncorrectable errors, ever.
        type: int
        default: 512
      pages_retired:
        description: Pages of memory that were retired, ever; of GPUs before Ampere.
        type: int
        default: 63
      recent_seconds:
        description: For how long an XID counts that calls for nothing but attention.
        type: float
        default: 3600
  instances:
    description: Indices of the GPUs of each instance, by its name. An empty list means all GPUs.
    type: dict
    default: {}
  fail_on:
    description: The mildest verdict on the host with which the module fails; with V(never) it does not.
    type: str
    choices: [degraded, drain, unhealthy, never]
    default: unhealthy
  timeout_seconds:
    description: Seconds that the driver has for its answer.
    type: int
    default: 10
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

from ansible_collections.inferops.vllm.plugins.module_utils._gpu.survey import survey
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.verdict import (
    STATES,
    Expectation,
    Limits,
    NodeVerdict,
    judge,
)

NEVER = "never"
EXPECT = {
    "count": {"type": "int"},
    "name": {"type": "str"},
    "memory_total_bytes": {"type": "int"},
    "ecc_mode": {"type": "bool"},
    "nvlinks_active": {"type": "int"},
    "pcie_width": {"type": "int"},
    "driver": {"type": "str"},
}
LIMITS = {
    "idle_memory_bytes": {"type": "int", "default": Limits.idle_memory_bytes},
    "temperature_margin_celsius": {"type": "int", "default": Limits.temperature_margin_celsius},
    "ecc_corrected": {"type": "int", "default": Limits.ecc_corrected},
    "rows_remapped_uncorrected": {"type": "int", "default": Limits.rows_remapped_uncorrected},
    "pages_retired": {"type": "int", "default": Limits.pages_retired},
    "recent_seconds": {"type": "float", "default": Limits.recent_seconds},
}


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
            "expect": {"type": "dict", "default": {}, "options": EXPECT},
            "limits": {"type": "dict", "default": {}, "options": LIMITS},
            "instances": {"type": "dict", "default": {}},
            "fail_on": {"type": "str", "default": "unhealthy", "choices": [*STATES[1:], NEVER]},
            "timeout_seconds": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["timeout_seconds"] < 1:
        module.fail_json(msg=f"timeout_seconds is {params['timeout_seconds']}: write 1 or more")
    instances = indices(module, params["instances"])
    found = survey(params["timeout_seconds"])
    verdict = judge(
        found.node, found.events, {}, Expectation(**params["expect"]), Limits(**params["limits"]), instances, {}
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
