#!/usr/bin/python
# Copyright (c) 2026, the inferops authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Check inventory and host before anything changes
version_added: "0.1.0"
author: The inferops authors (@inferops)
description:
  - Checks what the inventory says of a host's vLLM instances, alone, together, and against the host itself.
  - Fails with all problems at once, each a sentence that names host, variable, value and remedy.
  - The inventory is checked on the controller; one module call looks at the host. Nothing is changed on either.
  - C(args) of an instance are checked against the options of the O(version)'s own C(vllm serve). For a release whose
    options the collection does not know there is a warning instead.
  - Words that two groups of equal depth and priority set differently for the host are a problem, as Ansible would take
    one of them without a word.
extends_documentation_fragment:
  - inferops.vllm.attributes.info_module
options:
  instances:
    description:
      - C(vllm_instances) of the host, a list of mappings.
      - A relative directory as C(model) counts from C(playbook_dir). C(./a/b) is one, C(a/b) is a hub id.
      - Of whatever type; a wrong one is a problem like any other.
    type: raw
  version:
    description: C(vllm_version), the release of vLLM to run.
    type: raw
  variant:
    description: C(vllm_variant), the build of vLLM, V(cuda) or V(cpu).
    type: raw
    default: cuda
  runtime:
    description: C(vllm_runtime), what keeps the instances running.
    type: raw
    default: systemd
  user:
    description: C(vllm_user), the service user.
    type: raw
    default: vllm
  root:
    description: C(vllm_root), the directory of the virtual environments on the host.
    type: raw
    default: /opt/vllm
  health_check:
    description: The variables of P(inferops.vllm.health_check#role) that the inventory sets, by their names.
    type: dict
    default: {}
  docker:
    description:
      - C(vllm_docker_image), C(vllm_docker_base_image) and so on, by their last words.
      - Of use with the runtime docker.
    type: dict
    default: {}
  model_root:
    description: Directory of the models on the host.
    type: path
    default: /var/lib/vllm/models
  peers:
    description:
      - Hosts behind the same load balancers. Instances of one name must serve one model on all of them.
      - The first of them in the play compares for all.
    type: list
    elements: str
    default: []
  venv_disk_gb:
    description: Gigabytes (10^9 bytes) that a virtual environment takes on the disk of O(root), unless it is there.
    type: float
    default: 12
  shm_min_gb:
    description: Gigabytes (10^9 bytes) that C(/dev/shm) must have for any instances at all.
    type: float
    default: 1
  shm_per_instance_mib:
    description: Mebibytes (2^20 bytes) of C(/dev/shm) for each instance, where that makes more than O(shm_min_gb).
    type: int
    default: 160
  driver_min:
    description:
      - Oldest major version of the NVIDIA driver that will do for the variant V(cuda).
      - V(0) looks at neither driver nor GPUs, for hosts that get their driver later in the same run.
    type: int
    default: 580
seealso:
  - module: inferops.vllm.host_info
notes:
  - Only root can tell other programs behind open ports from instances; without it a held port is a warning.
  - The size of a model on the hub is not known beforehand, and not checked.
"""

EXAMPLES = r"""
- name: Check inventory and host
  inferops.vllm.preflight:
    instances: "{{ vllm_instances }}"
    version: "{{ vllm_version }}"
    peers: "{{ ansible_play_hosts_all }}"
"""

RETURN = r"""
problems:
  description: All problems of the host, a sentence each.
  type: list
  elements: str
  returned: always
  sample:
    - "gpu1: vllm_instances[1].port is 8000, the port of vllm_instances[0] too: give each instance a port of its own."
host:
  description: What was seen on the host, as M(inferops.vllm.host_info) returns it.
  type: dict
  returned: success
"""

# Documentation only: the action plugin of this name does the work.
