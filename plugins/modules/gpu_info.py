#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_info
short_description: Gather information about the NVIDIA GPUs of a host
version_added: "0.1.0"
author:
  - The inferops authors (@inferops)
description:
  - Looks at each GPU once, by NVML where this Python has the package C(nvidia-ml-py), or a vLLM in V(/opt/vllm) has
    brought it, else by C(nvidia-smi).
  - What cannot be read of a GPU is null, with the reason among its C(errors), and keeps nothing else from being told.
  - A driver that does not answer is given O(timeout_seconds) and then left alone, and RV(unresponsive) is true. The
    module never fails because of a GPU or its driver; M(inferops.vllm.gpu_health) judges.
  - Root sees the names of other users' processes, others do not. Nothing else needs privileges.
extends_documentation_fragment:
  - inferops.vllm.attributes.info_module
options:
  timeout_seconds:
    description: Seconds that the driver has for its answer.
    type: int
    default: 10
notes:
  - The look opens the GPUs for a moment, during which none of them can be reset.
seealso:
  - module: inferops.vllm.gpu_health
"""

EXAMPLES = r"""
- name: Gather information about the GPUs
  inferops.vllm.gpu_info:
  register: gpu

- name: Show how much memory each has left
  ansible.builtin.debug:
    msg: "{{ gpu.gpus | items2dict(key_name='index', value_name='memory_free_bytes') }}"
"""

RETURN = r"""
source:
  description: Who answered, V(nvml) or V(nvidia-smi); empty where neither did.
  type: str
  returned: always
  sample: nvml
fallback:
  description: Why C(nvidia-smi) was asked; empty where it was not.
  type: str
  returned: always
  sample: ""
error:
  description: What failed, in one sentence; empty where nothing did.
  type: str
  returned: always
  sample: ""
code:
  description: Number of NVML's error, which C(nvidia-smi) exits with as well; null without one.
  type: int
  returned: always
  sample: 9
unresponsive:
  description: Whether the driver gave no answer in time.
  type: bool
  returned: always
  sample: false
driver:
  description: Versions of the driver, each empty where it is not known or there is none.
  type: dict
  returned: always
  contains:
    loaded:
      description: Of the kernel module that runs.
      type: str
      sample: 580.95.05
    installed:
      description: Of the kernel module on disk, which the next boot loads.
      type: str
      sample: 580.95.05
    library:
      description: Of the library that programs load.
      type: str
      sample: 580.95.05
    cuda:
      description: The newest CUDA that the driver serves.
      type: str
      sample: "13.0"
    libcuda:
      description: Of the library that servers compute by, where a file tells it.
      type: str
      sample: 580.95.05
    mismatch:
      description: Whether these contradict each other. Servers that run go on, and none that starts finds its GPUs.
      type: bool
      sample: false
gpus:
  description:
    - The GPUs, by the index that the driver gives them. Fields that end in C(_bytes), C(_celsius), C(_watts) and
      C(_percent) are numbers of that unit.
    - C(recovery_action) is what the driver itself asks for, C(errors) says of each field that is null why it is.
  type: list
  elements: dict
  returned: always
  sample:
    - index: 0
      uuid: GPU-00000000-0000-0000-0000-000000000000
      name: NVIDIA H100 80GB HBM3
      pci_address: "0000:19:00"
      memory_total_bytes: 85520809984
      memory_used_bytes: 0
      temperature_celsius: 31
      ecc_uncorrected_volatile: 0
      remap_pending: false
      nvlinks_active: 18
      recovery_action: none
      processes: []
      errors: {"memory_temperature_celsius": "not supported"}
      lost: false
      reset_required: false
pci_addresses:
  description: Addresses of the GPUs that the host has, whether or not the driver answers for them.
  type: list
  elements: str
  returned: always
  sample: ["0000:19:00"]
nvswitches:
  description: Number of NVSwitches.
  type: int
  returned: always
  sample: 4
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.inferops.vllm.plugins.module_utils._gpu import facts
from ansible_collections.inferops.vllm.plugins.module_utils._gpu.look import look

CLOCK = ("at", "boot_id")
"""Of no use to who reads it later."""


def report(node: facts.Node) -> dict:
    found = {name: value for name, value in node.to_json().items() if name not in CLOCK}
    return {**found, "driver": {**found["driver"], "mismatch": node.driver.mismatch}}


def main() -> None:
    module = AnsibleModule(
        argument_spec={"timeout_seconds": {"type": "int", "default": 10}},
        supports_check_mode=True,
    )
    timeout_seconds = module.params["timeout_seconds"]
    if timeout_seconds < 1:
        module.fail_json(msg=f"timeout_seconds is {timeout_seconds}: write 1 or more")
    module.exit_json(changed=False, **report(look(timeout_seconds)))


if __name__ == "__main__":
    main()
